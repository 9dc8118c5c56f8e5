"""Errands for a thread that nobody waits for.

Law: one daemon thread, only while there is something to run; one errand after the other. Any
thread may call any method, and so may signal handlers. A forked child has none of its parent's.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

from . import _fork
from ._logs import failed


class Errands:
    """``add`` runs what it is given soon, on a thread called ``name``; what it raises is logged."""

    def __init__(self, name: str) -> None:
        self._name = name
        self.forked()
        _fork.register(self)

    def forked(self) -> None:
        """In a forked child: the thread, and what it is to run, are the parent's."""
        self._waiting: deque[Callable[[], object]] = deque()
        self._mutex = threading.RLock()
        self._thread: threading.Thread | None = None

    def add(self, errand: Callable[[], object]) -> bool:
        """Run it after those before it; False when the interpreter shuts down: ``run_left``."""
        with self._mutex:
            self._waiting.append(errand)
            if self._thread is None or not self._thread.is_alive():
                thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                try:
                    thread.start()
                except RuntimeError:
                    return False
                self._thread = thread
        return True

    @property
    def busy(self) -> bool:
        """Whether anything is being run, or is left to run."""
        return self._thread is not None or bool(self._waiting)

    def runs_here(self) -> bool:
        """Whether this thread is the one that runs them."""
        return self._thread is threading.current_thread()

    def finish(self, timeout: float) -> None:
        """Wait until nothing is left to run, at most ``timeout`` seconds."""
        thread = self._thread
        if thread is not None and not self.runs_here():
            thread.join(timeout)

    def run_left(self) -> None:
        """Run here what no thread could be started for."""
        while self._thread is None and self._waiting:
            self._waiting.popleft()()

    def _run(self) -> None:
        while True:
            with self._mutex:
                if not self._waiting:
                    self._thread = None
                    return
                errand = self._waiting.popleft()
            try:
                errand()
            except BaseException:  # SystemExit, as of a callback: the others still have theirs
                failed("internal", "%s was left by an exception", self._name)
