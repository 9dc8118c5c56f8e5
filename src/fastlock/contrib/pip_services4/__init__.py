"""The lock component of the pip-services4 framework, on fastlock.

    from fastlock.contrib.pip_services4 import DefaultRedisFactory, RedisLock

Law: needs the extra ``pip-services4`` and says so; nothing else in fastlock knows of it.
"""

from __future__ import annotations

from importlib import import_module

try:
    # In this order: the framework cannot be imported in every other one.
    for _module in ("commons.errors", "components.config", "config.connect", "logic.lock"):
        import_module(f"pip_services4_{_module}")
except ImportError as error:
    raise ImportError(
        f"fastlock.contrib.pip_services4 needs the pip-services4 framework ({error}): "
        "pip install 'fastlock[pip-services4]'"
    ) from error

from ._factory import DefaultRedisFactory
from ._redis_lock import RedisLock

__all__ = ["DefaultRedisFactory", "RedisLock"]
