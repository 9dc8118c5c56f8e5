"""Gives back in the background what may have been acquired for nobody.

Law: one daemon thread, only while there is something to give back; it reads what is
owed on the shared connection by the way. Any thread may call any method. A process that
ends waits a second for it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from . import _leaving
from ._clock import clock
from ._commands import Pair
from ._errands import Errands
from ._logs import WARNING, tell
from ._metrics import LEFT_BEHIND, MeterLike


class Background:
    """``settle(pairs, until, verb)`` blocks until all are given back or ``until`` has passed."""

    def __init__(self, settle: Callable[[list[Pair], float, str], None], meter: MeterLike) -> None:
        self._settle = settle
        self._meter = meter
        self._errands = Errands("fastlock-give-back")
        self._ends = float("inf")  # when the process has no more time for it
        _leaving.second(self)

    def add(self, pairs: list[Pair], until: float, verb: str = "give_back") -> None:
        """Give ``pairs`` back by ``verb``, trying until ``until`` (seconds on fastlock's clock)."""
        _leaving.expected()
        self._errands.add(partial(self._give_back, pairs, until, verb))

    def runs_here(self) -> bool:
        """Whether this thread is the one that gives back."""
        return self._errands.runs_here()

    def finish(self, timeout: float) -> None:
        """Wait until nothing is left to give back, at most ``timeout`` seconds."""
        self._errands.finish(timeout)

    def _give_back(self, pairs: list[Pair], until: float, verb: str) -> None:
        try:
            self._settle(pairs, min(until, self._ends), verb)
        except Exception as error:
            could_not_give_back(self._meter, len(pairs), error)

    def end(self, timeout: float) -> None:
        """The process ends: as ``finish``, and do what no thread could be started for."""
        self._ends = clock() + timeout
        self.finish(timeout)
        self._errands.run_left()


def could_not_give_back(meter: MeterLike, count: int, error: Exception) -> None:
    """Say that the ttl must do."""
    meter.count(LEFT_BEHIND, count)
    tell(
        WARNING, "left_behind", "%d lock(s) that nobody waits for stay until their ttl ends: %s",
        count, error, count=count, error=type(error).__name__,
    )  # fmt: skip
