"""What networks do to a quorum's leases: silence, distance, and commands that land late.

Law: a proxy before each server, and nothing mended by hand; the servers say what is held. Bodies
that wait for a ttl run all ways at once.
"""

from __future__ import annotations

import asyncio
import signal
import socket
import threading
from typing import Any

import pytest
from _four import Four
from _harness import Ways, async_only, clock, sync_only
from _quorum import TTL, Masters, quorum, quorum_class
from _strikes import Interrupt, struck_at

from fastlock._claim import span
from fastlock._ops_quorum import taken
from fastlock._quorum_polls import Poll


@pytest.fixture(scope="module")
def nodes(started: Masters) -> Masters:
    return started


@pytest.fixture
def server(nodes: Masters) -> Any:
    return nodes[0]


async def far(fl: Ways, nodes: Masters, **options: Any) -> tuple[Any, list[Any]]:
    """A client that is connected through proxies, and they; every script is known."""
    proxies = [fl.proxy(node) for node in nodes.all]
    client = quorum(fl, [proxy.uri for proxy in proxies], **options)
    lease = await client.acquire(fl.key("warm"), ttl=TTL)
    await lease.extend(TTL)
    assert await lease.release() is True
    return client, proxies


# ------------------------------------------------------------------ renewals


@async_only
async def test_a_renewal_that_lands_behind_an_extension_by_hand(fl: Ways, nodes: Masters) -> None:
    """They go over different connections: nobody can know which is carried out last."""
    client, proxies = await far(fl, nodes, node_timeout=1.0)
    key = fl.key()
    lease = await client.acquire(key, ttl=9.0, auto_renew=True)
    held = [proxy.fault("hold_command") for proxy in proxies[1:]]
    for one in held:
        await fl.happened(one)
    await lease.extend(30.0)
    assert lease.ttl == 30.0
    for one in held:
        one.go()
    await fl.until(lambda: all(node.admin.pttl(key) <= 9000 for node in nodes.all[1:]), 2.5)
    left, asked = lease.remaining(), clock()
    at_majority = nodes[1].admin.pttl(key) / 1000 + (clock() - asked) + 0.001
    assert left <= at_majority
    await fl.until(lambda: nodes[1].admin.pttl(key) > 9000)  # it is renewed as long as it was told
    assert lease.valid()
    assert await lease.release() is True
    assert nodes.free(key)


def test_an_extension_by_hand_waits_for_the_renewal_under_way(nodes: Masters) -> None:
    async def body(fl: Ways) -> None:
        client, proxies = await far(fl, nodes, node_timeout=1.0)
        lease = await client.acquire(fl.key(), ttl=2.4, auto_renew=True)
        held = [proxy.fault("hold_reply") for proxy in proxies[:2]]
        for one in held:
            await fl.happened(one)
        await fl.until(lambda: proxies[2].verbs()[-1] != "SET" or len(proxies[2].verbs()) > 4)
        before = len(proxies[2].verbs())
        extending = fl.spawn(lease.extend(30.0))
        await fl.sleep(0.15)
        assert len(proxies[2].verbs()) == before
        for one in held:
            one.go()
        await extending
        assert len(proxies[2].verbs()) == before + 1
        assert lease.remaining() > 25
        assert await lease.release() is True

    Four(nodes[0], body).join()


def test_many_leases_of_a_silent_majority_are_told_in_time(nodes: Masters) -> None:
    ttl, count = 2.0, 30

    async def body(fl: Ways) -> None:
        client, proxies = await far(fl, nodes, node_timeout=0.2)
        told: list[float] = []
        leases = [
            await client.acquire(
                fl.key(), ttl=ttl, auto_renew=True, on_lost=lambda _: told.append(clock())
            )
            for _ in range(count)
        ]
        for proxy in proxies[:2]:
            proxy.fault("hold_command", times=100_000)
        await fl.until(lambda: len(told) == count)
        late = max(told) - max(lease.deadline for lease in leases)
        assert late < ttl / 3 + 5.0
        assert not any(lease.valid() for lease in leases)

    Four(nodes[0], body).join()


@pytest.mark.alone  # 120 leases of two seconds
def test_many_leases_at_far_servers_are_kept(nodes: Masters) -> None:
    ttl, count = 2.0, 30

    async def body(fl: Ways) -> None:
        client, proxies = await far(fl, nodes, node_timeout=1.0)
        leases = [await client.acquire(fl.key(), ttl=ttl, auto_renew=True) for _ in range(count)]
        for proxy in proxies:
            proxy.latency = 0.06  # thirty round trips, one behind the other, take a whole ttl
        await fl.sleep(1.25 * ttl)
        lost = [lease.lost.reason for lease in leases if not lease.valid()]
        assert lost == []
        for proxy in proxies:
            proxy.latency = 0.0
        assert [await lease.release() for lease in leases] == [True] * count

    Four(nodes[0], body).join()


def test_an_answer_behind_the_deadline_brings_no_lease_back(nodes: Masters) -> None:
    async def body(fl: Ways) -> None:
        client, proxies = await far(fl, nodes, node_timeout=1.0)
        told: list[Any] = []
        lease = await client.acquire(fl.key(), ttl=2.0, auto_renew=True, on_lost=told.append)
        held = [proxy.fault("hold_reply") for proxy in proxies[:2]]
        await fl.until(lambda: clock() > lease.deadline + 0.05)
        assert not lease.valid()
        for one in held:
            one.go()  # and the answer to the try that is under way now
        await fl.until(lambda: told or lease.valid())
        assert not lease.valid()
        assert "before its deadline" in lease.lost.reason

    Four(nodes[0], body).join()


def mute(port: int = 0) -> socket.socket:
    """A server whose kernel accepts connections, and that is all."""
    return socket.create_server(("127.0.0.1", port), backlog=128)


def test_a_server_that_hangs_while_connecting_takes_no_short_lease(nodes: Masters) -> None:
    async def body(fl: Ways) -> None:
        client, proxies = await far(fl, nodes, node_timeout=1.0, connect_timeout=2.0)
        key = fl.key()
        lease = await client.acquire(key, ttl=1.2, auto_renew=True)
        assert nodes.held(key) == [lease.token.encode()] * 3
        proxies[0].down()
        with mute(proxies[0].port):
            end = clock() + 1.8
            while clock() < end:
                assert lease.valid()
                await fl.sleep(0.05)
            await lease.extend(1.0)
            assert await lease.release() is True

    Four(nodes[0], body).join()


@pytest.mark.alone
def test_a_server_that_has_no_vote_is_not_waited_for(nodes: Masters) -> None:
    async def body(fl: Ways) -> None:
        with mute() as silent:
            uris = [f"redis://127.0.0.1:{silent.getsockname()[1]}", *nodes.uris[1:]]
            client = quorum(fl, uris, node_timeout=0.8, connect_timeout=4.0)
            begun = clock()
            lease = await client.acquire(fl.key(), ttl=1.2)
            assert clock() - begun < 2.0  # it is no majority
            await fl.sleep(0.05)
            begun = clock()
            await lease.extend(TTL)
            assert await lease.release() is True
            assert clock() - begun < 0.25

    Four(nodes[0], body).join()


# ------------------------------------------------------------------ releases


async def cut_off(fl: Ways, nodes: Masters, held: list[Any], proxies: list[Any], key: str) -> None:
    """What was on its way never arrives."""
    for proxy in proxies:
        proxy.cut()
    assert all(nodes.held(key))
    for one in held:
        one.go()
    await fl.until(lambda: nodes.free(key))


@async_only
@pytest.mark.parametrize("way", ["block", "call"])
async def test_a_cancelled_release_goes_on_in_the_background(
    fl: Ways, nodes: Masters, way: str
) -> None:
    client, proxies = await far(fl, nodes, node_timeout=5.0)
    key = fl.key()
    leaving = asyncio.Event()

    async def block() -> None:
        async with client.lock(key, ttl=TTL):
            await leaving.wait()

    async def call() -> None:
        lease = await client.acquire(key, ttl=TTL)
        await leaving.wait()
        await lease.release()

    task = asyncio.ensure_future(block() if way == "block" else call())
    await fl.until(lambda: all(nodes.held(key)))
    held = [proxy.fault("hold_command", times=1000) for proxy in proxies]
    leaving.set()
    for one in held:
        await fl.happened(one)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await cut_off(fl, nodes, held, proxies, key)


@sync_only
@pytest.mark.parametrize("way", ["block", "call"])
async def test_an_interrupted_release_goes_on_in_the_background(
    fl: Ways, nodes: Masters, way: str
) -> None:
    made, proxies = await far(fl, nodes, node_timeout=5.0)
    client, key = fl.raw(made), fl.key()
    held: list[Any] = []

    def leave() -> None:
        held.extend(proxy.fault("hold_command", times=1000) for proxy in proxies)
        striking.start()

    def strike_then() -> None:
        """As soon as all have been sent the release."""
        for one in held:
            assert one.happened.wait(30)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGALRM)

    def strike(*_: Any) -> None:
        raise Interrupt

    striking = threading.Thread(target=strike_then)
    before = signal.signal(signal.SIGALRM, strike)
    try:
        with pytest.raises(Interrupt):
            if way == "block":
                with client.lock(key, ttl=TTL):
                    leave()
            else:
                lease = client.acquire(key, ttl=TTL)
                leave()
                lease.release()
    finally:
        striking.join(60)
        signal.signal(signal.SIGALRM, before)
    await cut_off(fl, nodes, held, proxies, key)


# ------------------------------------------------------------------ acquires


async def test_a_lease_counts_from_before_its_sending(fl: Ways, nodes: Masters) -> None:
    client, proxies = await far(fl, nodes, node_timeout=5.0)
    key = fl.key()
    held = [proxy.fault("hold_reply", verb="SET") for proxy in proxies]
    trying = fl.spawn(client.try_acquire(key, ttl=TTL))
    for one in held:
        await fl.happened(one)
    sent_by = clock()
    await fl.sleep(0.1)
    for one in held:
        one.go()
    lease = await trying
    assert lease.deadline <= sent_by + span(round(TTL * 1000))
    assert await lease.release() is True


def test_a_connection_that_stays_silent_is_ended(nodes: Masters) -> None:
    async def body(fl: Ways) -> None:
        client, proxies = await far(fl, nodes, node_timeout=0.1, socket_timeout=0.4)
        proxies[0].fault("hold_reply")
        before, key = proxies[0].connections, fl.key()
        end = clock() + 5
        while proxies[0].connections == before:
            assert clock() < end, "it is waited for, for ever"
            assert await client.locked(key) is False
            await fl.sleep(0.02)
        lease = await client.acquire(key, ttl=TTL, timeout=5)
        assert await lease.release() is True
        await fl.until(lambda: nodes.free(key))

    Four(nodes[0], body).join()


@async_only
async def test_closing_waits_for_what_is_under_way(fl: Ways, nodes: Masters) -> None:
    client, proxies = await far(fl, nodes, node_timeout=5.0)
    key = fl.key()
    held = [proxy.fault("hold_reply", verb="SET") for proxy in proxies[:2]]
    trying = asyncio.ensure_future(client.acquire(key, ttl=TTL, timeout=20))
    for one in held:
        await fl.happened(one)
    await client.close()
    assert trying.done()
    with pytest.raises(Exception, match="closed"):
        await trying
    for one in held:
        one.go()
    await fl.until(lambda: nodes.free(key))


# ------------------------------------------------------------------ interrupts


@sync_only
async def test_an_interrupt_while_it_is_told_to_connect_takes_no_server_away(
    fl: Ways, nodes: Masters
) -> None:
    for step in range(1, 200):
        client = fl.own(quorum_class(fl)(nodes.uris))
        node = fl.raw(client)._nodes._nodes[0]
        try:
            with struck_at(step) as where:
                node.connect(at_once=True)
        except Interrupt:
            pass
        node.connect(at_once=True)
        await fl.until(lambda node=node: node.link() is not None)
        await client.close()
        if not where:
            break
    assert 3 < step < 199


@sync_only
async def test_an_interrupt_while_it_is_told_late_is_no_lateness_for_ever(
    fl: Ways, nodes: Masters
) -> None:
    client = fl.raw(quorum(fl, nodes.uris))
    assert client.try_acquire(fl.key(), TTL).release() is True
    node = client._nodes._nodes[0]
    for step in range(1, 200):
        try:
            with struck_at(step) as where:
                node.was_late(node.link().pipe)
        except Interrupt:
            pass
        await fl.until(lambda: not node.late)
        if not where:
            break
    assert 3 < step < 199


@async_only
async def test_an_interrupt_while_a_try_is_sent_leaves_its_trace(fl: Ways, nodes: Masters) -> None:
    client, key = quorum(fl, nodes.uris), fl.key()
    assert await (await client.acquire(key, ttl=TTL)).release() is True
    node = client._nodes._nodes[0]
    landed = 0
    for step in range(1, 400):
        poll = Poll("acquire", key, (b"token", 30_000), [0], 1, taken)
        try:
            with struck_at(step) as where:
                node.send(poll)
        except Interrupt:
            pass
        await asyncio.sleep(0.004)
        if nodes[0].admin.delete(key):
            landed += 1
            assert poll.touched == {0}, where
        if not where:
            break
    assert landed
    assert 10 < step < 399
