"""What a process still does when it ends: what is under way is answered for.

Law: three seconds at most for all clients together, whatever the server does; no exception
leaves. Runs in the main thread, at the interpreter's exit; in a child of multiprocessing
or billiard, which know no such exit, as one of their finalizers.
"""

from __future__ import annotations

import atexit
import sys
from contextlib import suppress
from time import monotonic
from typing import Any, Protocol
from weakref import WeakSet

from . import _fork

#: Seconds for each of the steps.
PATIENCE = 1.0


class _Ending(Protocol):
    def end(self, timeout: float) -> None: ...


_steps: tuple[WeakSet[_Ending], ...] = (WeakSet(), WeakSet(), WeakSet())
_finalized_in = -1  # the generation of the process that has told its finalizers


def first(thing: _Ending) -> None:
    """Have ``thing.end(timeout)`` called: it may leave something to those of the second step."""
    _steps[0].add(thing)


def second(thing: _Ending) -> None:
    """Have ``thing.end(timeout)`` called after those of the first step."""
    _steps[1].add(thing)


def last(thing: _Ending) -> None:
    """Have ``thing.end(timeout)`` called after those of the second step."""
    _steps[2].add(thing)


def expected() -> None:
    """From now on there may be something to do at the end of this process."""
    global _finalized_in
    if _finalized_in == _fork.generation:
        return
    _finalized_in = _fork.generation
    for name in ("multiprocessing.util", "billiard.util"):
        util: Any = sys.modules.get(name)
        if util is not None:
            util.Finalize(None, _end, exitpriority=-100)


@atexit.register
def _end() -> None:
    for step in _steps:
        end = monotonic() + PATIENCE
        for thing in _listed(step):
            with suppress(Exception):
                thing.end(max(0.0, end - monotonic()))


def _listed(things: WeakSet[_Ending]) -> list[_Ending]:
    while True:
        with suppress(RuntimeError):  # a daemon thread was making one at this very moment
            return list(things)
