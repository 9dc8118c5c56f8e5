"""Floor 1, sync: whether a lease was lost, to look at and to wait for.

Law: no I/O; what is known of a lease without asking anybody.
"""

from __future__ import annotations

from typing import Any

from ._clock import clock
from ._event import Event

#: Seconds between two looks at a lease that nobody watches.
LOOK = 0.05
#: Seconds between two looks at one that is watched: a machine may have slept.
RARELY = 1.0


class Lost:
    """``Lease.lost``: as an event that is set when the lease is lost, and as a truth value.

    A lease that is renewed by itself has it set as soon as that is known. Of any other it is
    worked out when somebody looks, or waits: its deadline has passed, or the server has said
    so to an ``extend``.
    """

    __slots__ = ("_lease",)

    def __init__(self, lease: Any) -> None:
        self._lease = lease

    def is_set(self) -> bool:
        """Whether the lease was lost: it ended other than by release."""
        return bool(self._lease._is_lost())

    __bool__ = is_set

    @property
    def reason(self) -> str | None:
        """Why, for people; None while it is not lost."""
        return self._lease._why_lost() if self.is_set() else None

    def __repr__(self) -> str:
        return f"<lost: {self.reason or 'no'}>"

    def _pause(self, end: float | None) -> float | None:
        """Seconds to wait before another look; None: enough waited."""
        lease = self._lease
        if self.is_set() or lease.over:
            return None
        now = clock()
        if end is not None and now >= end:
            return None
        longest = RARELY if lease._watched() else LOOK
        left: float = lease.deadline - now
        if end is not None:
            left = min(left, end - now)
        return max(0.001, min(left, longest))

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the lease is lost (True) or released (False), ``timeout`` seconds at most."""
        end = None if timeout is None else clock() + timeout
        while (pause := self._pause(end)) is not None:
            watched = self._lease._watched()
            (watched.ended if watched else Event()).wait(pause)
        return self.is_set()
