"""Interrupts at every point of a call where a signal's handler may run.

Law: the same point is struck again by the same number, as long as the call takes the same way.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fastlock

HOME = str(Path(fastlock.__file__).parent)
#: Whether a generator that is struck as it resumes ends without its ``finally`` blocks.
ENDS_RESUMED = sys.version_info < (3, 11)


class Interrupt(BaseException):
    """What strikes; not one of fastlock's errors, and nothing that pytest minds."""


@contextmanager
def struck_at(step: int) -> Iterator[list[str]]:
    """Raise Interrupt at the ``step``-th point where CPython would run a signal's handler.

    These are the starts of functions and the returns of C functions (and backward jumps,
    which always have one of those beside them), but in CPython 3.10 not the resuming of a
    generator: no handler runs there. A trace of lines would also strike where no
    signal ever does: between a ``with`` block and its exit, on ``try:`` and on ``finally:``.
    """
    left = step
    where: list[str] = []

    def strike(frame: Any, event: str, _: Any) -> None:
        nonlocal left
        ours = frame.f_code.co_filename.startswith(HOME)
        resumed = event == "call" and ENDS_RESUMED and frame.f_lasti >= 0
        if ours and event in ("call", "c_return") and not resumed:
            left -= 1
            if not left:
                sys.setprofile(None)
                name = Path(frame.f_code.co_filename).name
                where.append(f"{event} {name}:{frame.f_lineno} {frame.f_code.co_name}")
                raise Interrupt(where[0])

    before = sys.getprofile()
    sys.setprofile(strike)
    try:
        yield where
    finally:
        sys.setprofile(before)
