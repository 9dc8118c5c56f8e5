"""What the component is: a lock between processes (A1), a part of the framework (A2 to A4)
at the cost of two round trips (A5); upstream's own scenarios.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from _harness import SERVERS
from _pip import Pip, config, refused, until
from pip_services4_commons.errors import ConflictException
from pip_services4_components.build import CompositeFactory, Factory
from pip_services4_components.config import IConfigurable, IReconfigurable
from pip_services4_components.context import Context
from pip_services4_components.refer import (
    Descriptor,
    IReferenceable,
    Referencer,
    References,
)
from pip_services4_components.run import Closer, IClosable, IOpenable, Opener
from pip_services4_logic.lock import ILock, Lock

from fastlock.contrib.pip_services4 import DefaultRedisFactory, RedisLock

both_servers = pytest.mark.parametrize("server", SERVERS, indirect=True)
TRY = "print(lock.try_acquire_lock(None, args[0], 60000))"


# ------------------------------------------------------------------ A1


@both_servers
@pytest.mark.smoke
def test_A1_two_processes_exclude_each_other(pip: Pip) -> None:
    lock, key = pip.opened(), pip.fl.key()
    assert lock.try_acquire_lock(None, key, 60_000) is True
    assert pip.said(TRY, key) == "False"
    lock.release_lock(None, key)
    assert pip.said(TRY, key) == "True"
    assert lock.try_acquire_lock(None, key, 60_000) is False
    pip.fl.admin.pexpire(key, 1)
    until(lambda: not pip.fl.admin.exists(key))
    assert lock.try_acquire_lock(None, key, 60_000) is True
    lock.release_lock(None, key)


def test_A1_processes_that_count_together_lose_no_update(pip: Pip) -> None:
    key, counter = pip.fl.key(), pip.fl.key("counter")
    code = (
        "import redis\n"
        "admin = redis.Redis.from_url(uri)\n"
        "key, counter = args\n"
        "for _ in range(12):\n"
        "    lock.acquire_lock(None, key, 60000, 60000)\n"
        "    value = int(admin.get(counter) or 0)\n"
        "    time.sleep(0.001)\n"
        "    admin.set(counter, value + 1)\n"
        "    lock.release_lock(None, key)\n"
    )
    processes = [pip.process(code, key, counter) for _ in range(4)]
    for process in processes:
        process.communicate(timeout=60)
    assert [process.returncode for process in processes] == [0] * 4
    assert int(pip.fl.admin.get(counter)) == 48
    pip.fl.admin.delete(counter)


@contextmanager
def upstream(uri: str) -> Iterator[Any]:
    """The lock of pip_services4_redis, whose ``close`` leaves its connection open."""
    import redis
    from pip_services4_redis.lock import RedisLock as Theirs

    where = redis.Redis.from_url(uri).connection_pool.connection_kwargs
    lock = Theirs()
    lock.configure(config(connection__host=where["host"], connection__port=where.get("port", 6379)))
    lock.open(None)
    yield lock
    lock._RedisLock__client.close()
    lock._RedisLock__client.connection_pool.disconnect()


@pytest.mark.filterwarnings("ignore:.*retry_on_timeout:DeprecationWarning")
def test_A1_it_and_upstream_s_lock_exclude_each_other(pip: Pip) -> None:
    lock, key = pip.opened(options__retry_timeout=10), pip.fl.key()
    with upstream(pip.fl.server.uri) as theirs:
        assert lock.try_acquire_lock(None, key, 60_000) is True
        token = pip.fl.admin.get(key)
        assert theirs.try_acquire_lock(None, key, 60_000) is False
        theirs.release_lock(None, key)
        assert pip.fl.admin.get(key) == token
        lock.release_lock(None, key)
        assert theirs.try_acquire_lock(None, key, 60_000) is True
        token = pip.fl.admin.get(key)
        assert lock.try_acquire_lock(None, key, 60_000) is False
        refused(ConflictException, "LOCK_TIMEOUT", lock.acquire_lock, None, key, 60_000, 50)
        lock.release_lock(None, key)
        assert pip.fl.admin.get(key) == token
        theirs.release_lock(None, key)
        lock.acquire_lock(None, key, 60_000, 0)
        lock.release_lock(None, key)


# ------------------------------------------------------------------ A2, A3


def test_A2_it_extends_Lock(pip: Pip) -> None:
    assert issubclass(RedisLock, Lock)
    assert issubclass(RedisLock, ILock)
    for name in ("try_acquire_lock", "acquire_lock", "release_lock"):
        theirs = list(inspect.signature(getattr(Lock, name)).parameters)
        assert list(inspect.signature(getattr(RedisLock, name)).parameters) == theirs
    lock, key = pip.opened(), pip.fl.key()
    assert lock.acquire_lock(None, key, 3000, 1000) is None
    assert lock.release_lock(None, key) is None


def test_A3_the_framework_runs_it_by_its_interfaces(pip: Pip) -> None:
    lock, context = pip.lock(connection__uri=pip.fl.server.uri), Context.from_trace_id("123")
    for interface in (IReferenceable, IConfigurable, IReconfigurable, IOpenable, IClosable):
        assert isinstance(lock, interface)
    Referencer.set_references_for_one(References(), lock)
    assert Opener.is_opened_one(lock) is False
    Opener.open_one(context, lock)
    assert Opener.is_opened_one(lock) is True
    Closer.close_one(context, lock)
    assert Opener.is_opened_one(lock) is False


# ------------------------------------------------------------------ A4 (and test_pip_container)


def test_A4_the_factory_creates_it() -> None:
    factory = DefaultRedisFactory()
    assert isinstance(factory, Factory)
    wanted = Descriptor("pip-services", "lock", "redis", "x", "1.0")
    assert factory.can_create(wanted) == wanted
    one, other = factory.create(wanted), factory.create(wanted)
    assert type(one) is type(other) is RedisLock
    assert one is not other
    for unknown in (
        Descriptor("pip-services", "lock", "redis", "x", "2.0"),
        Descriptor("pip-services", "lock", "memory", "x", "1.0"),
        Descriptor("pip-services", "cache", "redis", "x", "1.0"),
    ):
        assert factory.can_create(unknown) is None
        assert factory.create(unknown) is None


def test_A4_added_after_upstream_s_factory_ours_is_asked() -> None:
    from pip_services4_redis.build import DefaultRedisFactory as Theirs

    factory = CompositeFactory()
    factory.add(Theirs())
    factory.add(DefaultRedisFactory())
    assert type(factory.create(Descriptor("pip-services", "lock", "redis", "x", "1.0"))) is (
        RedisLock
    )
    cache = factory.create(Descriptor("pip-services", "cache", "redis", "x", "1.0"))
    assert type(cache).__module__.startswith("pip_services4_redis")


# ------------------------------------------------------------------ A5 (speed: python -m bench)


def test_A5_a_cycle_is_two_commands_on_one_connection(pip: Pip) -> None:
    proxy = pip.fl.proxy()
    lock, key = pip.opened(connection__uri=proxy.uri), pip.fl.key()
    lock.try_acquire_lock(None, key, 3000)
    lock.release_lock(None, key)  # the server knows the script now, if it needs one
    proxy.commands.clear()
    for _ in range(5):
        assert lock.try_acquire_lock(None, key, 3000) is True
        lock.release_lock(None, key)
    assert len(proxy.commands) == 10
    assert proxy.connections == 1


# ------------------------------------------------------------------ upstream's scenarios


@both_servers
@pytest.mark.smoke
def test_upstream_scenario_try_acquire(pip: Pip) -> None:
    lock, key = pip.opened(), pip.fl.key("lock_1")
    assert lock.try_acquire_lock(None, key, 3000) is True
    assert lock.try_acquire_lock(None, key, 3000) is False
    lock.release_lock(None, key)
    assert lock.try_acquire_lock(None, key, 3000) is True
    lock.release_lock(None, key)


@both_servers
def test_upstream_scenario_acquire(pip: Pip) -> None:
    lock, key = pip.opened(), pip.fl.key("lock_2")
    lock.acquire_lock(None, key, 3000, 1000)
    refused(ConflictException, "LOCK_TIMEOUT", lock.acquire_lock, None, key, 3000, 1000)
    lock.release_lock(None, key)
    lock.acquire_lock(None, key, 3000, 1000)
    lock.release_lock(None, key)


@both_servers
def test_upstream_scenario_release(pip: Pip) -> None:
    lock, key = pip.opened(), pip.fl.key("lock_3")
    assert lock.try_acquire_lock(None, key, 3000) is True
    lock.release_lock(None, key)
    lock.release_lock(None, key)
    assert pip.fl.admin.exists(key) == 0
