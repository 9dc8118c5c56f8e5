"""Arguments at the door. Law: what passes here is fit for the wire; the rest is a ConfigError."""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import lru_cache

from .errors import ConfigError

SHORTEST_TTL = 0.01
LONGEST = 10 * 366 * 86400.0  # ten years, in seconds
LONGEST_KEY = 64 * 1024
#: On the wire, in ms: a lock that ends by release only. No ttl that a caller of the native
#: API may give becomes this; contrib.redis_py asks for it by name.
NO_EXPIRY = 0
LARGEST_BATCH = 10**6
MOST_REPLICAS = 1000
#: Seconds in which replicas are to confirm a lock, unless told otherwise.
REPLICA_TIMEOUT = 0.1
SURELY_SHORT = 1024  # with any prefix: Config bounds it far below LONGEST_KEY


def milliseconds(ttl: float) -> int:
    """A ttl in seconds as whole milliseconds, rounded up."""
    try:
        return _milliseconds(ttl)
    except TypeError:  # unhashable, so no number either
        raise _no_ttl(ttl) from None


@lru_cache(maxsize=256, typed=True)
def _milliseconds(ttl: float) -> int:
    if isinstance(ttl, bool) or not isinstance(ttl, (int, float)):
        raise _no_ttl(ttl)
    if not SHORTEST_TTL <= ttl <= LONGEST:
        raise _no_ttl(ttl)
    # 1.1 * 1000 is 1100.0000000000002: rounding up must not make that 1101.
    return math.ceil(round(ttl * 1000, 6))


def _no_ttl(ttl: object) -> ConfigError:
    return ConfigError("ttl", f"{ttl!r} is not a number of seconds from 0.01 to 10 years")


def wait(timeout: float | None) -> float | None:
    """How long to wait for a lock, in seconds; None for ever."""
    if timeout is None:
        return None
    number = not isinstance(timeout, bool) and isinstance(timeout, (int, float))
    if not number or not 0 <= timeout <= LONGEST:
        raise ConfigError(
            "timeout", f"{timeout!r} is neither None nor a number of seconds from 0 to 10 years"
        )
    return timeout


def flag(name: str, value: object) -> bool:
    """A switch, on or off."""
    if value is not True and value is not False:
        raise ConfigError(name, f"{value!r} is neither True nor False")
    return value


def replicas(
    min_replicas: object, replica_timeout: object, ttl: int, fair: object = False
) -> tuple[int, int]:
    """How many replicas must confirm a lock of ``ttl`` ms, and in how many ms; (0, 0): none."""
    if min_replicas is None:
        return 0, 0
    number = isinstance(min_replicas, int) and not isinstance(min_replicas, bool)
    if not number or not 0 <= min_replicas <= MOST_REPLICAS:  # type: ignore[operator]
        raise ConfigError(
            "min_replicas",
            f"{min_replicas!r} is neither None nor a number of replicas from 0 to {MOST_REPLICAS}",
        )
    if min_replicas == 0:
        return 0, 0
    if fair is not False:
        raise ConfigError("min_replicas", "it does not go with fair=True; leave one of them out")
    if (
        isinstance(replica_timeout, bool)
        or not isinstance(replica_timeout, (int, float))
        or not 0 < replica_timeout <= LONGEST
    ):
        raise ConfigError(
            "replica_timeout", f"{replica_timeout!r} is not a number of seconds above 0"
        )
    most = max(1, math.ceil(round(replica_timeout * 1000, 6)))  # on the wire 0 is for ever
    if most >= ttl:
        raise ConfigError(
            "replica_timeout",
            f"{replica_timeout!r} is not shorter than the ttl, {ttl / 1000} s; the lock would have "
            "ended before it is confirmed",
        )
    return min_replicas, most  # type: ignore[return-value]


def fencing_number(fence: object) -> int:
    """A fencing number, as a lease has it."""
    if isinstance(fence, bool) or not isinstance(fence, int) or not 0 < fence < 2**63:
        raise ConfigError(
            "fence", f"{fence!r} is not a fencing number; that of a lease made with fence=True is"
        )
    return fence


def hold(max_hold: float | None) -> None:
    """How long a lease may be renewed, in seconds; None for ever."""
    if max_hold is None:
        return
    number = not isinstance(max_hold, bool) and isinstance(max_hold, (int, float))
    if not number or not 0 < max_hold <= LONGEST:
        raise ConfigError(
            "max_hold", f"{max_hold!r} is neither None nor a number of seconds up to 10 years"
        )


def wire_key(key: str | bytes, prefix: bytes) -> bytes:
    """The key as the server sees it, prefix included."""
    if type(key) is str and 0 < len(key) <= SURELY_SHORT and key.isascii():  # the usual one
        return prefix + key.encode()
    if isinstance(key, str):
        try:
            raw = key.encode()
        except UnicodeEncodeError:
            raise ConfigError("key", f"{key!r} has no UTF-8 form; pass bytes instead") from None
    elif isinstance(key, bytes):
        raw = bytes(key)
    else:
        raise ConfigError("key", f"{key!r} is neither str nor bytes")
    if not raw:
        raise ConfigError("key", "it is empty; a key has 1 byte to 64 KiB")
    raw = prefix + raw
    if len(raw) > LONGEST_KEY:
        raise ConfigError("key", f"it has {len(raw)} bytes; a key has 1 byte to 64 KiB")
    return raw


def key_list(keys: Iterable[str | bytes]) -> list[str | bytes]:
    """Several keys, as a list of their own."""
    if isinstance(keys, (str, bytes)):
        raise ConfigError("keys", f"{keys!r} is one key; pass a list of keys")
    try:
        listed = list(keys)
    except TypeError:
        raise ConfigError("keys", f"{keys!r} is not a list of keys") from None
    if len(listed) > LARGEST_BATCH:
        raise ConfigError("keys", f"{len(listed)} keys are too many; a batch has at most 10**6")
    return listed


def distinct(keys: list[str | bytes]) -> list[str | bytes]:
    """Keys to lock together: at least one, none twice."""
    if not keys:
        raise ConfigError("keys", "the list is empty; pass at least one key")
    seen: set[bytes] = set()
    for key in keys:
        raw = wire_key(key, b"")
        if raw in seen:
            raise ConfigError("keys", f"{key!r} appears twice; one caller can hold it only once")
        seen.add(raw)
    return keys
