"""The Python core's counters and histograms, of one client.

Law: the same names, arguments and results as ``_meter.pyx``. What happens with every pair is one
operation that CPython keeps whole by itself; what is rare is counted under the mutex. So nothing
is lost. A sync client's tries that go straight are not all timed: reading the clock would cost
as much as all the rest of counting.
"""

from __future__ import annotations

import sysconfig
import threading
from bisect import bisect_right
from collections.abc import Callable, Iterator
from itertools import count
from math import fsum
from typing import Any

from ._metrics import (
    ACQUIRED,
    BOUNDS,
    COUNTERS,
    HOLD,
    REFUSED,
    RELEASED,
    TIMES,
    TRIP,
    WAIT,
)
from ._pytime import clock

__all__ = ["Meter"]

#: Holds that may lie in a list before somebody counts them.
MOST = 1000
#: What is no time at all, in seconds: for ever.
_ENDLESS = 1e9
_FREE_THREADED = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))


class Meter:
    """What a client has done, how often and how long.

    Attributes:
        ticks: one is taken for each straight try that took its lock; its number, and for each
            SAMPLE-th ``sample`` is to be called.
        held: called with the seconds that a lease was held which a straight release has freed.
    """

    __slots__ = ("_busy", "_counts", "_looks", "_mutex", "_times", "_uncounted", "held", "ticks")

    ticks: Iterator[int]
    held: Callable[[float], None]

    def __init__(self) -> None:
        self._uncounted: list[float] = []  # seconds held
        self.forked()

    def __reduce__(self) -> Any:
        raise TypeError("what belongs to a client cannot be pickled or copied")

    def forked(self) -> None:
        """In a forked child: what was counted is the parent's."""
        self._mutex = threading.RLock()  # a signal's handler may come into the middle
        self._busy = False  # such a handler takes nothing from the list
        self._counts = [0] * len(COUNTERS)
        self._times = [([0] * (len(BOUNDS) + 1), [0.0]) for _ in TIMES]
        self._uncounted.clear()
        self.held = self._uncounted.append
        # What looks at the counter counts it up.
        self.ticks, self._looks = count(1), 0
        if _FREE_THREADED:  # itertools.count is atomic under the GIL only
            self.ticks = _Guarded(self.ticks)

    def count(self, which: int, many: int = 1) -> None:
        """Add to one of COUNTERS."""
        with self._mutex:
            self._counts[which] += many
        if len(self._uncounted) > MOST:  # of leases that were taken in other ways
            self._fold()

    def time(self, which: int, seconds: float, many: int = 1) -> None:
        """Add to one of TIMES; nothing for what is no time: not a number, or for ever."""
        with self._mutex:
            self._add(which, [seconds] * many)

    def now(self) -> float:
        """The time, in seconds."""
        return clock()

    def sample(self, sent_at: float) -> None:
        """Such a try was sent then, and has just been answered."""
        self.time(TRIP, clock() - sent_at)
        if len(self._uncounted) > MOST:
            self._fold()

    def took(self, sent_at: float) -> None:
        """A try that was sent then has just taken its lock."""
        self.count(ACQUIRED)
        self.time(TRIP, clock() - sent_at)

    def refused(self, sent_at: float) -> None:
        """A try that was sent then has just found its lock held."""
        self.count(REFUSED)
        self.time(TRIP, clock() - sent_at)

    def freed(self, lease: Any, sent_at: float) -> None:
        """A release that was sent then has just freed its lease."""
        self.time(TRIP, clock() - sent_at)
        self.held(sent_at - lease.began())

    def answered(self, sent_at: float) -> None:
        """Whatever was sent then has just been answered."""
        self.time(TRIP, clock() - sent_at)

    def waited(self, since: float) -> None:
        """An acquire that has waited since then waits no more."""
        self.time(WAIT, clock() - since)

    def counts(self) -> list[int]:
        """All of COUNTERS."""
        self._fold()
        with self._mutex:
            straight = next(self.ticks) - 1 - self._looks
            self._looks += 1
            counts = self._counts.copy()
        counts[ACQUIRED] += straight
        return counts

    def times(self, which: int) -> tuple[list[int], float]:
        """One of TIMES: how often in each bucket, and seconds in all."""
        self._fold()
        with self._mutex:
            counts, total = self._times[which]
            return counts.copy(), total[0]

    # -- from the list into the numbers

    def _fold(self) -> None:
        with self._mutex:
            if self._busy:
                return
            self._busy = True
            try:
                held = self._uncounted.copy()
                del self._uncounted[: len(held)]  # others may append meanwhile, behind
                self._counts[RELEASED] += len(held)
                self._add(HOLD, held)
            finally:
                self._busy = False

    def _add(self, which: int, seconds: list[float]) -> None:
        """Mutex held."""
        counts, total = self._times[which]
        seconds.sort()
        in_all = fsum(seconds)
        if not -_ENDLESS < in_all < _ENDLESS or (seconds and seconds[0] < 0.0):
            times = [one for one in seconds if -_ENDLESS < one < _ENDLESS]
            seconds = sorted(max(0.0, one) for one in times)
            in_all = fsum(seconds)
        total[0] += in_all
        place, end = 0, len(seconds)
        for bucket, bound in enumerate(BOUNDS):
            if place == end:
                return
            above = bisect_right(seconds, bound, place)
            counts[bucket] += above - place
            place = above
        counts[-1] += end - place


class _Guarded:
    """Numbers, none of them twice."""

    def __init__(self, numbers: Iterator[int]) -> None:
        self._numbers = numbers
        self._mutex = threading.RLock()  # a signal's handler may come in between

    def __iter__(self) -> Iterator[int]:
        return self

    def __next__(self) -> int:
        with self._mutex:
            return next(self._numbers)
