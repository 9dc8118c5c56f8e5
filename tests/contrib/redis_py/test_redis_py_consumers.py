"""Libraries that take their locks from redis-py, unchanged, before and after install().

Law: the library's own public face, its released package, a real server. A test that the
drop-in passes was passed by redis-py's Lock first.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

import pytest
import redis.lock
from _drop_in import THEIRS
from _harness import CORES, client_class, one_server

from fastlock.contrib import redis_py

pytestmark = one_server


@pytest.fixture
def lock_class(core: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """What client.lock() makes: redis-py's own, or ours installed on one of the cores."""
    if core not in CORES:
        yield THEIRS["sync"]
        return
    with redis_py.install():
        monkeypatch.setattr(redis.lock.Lock, "_client_class", client_class("sync", core))
        yield redis.lock.Lock
    redis_py.close()


def at_once(number: int, body: Any) -> list[Any]:
    with ThreadPoolExecutor(number) as pool:
        return [one.result(30) for one in [pool.submit(body) for _ in range(number)]]


# ------------------------------------------------------------------ dogpile.cache


@pytest.fixture
def region(server: Any, lock_class: Any) -> Iterator[Any]:
    from dogpile.cache import make_region

    made = make_region().configure(
        "dogpile.cache.redis",
        arguments={
            "url": server.uri,
            "distributed_lock": True,
            "thread_local_lock": False,
            "lock_timeout": 20,
            "lock_sleep": 0.01,
        },
    )
    yield made
    made.backend.reader_client.close()
    made.backend.writer_client.close()


def test_dogpile_makes_a_value_once(server: Any, region: Any, lock_class: Any) -> None:
    key = f"dogpile:{id(region)}"
    made: list[bytes] = []
    locked: list[bool] = []

    def create() -> str:
        locked.append(bool(server.admin.exists(f"_lock{key}")))
        made.append(b"x")
        return "value"

    assert at_once(8, lambda: region.get_or_create(key, create)) == ["value"] * 8
    assert len(made) == 1
    assert locked == [True]
    assert not server.admin.exists(f"_lock{key}")


def test_dogpile_s_mutex(server: Any, region: Any, lock_class: Any) -> None:
    key = f"dogpile:mutex:{id(region)}"
    first, second = region.backend.get_mutex(key), region.backend.get_mutex(key)
    assert type(first.mutex) is lock_class
    assert first.acquire(True)
    assert first.locked()
    assert not second.acquire(False)
    assert 19_000 < server.admin.pttl(f"_lock{key}") <= 20_000
    releasing = threading.Thread(target=first.release)  # as a creator in the background does
    releasing.start()
    releasing.join()
    assert second.acquire(False)
    second.release()
    assert not first.locked()


# ------------------------------------------------------------------ django-redis


@pytest.fixture
def cache(server: Any, lock_class: Any) -> Iterator[Any]:
    from django.conf import settings

    if not settings.configured:
        settings.configure()
    from django_redis.cache import RedisCache

    made = RedisCache(f"{server.uri}/0", {"KEY_PREFIX": "shop"})
    yield made
    made.client.get_client().connection_pool.disconnect()
    made.close()


def test_django_redis_locks(server: Any, cache: Any, lock_class: Any) -> None:
    name = f"order-{id(cache)}"
    lock = cache.lock(name, timeout=10)
    assert type(lock) is lock_class
    with lock:
        assert 9_000 < server.admin.pttl(f"shop:1:{name}") <= 10_000
        assert cache.get_or_set("other", 3) == 3
        assert not cache.lock(name, timeout=10, blocking_timeout=0).acquire()
        assert lock.extend(5)
        assert 14_000 < server.admin.pttl(f"shop:1:{name}") <= 15_000
    assert not server.admin.exists(f"shop:1:{name}")


def test_django_redis_excludes_threads(server: Any, cache: Any, lock_class: Any) -> None:
    name, inside, most = f"narrow-{id(cache)}", [], []

    def body() -> None:
        with cache.lock(name, timeout=20, sleep=0.001):
            inside.append(1)
            most.append(len(inside))
            inside.pop()

    at_once(8, lambda: [body() for _ in range(5)])
    assert most == [1] * 40


# ------------------------------------------------------------------ tooz


@pytest.fixture
def coordinators(server: Any, lock_class: Any) -> Iterator[list[Any]]:
    from tooz import coordination

    host = urlsplit(server.uri)
    url = f"redis://{host.hostname}:{host.port}?timeout=5&lock_timeout=20&namespace=tooz"
    made = [coordination.get_coordinator(url, name) for name in (b"one", b"two")]
    for one in made:
        one.start()
    yield made
    for one in made:
        client = one._client
        one.stop()
        client.connection_pool.disconnect()


def test_tooz_locks(server: Any, coordinators: list[Any], lock_class: Any) -> None:
    name = f"n{id(coordinators)}".encode()
    first, second = (one.get_lock(name) for one in coordinators)
    assert type(first._lock) is lock_class
    key = first.name
    with first:
        assert first.is_still_owner()
        assert not second.is_still_owner()
        assert not second.acquire(blocking=False)
        assert not second.acquire(blocking=0.05)
        server.admin.pexpire(key, 3000)
        coordinators[0].heartbeat()  # renews every lock held, by reacquire()
        assert 19_000 < server.admin.pttl(key) <= 20_000
    assert not server.admin.exists(key)
    assert second.acquire()
    assert second.break_()
    assert second.release() is False
