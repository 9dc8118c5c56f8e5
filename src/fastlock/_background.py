"""Gives back in the background what may have been acquired for nobody.

Law: one daemon thread for each lane, a server, only while there is something to give back there; it
reads what is owed on the shared connection by the way. A server that is slow or dead keeps nobody
waiting but who is to give back there. Any thread may call any method. A process that ends waits a
second for it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Mapping
from functools import partial

from . import _fork, _leaving
from ._clock import clock
from ._errands import Errands
from ._logs import WARNING, tell
from ._metrics import LEFT_BEHIND, MeterLike
from ._tokens import Pair


def _one_lane(pairs: list[Pair]) -> Mapping[Hashable, list[Pair]]:
    """Of a client of one server."""
    return {None: pairs}


class Background:
    """``settle(pairs, until, verb)`` blocks until all are given back or ``until`` has passed.

    ``lanes(pairs)`` says which of them are given back one after the other.
    """

    def __init__(
        self,
        settle: Callable[[list[Pair], float, str], None],
        meter: MeterLike,
        lanes: Callable[[list[Pair]], Mapping[Hashable, list[Pair]]] = _one_lane,
    ) -> None:
        self._settle = settle
        self._meter = meter
        self._lanes_of = lanes
        self.forked()
        self._ends = float("inf")  # when the process has no more time for it
        _leaving.second(self)
        _fork.register(self)

    def forked(self) -> None:
        """In a forked child: what is to be given back, and who was adding it, are not here."""
        self._lanes: dict[Hashable, Errands] = {}
        self._mutex = threading.RLock()  # a signal handler may interrupt its holder

    def add(self, pairs: list[Pair], until: float, verb: str = "give_back") -> None:
        """Give ``pairs`` back by ``verb``, trying until ``until`` (seconds on fastlock's clock)."""
        _leaving.expected()
        for lane, own in self._lanes_of(pairs).items():
            errand = partial(self._give_back, own, until, verb)
            with self._mutex:
                errands = self._lanes.get(lane)
                if errands is None:
                    self._forget_idle()
                    errands = self._lanes.setdefault(lane, Errands("fastlock-give-back"))
                errands.add(errand)

    def _forget_idle(self) -> None:
        for lane in list(self._lanes):
            errands = self._lanes.pop(lane, None)
            if errands is not None and errands.busy:
                self._lanes.setdefault(lane, errands)

    def _all(self) -> list[Errands]:
        with self._mutex:
            return list(self._lanes.values())

    def runs_here(self) -> bool:
        """Whether this thread is one of those that give back."""
        return any(errands.runs_here() for errands in self._all())

    def finish(self, timeout: float) -> None:
        """Wait until nothing is left to give back, at most ``timeout`` seconds."""
        end = clock() + timeout
        waited_for: list[Errands] = []
        while more := [errands for errands in self._all() if errands not in waited_for]:
            for errands in more:
                errands.finish(max(0.0, end - clock()))
            waited_for += more

    def _give_back(self, pairs: list[Pair], until: float, verb: str) -> None:
        try:
            self._settle(pairs, min(until, self._ends), verb)
        except Exception as error:
            could_not_give_back(self._meter, len(pairs), error)

    def end(self, timeout: float) -> None:
        """The process ends: as ``finish``, and do what no thread could be started for."""
        self._ends = clock() + timeout
        self.finish(timeout)
        for errands in self._all():
            errands.run_left()


def could_not_give_back(meter: MeterLike, count: int, error: Exception) -> None:
    """Say that the ttl must do."""
    meter.count(LEFT_BEHIND, count)
    tell(
        WARNING, "left_behind", "%d lock(s) that nobody waits for stay until their ttl ends: %s",
        count, error, count=count, error=type(error).__name__,
    )  # fmt: skip
