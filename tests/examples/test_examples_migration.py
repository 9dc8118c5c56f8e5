"""Before and after: redis-py's Lock, python-redis-lock, pottery; and what docs/migration.md says.

Law: the real libraries, on a real server. A difference that the page's table names is seen here.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
import redis
from _running import example, needs, until
from _servers import Server

import fastlock

pytestmark = pytest.mark.slow

KEYS = {
    "redis_py": "orders:42",
    "python_redis_lock": "lock:orders:42",
    "pottery": "redlock:orders:42",
}


# ------------------------------------------------------------------ the programs


def test_redis_py_before_and_after(own_server: Server) -> None:
    seen = "  held for 30 s; redis-py: False\n  fastlock: None\n  done: True\n"
    with example("migrate_redis_py", own_server.uri) as process:
        assert process.ended() == (0, f"redis-py's Lock\n{seen}fastlock\n{seen}", "")
    assert own_server.admin.keys() == []


def test_python_redis_lock_before_and_after(own_server: Server) -> None:
    seen = "  held for 30 s\n  python-redis-lock: False\n  fastlock: None\n  done: True\n"  # both
    with example("migrate_python_redis_lock", own_server.uri) as process:
        assert process.ended()[:2] == (0, f"python-redis-lock\n{seen}fastlock\n{seen}")
    assert set(own_server.admin.keys()) <= {b"lock-signal:orders:42"}


@pytest.mark.parametrize("servers", [1, 3])
def test_pottery_before_and_after(own_server: Server, servers: int) -> None:
    with ExitStack() as stack:
        nodes = [own_server]
        for _ in range(servers - 1):
            nodes.append(Server("valkey"))
            stack.callback(nodes[-1].discard)
        seen = (
            f"  held on more than half of {servers}: True\n  pottery: False\n"
            "  fastlock: None\n  done: True\n"
        )
        uris = [node.uri for node in nodes] if servers > 1 else []
        with example("migrate_pottery", own_server.uri, *uris) as process:
            assert process.ended()[:2] == (0, f"pottery's Redlock\n{seen}fastlock\n{seen}")
        # pottery waits for a majority: a write to the third may come behind its release.
        assert sum(node.admin.dbsize() for node in nodes) <= servers // 2


# ------------------------------------------------------------------ the table


class Theirs:
    """One of the three libraries: how it makes a lock, and its error for a lock not held."""

    def __init__(self, name: str, server: redis.Redis) -> None:
        needs(f"migrate_{name}")
        self.key = KEYS[name]
        self.make: Callable[..., Any]
        if name == "redis_py":
            self.make = lambda **said: server.lock("orders:42", **said)
            self.ttl, self.not_held = "timeout", redis.exceptions.LockNotOwnedError
        elif name == "python_redis_lock":
            import redis_lock

            self.make = lambda **said: redis_lock.Lock(server, "orders:42", **said)
            self.ttl, self.not_held = "expire", redis_lock.NotAcquired
        else:
            from pottery import Redlock
            from pottery.exceptions import ReleaseUnlockedLock

            self.make = lambda **said: Redlock(key="orders:42", masters={server}, **said)
            self.ttl, self.not_held = "auto_release_time", ReleaseUnlockedLock


@pytest.fixture
def plain(own_server: Server) -> Iterator[redis.Redis]:
    with redis.Redis(port=own_server.port) as server:
        yield server
        server.connection_pool.disconnect()


@pytest.fixture(params=list(KEYS))
def theirs(request: pytest.FixtureRequest, plain: redis.Redis) -> Theirs:
    return Theirs(request.param, plain)


@pytest.fixture
def ours(own_server: Server) -> Iterator[fastlock.Client]:
    with fastlock.Client(own_server.uri) as client:
        yield client


def test_how_long_a_lock_lasts_unless_told(
    theirs: Theirs, ours: fastlock.Client, plain: redis.Redis
) -> None:
    with theirs.make():
        if theirs.ttl == "auto_release_time":
            assert 9000 < plain.pttl(theirs.key) <= 10_000
        else:
            assert plain.pttl(theirs.key) == -1
        assert ours.try_acquire(theirs.key) is None
    with ours.lock(theirs.key):
        assert 29_000 < plain.pttl(theirs.key) <= 30_000
        assert theirs.make(**{theirs.ttl: 5}).acquire(blocking=False) is False


def test_what_a_release_says_of_a_lock_that_was_lost(
    theirs: Theirs, ours: fastlock.Client, plain: redis.Redis
) -> None:
    lock = theirs.make(**{theirs.ttl: 30})
    assert lock.acquire()
    plain.delete(theirs.key)
    with pytest.raises(theirs.not_held):
        lock.release()
    lease = ours.acquire(theirs.key)
    plain.delete(theirs.key)
    assert lease.release() is False
    with pytest.raises(fastlock.LockLost), ours.lock(theirs.key):
        plain.delete(theirs.key)


def test_which_error_leaves_a_block_whose_lock_was_lost(
    theirs: Theirs, ours: fastlock.Client, plain: redis.Redis
) -> None:
    with pytest.raises(theirs.not_held), theirs.make(**{theirs.ttl: 30}):
        plain.delete(theirs.key)
        raise ZeroDivisionError
    with pytest.raises(ZeroDivisionError), ours.lock(theirs.key):
        plain.delete(theirs.key)
        raise ZeroDivisionError


def test_extending_adds_replaces_or_is_counted(ours: fastlock.Client, plain: redis.Redis) -> None:
    lock = Theirs("redis_py", plain).make(timeout=30)
    with lock:
        lock.extend(5)
        assert 34_000 < plain.pttl("orders:42") <= 35_000
    with ours.lock("orders:42", ttl=30) as lease:
        lease.extend(5)
        assert 4000 < plain.pttl("orders:42") <= 5000


def test_pottery_extends_three_times(plain: redis.Redis) -> None:
    theirs = Theirs("pottery", plain)
    from pottery.exceptions import TooManyExtensions

    with theirs.make() as lock:
        for _ in range(3):
            lock.extend()
        with pytest.raises(TooManyExtensions):
            lock.extend()


def test_python_redis_lock_counts_whole_seconds(ours: fastlock.Client, plain: redis.Redis) -> None:
    theirs = Theirs("python_redis_lock", plain)
    with theirs.make(expire=1.9):
        assert 0 < plain.pttl(theirs.key) <= 1000
    with pytest.raises(redis.exceptions.ResponseError):
        theirs.make(expire=0.5).acquire()
    with ours.lock(theirs.key, ttl=0.5):
        assert 0 < plain.pttl(theirs.key) <= 500


def test_a_waiter_of_python_redis_lock_is_not_woken_by_others(
    ours: fastlock.Client, plain: redis.Redis
) -> None:
    """While both are in use: it looks again when its timeout ends. Ours is woken by it."""
    theirs = Theirs("python_redis_lock", plain)
    lease = ours.acquire(theirs.key)
    outcome: list[bool] = []
    waiter = threading.Thread(
        target=lambda: outcome.append(theirs.make(expire=60).acquire(timeout=1))
    )
    waiter.start()
    until(lambda: any(c["cmd"] == "blpop" for c in plain.client_list()))
    assert lease.release() is True
    waiter.join(0.2)
    assert waiter.is_alive()  # the lock is free, and it waits
    assert not plain.exists(theirs.key)
    waiter.join(30)
    assert outcome == [True]

    threading.Timer(0.1, lambda: plain.delete("lock:orders:42")).start()
    assert ours.acquire(theirs.key, timeout=30).release() is True
