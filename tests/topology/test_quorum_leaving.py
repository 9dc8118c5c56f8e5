"""Whatever leaves a quorum's call early, and whatever answers come late, nothing stays held.

Law: a proxy before each server holds what has to be late; what is left is looked up on the
servers themselves.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
import time
from typing import Any

import pytest
from _harness import Ways, async_only, sync_only
from _quorum import TTL, Masters, quorum, quorum_class
from _strikes import Interrupt, struck_at

import fastlock


@pytest.fixture(scope="module")
def nodes(started: Masters) -> Masters:
    return started


@pytest.fixture
def server(nodes: Masters) -> Any:
    return nodes[0]


async def warmed(fl: Ways, client: Any) -> Any:
    """Connected to all, and every script is known there."""
    lease = await client.acquire(fl.key("warm"), ttl=TTL)
    await lease.extend(TTL)
    assert await lease.release() is True
    return client


# ------------------------------------------------------------------ late answers


@pytest.mark.parametrize("fault", ["hold_reply", "hold_command"])
@pytest.mark.parametrize("late", [1, 2, 3])
async def test_a_late_vote_is_given_back(fl: Ways, nodes: Masters, fault: str, late: int) -> None:
    proxies = [fl.proxy(node) for node in nodes.all]
    uris = [proxy.uri for proxy in proxies]
    client, key = await warmed(fl, quorum(fl, uris, node_timeout=0.3)), fl.key()
    held = [proxy.fault(fault, verb="SET") for proxy in proxies[:late]]
    if late == 1:
        lease = await client.try_acquire(key, ttl=TTL)
        assert lease.valid()
        assert nodes.held(key)[1:] == [lease.token.encode()] * 2
        assert await lease.release() is True
    else:
        with pytest.raises(fastlock.OutcomeUnknown):
            await client.try_acquire(key, ttl=TTL)
    for one in held:
        await fl.happened(one)
    for one in held:
        one.go()
    await fl.until(lambda: nodes.free(key))
    await fl.sleep(0.1)  # nothing lands behind
    assert nodes.free(key)
    lease = await client.acquire(key, ttl=TTL, timeout=5)
    assert await lease.release() is True


@pytest.mark.parametrize("fault", ["lose_reply", "cut_after", "cut_before"])
async def test_a_vote_whose_answer_is_lost_is_given_back(
    fl: Ways, nodes: Masters, fault: str
) -> None:
    proxies = [fl.proxy(node) for node in nodes.all]
    client, key = await warmed(fl, quorum(fl, [proxy.uri for proxy in proxies])), fl.key()
    for proxy in proxies[:2]:
        proxy.fault(fault, verb="SET")
    with pytest.raises(fastlock.OutcomeUnknown):
        await client.try_acquire(key, ttl=TTL)
    await fl.until(lambda: nodes.free(key))
    lease = await client.acquire(key, ttl=TTL, timeout=5)
    assert await lease.release() is True
    assert nodes.free(key)


async def test_the_losers_give_back_what_they_had(fl: Ways, nodes: Masters) -> None:
    client, key = await warmed(fl, quorum(fl, nodes.uris)), fl.key()
    for node in nodes.all[:2]:
        node.admin.set(key, "somebody else", px=60_000)
    assert await client.try_acquire(key, ttl=TTL) is None
    await fl.until(lambda: nodes.held(key) == [b"somebody else", b"somebody else", None])
    for node in nodes.all:
        node.admin.delete(key)


async def test_a_release_whose_answers_are_lost(fl: Ways, nodes: Masters) -> None:
    """It is repeated, and what it finds gone was freed by itself."""
    proxies = [fl.proxy(node) for node in nodes.all]
    client, key = await warmed(fl, quorum(fl, [proxy.uri for proxy in proxies])), fl.key()
    lease = await client.acquire(key, ttl=TTL)
    faults = [proxy.fault("lose_reply") for proxy in proxies[:2]]
    assert await lease.release() is True
    for fault in faults:
        await fl.happened(fault)
    assert nodes.free(key)


async def test_an_answer_that_a_vote_cannot_have_is_none(fl: Ways, nodes: Masters) -> None:
    proxies = [fl.proxy(node) for node in nodes.all]
    client, key = await warmed(fl, quorum(fl, [proxy.uri for proxy in proxies])), fl.key()
    for proxy in proxies[:2]:
        proxy.fault("replace_reply", verb="SET", data=b":7\r\n")
    with pytest.raises(fastlock.OutcomeUnknown):
        await client.try_acquire(key, ttl=TTL)
    await fl.until(lambda: nodes.free(key))
    lease = await client.acquire(key, ttl=TTL, timeout=5)
    assert await lease.release() is True


async def test_all_are_written_before_any_is_awaited(fl: Ways, nodes: Masters) -> None:
    proxies = [fl.proxy(node) for node in nodes.all]
    uris = [proxy.uri for proxy in proxies]
    client, key = await warmed(fl, quorum(fl, uris, node_timeout=30.0)), fl.key()
    held = [proxy.fault("hold_reply", verb="SET") for proxy in proxies]
    trying = fl.spawn(client.try_acquire(key, ttl=TTL * 2))
    for one in held:
        await fl.happened(one)  # and nobody has had an answer
    assert not trying.done()
    for one in held:
        one.go()
    lease = await trying
    assert await lease.release() is True


# ------------------------------------------------------------------ leaving early


@sync_only
@pytest.mark.parametrize("way", ["try_acquire", "acquire", "with", "waiting"])
async def test_an_interrupt_at_every_point_leaves_no_lock(
    fl: Ways, nodes: Masters, way: str
) -> None:
    client = fl.raw(await warmed(fl, quorum(fl, nodes.uris, retry_timeout=1)))
    key, held = fl.key(), fl.key("held")
    for node in nodes.all:
        node.admin.set(held, "taken", px=600_000)
    calls: dict[str, Any] = {
        "try_acquire": lambda: client.try_acquire(key, TTL),
        "acquire": lambda: client.acquire(key, TTL, 5),
        "with": lambda: client.lock(key, TTL).__enter__(),
        "waiting": lambda: client.acquire(held, TTL, 0.003),
    }
    step, stride = 1, 1
    while True:
        result = None
        try:
            with struck_at(step) as where:
                result = calls[way]()
        except (Interrupt, fastlock.AcquireTimeout):
            pass
        if not where:
            break
        assert result is None, f"{where} was swallowed"
        await fl.until(lambda: nodes.free(key), 15)
        # A connection that broke under the interrupt is made anew meanwhile.
        lease = client.acquire(key, TTL, 5)
        assert lease.release() is True, where
        await fl.until(lambda: nodes.free(key), 15)
        step += stride
        stride = 2 + step % 4  # hundreds of points: some of them in each run of this loop
    assert step > 50
    if result is not None:
        client.close()
    for node in nodes.all:
        node.admin.delete(key, held)


@sync_only
async def test_an_interrupt_at_every_point_of_a_release_leaves_the_truth(
    fl: Ways, nodes: Masters
) -> None:
    client, key = fl.raw(await warmed(fl, quorum(fl, nodes.uris))), fl.key()
    for step in range(1, 4000, 3):
        lease = client.acquire(key, TTL, 5)
        try:
            with struck_at(step) as where:
                lease.release()
        except Interrupt:
            pass
        if not where:
            break
        known_over = lease.over
        assert lease.release() is not known_over, where
        assert nodes.free(key), where
    assert 50 < step < 3998


@sync_only
async def test_an_interrupt_while_it_gives_back_leaves_the_rest_to_the_next_call(
    fl: Ways, nodes: Masters
) -> None:
    client, key = fl.raw(await warmed(fl, quorum(fl, nodes.uris))), fl.key()
    for step in range(1, 4000, 3):
        lease = client.acquire(key, TTL, 5)
        try:
            with struck_at(step) as where:
                lease.release(wait=False)
        except Interrupt:
            lease.release(wait=False)
        await fl.until(lambda: nodes.free(key))
        if not where:
            break
    assert 10 < step < 3998


@async_only
async def test_a_cancellation_at_every_turn_leaves_no_lock(fl: Ways, nodes: Masters) -> None:
    key = fl.key()
    for turns in range(40):
        client = quorum_class(fl)(nodes.uris)
        if turns % 2:
            await warmed(fl, client)
        task = asyncio.ensure_future(client.acquire(key, ttl=TTL, timeout=5))
        for _ in range(turns // 2):
            await asyncio.sleep(0)
        task.cancel()
        try:
            lease = await task
        except asyncio.CancelledError:
            pass
        else:
            assert await lease.release() is True
        await client.close()
        assert nodes.free(key), turns


@async_only
async def test_a_cancelled_acquire_whose_votes_are_on_their_way(fl: Ways, nodes: Masters) -> None:
    proxies = [fl.proxy(node) for node in nodes.all]
    client, key = await warmed(fl, quorum(fl, [proxy.uri for proxy in proxies])), fl.key()
    held = [proxy.fault("hold_command", verb="SET") for proxy in proxies[:2]]
    trying = asyncio.ensure_future(client.acquire(key, ttl=TTL, timeout=5))
    for one in held:
        await fl.happened(one)
    trying.cancel()
    with pytest.raises(asyncio.CancelledError):
        await trying
    for one in held:
        one.go()
    await fl.until(lambda: nodes.free(key))


async def test_closing_in_the_middle_of_an_acquire(fl: Ways, nodes: Masters) -> None:
    proxies = [fl.proxy(node) for node in nodes.all]
    uris = [proxy.uri for proxy in proxies]
    client, key = await warmed(fl, quorum(fl, uris, node_timeout=5.0)), fl.key()
    held = [proxy.fault("hold_reply", verb="SET") for proxy in proxies[:2]]
    trying = fl.spawn(client.acquire(key, ttl=TTL, timeout=20))
    for one in held:
        await fl.happened(one)
    closing = fl.spawn(client.close())
    await fl.sleep(0.05)
    for one in held:
        one.go()
    try:
        lease = await trying
    except fastlock.FastlockError:
        await closing
        await fl.until(lambda: nodes.free(key))
    else:  # the answers came before the end
        await closing
        assert lease.valid()
        for node in nodes.all:
            node.admin.delete(key)


@sync_only
@pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")
async def test_a_child_owns_nothing_of_its_parent_s(fl: Ways, nodes: Masters) -> None:
    client, key, own = fl.raw(await warmed(fl, quorum(fl, nodes.uris))), fl.key(), fl.key("own")
    lease = client.acquire(key, TTL)
    renewed = client.acquire(key + "2", TTL, auto_renew=True)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            for mine in (lease, renewed):
                assert not mine.valid()
                with pytest.raises(fastlock.LockError):
                    mine.release()
            assert client.try_acquire(key, TTL) is None
            with client.lock(own, TTL, 5):
                assert client.locked(own)
            client.close()
            status = 0
        finally:
            sys.stderr.flush()
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    assert lease.valid()
    assert lease.release() is True
    assert renewed.release() is True
    assert nodes.free(key)


@sync_only
async def test_ctrl_c_while_it_waits(fl: Ways, nodes: Masters) -> None:
    client, key = fl.raw(await warmed(fl, quorum(fl, nodes.uris))), fl.key()
    for node in nodes.all[:2]:
        node.admin.set(key, "somebody else", px=60_000)

    def strike(*_: Any) -> None:
        raise Interrupt

    before = signal.signal(signal.SIGALRM, strike)
    try:
        for _ in range(5):
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            begun = time.monotonic()
            with pytest.raises(Interrupt):
                client.acquire(key, TTL, 20)
            assert time.monotonic() - begun < 5
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    await fl.until(lambda: nodes.held(key)[2] is None)
    for node in nodes.all:
        node.admin.delete(key)


@sync_only
async def test_a_handler_may_lock_in_the_middle_of_a_call(fl: Ways, nodes: Masters) -> None:
    uris = nodes.uris
    client, key, other = fl.raw(await warmed(fl, quorum(fl, uris))), fl.key(), fl.key("other")
    outcomes: list[Any] = []

    def strike(*_: Any) -> None:
        try:
            lease = client.try_acquire(other, TTL)
            outcomes.append(lease is None or lease.release())
        except (fastlock.TransportError, fastlock.OutcomeUnknown) as error:
            outcomes.append(error)  # it has come into the very code of a connection

    dice, end = random.Random(3), time.monotonic() + 60
    before = signal.signal(signal.SIGALRM, strike)
    try:
        while outcomes.count(True) < 150:
            assert time.monotonic() < end, outcomes
            # Once in each round: on a slow machine strikes would come into one another only.
            signal.setitimer(signal.ITIMER_REAL, dice.uniform(0.0001, 0.002))
            lease = client.acquire(key, TTL, 5)
            assert lease.release() is True
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert False not in outcomes
    await fl.until(lambda: nodes.free(key) and nodes.free(other))


@async_only
async def test_a_coroutine_that_is_closed(fl: Ways, nodes: Masters) -> None:
    client, key = await warmed(fl, quorum(fl, nodes.uris)), fl.key()
    acquiring = client.acquire(key, ttl=TTL)
    acquiring.send(None)
    acquiring.close()
    await fl.until(lambda: nodes.free(key))

    async def block() -> None:
        async with client.lock(key, ttl=TTL):
            await asyncio.sleep(10)

    task = asyncio.ensure_future(block())
    await fl.until(lambda: all(nodes.held(key)))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await fl.until(lambda: nodes.free(key))
