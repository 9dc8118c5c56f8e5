"""Floor 2, adding to a ttl: what the native API does not offer, and redis-py's Lock does.

Law: that of ``_ops.py``.
"""

from __future__ import annotations

from ._claim import HeldLease, deadline, margin
from ._effects import Backoff, Call, Op
from ._ops import extend, mended
from ._replies import checked, is_unusual
from .errors import (
    FastlockError,
    LockError,
    LockLost,
    OutcomeUnknown,
    TransportError,
)


def extend_by(lease: HeldLease, more: int, retries: int, now: float) -> Op[None]:
    """Add ``more`` ms to what is left, if the lock is still ours, else LockLost.

    Doing this twice is not doing it once: after a lost answer the ttl that it must have
    come to is set instead, which may be repeated. For that the lease must know its end.
    """
    failures = 0
    before = lease.deadline
    while True:
        lease.deadline = min(before, before + more / 1000)
        call = Call("extend_by", (*lease.pair, more))
        try:
            sent_at, (reply,) = yield call
            if is_unusual(call.verb, reply):
                sent_at, reply = yield from mended(call, sent_at, reply)
        except FastlockError as error:
            if isinstance(error, TransportError) and error.sent:
                yield from _as_if_added(lease, more, before, retries, error)
                return
            lease.deadline = before
            if not isinstance(error, TransportError):
                raise
            failures += 1
            if failures > retries:
                raise
            yield Backoff(failures, None)
            continue
        lease.deadline = before
        checked(reply, lease.key)
        if reply > 0:
            lease.deadline, lease.ttl = deadline(sent_at, reply), reply / 1000
            return
        if reply == 0:
            lease.over = True
            raise LockLost(f"{lease.key!r} is no longer held by this lease", lease.key)
        raise LockError(
            f"{lease.key!r} has no time to live, so none can be added"
            if reply == -1
            else f"{lease.key!r} has less left than is to be taken away; it stays as it is",
            lease.key,
        )


def _as_if_added(
    lease: HeldLease, more: int, before: float, retries: int, error: TransportError
) -> Op[None]:
    """The answer to an addition was lost: set what it must have come to."""
    now = yield Backoff(1, None)
    if abs(before) == float("inf"):
        raise OutcomeUnknown(
            f"{lease.key!r}: the answer to an extension was lost, and when the lock would have "
            "ended is not known here",
            lease.key,
        ) from error
    ttl = int((before + margin(lease.ttl * 1000) - now) * 1000 + more)
    if ttl < 1:
        raise OutcomeUnknown(
            f"{lease.key!r}: the answer to an extension was lost, and little of the ttl is left",
            lease.key,
        ) from error
    yield from extend(lease, ttl, retries, now)
