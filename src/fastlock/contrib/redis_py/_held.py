"""What both Locks know without asking the server: arguments, tokens, whose lease is whose.

Law: no I/O. A token is the caller's own if the caller's thread (asyncio: task) acquired
with it; else it is the one in ``local``, which the caller may also have set by hand.
"""

from __future__ import annotations

import math
import threading
from functools import lru_cache
from typing import Any

from redis.exceptions import LockError

from fastlock import _fork
from fastlock._args import NO_EXPIRY
from fastlock._clock import clock
from fastlock.lease import BaseLease

from ._errors import no_end, not_held, of_parent

Number = float | int

#: The deadline of a lease whose token was set by hand: when it ends is not known here.
UNKNOWN = float("-inf")


@lru_cache(maxsize=256)
def _rounded_up(seconds: Number) -> int:
    # 1.1 * 1000 is 1100.0000000000002: rounding up must not make that 1101.
    return math.ceil(round(seconds * 1000, 6))


class Everywhere:
    """``Lock.local`` with thread_local=False, and what one task has to do with one Lock."""

    token: Any = None  # redis-py's: the token of what is held
    lease: Any = None  # what was acquired last
    given: Any = None  # the lease of a token that was not acquired here, used last
    unsure: Any = None  # what a release that raised may not have released
    until: float | None = None  # the blocking_timeout's end, on fastlock's clock


class PerThread(threading.local, Everywhere):
    """The same for each thread alone."""


class Held:
    """The part of Lock and AsyncLock that needs no server."""

    local: Any
    redis: Any
    name: Any
    timeout: Any

    #: A script set here (as ``register_script`` makes them) is run instead, with the
    #: arguments that redis-py gives it.
    lua_release: Any = None
    lua_extend: Any = None
    lua_reacquire: Any = None

    _wire: tuple[Any, bytes] | None = None

    def _mine(self) -> Any:
        raise NotImplementedError

    # -- arguments

    def _key(self) -> bytes:
        """The name as redis-py would send it."""
        if self._wire is None or self._wire[0] is not self.name:
            self._wire = self.name, self._encoded(self.name)
        return self._wire[1]

    def _encoded(self, value: Any) -> bytes:
        if type(value) is bytes:
            return value
        return bytes(self.redis.connection_pool.get_encoder().encode(value))

    def _timeout_ms(self) -> int:
        """For the wire: NO_EXPIRY without a timeout."""
        if not self.timeout:
            return NO_EXPIRY
        return self._positive(self.timeout, "timeout")

    def _positive(self, seconds: Number, what: str) -> int:
        """Seconds as ms, rounded up; LockError if that is no time at all."""
        ms = self._milliseconds(seconds, what)
        if ms < 1:
            raise LockError(
                f"{what}={seconds!r} for {self.name!r} would end the lock at once; give seconds "
                "above 0",
                lock_name=self.name,
            )
        return ms

    def _milliseconds(self, seconds: Number, what: str) -> int:
        try:
            return _rounded_up(seconds)
        except (ValueError, OverflowError):  # NaN, infinite
            raise LockError(
                f"{what}={seconds!r} for {self.name!r} is not a number of seconds",
                lock_name=self.name,
            ) from None

    def _until(self, blocking: bool, blocking_timeout: Number | None) -> float | None:
        """When no more time is to be spent on lost connections."""
        if not blocking or blocking_timeout is None:
            return None
        return clock() + max(0.0, float(blocking_timeout))

    # -- tokens and leases

    def _took(self, lease: Any) -> None:
        self._mine().lease = self.local.lease = lease
        self.local.unsure = None

    def _token(self) -> bytes | None:
        """The caller's token: of its own lease, else what ``local`` has."""
        local = self.local
        token = local.token
        if token is None:
            return None
        latest = local.lease
        if latest is None or latest.pair[1] != token:
            return self._encoded(token)  # set by hand
        own = self._mine().lease
        return bytes((latest if own is None or own.over else own).pair[1])

    def _token_to(self, verb: str) -> bytes:
        token = self._token()
        if token is None:
            raise not_held(self.name, verb)
        return token

    def _token_to_prolong(self, verb: str) -> bytes:
        token = self._token_to(verb)
        if self.timeout is None:
            raise no_end(self.name, verb)
        return token

    def _known(self, token: bytes) -> Any:
        """The lease with this token, if there is one."""
        local = self.local
        for lease in (self._mine().lease, local.lease, local.unsure, local.given):
            if lease is not None and lease.pair[1] == token:
                return lease
        return None

    def _lease_of(self, token: Any, client: Any) -> Any:
        """The lease with this token, in this process; one of unknown end if set by hand."""
        token = self._encoded(token)
        lease = self._known(token)
        if lease is None:
            lease = client._lease(self.name, (self._key(), token), NO_EXPIRY, UNKNOWN)
            self.local.given = lease  # which remembers lost answers
        if lease._generation != _fork.generation:
            raise of_parent(self.name)
        lease._client = client  # of the running loop
        return lease

    def _here(self, token: bytes) -> bool:
        """Whether it was acquired (or set by hand) in this process."""
        lease = self._known(token)
        return lease is None or lease._generation == _fork.generation

    def _forget(self, token: bytes) -> None:
        """It is released, or no longer ours. What another task has acquired since stays."""
        self._hide(token)
        local, mine = self.local, self._mine()
        for place in (local,) if mine is local else (local, mine):
            for name in ("lease", "given", "unsure"):
                lease = getattr(place, name)
                if lease is not None and lease.pair[1] == token:
                    setattr(place, name, None)

    def _hide(self, token: bytes) -> None:
        """What is being released is not shown any more."""
        if self.local.token is not None and self._encoded(self.local.token) == token:
            self.local.token = None

    def _debt(self, lease: BaseLease) -> float:
        """Until when an interrupted release is to be finished in the background."""
        if lease.deadline == UNKNOWN:
            return clock() + float(lease._client.config.socket_timeout)
        return lease.deadline
