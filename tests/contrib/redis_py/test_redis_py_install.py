"""install() and uninstall(), and which fastlock client serves which redis-py client."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import redis
import redis.asyncio
import redis.asyncio.client
import redis.asyncio.cluster
import redis.asyncio.lock
import redis.client
import redis.cluster
import redis.lock
from _drop_in import THEIRS, Locks
from _harness import CORES, async_only, one_server, sync_only
from redis.exceptions import LockError
from redis.sentinel import Sentinel

import fastlock.contrib.redis_py as drop_in
from fastlock.contrib.redis_py import AsyncLock, Lock, install, installed, uninstall

NAMES = (redis.lock, redis.client, redis.asyncio.lock, redis.asyncio.client)
CLUSTER = (redis.cluster.Lock, redis.asyncio.cluster.Lock)

ours = pytest.mark.parametrize("core", CORES, indirect=True)
one_way = pytest.mark.parametrize("decode", [False], indirect=True, ids=["bytes"])


@pytest.fixture(autouse=True)
def _nothing_stays_installed() -> Iterator[None]:
    yield
    uninstall()
    drop_in.close()
    assert now() == BEFORE


def now() -> list[Any]:
    return [module.Lock for module in NAMES]


BEFORE = now()


# ------------------------------------------------------------------ the four names


def test_install_and_uninstall() -> None:
    assert not installed()
    client, aclient = redis.Redis(), redis.asyncio.Redis()
    assert type(client.lock("a")) is THEIRS["sync"]
    install()
    assert installed()
    assert issubclass(redis.lock.Lock, Lock)
    assert issubclass(redis.asyncio.lock.Lock, AsyncLock)
    assert now() == [redis.lock.Lock] * 2 + [redis.asyncio.lock.Lock] * 2
    lock = client.lock("a", timeout=3, sleep=0.5, blocking=False, blocking_timeout=2)
    assert isinstance(lock, Lock)
    assert (lock.name, lock.timeout, lock.sleep, lock.blocking) == ("a", 3, 0.5, False)
    assert (lock.blocking_timeout, lock.redis) == (2, client)
    assert isinstance(aclient.lock("a"), AsyncLock)
    assert (redis.cluster.Lock, redis.asyncio.cluster.Lock) == CLUSTER
    uninstall()
    assert not installed()
    assert now() == BEFORE
    assert type(client.lock("a")) is THEIRS["sync"]
    assert type(aclient.lock("a")) is THEIRS["async"]


def test_twice_is_as_once() -> None:
    install()
    first = now()
    install()
    assert now() == first
    uninstall()
    assert now() == BEFORE
    uninstall()
    assert now() == BEFORE


def test_for_a_while_and_nested() -> None:
    with install():
        with install():
            assert installed()
        assert installed()
        with pytest.raises(ZeroDivisionError), install():
            raise ZeroDivisionError
        assert installed()
    assert now() == BEFORE
    install()
    with install():
        pass
    assert installed()


def test_somebody_else_s_replacement_is_left_alone() -> None:
    class Other(THEIRS["sync"]):
        pass

    install()
    redis.client.Lock = Other
    try:
        uninstall()
        assert redis.client.Lock is Other
        assert redis.lock.Lock is THEIRS["sync"]
    finally:
        redis.client.Lock = THEIRS["sync"]


def test_others_go_on_with_redis_py_s_own(caplog: pytest.LogCaptureFixture) -> None:
    sentinel = Sentinel([("localhost", 1)]).slave_for("x")
    cluster = redis.cluster.RedisCluster.__new__(redis.cluster.RedisCluster)
    acluster = redis.asyncio.cluster.RedisCluster.__new__(redis.asyncio.cluster.RedisCluster)
    for client in (cluster, acluster):  # without a server, for they are not connected
        client.register_script = lambda text: text
    with install(), caplog.at_level(logging.WARNING, "fastlock"):
        for _ in range(2):
            lock = sentinel.lock("a", timeout=4)
            assert type(lock) is THEIRS["sync"]
            assert (lock.name, lock.timeout) == ("a", 4)
        assert type(redis.lock.Lock(cluster, "a")) is THEIRS["sync"]
        assert type(redis.asyncio.lock.Lock(acluster, "a")) is THEIRS["async"]
        assert type(cluster.lock("a")) is THEIRS["sync"]
        assert type(acluster.lock("a")) is THEIRS["async"]
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == len(set(told)) == 2
    for key in ("lua_release", "lua_extend", "lua_reacquire"):
        setattr(THEIRS["sync"], key, None)  # the fake clients' "scripts"
        setattr(THEIRS["async"], key, None)


def test_a_subclass_of_what_is_installed() -> None:
    with install():

        class Mine(redis.lock.Lock):
            pass

        assert type(redis.Redis().lock("a", lock_class=Mine)) is Mine


@one_server
@ours
@one_way
async def test_installed_locks_work(rp: Locks) -> None:
    key = rp.fl.key()
    with install():
        lock = rp.wrapped(rp.client.lock(key, timeout=10))
    async with lock:
        assert rp.fl.admin.get(key) == lock.local.token
        with pytest.raises(LockError):
            async with rp.lock(key, blocking=False):
                pass


def test_importing_fastlock_does_not_import_it() -> None:
    code = (
        "import sys, fastlock, fastlock.aio; fastlock.Client('redis://localhost'); "
        "assert 'redis' not in sys.modules and 'fastlock.contrib' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


# ------------------------------------------------------------------ one client per server


def connections(rp: Locks) -> list[str]:
    """Ours, of this test, at the server."""
    return [one["id"] for one in rp.fl.admin.client_list() if one["name"] == name_of(rp)]


def name_of(rp: Locks) -> str:
    return f"drop-{os.getpid()}-{id(rp)}"


@one_server
@ours
@one_way
async def test_one_connection_for_the_same_settings(rp: Locks) -> None:
    clients = [rp.redis(client_name=name_of(rp)) for _ in range(3)]
    for client in clients:
        for index in range(3):
            lock = rp.lock(rp.fl.key(str(index)), client=client, timeout=10)
            await lock.acquire()
            await rp.elsewhere(lock.locked())
    (only,) = connections(rp)
    other = rp.redis(client_name=name_of(rp), db=1)
    await rp.lock(rp.fl.key(), client=other, timeout=10).acquire()
    assert len(connections(rp)) == 2
    await rp.lock(rp.fl.key(), client=clients[0], timeout=10).acquire()
    assert only in connections(rp)
    assert len(connections(rp)) == 2


@one_server
@ours
@one_way
async def test_a_connection_ends_with_the_pools_that_led_to_it(rp: Locks) -> None:
    name = name_of(rp)
    where = rp.fl.server.uri
    home: Any = redis if rp.fl.sync else redis.asyncio
    client = home.Redis.from_url(where, client_name=name)
    await rp.lock(rp.fl.key(), client=client, timeout=10).acquire()
    assert len(connections(rp)) == 1
    del client
    gc.collect()
    await rp.lock(rp.fl.key(), timeout=10).acquire()  # whoever comes next clears up
    await rp.fl.until(lambda: not connections(rp))


@one_server
@ours
@one_way
async def test_after_close_the_next_use_connects_anew(rp: Locks) -> None:
    client = rp.redis(client_name=name_of(rp))
    key = rp.fl.key()
    lock = rp.lock(key, client=client, timeout=10)
    await lock.acquire()
    (first,) = connections(rp)
    closing = drop_in.close() if rp.fl.sync else await drop_in.aclose()
    assert closing is None
    await rp.fl.until(lambda: not connections(rp))
    assert await lock.owned()
    await lock.extend(10)
    await lock.release()
    assert not rp.fl.admin.exists(key)
    assert connections(rp) != [first]


@one_server
@ours
@one_way
@async_only
async def test_every_loop_has_its_own_and_ends_it(rp: Locks) -> None:
    """A lock object may go from loop to loop, as in asyncio.run() after asyncio.run()."""
    name, key = name_of(rp), rp.fl.key()
    client = redis.asyncio.Redis.from_url(rp.fl.server.uri, client_name=name)
    lock = rp.lock(key, client=client, timeout=30, thread_local=False)  # each has a thread, too
    seen = []

    async def first() -> None:
        await lock.acquire()
        seen.append(connections(rp))

    async def second() -> None:
        assert await lock.owned()
        await lock.release()
        seen.append(connections(rp))

    for body in (first, second):
        await asyncio.to_thread(asyncio.run, body())
        await rp.fl.until(lambda: not connections(rp))
    assert len(seen[0]) == len(seen[1]) == 1
    assert seen[0] != seen[1]
    assert not rp.fl.admin.exists(key)


@one_server
@ours
@one_way
@sync_only
async def test_threads_share_the_connection(rp: Locks) -> None:
    client = rp.redis(client_name=name_of(rp))

    async def some() -> None:
        for index in range(20):
            async with rp.lock(rp.fl.key(str(index)), client=client, timeout=10):
                pass

    await rp.fl.together(some() for _ in range(8))
    assert len(connections(rp)) == 1
