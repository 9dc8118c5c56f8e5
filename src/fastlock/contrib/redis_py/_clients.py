"""Which fastlock client serves a redis-py client: one per server and settings.

Law: no I/O but in closing. Threads of a process share a client, and so do the tasks of
an event loop; a forked child goes on with its own connections (fastlock's clients see to
that). A client lives as long as a redis-py pool that leads to it, and ends with its loop.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

from fastlock import _fork, aio, sync
from fastlock.config import Config
from fastlock.errors import ConfigError

_OWN = ("redis.connection", "redis.asyncio.connection", "redis.sentinel", "redis.asyncio.sentinel")


def config_of(redis: Any, *, is_async: bool) -> Config:
    """The settings of a redis-py client; ConfigError if fastlock cannot stand in for it."""
    kinds = type(redis).__mro__
    if any(kind.__name__ == "RedisCluster" for kind in kinds):
        raise ConfigError(
            "redis",
            "RedisCluster is not supported yet; redis-py's own Lock serves it",
        )
    theirs = any(kind.__module__.startswith("redis.asyncio") for kind in kinds)
    if theirs is not is_async:
        raise ConfigError(
            "redis",
            "a client of redis.asyncio is for AsyncLock"
            if theirs
            else f"{type(redis).__name__} is not a client of redis.asyncio; use Lock",
        )
    kind = getattr(getattr(redis, "connection_pool", None), "connection_class", None)
    if isinstance(kind, type) and kind.__module__ not in _OWN:
        # It may do anything: translate addresses, speak to no server at all.
        raise ConfigError(
            "redis", f"its connections are {kind.__module__}.{kind.__name__}, not redis-py's own"
        )
    return Config.from_redis(redis)


class _Registry:
    """Clients of one process (sync) or of one event loop (asyncio). Any thread may call it."""

    def __init__(self) -> None:
        self._mutex = threading.RLock()
        self._of_pool: WeakKeyDictionary[Any, dict[type, Any]] = WeakKeyDictionary()
        self._pools: dict[Any, WeakSet[Any]] = {}  # client -> the pools it stands in for
        _fork.register(self)

    def known(self, pool: Any, kind: type) -> Any:
        """The client that this pool has used before, if it is still open."""
        clients = self._of_pool.get(pool)
        client = clients.get(kind) if clients is not None else None
        return client if client is not None and not client.closed else None

    def find(self, pool: Any, kind: Any, config: Config) -> Any:
        """The open client with these settings, or a new one; from now on ``pool``'s too."""
        with self._mutex:
            client: Any = self._with(kind, config)
            if client is None:
                client = kind(config)
                self._pools[client] = WeakSet()
            self._pools[client].add(pool)
            self._of_pool.setdefault(pool, {})[kind] = client
            return client

    def _with(self, kind: type, config: Config) -> Any:
        for client in self._pools:
            if client.config == config and not client.closed and type(client) is kind:
                return client
        return None

    def unused(self) -> list[Any]:
        """Take out the clients whose pools are all gone: theirs to close is the caller's."""
        with self._mutex:
            gone = [client for client, pools in self._pools.items() if not pools]
            for client in gone:
                del self._pools[client]
            return gone

    def take_all(self) -> list[Any]:
        """Take out every client."""
        with self._mutex:
            clients = list(self._pools)
            self._pools.clear()
            self._of_pool.clear()
            return clients

    def forked(self) -> None:
        """In a forked child: the thread that held the mutex may not exist here."""
        self._mutex = threading.RLock()


# -- sync: one registry per process

_process = _Registry()


def client_of(redis: Any, kind: type[sync.Client]) -> sync.Client:
    """The process's client for the settings of ``redis``. ConfigError: see ``config_of``."""
    pool = getattr(redis, "connection_pool", None)
    client = None if pool is None else _process.known(pool, kind)
    if client is None:
        config = config_of(redis, is_async=False)
        for old in _process.unused():
            old.close()
        client = _process.find(pool, kind, config)
    found: sync.Client = client
    return found


def close() -> None:
    """Close the connections that Locks of this process share; the next use makes new ones.

    Locks still held stay until their timeout ends.
    """
    for client in _process.take_all():
        client.close()


# -- asyncio: one registry per event loop


class _OfLoop(_Registry):
    """Closed by the loop's own end: asyncio.run() finishes what generators it has seen."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self._loop = loop
        self._last: AsyncGenerator[None, None] | None = None
        self._closing: set[asyncio.Task[None]] = set()

    async def watch(self) -> None:
        """Have the running loop close the clients when it shuts down."""
        if self._last is None:
            self._last = self._until_the_end()
            await self._last.__anext__()

    async def _until_the_end(self) -> AsyncGenerator[None, None]:
        try:
            yield
        finally:
            _loops.pop(self._loop, None)
            await self.close()

    async def close(self) -> None:
        for client in self.take_all():
            await client.close()

    def close_unused(self) -> None:
        for client in self.unused():
            task = self._loop.create_task(client.close())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)


#: What pools of redis.asyncio lead to; their clients are found once in every loop.
_configs: WeakKeyDictionary[Any, Config] = WeakKeyDictionary()
_loops: dict[asyncio.AbstractEventLoop, _OfLoop] = {}


def check(redis: Any) -> None:
    """ConfigError if AsyncLock cannot serve this client; for its constructor."""
    pool = getattr(redis, "connection_pool", None)
    if pool is None or pool not in _configs:
        _configs[pool] = config_of(redis, is_async=True)


async def aclient_of(redis: Any, kind: type[aio.Client]) -> aio.Client:
    """The running loop's client for the settings of ``redis``."""
    loop = asyncio.get_running_loop()
    registry = _loops.get(loop)
    pool = redis.connection_pool
    client = None if registry is None else registry.known(pool, kind)
    if client is None:
        check(redis)
        config = _configs[pool]
        for old in [other for other in list(_loops) if other.is_closed()]:
            _loops.pop(old, None)  # one that was closed without being shut down
        registry = _loops.setdefault(loop, _OfLoop(loop))
        registry.close_unused()
        client = registry.find(pool, kind, config)
        await registry.watch()
    found: aio.Client = client
    return found


async def aclose() -> None:
    """Close the connections that AsyncLocks of the running loop share; see ``close``.

    The end of ``asyncio.run()`` does this too.
    """
    registry = _loops.get(asyncio.get_running_loop())
    if registry is not None:
        await registry.close()
