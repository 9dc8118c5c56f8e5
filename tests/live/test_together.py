"""Many callers and other libraries on the same keys: at most one holder, no lost update."""

from __future__ import annotations

import time
from typing import Any

import pytest
from _harness import Ways, one_server, sync_only
from redis.exceptions import LockError

import fastlock

# ------------------------------------------------------------------ no lost update


async def add_one(fl: Ways, counter: str, pause: float) -> None:
    """Unprotected read-modify-write in the server, slow enough to be interrupted."""
    value = int(fl.admin.get(counter) or 0)
    await fl.sleep(pause)
    fl.admin.set(counter, value + 1)


@pytest.mark.smoke
async def test_a_hammered_counter_loses_no_update(fl: Ways) -> None:
    client, key, counter = fl.client(retry_timeout=2), fl.key(), fl.key("counter")

    async def work() -> None:
        for _ in range(6):
            async with client.lock(key, ttl=20):
                await add_one(fl, counter, 0.0002)

    await fl.together(work() for _ in range(16))
    assert int(fl.admin.get(counter)) == 16 * 6
    fl.admin.delete(counter)


@one_server
async def test_without_the_lock_updates_are_lost(fl: Ways) -> None:
    """So that the test above can fail."""
    counter = fl.key("counter")

    async def work() -> None:
        for _ in range(6):
            await add_one(fl, counter, 0.0002)

    await fl.together(work() for _ in range(16))
    assert int(fl.admin.get(counter)) < 16 * 6
    fl.admin.delete(counter)


async def test_several_clients_and_many_keys(fl: Ways) -> None:
    clients = [fl.client(retry_timeout=2) for _ in range(4)]
    keys = [fl.key() for _ in range(4)]
    inside: dict[str, int] = dict.fromkeys(keys, 0)

    async def work(number: int) -> None:
        for turn in range(8):
            key = keys[(number + turn) % 4]
            async with clients[number % 4].lock(key, ttl=20):
                inside[key] += 1
                assert inside[key] == 1
                await fl.sleep(0.0005)
                inside[key] -= 1

    await fl.together(work(number) for number in range(12))
    assert fl.admin.exists(*keys) == 0


@one_server
async def test_single_locks_and_batches_side_by_side(fl: Ways) -> None:
    """Replies of a large batch and of single calls go to whom they belong."""
    client = fl.client()
    stem = fl.key()

    async def batch(number: int) -> None:
        keys = [f"{stem}:{number}:{index}" for index in range(500)]
        for _ in range(3):
            leases = await client.try_acquire_many(keys, ttl=30)
            assert [lease.key for lease in leases] == keys
            assert await client.release_many(leases) == [True] * 500

    async def single(number: int) -> None:
        key = f"{stem}:single:{number}"
        for _ in range(30):
            lease = await client.try_acquire(key, ttl=30)
            assert fl.admin.get(key).decode() == lease.token
            assert await client.try_acquire(key, ttl=30) is None
            assert await lease.release() is True

    await fl.together([*(batch(number) for number in range(3)), *map(single, range(6))])


# ------------------------------------------------------------------ redis-py's Lock


async def test_redis_py_s_lock_and_ours_exclude_each_other(fl: Ways) -> None:
    client, key = fl.client(), fl.key()
    theirs = fl.admin.lock(key, timeout=5, blocking=False)
    lease = await client.acquire(key, ttl=5)
    assert theirs.acquire() is False
    assert theirs.locked() is True
    assert await lease.release() is True
    assert theirs.acquire() is True
    assert await client.try_acquire(key, ttl=5) is None
    assert await client.locked(key) is True
    assert await client.holder(key) == "unknown"
    with pytest.raises(fastlock.AcquireTimeout, match="unknown"):
        await client.acquire(key, ttl=5, timeout=0.25)
    theirs.release()
    lease = await client.try_acquire(key, ttl=5)
    with pytest.raises(LockError):
        theirs.release()
    assert await lease.release() is True


async def test_a_lock_of_redis_py_can_be_adopted(fl: Ways) -> None:
    client, key = fl.client(), fl.key()
    theirs = fl.admin.lock(key, timeout=5)
    assert theirs.acquire() is True
    lease = await client.adopt(key, theirs.local.token.decode())
    await lease.extend(9)
    assert 8_000 < fl.admin.pttl(key) <= 9_000
    theirs.release()
    assert await lease.release() is False


async def test_a_hammer_of_both_libraries_loses_no_update(fl: Ways) -> None:
    client, key, counter = fl.client(retry_timeout=2), fl.key(), fl.key("counter")
    stop = time.monotonic() + 20

    async def ours() -> None:
        for _ in range(10):
            async with client.lock(key, ttl=20):
                await add_one(fl, counter, 0.001)

    async def theirs() -> None:
        for _ in range(10):
            lock = fl.admin.lock(key, timeout=20, blocking=False)
            while not lock.acquire():
                assert time.monotonic() < stop
                await fl.sleep(0.002)
            await add_one(fl, counter, 0.001)
            lock.release()

    await fl.together([ours(), theirs(), ours(), theirs()])
    assert int(fl.admin.get(counter)) == 40
    fl.admin.delete(counter)


# ------------------------------------------------------------------ keys of another type


async def test_a_key_of_another_type_is_an_error_that_names_it(fl: Ways) -> None:
    client, key = fl.client(retry_timeout=10), fl.key()
    fl.admin.rpush(key, "not a lock")
    with pytest.raises(fastlock.ServerError) as caught:
        await client.acquire(key, ttl=5, timeout=5)
    assert caught.value.code == "WRONGTYPE"
    assert key in str(caught.value)
    with pytest.raises(fastlock.ServerError) as caught:
        await client.holder(key)
    assert caught.value.code == "WRONGTYPE"
    assert fl.admin.lrange(key, 0, -1) == [b"not a lock"]
    fl.admin.delete(key)


async def test_a_lock_replaced_by_another_type_is_an_error_at_release(fl: Ways) -> None:
    client, key = fl.client(), fl.key()
    lease = await client.acquire(key, ttl=5)
    other = await client.acquire(fl.key(), ttl=5)
    fl.admin.delete(key)
    fl.admin.rpush(key, "not a lock")
    for call in (lease.release, lease.extend, lambda: client.release_many([lease, other])):
        with pytest.raises(fastlock.ServerError) as caught:
            await call()
        assert caught.value.code == "WRONGTYPE"
        assert key in str(caught.value)
    assert fl.admin.exists(other.key) == 0
    fl.admin.delete(key)


# ------------------------------------------------------------------ threads


@sync_only
async def test_threads_never_stop_each_other(fl: Ways) -> None:
    """One waits for a held lock, the others go on meanwhile on the same connection."""
    client, key = fl.client(retry_timeout=20), fl.key()
    fl.admin.set(key, "taken", px=60_000)
    waiter = fl.spawn(client.acquire(key, ttl=5, timeout=30))

    async def work() -> int:
        done = 0
        for _ in range(50):
            lease: Any = await client.try_acquire(fl.key(), ttl=5)
            done += await lease.release()
        return done

    assert await fl.together(work() for _ in range(4)) == [50] * 4
    assert not waiter.done()
    fl.admin.delete(key)
    assert await (await waiter).release() is True
