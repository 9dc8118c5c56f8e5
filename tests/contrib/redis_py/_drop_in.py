"""What the tests of the redis-py drop-in share: redis-py's Lock and ours with one face.

Law: as _harness. A case about behaviour is written once and meets redis-py's own class
first, which shows that the case is right, then ours on both cores.
"""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import redis
import redis.asyncio
import redis.asyncio.lock
import redis.lock
from _harness import CORES, Ways, client_class, drive

from fastlock.contrib import redis_py

#: Before anything is installed.
THEIRS = {"sync": redis.lock.Lock, "async": redis.asyncio.lock.Lock}


@functools.cache
def lock_class(api: str, core: str) -> Any:
    """redis-py's class, or ours on a core."""
    if core not in CORES:
        return THEIRS[api]
    base: Any = redis_py.Lock if api == "sync" else redis_py.AsyncLock
    return type(
        f"{base.__name__}{core.title()}", (base,), {"_client_class": client_class(api, core)}
    )


class SyncLock:
    """A sync lock with the asyncio twin's face."""

    _IO = frozenset(("acquire", "release", "extend", "reacquire", "owned", "locked"))

    def __init__(self, raw: Any) -> None:
        self.raw = raw

    def __getattr__(self, name: str) -> Any:
        value = getattr(self.raw, name)
        if name not in self._IO:
            return value

        async def awaited(*args: Any, **kwargs: Any) -> Any:
            return value(*args, **kwargs)

        return awaited

    async def __aenter__(self) -> Any:
        assert self.raw.__enter__() is self.raw
        return self

    async def __aexit__(self, *error: Any) -> Any:
        return self.raw.__exit__(*error)


class _Closing:
    """Closes a redis-py client when the body ends."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def close(self) -> Any:
        if not hasattr(self._client, "aclose"):
            self._client.close()
            self._client.connection_pool.disconnect()
            return None
        return self._aclose()

    async def _aclose(self) -> None:
        await self._client.aclose()
        await self._client.connection_pool.disconnect()


class _ClosingOurs:
    def __init__(self, api: str) -> None:
        self.close = redis_py.close if api == "sync" else redis_py.aclose


class Locks:
    """``rp``: makes locks of the class under test, over redis-py clients it closes."""

    def __init__(self, fl: Ways, decode: bool) -> None:
        self.fl = fl
        self.decode = decode
        self.theirs = fl.core not in CORES
        self.lock_class = lock_class(fl.api, fl.core)
        self._client: Any = None
        fl.own(_ClosingOurs(fl.api))

    def redis(self, url: str | None = None, **options: Any) -> Any:
        """A redis-py client of the API under test; ``url`` unless the session's server."""
        home: Any = redis if self.fl.sync else redis.asyncio
        options.setdefault("decode_responses", self.decode)
        client = home.Redis.from_url(url or self.fl.server.uri, **options)
        self.fl.own(_Closing(client))
        return client

    @property
    def client(self) -> Any:
        """One redis-py client for most of a test."""
        if self._client is None:
            self._client = self.redis()
        return self._client

    def lock(self, name: Any, *args: Any, client: Any = None, **options: Any) -> Any:
        made = self.lock_class(client or self.client, name, *args, **options)
        return SyncLock(made) if self.fl.sync else made

    def wrapped(self, made: Any) -> Any:
        """A lock that something else has made."""
        return SyncLock(made) if self.fl.sync else made

    async def elsewhere(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """In another thread (asyncio: another task, of the same thread)."""
        if not self.fl.sync:
            return await asyncio.ensure_future(coroutine)
        result: list[Any] = []

        def run() -> None:
            try:
                result.append(drive(coroutine))
            except BaseException as error:
                result.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        thread.join(30)
        if isinstance(result[0], BaseException):
            raise result[0]
        return result[0]


class FakeTime:
    """A clock that moves only when somebody sleeps; what redis-py's module finds as time."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []
        self.on_sleep: Callable[[], Any] | None = None

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds
        if self.on_sleep is not None:
            self.on_sleep()

    async def asleep(self, seconds: float) -> None:
        self.sleep(seconds)
