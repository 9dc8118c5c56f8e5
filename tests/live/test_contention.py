"""Many callers of one client want one lock: they queue, and only the first talks to the server.

Law: what is counted is commands and connections at the server, and who got what in which order;
pauses are a minute long, so that whoever is not woken is seen to wait.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from _harness import Ways, async_only, clock, one_server, sync_only
from _lines import PATIENT, TAKEN, in_line, lined_up, nobody_waits
from _program import program

import fastlock

SCENES = str(Path(__file__).resolve().parents[1] / "_scenes.py")


@pytest.mark.parametrize("push", [True, False])
async def test_first_come_first_served(fl: Ways, push: bool) -> None:
    client, key = await fl.warm(fl.client(push=push, **PATIENT)), fl.key()
    holder = await client.acquire(key)
    order: list[int] = []

    async def wait(number: int) -> None:
        async with client.lock(key, timeout=30):
            order.append(number)

    waiting = await lined_up(fl, client, key, [wait(number) for number in range(20)])
    assert await holder.release() is True
    for one in waiting:
        await one
    assert order == list(range(20))
    assert nobody_waits(fl, client)
    assert not fl.admin.exists(key)


async def test_nobody_overtakes_who_waits(fl: Ways) -> None:
    """The lock has become free and nobody knows yet: who comes now queues, but for a mere try."""
    client, key = await fl.warm(fl.client(push=False, **PATIENT)), fl.key()
    fl.admin.set(key, TAKEN)
    order: list[str] = []

    async def wait(name: str) -> None:
        async with client.lock(key, timeout=60):
            order.append(name)

    (first,) = await lined_up(fl, client, key, [wait("first")])
    await fl.sleep(0.1)  # from the line to the pause
    fl.admin.delete(key)
    (second,) = await lined_up(fl, client, key, [wait("second")])
    lease = await client.try_acquire(key)
    assert lease is not None
    assert order == []
    assert await lease.release() is True  # which ends the pause
    await first
    await second
    assert order == ["first", "second"]


async def test_only_the_first_of_fifty_asks_the_server(fl: Ways) -> None:
    proxy, key = fl.proxy(), fl.key()
    client = await fl.warm(fl.client(proxy.uri, retry_timeout=20, push=False))
    fl.admin.set(key, TAKEN)
    (first,) = await lined_up(fl, client, key, [client.acquire(key, timeout=60)])
    tried = proxy.verbs().count("SET")
    more = await lined_up(fl, client, key, [client.acquire(key, timeout=60) for _ in range(49)])
    # They came without a try of their own: what was sent meanwhile is the first one's.
    sent = [verb for verb in proxy.verbs() if verb in ("SET", "EVALSHA", "EVAL")]
    before, began = len(sent), time.monotonic()
    await fl.sleep(0.5)
    sent = [verb for verb in proxy.verbs() if verb in ("SET", "EVALSHA", "EVAL")]
    assert len(sent) - before <= (time.monotonic() - began) / 0.016 + 2
    assert tried >= 1
    fl.admin.delete(key)
    for one in [first, *more]:
        assert await (await one).release() is True
    assert nobody_waits(fl, client)


async def test_who_waits_in_line_ends_at_its_own_deadline(fl: Ways) -> None:
    """With a try then, which tells the holder."""
    proxy, key = fl.proxy(), fl.key()
    client = await fl.warm(fl.client(proxy.uri, push=False, **PATIENT))
    holder = await fl.client(label="night-shift").acquire(key, ttl=60)
    began = clock()
    waiting = await lined_up(
        fl, client, key, [client.acquire(key, timeout=t) for t in (60, 0.4, 0.2)]
    )
    for one, timeout in ((waiting[2], 0.2), (waiting[1], 0.4)):
        with pytest.raises(fastlock.AcquireTimeout, match="night-shift") as caught:
            await one
        assert clock() - began >= timeout
        assert caught.value.key == key
    assert in_line(fl, client, key) == 1
    assert await holder.release() is True
    await client.close()
    with pytest.raises(fastlock.FastlockError, match="closed"):
        await waiting[0]


async def test_a_lock_that_is_free_at_the_deadline_is_taken_out_of_the_line(fl: Ways) -> None:
    client, key = await fl.warm(fl.client(push=False, **PATIENT)), fl.key()
    fl.admin.set(key, TAKEN)
    waiting = await lined_up(fl, client, key, [client.acquire(key, timeout=t) for t in (60, 0.5)])
    await fl.sleep(0.1)
    fl.admin.delete(key)
    lease = await waiting[1]
    assert fl.admin.get(key) == lease.token.encode()
    assert await lease.release() is True  # which wakes the first
    assert await (await waiting[0]).release() is True


async def test_a_failed_connection_is_told_to_all_in_line(fl: Ways) -> None:
    """Each tries for itself, instead of one after the other's retries."""
    proxy, key = fl.proxy(), fl.key()
    client = await fl.warm(fl.client(proxy.uri, retries=1, push=False, retry_timeout=100))
    fl.admin.set(key, TAKEN)
    waiting = await lined_up(fl, client, key, [client.acquire(key) for _ in range(30)])
    proxy.down()
    began = time.monotonic()
    for one in waiting:
        with pytest.raises((fastlock.TransportError, fastlock.OutcomeUnknown)):
            await one
    assert time.monotonic() - began < 10
    assert nobody_waits(fl, client)
    proxy.up()  # for what is given back
    fl.admin.delete(key)


async def test_what_keeps_the_first_from_trying_keeps_nobody_else(fl: Ways) -> None:
    """The key is made something else than a lock: each is told so."""
    client, key = await fl.warm(fl.client(push=False, retry_timeout=20)), fl.key()
    fl.admin.set(key, TAKEN)
    waiting = await lined_up(fl, client, key, [client.acquire(key) for _ in range(5)])
    with fl.admin.pipeline() as both:
        both.delete(key).lpush(key, "x").execute()
    for one in waiting:
        with pytest.raises(fastlock.ServerError, match="WRONGTYPE"):
            await one
    assert nobody_waits(fl, client)
    fl.admin.delete(key)


async def test_different_keys_do_not_wait_for_each_other(fl: Ways) -> None:
    client, key = await fl.warm(fl.client(**PATIENT)), fl.key()
    fl.admin.set(key, TAKEN)
    (waiting,) = await lined_up(fl, client, key, [client.acquire(key, timeout=30)])
    async with client.lock(fl.key(), timeout=1), client.lock(fl.key(), fence=True, timeout=1):
        pass
    fl.admin.delete(key)
    assert await (await waiting).release() is True


@pytest.mark.parametrize("options", [{"fence": True}, {"auto_renew": True}])
async def test_every_kind_of_acquire_queues(fl: Ways, options: Any) -> None:
    client, key = await fl.warm(fl.client(push=False, **PATIENT)), fl.key()
    holder = await client.acquire(key)
    waiting = await lined_up(
        fl, client, key,
        [client.acquire(key, timeout=60), client.acquire(key, timeout=60, **options)],
    )  # fmt: skip
    assert await holder.release(wait=False) is None
    for one in waiting:
        lease = await one
        assert await client.release_many([lease]) == [True]
    assert nobody_waits(fl, client)


@one_server
async def test_close_tells_all_in_line_at_once(fl: Ways) -> None:
    client, key = await fl.warm(fl.client(**PATIENT)), fl.key()
    fl.admin.set(key, TAKEN)
    waiting = await lined_up(fl, client, key, [client.acquire(key) for _ in range(20)])
    await client.close()
    for one in waiting:
        with pytest.raises(fastlock.FastlockError, match="closed"):
            await one
    assert nobody_waits(fl, client)
    assert fl.admin.get(key) == TAKEN.encode()
    fl.admin.delete(key)


# ------------------------------------------------------------------ leaving


@async_only
async def test_cancelled_tasks_leave_the_line_to_the_others(fl: Ways) -> None:
    client, key = await fl.warm(fl.client(**PATIENT)), fl.key()
    fl.admin.set(key, TAKEN)
    waiting = await lined_up(fl, client, key, [client.acquire(key) for _ in range(6)])
    for number in (0, 1, 3):
        waiting[number].cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting[number]
    assert in_line(fl, client, key) == 3
    fl.admin.delete(key)
    for number in (2, 4, 5):
        assert await (await waiting[number]).release() is True
    assert nobody_waits(fl, client)


class Slow(float):
    """A ttl that takes longer to look at than an answer may take after the deadline."""

    looked_at = False

    def __hash__(self) -> int:  # remembered by nobody
        return id(self)

    def __mul__(self, factor: float) -> float:
        Slow.looked_at = True
        time.sleep(1.3)
        return float(self) * factor


@one_server
async def test_a_first_try_that_is_sent_late_is_answered_all_the_same(fl: Ways) -> None:
    client, key = await fl.warm(fl.client()), fl.key()
    Slow.looked_at = False
    lease = await client.acquire(key, Slow(30), 0.01)
    assert Slow.looked_at
    assert fl.admin.get(key) == lease.token.encode()
    assert await lease.release() is True


@one_server
async def test_what_is_too_late_is_not_sent(fl: Ways) -> None:
    client, key = await fl.warm(fl.client()), fl.key()
    with pytest.raises(fastlock.TransportError, match="before it could be sent") as caught:
        await client.acquire(key, Slow(30), 0.01, fence=True)
    assert caught.value.sent is False
    assert not fl.admin.exists(key)


@async_only
@one_server
@pytest.mark.parametrize("options", [{}, {"fence": True}, {"fair": True}], ids=str)
async def test_a_loop_that_stood_still_finds_the_timeout_over(
    fl: Ways, options: dict[str, Any]
) -> None:
    """Past all patience for an answer; what is asked then is waited for all the same."""
    client, key = await fl.warm(fl.client()), fl.key()
    holder = await client.acquire(key, **options)
    waiter = asyncio.ensure_future(client.acquire(key, timeout=0.3, **options))
    await fl.until(lambda: client.stats().waiting == 1)
    time.sleep(1.6)
    with pytest.raises(fastlock.AcquireTimeout):
        await waiter
    assert await holder.release() is True


@pytest.mark.parametrize("kind", ["plain", "fence"])
async def test_a_thousand_waiters_end_as_told(fl: Ways, kind: str) -> None:
    """Random timeouts and cancellations; a counter that only the holder may change."""
    number = 150 if fl.sync else 1000
    dice = random.Random(7)
    client, key = await fl.warm(fl.client(retry_timeout=500)), fl.key()
    counter = {"value": 0, "inside": 0}
    states = ["not begun"] * number

    async def wait(place: int, timeout: float) -> None:
        states[place] = "waiting"
        try:
            lease = await client.acquire(key, 30, timeout, fence=kind == "fence")
        except fastlock.AcquireTimeout:
            states[place] = "timed out"
            return
        except asyncio.CancelledError:
            states[place] = "cancelled"
            raise
        states[place] = "held"
        counter["inside"] += 1
        assert counter["inside"] == 1
        value = counter["value"]
        await fl.sleep(0)
        counter["value"] = value + 1
        counter["inside"] -= 1
        assert await lease.release() is True

    def cancel(place: int) -> None:
        if states[place] != "held":  # perhaps with a lease on its way
            waiting[place].cancel()

    fl.admin.set(key, TAKEN, px=300)
    waiting = [fl.spawn(wait(place, dice.uniform(0.0, 2.0))) for place in range(number)]
    if not fl.sync:
        for place in range(number):
            if dice.random() < 0.3:
                asyncio.get_running_loop().call_later(dice.uniform(0.0, 1.0), cancel, place)
    for place, one in enumerate(waiting):
        try:
            await one
        except asyncio.CancelledError:
            assert states[place] in ("cancelled", "not begun")
        else:
            assert states[place] in ("held", "timed out")
    ended = Counter(states)
    assert counter == {"value": ended["held"], "inside": 0}
    assert ended["held"] > 0
    assert nobody_waits(fl, client)
    await fl.until(lambda: not fl.admin.exists(key), 10)


@sync_only
@pytest.mark.parametrize("place", ["first", "in line"])
async def test_an_interrupted_thread_leaves_the_line_to_the_others(fl: Ways, place: str) -> None:
    client, key = fl.raw(await fl.warm(fl.client(**PATIENT))), fl.key()
    fl.admin.set(key, TAKEN)
    facade: Any = fl.clients[-1]
    others: list[Any] = []

    class Struck(BaseException):
        pass

    def strike(*_: object) -> None:
        raise Struck

    def start(count: int) -> None:
        for _ in range(count):
            n = in_line(fl, facade, key)
            others.append(fl.spawn(facade.acquire(key, timeout=60)))
            while in_line(fl, facade, key) == n:
                time.sleep(0.001)

    if place == "in line":
        start(2)
    before = signal.signal(signal.SIGALRM, strike)

    n = in_line(fl, facade, key)

    def later() -> None:
        while in_line(fl, facade, key) == n:
            time.sleep(0.001)
        start(3)
        time.sleep(0.1)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGALRM)

    striker = threading.Thread(target=later)
    striker.start()
    try:
        with pytest.raises(Struck):
            client.acquire(key)
    finally:
        signal.signal(signal.SIGALRM, before)
    striker.join(10)
    assert in_line(fl, facade, key) == len(others)
    fl.admin.delete(key)
    for one in others:
        assert await (await one).release() is True
    assert nobody_waits(fl, facade)


@sync_only
@pytest.mark.parametrize("push", [True, False])
async def test_a_handler_may_wait_for_what_its_thread_waits_for(fl: Ways, push: bool) -> None:
    """It stands in front of whom it has interrupted: it ends at its timeout, or gets it first."""
    client, key = fl.raw(await fl.warm(fl.client(retry_timeout=30, push=push))), fl.key()
    fl.admin.set(key, TAKEN)
    told: list[Any] = []

    def handler(*_: object) -> None:
        with pytest.raises(fastlock.AcquireTimeout):
            client.acquire(key, timeout=0.1)
        told.append("timed out")
        fl.admin.delete(key)
        told.append(client.acquire(key, timeout=30).release())

    before = signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.3)
    try:
        assert client.acquire(key, timeout=30).release() is True
    finally:
        signal.signal(signal.SIGALRM, before)
    assert told == ["timed out", True]
    assert nobody_waits(fl, fl.clients[-1])


@sync_only
async def test_a_child_has_no_line(fl: Ways) -> None:
    client, key = fl.raw(await fl.warm(fl.client(**PATIENT))), fl.key()
    fl.admin.set(key, TAKEN)
    waiting = await lined_up(
        fl, fl.clients[-1], key, [fl.clients[-1].acquire(key, timeout=60) for _ in range(3)]
    )
    child = os.fork()
    if child == 0:
        code = 1
        try:
            assert not client._queue.lines
            try:
                client.acquire(key, timeout=0.2)
            except fastlock.AcquireTimeout:
                client.acquire(f"{key}:child", timeout=5).release()
                client.close()
                code = 0
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
    fl.admin.delete(key)
    for one in waiting:
        assert await (await one).release() is True


@sync_only
async def test_a_child_of_a_handler_does_not_go_on_waiting(fl: Ways) -> None:
    """Forked in the middle of a wait, where its line and its listener are the parent's."""
    client, key = fl.raw(await fl.warm(fl.client(**PATIENT))), fl.key()
    fl.admin.set(key, TAKEN)
    parent, children = os.getpid(), []

    def handler(*_: object) -> None:
        child = os.fork()
        if child:
            children.append(child)
            fl.admin.delete(key)

    before = signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.3)
    got: Any = None
    try:
        got = client.acquire(key, timeout=60)
    except fastlock.FastlockError as error:
        got = error
    finally:
        if os.getpid() != parent:
            os._exit(0 if "its parent's" in str(got) else 1)
        signal.signal(signal.SIGALRM, before)
    assert os.waitpid(children[0], 0)[1] == 0
    assert got.release() is True


@async_only
@one_server
async def test_those_of_a_loop_that_ended_are_in_nobodys_way(fl: Ways) -> None:
    key = fl.key()
    fl.admin.set(key, TAKEN)
    with program(SCENES, "another_loop", fl.core, fl.server.uri, key) as process:
        assert process.said() == "3 wait"
        fl.admin.delete(key)
        process.tell("it is free")
        assert process.said() == "True"
        assert process.ended() == (0, "", "")


async def test_who_comes_back_at_once_lets_others_go_first_once_a_turn(fl: Ways) -> None:
    """Nobody tells it that others wait. The try behind the pause is one that asks."""
    proxy, key = fl.proxy(), fl.key()
    client = await fl.warm(fl.client(proxy.uri, handover_time=0.05))
    before, pairs, asked, begun = len(proxy.commands), 0, 0, clock()
    while asked < 3:
        assert clock() < begun + 30
        for _ in range(20):
            assert await (await client.acquire(key, timeout=10)).release() is True
        pairs += 20
        sent = [words for words in proxy.commands[before:] if key.encode() in words]
        sent = [words for words in sent if words[0] != b"EVAL"]  # what EVALSHA did not find
        plain = [words for words in sent if words[0] == b"SET" and b"GET" not in words]
        assert len(sent) == 2 * pairs
        asked = pairs - len(plain)
    assert asked <= (clock() - begun) / 0.05
    assert fl.raw(client)._listener._watches == {}
