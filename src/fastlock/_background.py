"""Gives back in the background what may have been acquired for nobody.

Law: one daemon thread, only while there is something to give back; it reads what is
owed on the shared connection by the way. Any thread may call any method. A process that
ends waits a second for it.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable

from . import _leaving
from ._clock import clock
from ._commands import Pair

_log = logging.getLogger("fastlock")


class Background:
    """``settle(pairs, until)`` blocks until all are given back or ``until`` has passed."""

    def __init__(self, settle: Callable[[list[Pair], float], None]) -> None:
        self._settle = settle
        self._debts: deque[tuple[list[Pair], float]] = deque()
        self._mutex = threading.RLock()
        self._thread: threading.Thread | None = None
        _leaving.second(self)

    def add(self, pairs: list[Pair], until: float) -> None:
        """Give ``pairs`` back, trying until ``until`` (seconds on fastlock's clock)."""
        with self._mutex:
            self._debts.append((pairs, until))
            _leaving.expected()
            if self._thread is None or not self._thread.is_alive():
                thread = threading.Thread(target=self._run, name="fastlock-give-back", daemon=True)
                try:
                    thread.start()
                except RuntimeError:  # the interpreter is shutting down: see end()
                    return
                self._thread = thread

    def runs_here(self) -> bool:
        """Whether this thread is the one that gives back."""
        return self._thread is threading.current_thread()

    def finish(self, timeout: float) -> None:
        """Wait until nothing is left to give back, at most ``timeout`` seconds."""
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout)

    def _run(self) -> None:
        while True:
            with self._mutex:
                if not self._debts:
                    self._thread = None
                    return
                pairs, until = self._debts.popleft()
            self._give_back(pairs, until)

    def _give_back(self, pairs: list[Pair], until: float) -> None:
        try:
            self._settle(pairs, until)
        except Exception as error:
            could_not_give_back(len(pairs), error)

    def end(self, timeout: float) -> None:
        """The process ends: as ``finish``, and do what no thread could be started for."""
        end = clock() + timeout
        self.finish(timeout)
        while self._thread is None and self._debts:
            pairs, until = self._debts.popleft()
            self._give_back(pairs, min(until, end))


def could_not_give_back(count: int, error: Exception) -> None:
    """Say that the ttl must do."""
    _log.warning("%d lock(s) that nobody waits for stay until their ttl ends: %s", count, error)
