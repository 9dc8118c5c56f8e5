"""How the commands that clean up behind themselves meet Ctrl-C, requests to end, and their end.

Law: handlers are changed by the main thread alone, and are what they were when the block ends.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

_PR_SET_PDEATHSIG = 1
#: The signals by which people and systems end a program.
ENDING = [
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
]


@contextlib.contextmanager
def signals_as_exits() -> Iterator[None]:
    """Being told to end (SIGTERM, SIGHUP) cleans up as Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def leave(number: int, _frame: object) -> None:
        raise SystemExit(128 + number)

    before = {number: signal.getsignal(number) for number in ENDING if number != signal.SIGINT}
    before = {number: was for number, was in before.items() if was is signal.SIG_DFL}
    for number in before:
        signal.signal(number, leave)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def signals_wait() -> Iterator[None]:
    """Ctrl-C and requests to end come at the end of the block, not in the middle of it.

    For what must not be done by half. The signals stay unblocked: a server started in
    the block must be able to get them.
    """
    came: list[int] = []
    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        for number in ENDING:
            before[number] = signal.signal(number, lambda number, _frame: came.append(number))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if came:
            signal.raise_signal(came[0])


def dies_with_us() -> Callable[[], object] | None:
    """For a child, between fork and exec: Linux ends it when we are killed by force.

    When the thread that forked ends, to be exact. None where no system does that.
    """
    if sys.platform != "linux":
        return None
    try:
        import ctypes

        prctl = ctypes.CDLL(None).prctl
    except (ImportError, OSError, AttributeError):
        return None
    parent = os.getpid()

    def ask() -> None:
        if callable(signal.getsignal(signal.SIGTERM)):  # ours, which exec would forget it in
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # killed just before
            os._exit(1)

    return ask
