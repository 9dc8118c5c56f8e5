"""One body four ways at once: sync and asyncio, each on both cores, each on a thread.

Law: what one of them raises, the test raises; all of them have ended when it goes on.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any

from _harness import APIS, CORES, Ways, drive

WAYS = [(api, core) for api in APIS for core in CORES]


class Four:
    """``body(fl)`` on a thread for each way; ``stop`` is what bodies look at."""

    def __init__(self, server: Any, body: Callable[[Ways], Coroutine[Any, Any, Any]]) -> None:
        self._body = body
        self._errors: list[BaseException] = []
        self._threads = [
            threading.Thread(target=self._run, args=(Ways(*way, server),), name=" ".join(way))
            for way in WAYS
        ]
        for thread in self._threads:
            thread.start()

    def _run(self, fl: Ways) -> None:
        try:
            inside = fl._inside(self._body(fl))
            drive(inside) if fl.sync else asyncio.run(inside)
        except BaseException as error:
            self._errors.append(error)

    def join(self, timeout: float = 60.0) -> None:
        """Wait for all."""
        for thread in self._threads:
            thread.join(timeout)
            assert not thread.is_alive(), f"{thread.name} hangs"
        if self._errors:
            raise self._errors[0]

    def check(self) -> None:
        """Raise what any of them has raised by now."""
        if self._errors:
            raise self._errors[0]
