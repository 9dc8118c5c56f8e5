"""Standard streams that are closed, full, or know no Unicode.

Law: what ails our own output is no mistake of fastlock's, and no reason not to run a command.
"""

from __future__ import annotations

import io
import os
import sys

from . import _exits, complain


def prepare() -> None:
    """Have all three, and spell out what their encoding has no sign for.

    A stream that was closed is none here (a service, ``>&-``); its descriptor would go to the next
    socket. What a command inherits from us stays closed.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115  for as long as we live
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def unread() -> int:
    """Who read us has gone (``| head``); the exit code."""
    _drop()
    return _exits.UNREAD


def unwritten(error: OSError) -> int:
    """The disk is full, or the like; the exit code."""
    _drop()
    where = f": {error.filename}" if isinstance(error.filename, str) else " (writing the output)"
    return complain(f"{error.strerror or type(error).__name__}{where}", _exits.FOUND_WRONG)


def _drop() -> None:
    """The interpreter must not try to write the rest at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
