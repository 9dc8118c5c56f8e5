"""An event for code that signal handlers interrupt.

Law: no lock is ever held while other code runs, so that a handler that strikes inside
``wait`` or ``set`` may wait for the same event, or set it, and no wake-up is lost.
(``threading.Event`` takes a lock to wait: such a handler would wait for itself.)
"""

from __future__ import annotations

import threading
from contextlib import suppress


class Event:
    """As ``threading.Event``, set once and for all. Any thread may call any method."""

    def __init__(self) -> None:
        self._set = False
        self._gates: list[threading.Lock] = []  # each closed while its owner sleeps

    def is_set(self) -> bool:
        """Whether it has happened."""
        return self._set

    def set(self) -> None:
        """It has happened: wake all who wait. May be repeated."""
        self._set = True  # before the list is read: who comes later looks here
        for gate in tuple(self._gates):
            with suppress(RuntimeError):  # another has opened it
                gate.release()

    def wait(self, timeout: float) -> bool:
        """Wait for it, at most ``timeout`` seconds; whether it has happened."""
        if self._set:
            return True
        gate = threading.Lock()
        gate.acquire()
        self._gates.append(gate)
        try:
            if not self._set:  # else it was set before the gate stood in the list
                gate.acquire(timeout=max(timeout, 0.0))
        finally:
            self._gates.remove(gate)
        return self._set
