"""fair=True: only who is next is told so; what that costs, and that nobody sleeps meanwhile.

Law: places last for minutes here and no waiter looks by itself: who is not told is seen to hang.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from _arrivals import Arrivals
from _harness import Ways, async_only
from _waiting import nothing_left, queue_of, waiting

import fastlock
from fastlock import _ops_fair, _scripted

TTL = 60
CALLERS = 8
TURNS = 40
#: Seconds, of a busy machine; by itself nobody looks within a minute.
AT_ONCE = 20
#: Of each hand-over, what clients send: two steps, two questions with two words each, a release.
#: The rest is for who looks once in vain.
SENT = ("evalsha", "client|caching", "pttl", "delifeq", "delex")
MOST_SENT = 9
#: The same with what the scripts do.
MOST = 23


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_scripted, "PLACE", 180_000)
    monkeypatch.setattr(_ops_fair, "KEEP", 60.0)


def calls(admin: Any) -> dict[str, int]:
    stats = admin.info("commandstats")
    return {name.removeprefix("cmdstat_"): stats[name]["calls"] for name in stats}


async def come_in(fl: Ways, key: str, coroutine: Any) -> Any:
    before = len(waiting(fl.admin, key))
    started = fl.spawn(coroutine)
    await fl.until(lambda: len(waiting(fl.admin, key)) == before + 1)
    return started


async def told(fl: Ways, key: str, number: int) -> None:
    """Until so many know that others are before them, and the server is to tell them."""
    pattern = f"{queue_of(key).decode()}:*"
    await fl.until(lambda: len(fl.admin.keys(pattern)) == number)
    await fl.sleep(0.05)


async def test_each_has_its_turn_and_few_words_are_said(fl: Ways, own_server: Any) -> None:
    """Locks that are held for no time at all, by threads or tasks of two clients."""
    fl.server = own_server
    key, clients = fl.key(), [await fl.warm(fl.client(retry_timeout=60_000)) for _ in range(2)]
    async with clients[0].lock(key, TTL, fair=True):
        pass  # the server knows the script
    inside = [0]

    async def work(client: Any) -> None:
        for _ in range(TURNS):
            async with client.lock(key, TTL, 60, fair=True):
                inside[0] += 1
                assert inside[0] == 1
                inside[0] -= 1

    with Arrivals(own_server, key) as arrivals:
        before, began = calls(fl.admin), time.monotonic()
        await fl.together(work(clients[number % 2]) for number in range(CALLERS))
        took, after = time.monotonic() - began, calls(fl.admin)
        served = arrivals.end()
    assert took < AT_ONCE
    assert served > CALLERS * TURNS / 2  # the others found nobody waiting
    all_turns = CALLERS * TURNS
    sent = sum(after.get(name, 0) - before.get(name, 0) for name in SENT)
    assert sent < MOST_SENT * all_turns
    aside = {"info", "hello", "command|info", "command", "client|id", "client|setinfo", "echo"}
    done = sum(after[name] - before.get(name, 0) for name in after if name not in aside)
    assert done < MOST * all_turns
    assert nothing_left(fl.admin, key)
    assert not fl.admin.keys(f"{key}:*")


@pytest.mark.parametrize("held", [True, False])
async def test_who_moves_up_is_told_when_the_first_gives_up(fl: Ways, held: bool) -> None:
    """By a timeout, while the lock is held, or is free and kept for one who has died."""
    key = fl.key()
    if held:
        fl.admin.set(key, "somebody's")
    else:
        now = fl.admin.time()[0] * 1000
        fl.admin.zadd(queue_of(key), {b"adead": -1e15, b"ddead": now + 120_000})
    first = await come_in(fl, key, fl.client().acquire(key, TTL, 1, fair=True))
    second = await come_in(fl, key, fl.client().acquire(key, TTL, AT_ONCE, fair=True))
    third = await come_in(fl, key, fl.client().acquire(key, TTL, AT_ONCE, fair=True))
    await told(fl, key, 2 if held else 3)
    with pytest.raises(fastlock.AcquireTimeout):
        await first
    assert not second.done()
    if held:
        await fl.until(lambda: len(fl.admin.keys(f"{queue_of(key).decode()}:*")) == 1)
        assert fl.admin.delete(key) == 1  # as another library frees it
    else:
        fl.admin.zadd(queue_of(key), {b"ddead": 1})
        assert len(waiting(fl.admin, key)) == 3
        # Whoever asks finds out that the first one is gone, and tells who is first now.
        with pytest.raises(fastlock.AcquireTimeout):
            await fl.client().acquire(key, TTL, 0, fair=True)
    for waiter in (second, third):
        assert await (await waiter).release() is True
    assert nothing_left(fl.admin, key)
    assert not fl.admin.keys(f"{key}:*")


async def test_who_keeps_a_place_does_not_take_that_for_a_turn(
    fl: Ways, own_server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step that keeps a place writes anew what its own waiter listens to."""
    monkeypatch.setattr(_ops_fair, "KEEP", 0.3)
    fl.server = own_server
    key, clients = fl.key(), [await fl.warm(fl.client(retry_timeout=60_000)) for _ in range(3)]
    fl.admin.set(key, "somebody's", px=60_000)
    waiters = [
        await come_in(fl, key, client.acquire(key, TTL, AT_ONCE, fair=True)) for client in clients
    ]
    await fl.sleep(1.0)
    monkeypatch.setattr(_ops_fair, "KEEP", 60.0)
    await fl.sleep(0.5)  # from here on no waiter looks by itself
    before = calls(fl.admin)["evalsha"]
    fl.admin.pexpire(key, 60_000)
    await fl.sleep(0.3)
    assert calls(fl.admin)["evalsha"] - before == 1, "only the first is to look"
    assert fl.admin.delete(key) == 1
    for waiter in waiters:
        assert await (await waiter).release() is True


@async_only
async def test_who_moves_up_is_told_when_the_first_is_cancelled(fl: Ways) -> None:
    key = fl.key()
    holder = await fl.client().acquire(key, TTL)
    first, second, third = [
        await come_in(fl, key, fl.client().acquire(key, TTL, AT_ONCE, fair=True)) for _ in range(3)
    ]
    await told(fl, key, 2)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    await fl.until(lambda: len(waiting(fl.admin, key)) == 2)
    assert await holder.release() is True
    for waiter in (second, third):
        assert await (await waiter).release() is True
    assert nothing_left(fl.admin, key)
    assert not fl.admin.keys(f"{key}:*")


async def test_who_leaves_in_the_middle_leaves_no_key(fl: Ways) -> None:
    key = fl.key()
    holder = await fl.client().acquire(key, TTL)
    first = await come_in(fl, key, fl.client().acquire(key, TTL, AT_ONCE, fair=True))
    middle = await come_in(fl, key, fl.client().acquire(key, TTL, 0.5, fair=True))
    last = await come_in(fl, key, fl.client().acquire(key, TTL, AT_ONCE, fair=True))
    with pytest.raises(fastlock.AcquireTimeout):
        await middle
    await told(fl, key, 1)
    assert await holder.release() is True
    for waiter in (first, last):
        assert await (await waiter).release() is True
    assert nothing_left(fl.admin, key)
    assert not fl.admin.keys(f"{key}:*")


async def test_a_lost_connection_hides_no_turn(fl: Ways) -> None:
    """All of the second client's connections are ended while it waits to be told."""
    key = fl.key()
    holder = await fl.client().acquire(key, TTL)
    first = await come_in(fl, key, fl.client().acquire(key, TTL, AT_ONCE, fair=True))
    proxy = fl.proxy()
    second = await come_in(fl, key, fl.client(proxy.uri).acquire(key, TTL, AT_ONCE, fair=True))
    await told(fl, key, 1)
    for one in fl.admin.client_list():
        if "t" in one["flags"]:
            fl.admin.client_kill(one["addr"])
    assert await holder.release() is True
    for waiter in (first, second):
        assert await (await waiter).release() is True
    assert nothing_left(fl.admin, key)


@pytest.mark.parametrize("brackets", ["{}", "}{", "a{b", "{tag}"])
async def test_whatever_the_key_is_called(fl: Ways, brackets: str) -> None:
    key, served = fl.key(brackets), []
    holder = await fl.client().acquire(key, TTL)

    async def wait(number: int) -> None:
        lease = await fl.client().acquire(key, TTL, AT_ONCE, fair=True)
        served.append(number)
        assert await lease.release() is True

    waiters = [await come_in(fl, key, wait(number)) for number in range(3)]
    assert await holder.release() is True
    for waiter in waiters:
        await waiter
    assert served == [0, 1, 2]
    assert nothing_left(fl.admin, key)
