"""A released lock goes on to the next of the same client by one command, answered to both.

Law: pauses are a minute long, so that a waiter that nobody tells is seen to hang; what was sent is
counted by the proxy, and whose the lock is, the server says.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import threading
import time
from collections import Counter
from contextlib import suppress
from typing import Any

import pytest
from _harness import Ways, async_only, one_server, remaining_at_most, sync_only
from _servers import Server

import fastlock

#: So patient that nothing but what the test does ends a wait.
PATIENT = {"retry_timeout": 60_000, "handover_time": 1000.0}


def place_of(fl: Ways, client: Any, key: str) -> Any:
    """The first who waits."""
    return fl.raw(client)._queue.first(key.encode())


def in_line(fl: Ways, client: Any, key: str) -> int:
    return len(fl.raw(client)._queue.lines.get(key.encode(), ()))


def is_ready(fl: Ways, client: Any, key: str) -> bool:
    """Whether the first waits, and may be given the lock."""
    place = place_of(fl, client, key)
    if place is None or place.offer is None or 0 in place.offer._giver:
        return False
    return place.watched or place.trusted is not None or not fl.raw(client).config.push


def swap(fl: Ways, client: Any, fence: bool = False) -> str:
    """The command that hands over, as the server is known by now."""
    commands = fl.raw(client)._server.ready().commands
    packed: bytes = commands.hand_over(b"k", b"old", b"new", 1)
    return "EVALSHA" if fence else packed.split(b"\r\n")[2].decode()


async def waits(fl: Ways, client: Any, key: str, **options: Any) -> Any:
    """Somebody of the client who stands in line for the key."""
    before = in_line(fl, client, key)
    waiter = fl.spawn(client.acquire(key, **{"timeout": 60, **options}))
    await fl.until(lambda: in_line(fl, client, key) > before, 10)
    await fl.until(lambda: is_ready(fl, client, key), 10)
    await fl.sleep(0.01)
    return waiter


def nothing_stays(fl: Ways, client: Any) -> bool:
    gc.collect()
    queue = fl.raw(client)._queue
    return not (queue.lines or queue.waiting or queue.threads or queue.held)


async def handed(fl: Ways, lease: Any, waiter: Any) -> Any:
    """The waiter's lease, once ``lease`` is released."""
    assert await lease.release() is True
    taken = await waiter
    assert not lease.valid()
    assert await lease.release() is False
    assert taken.valid()
    assert taken.token != lease.token
    assert fl.admin.get(taken.key) == taken.token.encode()
    remaining_at_most(fl, taken, taken.key)
    return taken


async def test_one_command_for_both(fl: Ways) -> None:
    proxy, key = fl.proxy(), fl.key()
    client = await fl.warm(fl.client(proxy.uri, **PATIENT))
    lease = await client.acquire(key, ttl=5)
    waiter = await waits(fl, client, key, ttl=50)
    first = await handed(fl, lease, waiter)  # the server has its script now
    assert 40 < first.remaining() < 50
    waiter = await waits(fl, client, key)
    before = len(proxy.verbs())
    second = await handed(fl, first, waiter)
    # What the waiter asks meanwhile, if it waits for long, is no part of it.
    sent = [verb for verb in proxy.verbs()[before:] if verb != "PTTL"]
    assert sent == [swap(fl, client)]
    assert await second.release() is True
    assert not fl.admin.exists(key)
    assert nothing_stays(fl, client)


async def test_they_get_it_in_the_order_of_their_coming(fl: Ways) -> None:
    proxy, key = fl.proxy(), fl.key()
    client = await fl.warm(fl.client(proxy.uri, **PATIENT))
    lease = await client.acquire(key)
    waiters = [await waits(fl, client, key) for _ in range(6)]
    before = len(proxy.verbs())
    for waiter in waiters:
        lease = await handed(fl, lease, waiter)
    sent = [verb for verb in proxy.verbs()[before:] if verb != "PTTL"]
    assert len(sent) <= 6 + 1  # once the script was not there
    assert await lease.release() is True


async def test_a_block_hands_over_when_it_is_left(fl: Ways) -> None:
    client, key = await fl.warm(fl.client(**PATIENT)), fl.key()
    async with client.lock(key) as lease:
        waiter = await waits(fl, client, key)
    taken = await waiter
    assert lease.freed
    assert await taken.release() is True


@pytest.mark.parametrize("giver", [False, True])
async def test_a_number_rises_with_each_hand_over(fl: Ways, giver: bool) -> None:
    proxy, key = fl.proxy(), fl.key()
    client = await fl.warm(fl.client(proxy.uri, **PATIENT))
    lease = await client.acquire(key, fence=giver)
    numbers = [lease.fence] if giver else []
    for turn in range(5):
        waiter = await waits(fl, client, key, fence=True)
        before = len(proxy.verbs())
        lease = await handed(fl, lease, waiter)
        numbers.append(lease.fence)
        if turn:
            sent = [verb for verb in proxy.verbs()[before:] if verb != "PTTL"]
            assert sent == ["EVALSHA"]
    assert numbers == sorted(set(numbers))
    lease = await handed(fl, lease, await waits(fl, client, key))
    assert lease.fence is None
    assert await lease.release() is True
    later = await client.acquire(key, fence=True)
    assert later.fence > numbers[-1]
    assert await later.release() is True


async def test_a_companion_that_is_none_costs_the_waiter_the_hand_over_only(fl: Ways) -> None:
    client, key = await fl.warm(fl.client(**PATIENT)), fl.key()
    lease = await client.acquire(key)
    waiter = await waits(fl, client, key, fence=True)
    companion = fastlock._slots.companion(key.encode())
    fl.admin.rpush(companion, "no number")
    assert await lease.release() is True
    with pytest.raises(fastlock.ServerError):
        await waiter
    fl.admin.delete(companion)
    assert not fl.admin.exists(key)


@pytest.mark.parametrize("who", ["giver", "taker", "both"])
async def test_renewal_begins_and_ends_with_the_lease(fl: Ways, who: str) -> None:
    client, key = await fl.warm(fl.client(**PATIENT)), fl.key()
    ttl = 0.6
    lease = await client.acquire(key, ttl, auto_renew=who != "taker")
    for _ in range(3):
        taken = await handed(
            fl, lease, await waits(fl, client, key, ttl=ttl, auto_renew=who != "giver")
        )
        if who != "giver":
            await fl.sleep(2 * ttl)
            assert taken.valid()
            assert fl.admin.get(key) == taken.token.encode()
        assert not lease.lost
        lease = taken
    assert await lease.release() is True


@pytest.mark.parametrize("how", ["deferred", "release_many", "doubt", "lock_all", "endless"])
async def test_what_is_not_handed_over_is_released_and_the_waiter_told(fl: Ways, how: str) -> None:
    proxy, key = fl.proxy(), fl.key()
    client = await fl.warm(fl.client(proxy.uri, **PATIENT))
    lease = await client.acquire(key)
    token = lease.token.encode()
    if how == "lock_all":
        waiter = fl.spawn(client.lock_all([key, fl.key()], timeout=60).__aenter__())
        await fl.until(lambda: fl.raw(client)._queue.waiting, 10)
    else:
        waiter = await waits(fl, client, key)
    if how == "deferred":
        assert await lease.release(wait=False) is None
    elif how == "release_many":
        assert await client.release_many([lease]) == [True]
    else:
        if how == "doubt":
            fl.raw(lease).doubt = True
        elif how == "endless":
            fl.raw(lease)._deadline = float("inf")
        assert await lease.release() is True
    got = await waiter
    leases = got if how == "lock_all" else [got]
    # Handing over names both tokens.
    news = {one.token.encode() for one in leases}
    assert not any(token in args and news & {*args} for args in proxy.commands)
    for one in leases:
        assert one.valid()
        assert await one.release() is True


async def test_a_lost_lock_is_not_handed_over(fl: Ways) -> None:
    client, key = await fl.warm(fl.client(retry_timeout=50)), fl.key()
    lease = await client.acquire(key)
    waiter = await waits(fl, client, key)
    fl.admin.set(key, "another's")
    assert await lease.release() is False
    await fl.sleep(0.2)
    assert not waiter.done()
    assert fl.admin.get(key) == b"another's"
    fl.admin.delete(key)
    assert await (await waiter).release() is True


# ------------------------------------------------------------------ who holds is known


async def test_who_waits_for_a_lease_of_its_own_client_asks_nobody(fl: Ways) -> None:
    proxy, key = fl.proxy(), fl.key()
    client = await fl.warm(fl.client(proxy.uri, **PATIENT))
    lease = await handed(fl, await client.acquire(key), await waits(fl, client, key))
    before = len(proxy.commands)
    waiter = await waits(fl, client, key)
    assert len(proxy.commands) == before
    lease = await handed(fl, lease, waiter)
    assert await lease.release() is True


@pytest.mark.parametrize("how", ["deleted", "forced", "dropped", "adopted"])
async def test_a_line_does_not_sleep_when_its_holder_is_gone(fl: Ways, how: str) -> None:
    client, key = await fl.warm(fl.client(retry_timeout=100)), fl.key()
    lease = await handed(fl, await client.acquire(key), await waits(fl, client, key))
    waiter = await waits(fl, client, key)
    if how == "deleted":
        fl.admin.delete(key)
    elif how == "forced":
        assert await client.force_release(key) is True
    elif how == "dropped":
        fl.admin.pexpire(key, 100)
        del lease
    else:
        other = fl.client()
        assert await (await other.adopt(key, lease.token)).release() is True
    assert await (await waiter).release() is True


async def test_a_try_does_not_wait_for_anybody(fl: Ways) -> None:
    client, key = await fl.warm(fl.client(**PATIENT)), fl.key()
    lease = await handed(fl, await client.acquire(key), await waits(fl, client, key))
    assert await client.try_acquire(key) is None
    with pytest.raises(fastlock.AcquireTimeout):
        await client.acquire(key, timeout=0)
    with pytest.raises(fastlock.AcquireTimeout):
        await client.acquire(key, timeout=0.05)
    assert await lease.release() is True


# ------------------------------------------------------------------ many at once


async def storm(fl: Ways, client: Any, key: str, workers: int, rounds: int, **options: Any) -> Any:
    """Each has it so often, once all wait; a counter that only the holder may change."""
    counter = {"value": 0, "inside": 0}

    async def work(number: int) -> None:
        for turn in range(rounds):
            async with client.lock(key, 30, **options):
                counter["inside"] += 1
                assert counter["inside"] == 1
                value = counter["value"]
                if (number + turn) % 3 == 0:
                    await fl.sleep(0)
                counter["value"] = value + 1
                counter["inside"] -= 1

    first = await client.acquire(key, 30)
    working = [fl.spawn(work(number)) for number in range(workers)]
    queue = fl.raw(client)._queue
    await fl.until(lambda: len(queue.waiting) == workers, 20)
    assert await first.release() is True
    for one in working:
        await one
    return counter["value"]


@pytest.mark.parametrize("kind", ["plain", "fence"])
async def test_no_update_is_lost(fl: Ways, kind: str) -> None:
    proxy, key = fl.proxy(), fl.key()
    client = await fl.warm(fl.client(proxy.uri, handover_time=1000.0, handover_limit=10**6))
    workers, rounds = (16, 25) if fl.sync else (64, 10)
    before = len(proxy.verbs())
    done = await storm(fl, client, key, workers, rounds, fence=kind == "fence")
    sent = len(proxy.verbs()) - before  # with what waiters ask that wait for long
    assert done == workers * rounds
    assert not fl.admin.exists(key)
    assert nothing_stays(fl, client)
    assert sent < 1.25 * done + 2 * workers, (sent, done)


async def test_commands_are_counted_at_the_server_too(fl: Ways, own_server: Server) -> None:
    key = fl.key()
    client = await fl.warm(fl.client(own_server.uri, handover_time=1000.0, handover_limit=10**6))

    def asked() -> Counter[str]:
        info = own_server.admin.info("commandstats")
        return Counter({name[8:]: told["calls"] for name, told in info.items()})

    before = asked()
    done = await storm(fl, client, key, 8, 40)
    sent = asked() - before
    if sent["evalsha"] or sent["eval"]:  # each carries a GET and a SET, or a DEL
        from_callers = sent["evalsha"] + sent["eval"] + max(0, sent["set"] - sent["evalsha"])
    else:
        from_callers = sent["set"] + sent["delifeq"] + sent["delex"]
    assert done <= from_callers < 1.25 * done + 16, sent


async def test_a_thousand_waiters_end_as_told(fl: Ways) -> None:
    """Random timeouts and cancellations, while the lock goes round."""
    import random

    number = 100 if fl.sync else 500
    dice = random.Random(11)
    client, key = await fl.warm(fl.client()), fl.key()
    counter = {"value": 0, "inside": 0}
    held: list[int] = []

    async def wait(timeout: float) -> None:
        with suppress(fastlock.AcquireTimeout):
            lease = await client.acquire(key, 30, timeout)
            counter["inside"] += 1
            assert counter["inside"] == 1
            value = counter["value"]
            await fl.sleep(0.001)
            counter["value"] = value + 1
            counter["inside"] -= 1
            held.append(1)
            assert await lease.release() is True

    lease = await client.acquire(key)
    waiting = [fl.spawn(wait(dice.uniform(0.0, 1.0))) for _ in range(number)]
    if not fl.sync:
        for one in waiting:
            if dice.random() < 0.4:
                asyncio.get_running_loop().call_later(dice.uniform(0.0, 1.0), one.cancel)
    await fl.sleep(0.1)
    await lease.release()
    for one in waiting:
        with suppress(asyncio.CancelledError):
            await one
    # A task that was cancelled inside of its block has not released it: it expires, or is freed.
    fl.admin.delete(key) if not fl.sync else None
    assert counter["value"] <= len(held) + number
    assert held
    assert nothing_stays(fl, client) or not fl.sync


# ------------------------------------------------------------------ faults


FAULTS = {
    "before": {"name": "cut_before"},
    "after": {"name": "cut_after"},
    "after, reset": {"name": "cut_after", "rst": True},
    "reply lost": {"name": "lose_reply"},
    "reply cut": {"name": "cut_reply", "size": 2},
    "half-closed": {"name": "half_close"},
    "late": {"name": "delay_reply", "seconds": 0.05},
    "single bytes": {"name": "split_reply"},
    "command stalls": {"name": "hold_command"},
    "reply stalls": {"name": "hold_reply"},
}


@pytest.mark.parametrize("fence", [False, True])
@pytest.mark.parametrize("cut", FAULTS)
async def test_a_swap_under_a_fault(fl: Ways, cut: str, fence: bool) -> None:
    proxy, key = fl.proxy(), fl.key()
    client = await fl.warm(fl.client(proxy.uri, socket_timeout=0.4, retry_timeout=100))
    lease = await client.acquire(key, 20)
    lease = await handed(fl, lease, await waits(fl, client, key, ttl=20, fence=fence))
    number = lease.fence
    waiter = await waits(fl, client, key, ttl=20, fence=fence)
    fault = proxy.fault(verb=swap(fl, client, fence), **FAULTS[cut])  # type: ignore[arg-type]
    assert await lease.release() is True
    await fl.happened(fault)
    taken = await waiter
    fault.go()
    assert not lease.valid()
    assert taken.valid()
    assert fl.admin.get(key) == taken.token.encode()
    remaining_at_most(fl, taken, key)
    if fence:
        assert taken.fence > number
    assert await taken.release() is True
    assert not fl.admin.exists(key)


@pytest.mark.parametrize("fault", ["hold_command", "hold_reply", "lose_reply", "cut_before"])
@pytest.mark.parametrize("how", ["times out", "is cancelled"])
async def test_a_waiter_leaves_while_it_is_handed_the_lock(fl: Ways, fault: str, how: str) -> None:
    """It holds nothing, nobody does, and the next one gets it."""
    if fl.sync and how == "is cancelled":
        how = "is closed out"
    proxy, key = fl.proxy(), fl.key()
    client = await fl.warm(fl.client(proxy.uri, socket_timeout=3, retry_timeout=100))
    lease = await client.acquire(key, 20)
    lease = await handed(fl, lease, await waits(fl, client, key, ttl=20))
    waiter = await waits(fl, client, key, ttl=20, timeout=0.3)
    other = fl.spawn(client.acquire(key, 20, 30))
    await fl.until(lambda: in_line(fl, client, key) == 2)
    held = proxy.fault(fault, swap(fl, client))
    giver = fl.spawn(lease.release())
    await fl.happened(held)
    if how == "is cancelled":
        waiter.cancel()
        if fault == "lose_reply":  # it may have been told so, and have asked, before
            with suppress(asyncio.CancelledError):
                await (await waiter).release()
        else:
            with pytest.raises(asyncio.CancelledError):
                await waiter
    elif fault in ("hold_command", "hold_reply"):  # for its deadline and a second more
        with pytest.raises(fastlock.OutcomeUnknown):
            await waiter
    else:
        with suppress(fastlock.AcquireTimeout):
            assert await (await waiter).release() is True
    held.go()
    assert await giver is True
    taken = await other
    assert fl.admin.get(key) == taken.token.encode()
    assert await taken.release() is True
    await fl.until(lambda: not fl.admin.exists(key))
    assert nothing_stays(fl, client)


@async_only
@pytest.mark.parametrize("fault", ["hold_command", "hold_reply", "lose_reply", "cut_before"])
@pytest.mark.parametrize("how", ["cancelled", "closed"])
async def test_a_giver_is_cancelled_in_the_middle(fl: Ways, fault: str, how: str) -> None:
    proxy, key = fl.proxy(), fl.key()
    client = await fl.warm(fl.client(proxy.uri, socket_timeout=3, retry_timeout=100))
    lease = await client.acquire(key, 20)
    waiter = await waits(fl, client, key, ttl=20)
    held = proxy.fault(fault, swap(fl, client))
    giving: Any = None
    if how == "closed":
        giving = lease.release()
        giving.send(None)
        await fl.happened(held)
        giving.close()
    else:
        giving = fl.spawn(lease.release())
        await fl.happened(held)
        giving.cancel()
        with suppress(asyncio.CancelledError):
            await giving
    held.go()
    with suppress(fastlock.FastlockError):
        await lease.release()
    taken = await waiter
    assert not lease.valid()
    assert fl.admin.get(key) == taken.token.encode()
    remaining_at_most(fl, taken, key)
    assert await taken.release() is True


@sync_only
@pytest.mark.parametrize("fault", ["hold_command", "hold_reply"])
async def test_a_giver_is_interrupted_in_the_middle(fl: Ways, fault: str) -> None:
    proxy, key = fl.proxy(), fl.key()
    client = await fl.warm(fl.client(proxy.uri, socket_timeout=3, retry_timeout=100))
    lease = await client.acquire(key, 20)
    waiter = await waits(fl, client, key, ttl=20)
    held = proxy.fault(fault, swap(fl, client))

    class Struck(BaseException):
        pass

    def strike(*_: object) -> None:
        raise Struck

    before = signal.signal(signal.SIGALRM, strike)

    def later() -> None:
        held.wait()
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGALRM)

    striker = threading.Thread(target=later)
    striker.start()
    try:
        with pytest.raises(Struck):
            fl.raw(lease).release()
    finally:
        signal.signal(signal.SIGALRM, before)
    striker.join(10)
    held.go()
    assert not lease.valid()
    if fault == "hold_command":
        assert await lease.release() is True
    taken = await waiter
    assert fl.admin.get(key) == taken.token.encode()
    assert await taken.release() is True


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # struck while it makes a socket
@sync_only
@pytest.mark.parametrize("fault", ["hold_command", "hold_reply"])
async def test_a_waiter_is_interrupted_while_it_is_handed_the_lock(fl: Ways, fault: str) -> None:
    proxy, key = fl.proxy(), fl.key()
    facade = await fl.warm(fl.client(proxy.uri, socket_timeout=3, retry_timeout=100))
    client: Any = fl.raw(facade)
    lease = await facade.acquire(key, 20)

    class Struck(BaseException):
        pass

    def strike(*_: object) -> None:
        raise Struck

    before = signal.signal(signal.SIGALRM, strike)
    said: list[Any] = []

    def later() -> None:
        while not is_ready(fl, facade, key):
            time.sleep(0.001)
        held = proxy.fault(fault, swap(fl, client))
        giver = threading.Thread(target=lambda: said.append(fl.raw(lease).release()))
        giver.start()
        held.wait()
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGALRM)
        time.sleep(0.1)
        held.go()
        giver.join(10)

    striker = threading.Thread(target=later)
    striker.start()
    try:
        with pytest.raises(Struck):
            client.acquire(key, 20)
    finally:
        signal.signal(signal.SIGALRM, before)
    striker.join(20)
    assert said == [True]
    await fl.until(lambda: not fl.admin.exists(key))
    assert nothing_stays(fl, facade)


@pytest.mark.parametrize("fault", ["hold_command", "hold_reply"])
async def test_closing_while_the_lock_is_handed_over(fl: Ways, fault: str) -> None:
    proxy, key = fl.proxy(), fl.key()
    client = await fl.warm(fl.client(proxy.uri, socket_timeout=3, retry_timeout=100))
    lease = await client.acquire(key, 20)
    waiter = await waits(fl, client, key, ttl=20)
    held = proxy.fault(fault, swap(fl, client))
    giver = fl.spawn(lease.release())
    await fl.happened(held)
    closing = fl.spawn(client.close())
    await fl.sleep(0.05)
    held.go()
    await closing
    with suppress(fastlock.FastlockError):
        await giver
    with pytest.raises(fastlock.FastlockError):
        await waiter
    await fl.until(lambda: not fl.admin.exists(key) or fl.admin.get(key) == lease.token.encode())
    fl.admin.delete(key)


@one_server
async def test_a_server_that_starts_anew(fl: Ways, own_server: Server) -> None:
    key = fl.key()
    client = await fl.warm(fl.client(own_server.uri, retries=10, retry_timeout=100))
    lease = await client.acquire(key, 20)
    waiter = await waits(fl, client, key, ttl=20)
    own_server.stop()
    own_server.start()  # without what it knew
    with suppress(fastlock.OutcomeUnknown):
        await lease.release()
    taken = await waiter
    assert own_server.admin.get(key) == taken.token.encode()
    assert await taken.release() is True


async def test_scripts_that_were_forgotten(fl: Ways) -> None:
    client, key = await fl.warm(fl.client(**PATIENT)), fl.key()
    lease = await client.acquire(key)
    for fence in (False, True, False):
        fl.admin.script_flush()
        lease = await handed(fl, lease, await waits(fl, client, key, fence=fence))
    assert await lease.release() is True


@pytest.mark.parametrize("fence", [False, True])
async def test_without_memory_a_release_still_frees(
    fl: Ways, own_server: Server, fence: bool
) -> None:
    """SET takes memory, which the compare-and-delete does not."""
    key = fl.key()
    client = await fl.warm(fl.client(own_server.uri, retry_timeout=20))
    lease = await client.acquire(key, 20)
    waiter = await waits(fl, client, key, ttl=20, fence=fence)
    own_server.admin.config_set("maxmemory", 1)
    try:
        assert await lease.release() is True
        assert not own_server.admin.exists(key)
        with pytest.raises(fastlock.ServerError) as caught:
            await waiter
        assert caught.value.code == "OOM"
    finally:
        own_server.admin.config_set("maxmemory", 0)


async def test_a_replica_takes_no_hand_over(fl: Ways, own_server: Server) -> None:
    key = fl.key()
    client = await fl.warm(fl.client(own_server.uri, retry_timeout=20))
    lease = await client.acquire(key, 20)
    waiter = await waits(fl, client, key, ttl=20)
    own_server.admin.replicaof("127.0.0.1", 1)
    try:
        with pytest.raises(fastlock.ServerError) as caught:
            await lease.release()
        assert caught.value.code == "READONLY"
        assert lease.valid()
        with pytest.raises(fastlock.ServerError):
            await waiter
    finally:
        own_server.admin.replicaof("NO", "ONE")
    assert await lease.release() is True


async def test_a_user_who_may_not_set(fl: Ways, own_server: Server) -> None:
    """Any more: a release is a release, and the waiter is told what it may not do."""
    admin, key = own_server.admin, fl.key()
    admin.acl_setuser("locks", enabled=True, passwords=["+pw"], keys=["*"], commands=["+@all"])
    client = fl.client(own_server.uri, username="locks", password="pw", retry_timeout=20)
    await fl.warm(client)
    lease = await client.acquire(key, 20)
    waiter = await waits(fl, client, key, ttl=20)
    admin.acl_setuser("locks", enabled=True, keys=["*"], commands=["+@all", "-set"])
    assert await lease.release() is True
    assert not admin.exists(key)
    with pytest.raises(fastlock.ServerError) as caught:
        await waiter
    assert "permissions to run" in str(caught.value) or "can't run" in str(caught.value)


@sync_only
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
async def test_a_forked_child_owns_nothing_of_it(fl: Ways) -> None:
    client, key = await fl.warm(fl.client(**PATIENT)), fl.key()
    raw: Any = fl.raw(client)
    lease = fl.raw(await client.acquire(key, 20))
    waiter = await waits(fl, client, key, ttl=20)
    child = os.fork()
    if not child:
        code = 1
        with suppress(BaseException):
            try:
                lease.release()
            except fastlock.LockError:
                code = 0 if raw.try_acquire(key) is None and not raw._queue.lines else 2
        os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert lease.release() is True
    taken = await waiter
    assert fl.admin.get(key) == taken.token.encode()
    assert await taken.release() is True


@sync_only
async def test_a_handler_takes_and_gives_in_between(fl: Ways) -> None:
    """A timer's handler that waits for the lock that the threads hand round."""
    client, key = await fl.warm(fl.client()), fl.key()
    raw: Any = fl.raw(client)
    inside: list[int] = []
    struck: list[int] = []
    over: list[int] = []

    def handler(*_: object) -> None:
        with suppress(fastlock.AcquireTimeout), raw.lock(key, 20, timeout=0.05):
            inside.append(1)
            assert len(inside) == 1
            struck.append(1)
            inside.pop()
        signal.setitimer(signal.ITIMER_REAL, 0.0 if over else 0.01)

    def work() -> None:
        for _ in range(150):
            with raw.lock(key, 20, timeout=20):
                inside.append(1)
                assert len(inside) == 1
                inside.pop()

    before = signal.signal(signal.SIGALRM, handler)
    failures: list[BaseException] = []

    def guarded() -> None:
        try:
            work()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=guarded) for _ in range(4)]
    signal.setitimer(signal.ITIMER_REAL, 0.01)
    try:
        for thread in threads:
            thread.start()
        end = time.monotonic() + 20
        while any(thread.is_alive() for thread in threads) and time.monotonic() < end:
            lease = raw.acquire(key, 20, 20)
            lease.release()
    finally:
        over.append(1)
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    for thread in threads:
        thread.join(20)
    assert not failures
    assert struck
    await fl.until(lambda: not fl.admin.exists(key))


# ------------------------------------------------------------------ others have their turn


async def test_after_the_limit_another_client_has_its_turn(fl: Ways) -> None:
    key = fl.key()
    client = await fl.warm(fl.client(handover_limit=3, handover_time=1000.0))
    other = await fl.warm(fl.client(retry_timeout=0.2))
    turns: list[str] = []
    over = False

    async def mine() -> None:
        while not over:
            async with client.lock(key, 20):
                turns.append("mine")
                await fl.sleep(0.001)

    async def theirs() -> None:
        for _ in range(10):
            async with other.lock(key, 20, 20):
                turns.append("theirs")

    workers = [fl.spawn(mine()) for _ in range(3)]
    await fl.until(lambda: "mine" in turns)
    await fl.spawn(theirs())
    over = True
    for worker in workers:
        await worker
    assert turns.count("theirs") == 10
    assert turns[:3] != ["theirs"] * 3
    assert turns.count("mine") > 3


@pytest.mark.parametrize("handover", ["swap", "local"])
async def test_of_many_clients_none_starves(fl: Ways, handover: str) -> None:
    """Each with a line of its own, that could have the lock for itself for ever."""
    key = fl.key()
    clients = [await fl.warm(fl.client(handover=handover, handover_time=0.01)) for _ in range(5)]
    had: Counter[int] = Counter()
    inside: list[int] = []
    end = time.monotonic() + 2.0

    async def work(number: int) -> None:
        while time.monotonic() < end:
            async with clients[number].lock(key, 20):
                inside.append(number)
                assert inside == [number]
                await fl.sleep(0)
                had[number] += 1
                inside.pop()

    await fl.together([work(number) for number in range(5) for _ in range(3)])
    fair = sum(had.values()) / len(clients)
    assert len(had) == len(clients)
    assert min(had.values()) > fair / 5, had
    assert not fl.admin.exists(key)


async def test_a_limit_of_none_frees_each_time(fl: Ways) -> None:
    proxy, key = fl.proxy(), fl.key()
    client = await fl.warm(fl.client(proxy.uri, handover_limit=0, retry_timeout=20))
    lease = await client.acquire(key)
    waiter = await waits(fl, client, key)
    assert await lease.release() is True
    lease = await waiter
    waiter = await waits(fl, client, key)
    before = len(proxy.verbs())
    assert await lease.release() is True
    assert proxy.verbs()[before] in ("DELIFEQ", "DELEX", "EVALSHA")
    lease = await waiter
    assert len(proxy.verbs()) >= before + 2
    assert await lease.release() is True
