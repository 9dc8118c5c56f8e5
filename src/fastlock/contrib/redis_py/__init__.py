"""redis-py's ``Lock``, carried out by fastlock: same arguments, attributes and errors.

    from fastlock.contrib.redis_py import Lock      # instead of redis.lock.Lock
    from fastlock.contrib.redis_py import AsyncLock # instead of redis.asyncio.lock.Lock

    import fastlock.contrib.redis_py                # or for every client.lock(...) there is
    fastlock.contrib.redis_py.install()

docs/redis-py.md lists what is the same and what is not.

Law: errors that callers of redis-py's Lock catch are redis-py's own; ``redis`` is imported
here, for whoever imports this has it.
"""

from __future__ import annotations

from ._aiolock import AsyncLock
from ._clients import aclose, close
from ._install import install, installed, uninstall
from ._lock import Lock

__all__ = ["AsyncLock", "Lock", "aclose", "close", "install", "installed", "uninstall"]
