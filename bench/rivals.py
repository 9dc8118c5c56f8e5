"""The rivals, each used as its own documentation says, at its best honest setting.

Law: a lock object is made once per key where the library allows; a pair is one acquire
without waiting and one release, both checked; where all want one lock, each caller has a
lock object of its own and waits. Imports happen inside: a rival that is not installed is
left out, and the table says so.
"""

from __future__ import annotations

import itertools
import os
import secrets
from collections.abc import Awaitable, Callable
from typing import Any

from .child_w5 import AsyncSide, Side, clock

HOST = "127.0.0.1"
TTL = 30  # seconds
#: Seconds between two tries where all want one lock: a hundredth of redis-py's own, for its
#: best, unless BENCH_SLEEP says otherwise.
SLEEP = float(os.environ.get("BENCH_SLEEP", "0.001"))
#: Connections that a pool may have: its own limit is below the threads of W2.
POOL = 1100


class Refused(Exception):
    """A pair that did not do its work must not be counted."""


def tokens() -> Callable[[], str]:
    """Cheap fresh tokens for raw commands: random once, then counted."""
    prefix = secrets.token_hex(8)
    numbers = itertools.count()
    return lambda: f"{prefix}{next(numbers):016x}"


class RedisPyLock:
    """redis-py's Lock; threads share one client and its pool."""

    module = "redis"

    def __init__(self, port: int, script: str) -> None:
        package = __import__(self.module)
        name = {"redis": "Redis", "valkey": "Valkey"}[self.module]
        self.client = getattr(package, name)(host=HOST, port=port, max_connections=POOL)

    def pair(self, key: str) -> Callable[[], None]:
        lock = self.client.lock(key, timeout=TTL)

        def pair() -> None:
            if not lock.acquire(blocking=False):
                raise Refused
            lock.release()  # raises when it was not ours

        return pair

    def side(self, key: str, ttl: float = TTL) -> Side:
        lock = self.client.lock(key, timeout=ttl, sleep=SLEEP)
        return lock.acquire, lambda _: lock.release()

    def note_sending(self) -> Callable[[], float]:
        """Have each sending noted from now on; what gives the latest one, on ``clock``.

        It is when a packed command is handed to the socket: what comes before is the library's own.
        """
        pool = self.client.connection_pool
        sent = [0.0]

        class Noting(pool.connection_class):  # type: ignore[misc,name-defined]
            def send_packed_command(self, *args: Any, **kwargs: Any) -> Any:
                sent[0] = clock()
                return super().send_packed_command(*args, **kwargs)

        pool.connection_class = Noting
        return lambda: sent[0]


class ValkeyPyLock(RedisPyLock):
    """valkey-py's Lock, the same code grown apart."""

    module = "valkey"


class RedisPyClusterLock(RedisPyLock):
    """redis-py's Lock on its client of a cluster."""

    def __init__(self, port: int, script: str) -> None:
        import redis

        self.client = redis.RedisCluster(host=HOST, port=port, max_connections=POOL)


class RedisPyRaw:
    """redis-py without its Lock: the two commands, and pipelines of them."""

    def __init__(self, port: int, script: str) -> None:
        import redis

        self.client = redis.Redis(host=HOST, port=port)
        self.script = script

    def pair(self, key: str) -> Callable[[], None]:
        client, script, token_of = self.client, self.script, tokens()

        def pair() -> None:
            token = token_of()
            if not client.set(key, token, nx=True, px=TTL * 1000):
                raise Refused
            if client.evalsha(script, 1, key, token) != 1:
                raise Refused

        return pair

    def batch(self, keys: list[str]) -> Callable[[], None]:
        client, script, token_of = self.client, self.script, tokens()

        def batch() -> None:
            held = [(key, token_of()) for key in keys]
            with client.pipeline(transaction=False) as pipe:
                for key, token in held:
                    pipe.set(key, token, nx=True, px=TTL * 1000)
                if not all(pipe.execute()):
                    raise Refused
                for key, token in held:
                    pipe.evalsha(script, 1, key, token)
                if sum(pipe.execute()) != len(keys):
                    raise Refused

        return batch


class PythonRedisLock:
    """python-redis-lock: a waiter blocks in BLPOP."""

    def __init__(self, port: int, script: str) -> None:
        import redis

        self.client = redis.Redis(host=HOST, port=port, max_connections=POOL)

    def side(self, key: str, ttl: float = TTL) -> Side:
        import redis_lock

        lock = redis_lock.Lock(self.client, key, expire=int(ttl))
        return lock.acquire, lambda _: lock.release()

    def pair(self, key: str) -> Callable[[], None]:
        import redis_lock

        lock = redis_lock.Lock(self.client, key, expire=TTL)

        def pair() -> None:
            if not lock.acquire(blocking=False):
                raise Refused
            lock.release()

        return pair


class PotteryRedlock:
    """pottery's Redlock on one master."""

    def __init__(self, port: int, script: str) -> None:
        import redis

        self.client = redis.Redis(host=HOST, port=port)

    def pair(self, key: str) -> Callable[[], None]:
        from pottery import Redlock

        lock = Redlock(key=key, masters={self.client}, auto_release_time=TTL)

        def pair() -> None:
            if not lock.acquire(blocking=False):
                raise Refused
            lock.release()

        return pair


class Glide:
    """valkey-glide-sync, which has no lock class: the two commands."""

    def __init__(self, port: int, script: str) -> None:
        from glide_sync import GlideClient, GlideClientConfiguration, NodeAddress

        self.client = GlideClient.create(GlideClientConfiguration([NodeAddress(HOST, port)]))
        self.script = script

    def pair(self, key: str) -> Callable[[], None]:
        from glide_sync import ConditionalChange, ExpirySet, ExpiryType

        client, script, token_of = self.client, self.script, tokens()
        only, expiry = ConditionalChange.ONLY_IF_DOES_NOT_EXIST, ExpirySet(ExpiryType.SEC, TTL)

        def pair() -> None:
            token = token_of()
            if not client.set(key, token, conditional_set=only, expiry=expiry):
                raise Refused
            if client.custom_command(["EVALSHA", script, "1", key, token]) != 1:
                raise Refused

        return pair


# -- the lock component of pip-services4


def opened_component(lock: Any, port: int) -> Any:
    """Configured as a container would."""
    from pip_services4_components.config import ConfigParams

    lock.configure(ConfigParams.from_tuples("connection.host", HOST, "connection.port", port))
    lock.open(None)
    return lock


def component_pair(lock: Any, key: str) -> Callable[[], None]:
    """The framework's interface: a release says nothing, so only the try is checked."""

    def pair() -> None:
        if not lock.try_acquire_lock(None, key, TTL * 1000):
            raise Refused
        lock.release_lock(None, key)

    return pair


class PipServicesLock:
    """pip_services4_redis's RedisLock."""

    def __init__(self, port: int, script: str) -> None:
        from pip_services4_redis.lock import RedisLock

        self.lock = opened_component(RedisLock(), port)

    def pair(self, key: str) -> Callable[[], None]:
        return component_pair(self.lock, key)


# -- asyncio


class RedisAioLock:
    """redis.asyncio's Lock: a pool with a connection per task, or it raises."""

    def __init__(self, client: Any) -> None:
        self.client = client

    def pair(self, key: str) -> Callable[[], Awaitable[None]]:
        lock = self.client.lock(key, timeout=TTL)

        async def pair() -> None:
            if not await lock.acquire(blocking=False):
                raise Refused
            await lock.release()

        return pair

    def side(self, key: str) -> AsyncSide:
        lock = self.client.lock(key, timeout=TTL, sleep=SLEEP)
        return lock.acquire, lambda _: lock.release()


async def redis_aio(port: int, script: str, tasks: int) -> RedisAioLock:
    from redis.asyncio import Redis

    return RedisAioLock(Redis(host=HOST, port=port, max_connections=tasks + 8))


class CoredisLock:
    """coredis's Lock."""

    def __init__(self, client: Any) -> None:
        self.client = client

    def pair(self, key: str) -> Callable[[], Awaitable[None]]:
        lock = self.client.lock(key, timeout=TTL, blocking=False)

        async def pair() -> None:
            if not await lock.acquire():
                raise Refused
            await lock.release()

        return pair

    def side(self, key: str) -> AsyncSide:
        lock = self.client.lock(key, timeout=TTL, sleep=SLEEP)
        return lock.acquire, lambda _: lock.release()


async def coredis_lock(port: int, script: str, tasks: int) -> CoredisLock:
    import coredis

    client: Any = coredis.Redis(host=HOST, port=port, max_connections=tasks + 8)
    await client.__aenter__()  # for the life of the process
    return CoredisLock(client)


class AsyncGlide:
    """valkey-glide, which has no lock class: the two commands."""

    def __init__(self, client: Any, script: str) -> None:
        self.client = client
        self.script = script

    def pair(self, key: str) -> Callable[[], Awaitable[None]]:
        from glide import ConditionalChange, ExpirySet, ExpiryType

        client, script, token_of = self.client, self.script, tokens()
        only, expiry = ConditionalChange.ONLY_IF_DOES_NOT_EXIST, ExpirySet(ExpiryType.SEC, TTL)

        async def pair() -> None:
            token = token_of()
            if not await client.set(key, token, conditional_set=only, expiry=expiry):
                raise Refused
            if await client.custom_command(["EVALSHA", script, "1", key, token]) != 1:
                raise Refused

        return pair


async def glide(port: int, script: str, tasks: int) -> AsyncGlide:
    from glide import GlideClient, GlideClientConfiguration, NodeAddress

    settings = GlideClientConfiguration([NodeAddress(HOST, port)])
    return AsyncGlide(await GlideClient.create(settings), script)


CONTESTANTS: dict[str, Any] = {
    "redis-py": RedisPyLock,
    "redis-py-cluster": RedisPyClusterLock,
    "redis-py-raw": RedisPyRaw,
    "valkey-py": ValkeyPyLock,
    "python-redis-lock": PythonRedisLock,
    "pottery": PotteryRedlock,
    "valkey-glide-sync": Glide,
    "pip-services4-redis": PipServicesLock,
    "redis-aio": redis_aio,
    "coredis": coredis_lock,
    "valkey-glide": glide,
}
