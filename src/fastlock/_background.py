"""Gives back in the background what may have been acquired for nobody.

Law: one daemon thread, only while there is something to give back; it reads what is
owed on the shared connection by the way. Any thread may call any method.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial

from ._commands import Pair
from ._errands import Errands

_log = logging.getLogger("fastlock")


class Background:
    """``settle(pairs, until)`` blocks until all are given back or ``until`` has passed."""

    def __init__(self, settle: Callable[[list[Pair], float], None]) -> None:
        self._settle = settle
        self._errands = Errands("fastlock-give-back")

    def add(self, pairs: list[Pair], until: float) -> None:
        """Give ``pairs`` back, trying until ``until`` (seconds on fastlock's clock).

        While the interpreter is shutting down the ttl must do.
        """
        self._errands.add(partial(self._give_back, pairs, until))

    def finish(self, timeout: float) -> None:
        """Wait until nothing is left to give back, at most ``timeout`` seconds."""
        self._errands.finish(timeout)

    def _give_back(self, pairs: list[Pair], until: float) -> None:
        try:
            self._settle(pairs, until)
        except Exception as error:
            could_not_give_back(len(pairs), error)


def could_not_give_back(count: int, error: Exception) -> None:
    """Say that the ttl must do."""
    _log.warning("%d lock(s) that nobody waits for stay until their ttl ends: %s", count, error)
