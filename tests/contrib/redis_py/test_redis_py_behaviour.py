"""What code around redis-py's Lock relies on, true of redis-py's and of ours."""

from __future__ import annotations

import asyncio
import inspect
import logging
from typing import Any

import pytest
import redis.asyncio.lock
import redis.lock
from _drop_in import THEIRS, FakeTime, Locks
from _harness import async_only, one_server, sync_only
from redis.exceptions import LockError, LockNotOwnedError, ResponseError

from fastlock.contrib import redis_py

# ------------------------------------------------------------------ the face


@pytest.mark.parametrize(
    ("mine", "theirs"),
    [(redis_py.Lock, THEIRS["sync"]), (redis_py.AsyncLock, THEIRS["async"])],
    ids=["sync", "async"],
)
def test_arguments_are_redis_py_s(mine: Any, theirs: Any) -> None:
    methods = ("acquire", "release", "extend", "reacquire", "owned", "locked")
    for name in (*methods, "do_acquire", "do_release", "do_extend", "do_reacquire"):
        assert arguments(getattr(mine, name)) == arguments(getattr(theirs, name))
    taken, wanted = arguments(mine.__init__), arguments(theirs.__init__)
    if "raise_on_release_error" not in dict(wanted):  # redis-py before 6
        taken.remove(("raise_on_release_error", True))
    assert taken == wanted


def arguments(function: Any) -> list[tuple[str, Any]]:
    return [(one.name, one.default) for one in inspect.signature(function).parameters.values()]


@one_server
async def test_attributes(rp: Locks) -> None:
    lock = rp.lock("name")
    assert lock.redis is rp.client
    assert (lock.name, lock.timeout, lock.sleep, lock.blocking) == ("name", None, 0.1, True)
    assert (lock.blocking_timeout, lock.thread_local) == (None, True)
    assert lock.local.token is None
    lock = rp.lock("other", 9, 0.5, False, 3, False)
    assert (lock.name, lock.timeout, lock.sleep, lock.blocking) == ("other", 9, 0.5, False)
    assert (lock.blocking_timeout, lock.thread_local) == (3, False)
    assert lock.local.token is None


# ------------------------------------------------------------------ acquire


async def test_acquire_and_release(rp: Locks) -> None:
    key = rp.fl.key()
    lock = rp.lock(key, timeout=10)
    assert await lock.acquire() is True
    assert type(lock.local.token) is bytes
    assert rp.fl.admin.get(key) == lock.local.token
    assert 9000 < rp.fl.admin.pttl(key) <= 10000
    assert await lock.release() is None
    assert not rp.fl.admin.exists(key)
    assert lock.local.token is None
    assert await lock.acquire() is True
    await lock.release()


async def test_somebody_else_has_it(rp: Locks) -> None:
    key = rp.fl.key()
    holder, other = rp.lock(key), rp.lock(key)
    assert await holder.acquire()
    assert await other.acquire(blocking=False) is False
    assert await rp.lock(key, blocking=False).acquire() is False
    assert (
        await rp.lock(key, blocking=False, sleep=0.01).acquire(blocking=True, blocking_timeout=0.02)
        is False
    )
    assert other.local.token is None
    assert rp.fl.admin.get(key) == holder.local.token
    await holder.release()
    assert await other.acquire(blocking=False) is True
    await other.release()


async def test_a_token_of_one_s_own_is_stored_as_it_is(rp: Locks) -> None:
    key = rp.fl.key()
    lock = rp.lock(key, timeout=10)
    for token in ("test", b"\x00 raw"):
        assert await lock.acquire(token=token)
        expected = token.encode() if isinstance(token, str) else token
        assert lock.local.token == rp.fl.admin.get(key) == expected
        assert await lock.owned()
        await lock.release()


@pytest.mark.parametrize("timeout", [None, 0])
async def test_no_timeout_is_no_ttl(rp: Locks, timeout: Any) -> None:
    key = rp.fl.key()
    lock = rp.lock(key, timeout=timeout)
    assert await lock.acquire(blocking=False)
    assert rp.fl.admin.ttl(key) == -1
    await lock.release()
    assert not rp.fl.admin.exists(key)


@one_server
async def test_a_fraction_of_a_second(rp: Locks) -> None:
    key = rp.fl.key()
    lock = rp.lock(key, timeout=9.5)
    await lock.acquire()
    assert 9000 < rp.fl.admin.pttl(key) <= 9500
    await lock.release()


async def test_a_held_lock_expires(rp: Locks) -> None:
    key = rp.fl.key()
    assert await rp.lock(key, timeout=0.05).acquire()
    assert await rp.lock(key, sleep=0.01).acquire(blocking_timeout=5)


@one_server
@sync_only
@pytest.mark.parametrize(
    ("pause", "patience", "slept"),
    [(0.25, 1, 4), (0.25, 0.99, 3), (0.05, 0.04, 0), (0.3, 0, 0), (0.3, -1, 0), (2, 1e9, 7)],
)
async def test_polling_and_giving_up(
    rp: Locks, monkeypatch: pytest.MonkeyPatch, pause: float, patience: float, slept: int
) -> None:
    """Every pause is ``sleep``, on the module's clock; no try after the deadline."""
    time = FakeTime()
    monkeypatch.setattr(redis.lock, "mod_time", time)
    key = rp.fl.key()
    rp.fl.admin.set(key, "theirs")
    if patience > 1e6:
        time.on_sleep = lambda: len(time.slept) == slept and rp.fl.admin.delete(key)
    got = await rp.lock(key, 9, pause, True, patience).acquire()
    assert got is (patience > 1e6)
    assert time.slept == [pause] * slept
    time.slept.clear()
    rp.fl.admin.set(key, "theirs")
    lock = rp.lock(key, timeout=9, sleep=77)
    assert await lock.acquire(pause, True, 0.0) is False  # sleep is the first argument
    time.on_sleep = lambda: rp.fl.admin.delete(key)
    assert await lock.acquire(pause) is True
    assert time.slept == [pause]


@one_server
@async_only
@pytest.mark.parametrize(
    ("pause", "patience", "slept"), [(0.25, 1, 4), (0.25, 0.99, 3), (0.05, 0.04, 0), (0.3, -1, 0)]
)
async def test_polling_and_giving_up_in_a_loop(
    rp: Locks, monkeypatch: pytest.MonkeyPatch, pause: float, patience: float, slept: int
) -> None:
    key = rp.fl.key()
    rp.fl.admin.set(key, "theirs")
    lock = rp.lock(key, 9, pause, True, patience)
    assert await lock.acquire(blocking=False) is False  # connects, in real time
    time = FakeTime()
    loop = asyncio.get_running_loop()
    time.now = float(int(loop.time()))  # whole, so that sums of quarters are exact
    with monkeypatch.context() as patched:
        patched.setattr(asyncio, "sleep", time.asleep)
        patched.setattr(loop, "time", time.monotonic)
        assert await lock.acquire() is False
    assert time.slept == [pause] * slept


# ------------------------------------------------------------------ with


async def test_with(rp: Locks) -> None:
    key = rp.fl.key()
    async with rp.lock(key) as lock:
        assert rp.fl.admin.get(key) == lock.local.token
    assert not rp.fl.admin.exists(key)


@one_server
async def test_with_that_does_not_get_it(rp: Locks) -> None:
    key = rp.fl.key()
    rp.fl.admin.set(key, "theirs")
    with pytest.raises(LockError, match="Unable to acquire lock within the time specified"):
        async with rp.lock(key, blocking_timeout=0.02, sleep=0.01):
            raise AssertionError("entered")
    assert rp.fl.admin.get(key) == b"theirs"


@one_server
async def test_with_that_loses_it(rp: Locks) -> None:
    key = rp.fl.key()
    with pytest.raises(LockNotOwnedError):
        async with rp.lock(key, timeout=10):
            rp.fl.admin.set(key, "theirs")
    with pytest.raises(LockError):
        async with rp.lock(rp.fl.key(), timeout=10) as lock:
            await lock.release()


@one_server
async def test_with_that_may_lose_it(rp: Locks, caplog: pytest.LogCaptureFixture) -> None:
    if rp.theirs and "raise_on_release_error" not in inspect.signature(rp.lock_class).parameters:
        return  # redis-py before 6 has no such argument
    key = rp.fl.key()
    name = "redis.lock" if rp.fl.sync else "redis.asyncio.lock"
    async with rp.lock(key, timeout=10, raise_on_release_error=False) as lock:
        rp.fl.admin.set(key, "theirs")
    assert [(one.name, one.levelno) for one in caplog.records] == [(name, logging.WARNING)]
    async with rp.lock(rp.fl.key(), raise_on_release_error=False) as lock:
        await lock.release()
    assert len(caplog.records) == 2


# ------------------------------------------------------------------ release


async def test_release_of_what_is_not_held(rp: Locks) -> None:
    lock = rp.lock(rp.fl.key())
    with pytest.raises(LockError) as caught:
        await lock.release()
    assert not isinstance(caught.value, LockNotOwnedError)
    await lock.acquire()
    await lock.release()
    with pytest.raises(LockError) as caught:
        await lock.release()
    assert isinstance(caught.value, ValueError)


async def test_release_of_what_was_lost(rp: Locks) -> None:
    key = rp.fl.key()
    lock = rp.lock(key, timeout=10)
    await lock.acquire(blocking=False)
    rp.fl.admin.set(key, "theirs")
    with pytest.raises(LockNotOwnedError):
        await lock.release()
    assert lock.local.token is None
    assert rp.fl.admin.get(key) == b"theirs"


@one_server
async def test_a_key_of_another_type(rp: Locks) -> None:
    key = rp.fl.key()
    rp.fl.admin.rpush(key, "x")
    lock = rp.lock(key, timeout=10)
    assert await lock.acquire(blocking=False) is False
    rp.fl.admin.delete(key)
    assert await lock.acquire()
    rp.fl.admin.delete(key)
    rp.fl.admin.rpush(key, "x")
    with pytest.raises(ResponseError, match="WRONGTYPE"):
        await lock.release()


@one_server
async def test_hooks_of_a_subclass(rp: Locks) -> None:
    told = []
    if rp.fl.sync:

        class Mine(rp.lock_class):
            def do_acquire(self, token: Any) -> Any:
                told.append(token)
                return super().do_acquire(token)

            def do_release(self, expected_token: Any) -> Any:
                told.append(expected_token)
                return super().do_release(expected_token)
    else:

        class Mine(rp.lock_class):  # type: ignore[no-redef]
            async def do_acquire(self, token: Any) -> Any:
                told.append(token)
                return await super().do_acquire(token)

            async def do_release(self, expected_token: Any) -> Any:
                told.append(expected_token)
                return await super().do_release(expected_token)

    lock = rp.wrapped(Mine(rp.client, rp.fl.key()))
    await lock.acquire()
    token = lock.local.token
    await lock.release()
    assert told == [token, token]


# ------------------------------------------------------------------ extend, reacquire


async def test_extend_adds(rp: Locks) -> None:
    key = rp.fl.key()
    lock = rp.lock(key, timeout=10)
    await lock.acquire(blocking=False)
    assert await lock.extend(10) is True
    assert 18000 < rp.fl.admin.pttl(key) <= 20000
    assert await lock.extend(0.5) is True
    assert 18500 < rp.fl.admin.pttl(key) <= 20500
    assert await lock.extend(-10) is True
    assert 8500 < rp.fl.admin.pttl(key) <= 10500
    await lock.release()


async def test_extend_replaces(rp: Locks) -> None:
    key = rp.fl.key()
    lock = rp.lock(key, timeout=10)
    await lock.acquire(blocking=False)
    assert await lock.extend(5.5, replace_ttl=True) is True
    assert 4500 < rp.fl.admin.pttl(key) <= 5500
    assert await lock.extend(30, True) is True
    assert 29000 < rp.fl.admin.pttl(key) <= 30000
    await lock.release()


async def test_reacquire(rp: Locks) -> None:
    key = rp.fl.key()
    lock = rp.lock(key, timeout=10)
    await lock.acquire(blocking=False)
    rp.fl.admin.pexpire(key, 3000)
    assert await lock.reacquire() is True
    assert 9000 < rp.fl.admin.pttl(key) <= 10000
    await lock.release()


async def test_prolonging_what_is_not_held(rp: Locks) -> None:
    lock = rp.lock(rp.fl.key(), timeout=10)
    for prolong in (lambda: lock.extend(10), lambda: lock.extend(10, True), lock.reacquire):
        with pytest.raises(LockError) as caught:
            await prolong()
        assert not isinstance(caught.value, LockNotOwnedError)


@one_server
async def test_prolonging_what_has_no_timeout(rp: Locks) -> None:
    lock = rp.lock(rp.fl.key())
    await lock.acquire()
    for prolong in (lambda: lock.extend(10), lock.reacquire):
        with pytest.raises(LockError) as caught:
            await prolong()
        assert not isinstance(caught.value, LockNotOwnedError)
    await lock.release()


async def test_prolonging_what_was_lost(rp: Locks) -> None:
    key = rp.fl.key()
    for verb, args in (("extend", (10,)), ("extend", (10, True)), ("reacquire", ())):
        rp.fl.admin.delete(key)
        lock = rp.lock(key, timeout=10)
        await lock.acquire(blocking=False)
        rp.fl.admin.set(key, "theirs", px=60000)
        with pytest.raises(LockNotOwnedError):
            await getattr(lock, verb)(*args)
        assert 50000 < rp.fl.admin.pttl(key) <= 60000
        with pytest.raises(LockNotOwnedError):
            await lock.release()


@one_server
async def test_a_script_of_one_s_own_extends(rp: Locks) -> None:
    """celery-redbeat puts its own in place of redis-py's."""
    key = rp.fl.key()
    lock = rp.lock(key, timeout=10)
    script = "redis.call('pexpire', KEYS[1], ARGV[2] + ARGV[3]) return redis.call('get', KEYS[1])"
    raw = lock.raw if rp.fl.sync else lock
    raw.lua_extend = rp.client.register_script(script)
    await lock.acquire()
    assert await lock.extend(100, replace_ttl=True) is True
    assert 99000 < rp.fl.admin.pttl(key) <= 100001
    await lock.release()
    assert not rp.fl.admin.exists(key)


# ------------------------------------------------------------------ locked, owned


async def test_locked_and_owned(rp: Locks) -> None:
    key = rp.fl.key()
    lock, other = rp.lock(key, timeout=10), rp.lock(key, timeout=10)
    assert (await lock.locked(), await lock.owned()) == (False, False)
    await lock.acquire(blocking=False)
    assert (await lock.locked(), await lock.owned()) == (True, True)
    assert (await other.locked(), await other.owned()) == (True, False)
    rp.fl.admin.set(key, "theirs")
    assert (await lock.locked(), await lock.owned()) == (True, False)
    rp.fl.admin.delete(key)
    assert (await lock.locked(), await lock.owned()) == (False, False)
    with pytest.raises(LockNotOwnedError):
        await lock.release()
    assert await lock.owned() is False


# ------------------------------------------------------------------ tokens


async def test_a_token_set_by_hand(rp: Locks) -> None:
    """How a lock is handed on: the other side sets the token and goes on."""
    key = rp.fl.key()
    first, second = rp.lock(key, timeout=10), rp.lock(key, timeout=10)
    await first.acquire()
    second.local.token = first.local.token
    assert await second.owned()
    assert await second.extend(10)
    assert await second.reacquire()
    await second.release()
    assert second.local.token is None
    assert not rp.fl.admin.exists(key)
    second.local.token = b"wrong"
    assert not await second.owned()
    with pytest.raises(LockNotOwnedError):
        await second.release()
    assert second.local.token is None


@one_server
async def test_without_thread_local_anybody_may_release(rp: Locks) -> None:
    key = rp.fl.key()
    lock = rp.lock(key, timeout=10, thread_local=False)
    await lock.acquire()
    assert await rp.elsewhere(lock.owned()) is True
    assert await rp.elsewhere(lock.extend(5)) is True
    await rp.elsewhere(lock.release())
    assert lock.local.token is None
    assert not rp.fl.admin.exists(key)
    await rp.elsewhere(lock.acquire())
    assert lock.local.token == rp.fl.admin.get(key)
    await lock.release()
    assert not rp.fl.admin.exists(key)


@one_server
@sync_only
async def test_with_thread_local_others_do_not_see_the_token(rp: Locks) -> None:
    key = rp.fl.key()
    lock = rp.lock(key, timeout=10)
    await lock.acquire()

    async def token() -> Any:
        return getattr(lock.local, "token", None)

    assert await rp.elsewhere(token()) is None
    assert await rp.elsewhere(lock.acquire(blocking=False)) is False
    assert await lock.owned() is True
    await lock.release()
