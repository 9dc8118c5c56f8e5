"""Quorums, fencing, settings and the drop-in for redis-py: no error. Law: never run."""

from __future__ import annotations

import redis
import redis.asyncio
from typing_extensions import reveal_type

import fastlock
from fastlock import Config, QuorumClient, StaleFence, aio, errors
from fastlock.contrib import redis_py
from fastlock.fencing import Guard

# -- a majority of servers

quorum = QuorumClient(["redis://a", "redis://b", Config("redis://c")], node_timeout=0.1, db=1)
with quorum.lock("k", ttl=10, timeout=1, auto_renew=True) as lease:
    reveal_type(lease)  #: QuorumLease
    reveal_type(lease.release())  #: bool
    reveal_type(lease.release(wait=False))  #: bool | None
reveal_type(quorum.try_acquire("k"))  #: QuorumLease | None
reveal_type(quorum.acquire("k", timeout=1))  #: QuorumLease
reveal_type(quorum.locked("k"))  #: bool
reveal_type(quorum.stats())  #: Stats


@quorum.lock("k")
def guarded(number: int) -> str:
    return str(number)


reveal_type(guarded)  #: (number: int) -> str


async def of_a_majority(urls: tuple[str, ...]) -> None:
    async with aio.QuorumClient(urls) as client:
        async with client.lock("k", cancel_on_lost=True, auto_renew=True) as lease:
            reveal_type(lease)  #: QuorumLease
            reveal_type(await lease.release())  #: bool
        reveal_type(await client.try_acquire("k"))  #: QuorumLease | None
        reveal_type(await client.acquire("k"))  #: QuorumLease


# -- settings

config = Config(host="localhost", port=6379, ssl=True, username="u", password="p")
reveal_type(config.replace(db=1))  #: Config
reveal_type(Config.from_url("redis://localhost", retry_timeout=50))  #: Config
reveal_type(Config.from_env({"FASTLOCK_URL": "redis://localhost"}))  #: Config
reveal_type(Config.from_mapping({"host": "localhost", "port": "6379"}))  #: Config
reveal_type(config.address)  #: str
reveal_type(config.socket_timeout)  #: float
reveal_type(config.handover)  #: Literal['swap', 'local']
reveal_type(config.public())  #: dict[str, Any]

# -- fencing

guard = Guard()
with fastlock.Client().lock("k", fence=True) as fenced:
    try:
        guard.check("file", fenced.fence)
        with guard.writing("file", fenced.fence):
            pass
    except StaleFence as stale:
        reveal_type(stale.fence)  #: int
        reveal_type(stale.seen)  #: int

# -- in place of redis-py's Lock

server = redis.Redis()
with redis_py.Lock(server, "k", timeout=10, blocking_timeout=1) as lock:
    reveal_type(lock)  #: Lock
    reveal_type(lock.acquire(blocking=False))  #: bool
    reveal_type(lock.extend(5))  #: Literal[True]
    reveal_type(lock.owned())  #: bool
reveal_type(fastlock.Client.from_redis(server, prefix="p:"))  #: Client
with redis_py.install():
    pass


async def drop_in() -> None:
    client = redis.asyncio.Redis()
    async with redis_py.AsyncLock(client, "k", timeout=10) as lock:
        reveal_type(lock)  #: AsyncLock
        reveal_type(await lock.acquire(blocking=False))  #: bool
        reveal_type(await lock.locked())  #: bool
    reveal_type(aio.Client.from_redis(client))  #: Client


# -- errors


def told(error: errors.FastlockError) -> str:
    if isinstance(error, errors.TransportError):
        reveal_type(error.sent)  #: bool
    if isinstance(error, errors.ServerError):
        reveal_type(error.code)  #: str
    if isinstance(error, errors.ConfigError):
        return error.field
    return str(error)
