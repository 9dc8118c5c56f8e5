"""Have every ``client.lock(...)`` of redis-py make fastlock's Lock, until taken back.

Law: four names are replaced, and given back only where they still are ours. Clients that
fastlock cannot stand in for (clusters, replicas, connection classes of others) go on with
the class that redis-py has for them.
"""

from __future__ import annotations

import importlib
import logging
import threading
from types import TracebackType
from typing import Any

from fastlock.errors import ConfigError

from . import _aiolock, _lock
from ._clients import check, client_of

_log = logging.getLogger("fastlock")
_mutex = threading.RLock()
_names = (
    ("redis.lock", "sync"),
    ("redis.client", "sync"),
    ("redis.asyncio.lock", "async"),
    ("redis.asyncio.client", "async"),
)
_before: dict[str, Any] = {}  # module -> what its name Lock meant
_told: set[str] = set()


def _instead(kind: str, why: ConfigError) -> Any:
    """redis-py's own class, for a client that is not for us."""
    if why.problem not in _told:
        _told.add(why.problem)
        _log.warning("redis-py's own Lock goes on serving some clients: %s", why.problem)
    module = "redis.lock" if kind == "sync" else "redis.asyncio.lock"
    return _before[module]


class Lock(_lock.Lock):
    """What ``redis.lock.Lock`` and ``redis.client.Lock`` are while installed."""

    def __new__(cls, redis: Any, *args: Any, **kwargs: Any) -> Any:
        if cls is Lock:
            try:
                client_of(redis, cls._client_class)
            except ConfigError as why:
                if _before:
                    return _instead("sync", why)(redis, *args, **kwargs)
        return super().__new__(cls)


class AsyncLock(_aiolock.AsyncLock):
    """What ``redis.asyncio.lock.Lock`` and ``redis.asyncio.client.Lock`` are while installed."""

    def __new__(cls, redis: Any, *args: Any, **kwargs: Any) -> Any:
        if cls is AsyncLock:
            try:
                check(redis)
            except ConfigError as why:
                if _before:
                    return _instead("async", why)(redis, *args, **kwargs)
        return super().__new__(cls)


class Installation:
    """What ``install()`` gives: leaving it as a context restores what it found."""

    def __init__(self, first: bool) -> None:
        self._first = first

    def __enter__(self) -> Installation:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._first:
            uninstall()


def install() -> Installation:
    """From now on ``redis.Redis().lock()`` and its asyncio twin make fastlock's Locks.

    Call it before other modules do ``from redis.lock import Lock``. Twice is as once. May
    be used as a context manager, also inside another one: only the outermost uninstalls.
    """
    with _mutex:
        first = not _before
        if first:
            for module, kind in _names:
                home = importlib.import_module(module)
                _before[module] = home.Lock
                vars(home)["Lock"] = Lock if kind == "sync" else AsyncLock
        return Installation(first)


def uninstall() -> None:
    """Give redis-py its own classes back. Locks that were made stay what they are."""
    with _mutex:
        for module, lock in _before.items():
            home = vars(importlib.import_module(module))
            if home["Lock"] in (Lock, AsyncLock):
                home["Lock"] = lock
        _before.clear()


def installed() -> bool:
    """Whether ``install()`` is in force."""
    return bool(_before)
