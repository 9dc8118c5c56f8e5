"""fastlock's errors as those that callers of redis-py's Lock catch.

Law: each new error is raised from the one it stands for, and names the lock as the caller
wrote it; none holds a token.
"""

from __future__ import annotations

from typing import Any

from redis import exceptions as theirs

from fastlock import errors as ours

_BY_CODE: dict[str, type[theirs.RedisError]] = {
    "LOADING": theirs.BusyLoadingError,
    "NOAUTH": theirs.AuthenticationError,
    "NOPERM": theirs.NoPermissionError,
    "NOSCRIPT": theirs.NoScriptError,
    "OOM": theirs.OutOfMemoryError,
    "READONLY": theirs.ReadOnlyError,
    "WRONGPASS": theirs.AuthenticationError,
}


def as_redis(error: ours.FastlockError, name: Any) -> theirs.RedisError:
    """redis-py's error for ``error``; raise it from that."""
    text = str(error)
    if isinstance(error, ours.OutcomeUnknown):
        cause = error.__cause__
        if not isinstance(cause, ours.TransportError):
            # The answer came too late to tell who ended the lock: it has ended, either way.
            return theirs.LockNotOwnedError(text, lock_name=name)
        timed_out = _timed_out(cause)
    elif isinstance(error, ours.LockLost):
        return theirs.LockNotOwnedError(text, lock_name=name)
    elif isinstance(error, ours.LockError):
        return theirs.LockError(text, lock_name=name)
    elif isinstance(error, ours.ServerError):
        return _BY_CODE.get(error.code, theirs.ResponseError)(text)
    elif isinstance(error, ours.ProtocolError):
        return theirs.InvalidResponse(text)
    elif isinstance(error, ours.ConfigError):  # found out at the first connection: a TLS file
        return theirs.RedisError(text)
    else:
        timed_out = _timed_out(error)
    return theirs.TimeoutError(text) if timed_out else theirs.ConnectionError(text)


def _timed_out(error: ours.FastlockError) -> bool:
    """Whether nothing came; a connection that ended for that says so in words only."""
    return getattr(error, "timed_out", False) or "no answer" in str(error)


def not_held(name: Any, verb: str) -> theirs.LockError:
    """The caller holds nothing (any more) that could be released, extended, ..."""
    return theirs.LockError(
        f"Cannot {verb} {name!r}: this thread or task has not acquired it, or has released it",
        lock_name=name,
    )


def not_ours(name: Any, verb: str) -> theirs.LockNotOwnedError:
    """The server says that the lock is not (or no longer) the caller's."""
    return theirs.LockNotOwnedError(
        f"Cannot {verb} {name!r}: it expired, was deleted or taken over", lock_name=name
    )


def of_parent(name: Any) -> theirs.LockNotOwnedError:
    """A forked child has its parent's object, not its parent's lock."""
    return theirs.LockNotOwnedError(
        f"{name!r} is held by the parent process; a forked child owns none of its locks",
        lock_name=name,
    )


def no_end(name: Any, verb: str) -> theirs.LockError:
    """Nothing to count from: the lock lasts until it is released."""
    return theirs.LockError(
        f"Cannot {verb} {name!r}: it was made without a timeout", lock_name=name
    )
