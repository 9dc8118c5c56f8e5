"""The Python core's counters and histograms, of one client.

Law: the same names, arguments and results as ``_meter.pyx``. What happens with every pair is one
step of an iterator, which CPython keeps whole by itself under the GIL, and the iterator knows how
many were taken; what is rare is counted under the mutex. So nothing is lost, whoever looks or
interrupts. Of what goes straight only a sample is timed: that would cost more than all the rest.
"""

from __future__ import annotations

import sys
import sysconfig
import threading
from bisect import bisect_left
from collections.abc import Iterator
from itertools import chain, compress, cycle, repeat
from operator import length_hint
from typing import Any

from ._metrics import ACQUIRED, BOUNDS, COUNTERS, HOLD, REFUSED, RELEASED, TIMES, TRIP, WAIT
from ._pytime import clock

__all__ = ["Meter"]

#: Of so many tries that go straight and take their lock, one after the other, one is timed.
TRIES = 64
#: The same of releases.
RELEASES = 16
#: What is no time at all, in seconds: for ever.
_ENDLESS = 1e9
#: More steps than are ever taken, with 64 bits; with 32 the count stays there.
_STEPS = sys.maxsize
_FREE_THREADED = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))


class Meter:
    """What a client has done, how often and how long.

    Attributes:
        ticks: one step for each straight try that took its lock; ``sample`` is to be called when
            it gives True.
        frees: one step for each straight release that freed its lease; ``held`` likewise.
    """

    __slots__ = ("_counts", "_left", "_mutex", "_times", "frees", "ticks")

    ticks: Iterator[bool]
    frees: Iterator[bool]

    def __init__(self) -> None:
        self.forked()

    def __reduce__(self) -> Any:
        raise TypeError("what belongs to a client cannot be pickled or copied")

    def forked(self) -> None:
        """In a forked child: what was counted is the parent's."""
        self._mutex = threading.RLock()  # a signal's handler may come into the middle
        self._counts = [0] * len(COUNTERS)
        self._times = [([0] * (len(BOUNDS) + 1), [0.0]) for _ in TIMES]
        self.ticks, tries_left = _turns(TRIES)
        self.frees, releases_left = _turns(RELEASES)
        self._left = ((ACQUIRED, tries_left), (RELEASED, releases_left))

    def count(self, which: int, many: int = 1) -> None:
        """Add to one of COUNTERS."""
        with self._mutex:
            self._counts[which] += many

    def time(self, which: int, seconds: float, many: int = 1) -> None:
        """Add to one of TIMES; nothing for what is no time: not a number, or for ever."""
        if not -_ENDLESS < seconds < _ENDLESS:
            return
        seconds = max(0.0, seconds)
        with self._mutex:
            counts, total = self._times[which]
            counts[bisect_left(BOUNDS, seconds)] += many
            total[0] += seconds * many

    def now(self) -> float:
        """The time, in seconds."""
        return clock()

    def sample(self, sent_at: float) -> None:
        """A try that counts was sent then, and has just been answered."""
        self.time(TRIP, clock() - sent_at)

    def held(self, lease: Any, sent_at: float) -> None:
        """A release that counts was sent then, and has just freed its lease."""
        self.time(HOLD, sent_at - lease.began())

    def took(self, sent_at: float) -> None:
        """A try that was sent then has just taken its lock."""
        if next(self.ticks):
            self.sample(sent_at)

    def refused(self, sent_at: float) -> None:
        """A try that was sent then has just found its lock held."""
        self.count(REFUSED)
        self.time(TRIP, clock() - sent_at)

    def freed(self, lease: Any, sent_at: float) -> None:
        """A release that was sent then has just freed its lease."""
        if next(self.frees):
            self.held(lease, sent_at)

    def answered(self, sent_at: float) -> None:
        """Whatever was sent then has just been answered."""
        self.time(TRIP, clock() - sent_at)

    def waited(self, since: float) -> None:
        """An acquire that has waited since then waits no more."""
        self.time(WAIT, clock() - since)

    def counts(self) -> list[int]:
        """All of COUNTERS."""
        with self._mutex:
            counts = self._counts.copy()
        for which, left in self._left:
            counts[which] += _STEPS - length_hint(left)
        return counts

    def times(self, which: int) -> tuple[list[int], float]:
        """One of TIMES: how often in each bucket, and seconds in all."""
        with self._mutex:
            counts, total = self._times[which]
            return counts.copy(), total[0]


def _turns(every: int) -> tuple[Iterator[bool], Any]:
    """False, but True at each so many-th step, for any thread; and whose hint of its length says
    how many of _STEPS are left.
    """
    left = repeat(True, _STEPS)
    steps = left if _STEPS > 1 << 32 else chain(left, repeat(True))
    turns = compress(cycle([False] * (every - 1) + [True]), steps)
    if not _FREE_THREADED:
        return turns, left
    guarded = _Guarded(turns, left)
    return guarded, guarded


class _Guarded:
    """An iterator is kept whole by the GIL alone."""

    def __init__(self, turns: Iterator[bool], left: Any) -> None:
        self._turns = turns
        self._left = left
        self._mutex = threading.RLock()  # a signal's handler may come in between

    def __iter__(self) -> Iterator[bool]:
        return self

    def __next__(self) -> bool:
        with self._mutex:
            return next(self._turns)

    def __length_hint__(self) -> int:
        with self._mutex:
            return length_hint(self._left)
