"""Distributed locks in Redis or Valkey, for the hot path.

    client = fastlock.Client("redis://localhost")
    with client.lock("orders:42", ttl=30) as lease:
        ...

``fastlock.aio`` has the same for asyncio. Importing fastlock imports neither redis,
asyncio nor hiredis; what needs them is loaded when first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ._version import __version__
from .errors import (
    AcquireTimeout,
    ConfigError,
    FastlockError,
    LockError,
    LockLost,
    NotReplicated,
    OutcomeUnknown,
    ProtocolError,
    ServerError,
    StaleFence,
    TransportError,
)

if TYPE_CHECKING:
    from . import aio, fencing
    from ._metrics import Histogram, Stats
    from .config import Config
    from .quorum import QuorumClient
    from .sync import Client, Lease, Lock

    core: str

__all__ = [
    "AcquireTimeout",
    "Client",
    "Config",
    "ConfigError",
    "FastlockError",
    "Histogram",
    "Lease",
    "Lock",
    "LockError",
    "LockLost",
    "NotReplicated",
    "OutcomeUnknown",
    "ProtocolError",
    "QuorumClient",
    "ServerError",
    "StaleFence",
    "Stats",
    "TransportError",
    "__version__",
    "aio",
    "core",
    "fencing",
]

_HOME = {
    "Client": "sync",
    "Config": "config",
    "Histogram": "_metrics",
    "Lease": "sync",
    "Lock": "sync",
    "QuorumClient": "quorum",
    "Stats": "_metrics",
}


def __getattr__(name: str) -> Any:
    from importlib import import_module

    value: Any
    if name in _HOME:
        value = getattr(import_module(f"fastlock.{_HOME[name]}"), name)
    elif name in ("aio", "fencing"):
        value = import_module(f"fastlock.{name}")
    elif name == "core":
        impl = import_module("fastlock._impl")
        return impl.fit(impl.core).name  # sockets may be patched later
    else:
        raise AttributeError(f"module 'fastlock' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
