"""Where the drop-in is right and redis-py's Lock is not: the rows of docs/redis-py.md."""

from __future__ import annotations

import asyncio
import socket
import threading
from typing import Any

import pytest
import redis
import redis.asyncio.cluster
import redis.cluster
from _drop_in import Locks
from _harness import CORES, async_only, one_server, sync_only
from _proxy import Proxy
from redis.exceptions import (
    AuthenticationError,
    ConnectionError,
    LockError,
    LockNotOwnedError,
    NoPermissionError,
    TimeoutError,
)
from redis.sentinel import Sentinel

from fastlock.contrib.redis_py._held import Everywhere
from fastlock.errors import ConfigError

pytestmark = [
    pytest.mark.parametrize("core", CORES, indirect=True),
    pytest.mark.parametrize("decode", [False], indirect=True, ids=["bytes"]),
]


async def behind(rp: Locks, name: str, timeout: Any, **options: Any) -> tuple[Any, Proxy]:
    """A lock whose connection exists, and goes through a proxy."""
    proxy = rp.fl.proxy()
    client = rp.redis(f"redis://127.0.0.1:{proxy.port}", **options)
    async with rp.lock(rp.fl.key("warm"), client=client, timeout=10) as warm:
        await warm.extend(10)
    return rp.lock(name, client=client, timeout=timeout), proxy


# ------------------------------------------------------------------ lost replies


@pytest.mark.parametrize("timeout", [10, None])
@pytest.mark.parametrize("token", [None, "mine"])
async def test_lost_reply_of_an_acquire(rp: Locks, timeout: Any, token: Any) -> None:
    """It is ours, and it says so: not "False", not an error, not held by nobody."""
    key = rp.fl.key()
    lock, proxy = await behind(rp, key, timeout)
    fault = proxy.fault("lose_reply")
    assert await lock.acquire(blocking=False, token=token) is True
    await rp.fl.happened(fault)
    assert rp.fl.admin.get(key) == lock.local.token
    assert (rp.fl.admin.ttl(key) == -1) is (timeout is None)
    assert await lock.owned()
    await lock.release()
    assert not rp.fl.admin.exists(key)


@pytest.mark.parametrize("timeout", [10, None])
async def test_an_acquire_that_did_not_arrive(rp: Locks, timeout: Any) -> None:
    key = rp.fl.key()
    lock, proxy = await behind(rp, key, timeout)
    fault = proxy.fault("cut_before")
    assert await lock.acquire(blocking=False) is True
    await rp.fl.happened(fault)
    assert (rp.fl.admin.ttl(key) == -1) is (timeout is None)
    await lock.release()


async def test_lost_reply_of_a_refusal(rp: Locks) -> None:
    key = rp.fl.key()
    lock, proxy = await behind(rp, key, None)
    rp.fl.admin.set(key, "theirs")
    fault = proxy.fault("lose_reply")
    assert await lock.acquire(blocking=False) is False
    await rp.fl.happened(fault)
    assert rp.fl.admin.get(key) == b"theirs"


@pytest.mark.parametrize("timeout", [10, None])
async def test_lost_reply_of_a_release(rp: Locks, timeout: Any) -> None:
    """It was freed by us: no LockNotOwnedError."""
    key = rp.fl.key()
    lock, proxy = await behind(rp, key, timeout)
    await lock.acquire()
    fault = proxy.fault("lose_reply")
    assert await lock.release() is None
    await rp.fl.happened(fault)
    assert lock.local.token is None
    assert not rp.fl.admin.exists(key)


async def test_lost_replies_about_a_token_set_by_hand(rp: Locks) -> None:
    """Whether it was freed by us or had ended cannot be known: it is not held, either way."""
    key = rp.fl.key()
    lock, proxy = await behind(rp, key, 10)
    rp.fl.admin.set(key, "given", px=100_000)
    lock.local.token = b"given"
    proxy.fault("lose_reply")
    with pytest.raises(LockNotOwnedError, match="cannot be known"):
        await lock.release()
    assert not rp.fl.admin.exists(key)
    with pytest.raises(LockError, match="has not acquired it"):
        await lock.release()


async def test_a_release_that_cannot_be_sent_may_be_repeated(rp: Locks) -> None:
    key = rp.fl.key()
    lock, proxy = await behind(rp, key, 30)
    await lock.acquire()
    proxy.down()
    with pytest.raises(ConnectionError):
        await lock.release()
    assert rp.fl.admin.exists(key)
    proxy.up()
    await lock.release()
    assert not rp.fl.admin.exists(key)
    with pytest.raises(LockError):
        await lock.release()


@pytest.mark.parametrize("name", ["lose_reply", "cut_before"])
async def test_an_extension_adds_once(rp: Locks, name: str) -> None:
    """An addition that was lost is not made twice, and not left out."""
    key = rp.fl.key()
    lock, proxy = await behind(rp, key, 100)
    await lock.acquire()
    fault = proxy.fault(name)
    assert await lock.extend(50) is True
    await rp.fl.happened(fault)
    assert 145_000 < rp.fl.admin.pttl(key) <= 150_000
    await lock.release()


async def test_lost_reply_of_an_extension_of_unknown_end(rp: Locks) -> None:
    """Of a token set by hand nobody knows what was left: the error says so."""
    key = rp.fl.key()
    lock, proxy = await behind(rp, key, 100)
    rp.fl.admin.set(key, "given", px=100_000)
    lock.local.token = b"given"
    proxy.fault("lose_reply")
    with pytest.raises(ConnectionError, match="lost"):
        await lock.extend(50)
    await lock.release()


# ------------------------------------------------------------------ leaving early


@async_only
@pytest.mark.parametrize("timeout", [30, None])
async def test_a_cancelled_acquire_leaves_nothing(rp: Locks, timeout: Any) -> None:
    key = rp.fl.key()
    lock, proxy = await behind(rp, key, timeout)
    fault = proxy.fault("hold_reply")
    task = asyncio.ensure_future(lock.acquire())
    await rp.fl.happened(fault)
    assert rp.fl.admin.exists(key)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    fault.go()
    await rp.fl.until(lambda: not rp.fl.admin.exists(key))
    assert lock.local.token is None


@async_only
async def test_a_cancelled_release_is_finished(rp: Locks) -> None:
    key = rp.fl.key()
    lock, proxy = await behind(rp, key, None)
    await lock.acquire()
    fault = proxy.fault("hold_command")
    task = asyncio.ensure_future(lock.release())
    await rp.fl.happened(fault)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    fault.go()
    await rp.fl.until(lambda: not rp.fl.admin.exists(key))
    await lock.release()  # which says that it was freed by us
    assert lock.local.token is None


@sync_only
async def test_an_interrupted_acquire_leaves_nothing(
    rp: Locks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the server's answer and the caller's True."""
    key = rp.fl.key()
    lock = rp.lock(key)

    class Interrupted(Everywhere):
        def __setattr__(self, name: str, value: Any) -> None:
            if name == "token" and value is not None:
                raise KeyboardInterrupt
            object.__setattr__(self, name, value)

    lock.raw.local = Interrupted()
    lock.raw._own = lock.raw.local
    with pytest.raises(KeyboardInterrupt):
        await lock.acquire()
    await rp.fl.until(lambda: not rp.fl.admin.exists(key))


@one_server
@sync_only
async def test_an_interrupted_release_may_be_repeated(rp: Locks) -> None:
    """Whether the interrupt came before the server freed it or after."""
    key = rp.fl.key()
    lock = rp.lock(key)
    for before in (True, False):
        await lock.acquire()

        def interrupted(token: Any, before: bool = before) -> None:
            if not before:
                type(lock.raw).do_release(lock.raw, token)
            raise KeyboardInterrupt

        lock.raw.do_release = interrupted
        with pytest.raises(KeyboardInterrupt):
            await lock.release()
        del lock.raw.do_release
        assert rp.fl.admin.exists(key) == before
        await lock.release()
        assert not rp.fl.admin.exists(key)
        with pytest.raises(LockError):
            await lock.release()


# ------------------------------------------------------------------ whose lock is it


@one_server
@sync_only
async def test_another_thread_is_told_in_words(rp: Locks) -> None:
    """LockError, where redis-py's raises AttributeError."""
    lock = rp.lock(rp.fl.key(), timeout=10)
    await lock.acquire()
    assert await rp.elsewhere(lock.owned()) is False
    for call in (lock.release, lock.reacquire, lambda: lock.extend(5)):
        with pytest.raises(LockError, match="has not acquired it"):
            await rp.elsewhere(call())
    await lock.release()


@one_server
async def test_a_late_release_leaves_the_next_holder_s_lock_alone(rp: Locks) -> None:
    """Two tasks (threads) share an object; the first outlives its lock."""
    key = rp.fl.key()
    lock = rp.lock(key, timeout=30, thread_local=False)
    await lock.acquire()
    rp.fl.admin.delete(key)  # as if expired
    taken, over = threading.Event(), threading.Event()  # set and looked at, never waited for

    async def second() -> None:
        assert await lock.acquire(blocking=False)
        taken.set()
        await rp.fl.until(over.is_set)
        assert await lock.owned()
        await lock.release()

    other = rp.fl.spawn(second())
    await rp.fl.until(taken.is_set)
    assert await lock.owned() is False
    with pytest.raises(LockNotOwnedError):
        await lock.release()
    assert rp.fl.admin.exists(key)
    over.set()
    await other
    assert not rp.fl.admin.exists(key)


@one_server
async def test_the_body_s_exception_goes_first(rp: Locks) -> None:
    key = rp.fl.key()
    with pytest.raises(ZeroDivisionError) as caught:
        async with rp.lock(key, timeout=10):
            rp.fl.admin.set(key, "theirs")
            raise ZeroDivisionError
    if hasattr(caught.value, "__notes__"):  # Python 3.11
        assert key in caught.value.__notes__[0]


# ------------------------------------------------------------------ times


@one_server
async def test_no_extension_ends_a_lock(rp: Locks) -> None:
    key = rp.fl.key()
    lock = rp.lock(key, timeout=10)
    await lock.acquire()
    for call in (
        lambda: lock.extend(-11),
        lambda: lock.extend(0, replace_ttl=True),
        lambda: lock.extend(-1, replace_ttl=True),
        lambda: lock.extend(float("nan")),
        lambda: lock.extend(float("inf")),
    ):
        with pytest.raises(LockError) as caught:
            await call()
        assert not isinstance(caught.value, LockNotOwnedError)
        assert caught.value.lock_name == key
    assert await lock.extend(0) is True
    assert 9000 < rp.fl.admin.pttl(key) <= 10000
    for timeout in (0, -1):
        (lock.raw if rp.fl.sync else lock).timeout = timeout
        with pytest.raises(LockError):
            await lock.reacquire()
    assert 9000 < rp.fl.admin.pttl(key) <= 10000
    await lock.release()


@one_server
async def test_short_timeouts_are_rounded_up(rp: Locks) -> None:
    lock = rp.lock(rp.fl.key(), timeout=0.0001)
    assert await lock.acquire() is True  # one millisecond
    with pytest.raises(LockError, match="above 0"):
        await rp.lock(rp.fl.key(), timeout=-1).acquire()


@one_server
async def test_a_lock_that_lost_its_ttl(rp: Locks) -> None:
    key = rp.fl.key()
    lock = rp.lock(key, timeout=10)
    await lock.acquire()
    rp.fl.admin.persist(key)
    with pytest.raises(LockError, match="no time to live") as caught:
        await lock.extend(10)
    assert not isinstance(caught.value, LockNotOwnedError)
    assert await lock.reacquire() is True
    assert 9000 < rp.fl.admin.pttl(key) <= 10000
    await lock.release()


# ------------------------------------------------------------------ errors


@one_server
async def test_every_lock_error_names_the_lock(rp: Locks) -> None:
    key = rp.fl.key()
    lock = rp.lock(key, timeout=10, sleep=0.01)
    for call in (lock.release, lock.reacquire, lambda: lock.extend(1)):
        with pytest.raises(LockError) as caught:
            await call()
        assert caught.value.lock_name == key
    rp.fl.admin.set(key, "theirs")
    with pytest.raises(LockError) as caught:
        async with rp.lock(key, blocking_timeout=0):
            pass
    assert caught.value.lock_name == key


@one_server
async def test_no_server(rp: Locks) -> None:
    proxy = rp.fl.proxy()
    proxy.down()
    client = rp.redis(f"redis://127.0.0.1:{proxy.port}")
    lock = rp.lock(rp.fl.key(), client=client, timeout=10)
    for call in (lock.acquire, lock.locked):
        with pytest.raises(ConnectionError, match="refused the connection"):
            await call()


@one_server
async def test_no_answer_while_connecting(rp: Locks) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        url = f"redis://127.0.0.1:{mute.getsockname()[1]}"
        client = rp.redis(url, socket_connect_timeout=0.1)
        with pytest.raises(TimeoutError):
            await rp.lock(rp.fl.key(), client=client, timeout=10).acquire()


@one_server
async def test_no_answer(rp: Locks) -> None:
    key = rp.fl.key()
    lock, proxy = await behind(rp, key, 10, socket_timeout=0.1)
    faults = [proxy.fault("hold_reply") for _ in range(4)]
    with pytest.raises(TimeoutError):
        await lock.acquire()
    for fault in faults:
        fault.go()
    await rp.fl.until(lambda: not rp.fl.admin.exists(key))


async def test_refusals(rp: Locks, own_server: Any) -> None:
    own_server.admin.config_set("requirepass", "right")
    own_server.admin.close()
    url = f"redis://{{}}127.0.0.1:{own_server.port}"
    with pytest.raises(AuthenticationError):
        await rp.lock("k", client=rp.redis(url.format(":wrong@"))).acquire()
    client = rp.redis(url.format(":right@"))
    async with rp.lock("k", client=client):
        pass
    with redis.Redis(port=own_server.port, password="right") as admin:
        admin.acl_setuser("poor", enabled=True, passwords=["+x"], keys=["*"], commands=["+get"])
    with pytest.raises(NoPermissionError):
        await rp.lock("k", client=rp.redis(url.format("poor:x@"))).acquire()


@one_server
async def test_clients_it_cannot_stand_in_for(rp: Locks) -> None:
    home: Any = redis.cluster if rp.fl.sync else redis.asyncio.cluster
    cluster = home.RedisCluster.__new__(home.RedisCluster)
    with pytest.raises(ConfigError, match="RedisCluster is not supported yet"):
        rp.lock("k", client=cluster)
    other: Any = redis.asyncio if rp.fl.sync else redis
    with pytest.raises(ConfigError, match=r"redis\.asyncio"):
        rp.lock("k", client=other.Redis())
    if rp.fl.sync:
        with pytest.raises(ConfigError, match=r"master_for\(\), not slave_for"):
            rp.lock("k", client=Sentinel([("localhost", 1)]).slave_for("x"))

        class Special(redis.Connection):
            pass

        pool = redis.ConnectionPool(connection_class=Special)
        with pytest.raises(ConfigError, match=r"Special, not redis-py's own"):
            rp.lock("k", client=redis.Redis(connection_pool=pool))
