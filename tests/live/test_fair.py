"""fair=True: first come first served, among all who ask so; the lock is the same for everybody.

Law: that somebody waits, and in which place, the server says; no test guesses it by sleeping.
"""

from __future__ import annotations

import asyncio
import pickle
import time
from typing import Any

import pytest
from _harness import Ways, async_only, clock, one_server, remaining_at_most
from _waiting import PLACE, nothing_left, queue_of, waiting
from redis.lock import Lock as RedisPyLock

import fastlock
from fastlock.fencing import companion

TTL = 20
WAITERS = 8


async def come_in(fl: Ways, key: str, coroutine: Any) -> Any:
    """Start it beside this test; it has a place when this is over."""
    before = len(waiting(fl.admin, key))
    started = fl.spawn(coroutine)
    await fl.until(lambda: len(waiting(fl.admin, key)) == before + 1)
    return started


# ------------------------------------------------------------------ the order


@pytest.mark.smoke
async def test_first_come_first_served(fl: Ways) -> None:
    """Each by a client of its own, half of them with fencing numbers."""
    key, served = fl.key(), []
    holder = await fl.client().acquire(key, TTL, fair=True)
    assert fl.admin.exists(queue_of(key)) == 0  # who need not wait has no place

    async def wait(number: int) -> None:
        client = fl.client(retry_timeout=20)
        lease = await client.acquire(key, TTL, 30, fair=True, fence=number % 2 == 0)
        served.append(number)
        assert fl.admin.get(key).decode() == lease.token
        assert (lease.fence is None) == (number % 2 == 1)
        remaining_at_most(fl, lease, key)
        assert await lease.release() is True

    waiters = [await come_in(fl, key, wait(number)) for number in range(WAITERS)]
    assert len(set(waiting(fl.admin, key))) == WAITERS
    assert await holder.release() is True
    for waiter in waiters:
        await waiter
    assert served == list(range(WAITERS))
    assert nothing_left(fl.admin, key)


async def test_the_waiters_of_one_client_keep_their_order(fl: Ways) -> None:
    key, served = fl.key(), []
    client = fl.client(retry_timeout=20)
    spec = client.lock(key, TTL, fair=True)
    holder = await client.acquire(key, TTL)

    async def wait(number: int) -> None:
        async with spec:
            served.append(number)

    waiters = [await come_in(fl, key, wait(number)) for number in range(WAITERS)]
    assert await holder.release() is True
    for waiter in waiters:
        await waiter
    assert served == list(range(WAITERS))
    assert nothing_left(fl.admin, key)


async def test_a_place_is_kept_however_long_it_takes(fl: Ways) -> None:
    """Longer than a place lasts, and with pauses far longer than that: none is lost by waiting."""
    key, served = fl.key(), []
    holder = await fl.client().acquire(key, TTL)

    async def wait(number: int, pause: float) -> None:
        lease = await fl.client(retry_timeout=pause).acquire(key, TTL, 60, fair=True)
        served.append(number)
        assert await lease.release() is True

    waiters = [
        await come_in(fl, key, wait(number, pause)) for number, pause in enumerate((60_000, 20, 20))
    ]
    order = waiting(fl.admin, key)
    await fl.sleep(PLACE + 0.5)
    assert waiting(fl.admin, key) == order
    assert await holder.release() is True
    for waiter in waiters:
        await waiter
    assert served == [0, 1, 2]
    assert nothing_left(fl.admin, key)


@one_server
async def test_nobody_is_lost_or_served_twice(fl: Ways) -> None:
    """Threads or tasks that come again and again: no update is lost, no key stays."""
    key, counter = fl.key(), [0]
    clients = [fl.client(retry_timeout=2) for _ in range(4)]

    async def work(client: Any) -> None:
        for _ in range(10):
            async with client.lock(key, TTL, fair=True):
                before = counter[0]
                await fl.sleep(0.0005)
                counter[0] = before + 1

    await fl.together(work(client) for client in clients for _ in range(2))
    assert counter == [80]
    assert nothing_left(fl.admin, key)


# ------------------------------------------------------------------ not waiting, giving up


async def test_who_does_not_wait_takes_it_only_if_nobody_waits(fl: Ways) -> None:
    key, client = fl.key(), fl.client(retry_timeout=60_000)
    spec = fl.client().lock(key, TTL, fair=True)
    assert await spec.acquire(blocking=False) is True
    assert fl.admin.exists(queue_of(key)) == 0
    first = await come_in(fl, key, client.acquire(key, TTL, 30, fair=True))
    for _ in range(3):
        assert await fl.client().lock(key, TTL, fair=True).acquire(blocking=False) is False
    assert len(waiting(fl.admin, key)) == 1
    assert await spec.release() is True
    # The lock is free until the first one comes for it, and it is kept for that one.
    turned_away = fl.client()
    while fl.admin.exists(key) == 0:
        with pytest.raises(fastlock.AcquireTimeout, match=f"'{key}' was still (held|kept)"):
            await turned_away.acquire(key, TTL, 0, fair=True)
    lease = await first
    assert await lease.release() is True
    assert nothing_left(fl.admin, key)


async def test_a_timeout_gives_its_place_up_at_once(fl: Ways) -> None:
    key, client = fl.key(), fl.client(retry_timeout=20)
    holder = await client.acquire(key, TTL)
    begun = clock()
    first = await come_in(fl, key, client.acquire(key, TTL, 0.3, fair=True))
    second = await come_in(fl, key, fl.client(retry_timeout=20).acquire(key, TTL, 30, fair=True))
    with pytest.raises(fastlock.AcquireTimeout):
        await first
    assert clock() - begun >= 0.3
    assert len(waiting(fl.admin, key)) == 1
    assert await holder.release() is True
    lease = await second
    assert waiting(fl.admin, key) == []
    assert await lease.release() is True
    assert nothing_left(fl.admin, key)


async def test_the_last_one_to_give_up_leaves_no_queue(fl: Ways) -> None:
    key, client = fl.key(), fl.client(retry_timeout=20)
    fl.admin.set(key, "somebody's")
    for timeout in (0, 0.05):
        with pytest.raises(fastlock.AcquireTimeout) as caught:
            await client.acquire(key, TTL, timeout, fair=True)
        assert caught.value.key == key
        assert fl.admin.exists(queue_of(key)) == 0
    assert fl.admin.delete(key) == 1


@async_only
async def test_a_cancelled_waiter_gives_its_place_up_at_once(fl: Ways) -> None:
    key = fl.key()
    holder = await fl.client().acquire(key, TTL)
    first, second = [
        await come_in(fl, key, fl.client(retry_timeout=20).acquire(key, TTL, fair=True))
        for _ in range(2)
    ]
    first.cancel()
    await fl.until(lambda: len(waiting(fl.admin, key)) == 1, 1)
    assert not second.done()
    assert await holder.release() is True
    lease = await second
    assert await lease.release() is True
    assert nothing_left(fl.admin, key)


@async_only
@one_server
async def test_cancelled_at_any_moment_nobody_is_left_holding(fl: Ways) -> None:
    key, client = fl.key(), await fl.warm(fl.client(retry_timeout=5))
    holder = await client.acquire(key, TTL)
    for turns in range(25):
        waiter = fl.spawn(client.acquire(key, TTL, fair=True))
        for _ in range(turns):
            await asyncio.sleep(0.0005)
        if turns == 15:
            assert await holder.release() is True
        waiter.cancel()
        with pytest.raises(asyncio.CancelledError):
            lease = await waiter
            assert await lease.release() is True
            raise asyncio.CancelledError
        await fl.until(lambda: fl.admin.exists(queue_of(key)) == 0, 1)
    await fl.until(lambda: nothing_left(fl.admin, key))


async def test_a_client_that_is_closed_gives_up_its_places(fl: Ways) -> None:
    key, client = fl.key(), fl.client(retry_timeout=20)
    holder = await fl.client().acquire(key, TTL)

    async def wait() -> None:
        with pytest.raises(fastlock.FastlockError):
            await client.acquire(key, TTL, fair=True)

    waiters = [await come_in(fl, key, wait()) for _ in range(3)]
    await client.close()
    for waiter in waiters:
        await waiter
    await fl.until(lambda: fl.admin.exists(queue_of(key)) == 0, 2)  # before the places end
    assert await holder.release() is True


# ------------------------------------------------------------------ everybody else


async def test_who_is_not_fair_is_excluded_and_does_not_queue(fl: Ways) -> None:
    """redis-py's Lock, and fastlock's without fair=True: they exclude, and may come between."""
    key, client = fl.key(), fl.client(retry_timeout=20)
    other = RedisPyLock(fl.admin, key, timeout=TTL)
    assert other.acquire(blocking=False)
    waiter = await come_in(fl, key, client.acquire(key, TTL, 30, fair=True))
    assert await client.try_acquire(key, TTL) is None
    with pytest.raises(fastlock.AcquireTimeout):
        await client.acquire(key, TTL, 0.05)
    assert len(waiting(fl.admin, key)) == 1
    other.release()
    lease = await waiter
    assert not other.acquire(blocking=False)
    assert await lease.release() is True
    assert nothing_left(fl.admin, key)


async def test_an_expired_lock_goes_to_the_first_one(fl: Ways) -> None:
    key, served = fl.key(), []
    fl.admin.set(key, "somebody's", px=1500)

    async def wait(number: int) -> None:
        async with fl.client(retry_timeout=20).lock(key, TTL, fair=True):
            served.append(number)

    waiters = [await come_in(fl, key, wait(number)) for number in range(3)]
    for waiter in waiters:
        await waiter
    assert served == [0, 1, 2]


async def test_a_place_whose_owner_is_gone_is_passed_over(fl: Ways) -> None:
    """Two of them, first and second, whose deadlines have passed; and one in whose time it is."""
    key, client = fl.key(), fl.client(retry_timeout=20)
    now = fl.admin.time()[0] * 1000
    dead = {b"agone-1": -9, b"dgone-1": now - 1, b"agone-2": -8, b"dgone-2": now - 50_000}
    fl.admin.zadd(queue_of(key), dead)
    lease = await client.acquire(key, TTL, 5, fair=True)
    assert nothing_left(fl.admin, key) is False
    assert fl.admin.exists(queue_of(key)) == 0
    assert await lease.release() is True

    fl.admin.zadd(queue_of(key), {b"aalive": -9, b"dalive": now + 1500})
    begun = time.monotonic()
    lease = await client.acquire(key, TTL, 5, fair=True)
    assert time.monotonic() - begun > 0.4  # the server's seconds are whole
    assert waiting(fl.admin, key) == []
    assert await lease.release() is True
    assert nothing_left(fl.admin, key)


async def test_a_queue_ends_with_the_last_place_in_it(fl: Ways) -> None:
    key, client = fl.key(), fl.client()
    holder = await client.acquire(key, TTL)
    waiter = await come_in(fl, key, client.acquire(key, TTL, 30, fair=True))
    assert 0 < fl.admin.pttl(queue_of(key)) <= PLACE * 1000
    assert await holder.release() is True
    assert await (await waiter).release() is True


# ------------------------------------------------------------------ with everything else


async def test_fair_goes_with_all_that_a_lock_can_do(fl: Ways) -> None:
    key, client = fl.key(), fl.client(retry_timeout=20)
    spec = client.lock(key, TTL, 5, "deferred", fence=True, fair=True, auto_renew=True)
    fences = []
    for _ in range(2):
        async with spec as lease:
            fences.append(lease.fence)
            assert fl.admin.get(companion(key.encode())).startswith(b"%d " % lease.fence)
            await lease.extend(60)
        await fl.until(lambda: nothing_left(fl.admin, key))
    assert fences == sorted(set(fences))
    assert await spec.acquire() is True
    assert await spec.locked() is True
    assert await spec.release() is True
    await fl.until(lambda: nothing_left(fl.admin, key))

    @client.lock(key, TTL, fair=True)
    async def guarded() -> bool:
        return bool(fl.admin.exists(key))

    assert await guarded() is True
    assert nothing_left(fl.admin, key)
    fl.admin.delete(companion(key.encode()))


@one_server
async def test_a_fair_spec_pickles_as_one(fl: Ways) -> None:
    spec = fl.raw(fl.client().lock("k", TTL, 5, fair=True))
    copy = pickle.loads(pickle.dumps(spec))
    assert (copy.fair, copy.ttl, copy.timeout) == (True, TTL, 5)
    assert fl.raw(fl.client().lock("k")).fair is False


@one_server
async def test_fair_is_true_or_false(fl: Ways) -> None:
    client = fl.client()
    for wrong in ("yes", 1, 0, None):
        with pytest.raises(fastlock.ConfigError, match="neither True nor False") as caught:
            await client.acquire(fl.key(), fair=wrong)
        assert caught.value.field == "fair"
        with pytest.raises(fastlock.ConfigError, match="neither True nor False"):
            client.lock(fl.key(), fair=wrong)
    for call in ("try_acquire", "try_acquire_many", "lock_all"):
        with pytest.raises(TypeError, match="fair"):
            await getattr(client, call)([fl.key()], fair=True)


async def test_a_server_that_forgot_the_scripts_keeps_the_places(fl: Ways) -> None:
    key, client = fl.key(), fl.client(retry_timeout=20)
    holder = await client.acquire(key, TTL)
    waiter = await come_in(fl, key, client.acquire(key, TTL, 30, fair=True))
    fl.admin.script_flush()
    calls = fl.admin.info("commandstats").get("cmdstat_eval", {"calls": 0})["calls"]
    await fl.until(lambda: fl.admin.info("commandstats")["cmdstat_eval"]["calls"] > calls)
    assert len(waiting(fl.admin, key)) == 1
    assert await holder.release() is True
    assert await (await waiter).release() is True
    assert nothing_left(fl.admin, key)


async def test_a_flushed_server_serves_those_who_still_wait(fl: Ways, own_server: Any) -> None:
    fl.server = own_server
    key = fl.key()
    fl.admin.set(key, "somebody's")
    waiters = [
        await come_in(fl, key, fl.client(retry_timeout=20).acquire(key, 0.3, 30, fair=True))
        for _ in range(3)
    ]
    fl.admin.flushall()
    tokens = {(await waiter).token for waiter in waiters}  # each until its ttl ends
    assert len(tokens) == 3
    await fl.until(lambda: nothing_left(fl.admin, key))


# ------------------------------------------------------------------ keys of another kind


async def test_keys_that_hold_something_else_are_named_and_left(fl: Ways) -> None:
    client = fl.client()
    for wrong in ("lock", "queue", "companion"):
        key = fl.key(wrong)
        names = {"lock": key, "queue": queue_of(key), "companion": companion(key.encode())}
        fl.admin.lpush(names[wrong], "x")
        with pytest.raises(fastlock.ServerError, match="WRONGTYPE") as caught:
            await client.acquire(key, TTL, 1, fair=True, fence=True)
        assert repr(names[wrong]) in str(caught.value)
        assert fl.admin.exists(*names.values()) == 1
        assert fl.admin.pttl(names[wrong]) == -1  # nothing was done to it
        fl.admin.delete(names[wrong])
    key = fl.key("held")
    fl.admin.set(key, "somebody's")
    fl.admin.set(queue_of(key), "x")
    with pytest.raises(fastlock.ServerError, match="WRONGTYPE") as caught:
        await client.acquire(key, TTL, 1, fair=True)
    assert repr(queue_of(key)) in str(caught.value)
    assert fl.admin.get(queue_of(key)) == b"x"
    assert fl.admin.pttl(queue_of(key)) == -1
    fl.admin.delete(key, queue_of(key))


async def test_who_is_not_first_asks_rarely_where_the_server_does_not_tell(fl: Ways) -> None:
    """The lock is free, and kept for one who has died: that is no reason to hurry."""
    proxy, key = fl.proxy(), fl.key()
    client = await fl.warm(fl.client(proxy.uri))
    raw = fl.raw(client)
    raw._listener._refused_by = raw._server.ready()  # as by a server that refuses tracking
    ends = fl.admin.time()[0] * 1000 + 2500
    fl.admin.zadd(queue_of(key), {b"adead": -1e15, b"ddead": ends})
    fl.admin.pexpire(queue_of(key), 3000)
    lease = await client.acquire(key, TTL, timeout=30, fair=True)
    steps = [verb for verb in proxy.verbs() if verb.startswith("EVAL")]
    assert len(steps) < 100  # ten a second
    assert await lease.release() is True
