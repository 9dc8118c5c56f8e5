"""The command line where click is not installed: ``doctor``, which says what is missing.

Law: needs the standard library and redis-py only.
"""

from __future__ import annotations

import argparse
from typing import NoReturn

from . import _exits, complain, without_uris

_MISSING = "the command line needs click: pip install 'fastlock[cli]' (only doctor does without)"


class _Parser(argparse.ArgumentParser):
    """One line for an error, in which no argument is quoted that could hold a password."""

    def error(self, message: str) -> NoReturn:
        self.exit(_exits.USAGE, f"{self.prog}: {without_uris(' '.join(message.split()))}\n")


def run(words: list[str]) -> int:
    """``doctor``, or one line that says what to install."""
    if words[:1] != ["doctor"]:
        return complain(_MISSING)
    parser = _Parser(prog="fastlock doctor")
    parser.add_argument("--url", help="the server (default: FASTLOCK_URL and its kin)")
    parser.add_argument("--json", action="store_true", help="print what was found as JSON")
    from . import doctor

    return doctor.run(parser.parse_args(words[1:]))
