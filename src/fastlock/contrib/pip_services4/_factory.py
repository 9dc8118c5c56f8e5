"""The factory that a container creates the lock with. Law: upstream's descriptor, so that a
container's configuration stays as it is when the factory is exchanged.
"""

from __future__ import annotations

from pip_services4_components.build import Factory
from pip_services4_components.refer import Descriptor

from ._redis_lock import RedisLock


class DefaultRedisFactory(Factory):
    """Creates a RedisLock for ``pip-services:lock:redis:*:1.0``, and nothing else.

    Where several factories know a descriptor, a container asks the one added last.
    """

    def __init__(self) -> None:
        super().__init__()
        self.register_as_type(Descriptor("pip-services", "lock", "redis", "*", "1.0"), RedisLock)
