"""fastlock's own contestants, and the asyncio machinery without any lock in it.

Law: the public API as a user writes it. Two exceptions: one forces the release by script on a
server that has a command for it, to measure what that command is worth; one puts both cores
into one process.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Awaitable, Callable
from typing import Any

import fastlock
from fastlock import _impl, aio

from .child_w5 import AsyncSide, Side
from .rivals import (
    HOST,
    TTL,
    RedisAioLock,
    RedisPyLock,
    Refused,
    component_pair,
    opened_component,
)

#: Under valgrind on a busy machine even connecting takes seconds.
PATIENCE: dict[str, Any] = {"connect_timeout": 60.0, "socket_timeout": 60.0}
#: And what is asked of the client, as JSON; see variants.py.
SETTINGS = PATIENCE | json.loads(os.environ.get("BENCH_CLIENT", "{}"))

#: Arguments of ``acquire`` where all want one lock, as JSON; see variants.py.
OPTIONS: dict[str, Any] = json.loads(os.environ.get("BENCH_LOCK", "{}"))


def uri(port: int, scheme: str = "redis") -> str:
    return f"{scheme}://{HOST}:{port}"


class TryAcquire:
    """``try_acquire`` and ``release``."""

    make = fastlock.Client
    scheme = "redis"

    def __init__(self, port: int, script: str) -> None:
        self.client = self.make(uri(port, self.scheme), **SETTINGS)
        self.client.ping()

    def pair(self, key: str) -> Callable[[], None]:
        client = self.client

        def pair() -> None:
            lease = client.try_acquire(key, TTL)
            if lease is None or not lease.release():
                raise Refused

        return pair

    def side(self, key: str, ttl: float = TTL) -> Side:
        client = self.client

        def leave(lease: fastlock.Lease) -> None:
            if not lease.release():
                raise Refused

        return lambda: client.acquire(key, ttl, **OPTIONS), leave

    def batch(self, keys: list[str]) -> Callable[[], None]:
        client = self.client

        def batch() -> None:
            leases = client.try_acquire_many(keys, TTL)
            held = [lease for lease in leases if lease is not None]
            if len(held) != len(keys) or not all(client.release_many(held)):
                raise Refused

        return batch


class PureClient(fastlock.Client):
    """On the Python core, in a process where others run on the compiled one."""

    _core = _impl.load("python")


class ClusterTryAcquire(TryAcquire):
    """``try_acquire`` and ``release`` on the cluster of this server."""

    scheme = "redis+cluster"


class PureTryAcquire(TryAcquire):
    """``try_acquire`` and ``release`` on the Python core."""

    make = PureClient


class Deferred(TryAcquire):
    """``release(wait=False)``: one round trip per pair. The next pair's try, sent behind the
    release, is refused unless the release was carried out, so each pair checks the last."""

    def pair(self, key: str) -> Callable[[], None]:
        client = self.client

        def pair() -> None:
            lease = client.try_acquire(key, TTL)
            if lease is None:
                raise Refused
            lease.release(wait=False)

        return pair


class ByScript(TryAcquire):
    """The same, releasing by EVALSHA whatever the server offers."""

    def __init__(self, port: int, script: str) -> None:
        super().__init__(port, script)
        link: Any = self.client._server.ready()
        link.downgrade("release")


class With(TryAcquire):
    """``with client.lock(key, ttl):``"""

    def pair(self, key: str) -> Callable[[], None]:
        client = self.client

        def pair() -> None:
            with client.lock(key, TTL):
                pass

        return pair


class Component:
    """The lock component of pip-services4, on fastlock."""

    def __init__(self, port: int, script: str) -> None:
        from fastlock.contrib.pip_services4 import RedisLock

        self.lock = opened_component(RedisLock(), port)

    def pair(self, key: str) -> Callable[[], None]:
        return component_pair(self.lock, key)


class DropIn(RedisPyLock):
    """redis-py's ``client.lock()`` once more, after ``install()``."""

    def __init__(self, port: int, script: str) -> None:
        import redis

        from fastlock.contrib import redis_py

        redis_py.install()
        timeouts = {"socket_connect_timeout": 60.0, "socket_timeout": 60.0}
        self.client = redis.Redis(host=HOST, port=port, **timeouts)


class AsyncTryAcquire:
    """``await try_acquire`` and ``await release``."""

    def __init__(self, client: aio.Client) -> None:
        self.client = client

    def pair(self, key: str) -> Callable[[], Awaitable[None]]:
        client = self.client

        async def pair() -> None:
            lease = await client.try_acquire(key, TTL)
            if lease is None or not await lease.release():
                raise Refused

        return pair

    def side(self, key: str) -> AsyncSide:
        client = self.client

        async def leave(lease: aio.Lease) -> None:
            if not await lease.release():
                raise Refused

        return lambda: client.acquire(key, TTL, **OPTIONS), leave

    def batch(self, keys: list[str]) -> Callable[[], Awaitable[None]]:
        client = self.client

        async def batch() -> None:
            leases = await client.try_acquire_many(keys, TTL)
            held = [lease for lease in leases if lease is not None]
            if len(held) != len(keys) or not all(await client.release_many(held)):
                raise Refused

        return batch


class AsyncWith(AsyncTryAcquire):
    """``async with client.lock(key, ttl):``"""

    def pair(self, key: str) -> Callable[[], Awaitable[None]]:
        client = self.client

        async def pair() -> None:
            async with client.lock(key, TTL):
                pass

        return pair


async def async_try_acquire(port: int, script: str, tasks: int) -> AsyncTryAcquire:
    client = aio.Client(uri(port), **SETTINGS)
    await client.ping()
    return AsyncTryAcquire(client)


async def async_cluster(port: int, script: str, tasks: int) -> AsyncTryAcquire:
    client = aio.Client(uri(port, ClusterTryAcquire.scheme), **SETTINGS)
    await client.ping()
    return AsyncTryAcquire(client)


async def async_with(port: int, script: str, tasks: int) -> AsyncWith:
    client = aio.Client(uri(port), **SETTINGS)
    await client.ping()
    return AsyncWith(client)


async def async_drop_in(port: int, script: str, tasks: int) -> RedisAioLock:
    """redis.asyncio's ``client.lock()`` once more, after ``install()``."""
    from redis.asyncio import Redis

    from fastlock.contrib import redis_py

    redis_py.install()
    client = Redis(host=HOST, port=port, socket_connect_timeout=60.0, socket_timeout=60.0)
    return RedisAioLock(client)


class Machinery:
    """No lock, no I/O: tasks that await two futures per pair, all resolved once per tick."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.waiting: list[asyncio.Future[None]] = []

    def turn(self) -> asyncio.Future[None]:
        future = self.loop.create_future()
        if not self.waiting:
            self.loop.call_soon(self.resolve)
        self.waiting.append(future)
        return future

    def resolve(self) -> None:
        waiting, self.waiting = self.waiting, []
        for future in waiting:
            future.set_result(None)

    def pair(self, key: str) -> Callable[[], Awaitable[None]]:
        turn = self.turn

        async def pair() -> None:
            await turn()
            await turn()

        return pair


async def machinery(port: int, script: str, tasks: int) -> Machinery:
    return Machinery()


CONTESTANTS: dict[str, Any] = {
    "fastlock": TryAcquire,
    "fastlock-python": PureTryAcquire,
    "fastlock-deferred": Deferred,
    "fastlock-by-script": ByScript,
    "fastlock-with": With,
    "fastlock-component": Component,
    "fastlock-cluster": ClusterTryAcquire,
    "fastlock-aio": async_try_acquire,
    "fastlock-aio-cluster": async_cluster,
    "fastlock-aio-with": async_with,
    "drop-in": DropIn,
    "drop-in-aio": async_drop_in,
    "machinery": machinery,
}
