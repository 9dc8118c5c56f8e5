"""The command line: ``fastlock demo`` and ``fastlock doctor``.

Law: needs the standard library and redis-py only; a command is imported when it is asked
for; whatever goes wrong becomes one readable line, never a traceback, never a secret.

Exit codes: 0 all is well; 1 the command found something wrong; 2 it could not do its work
(usage, settings, connection); 130 ended by Ctrl-C.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any, NoReturn

from fastlock._version import __version__
from fastlock.errors import FastlockError, LockLost

__all__ = ["main"]

#: Whatever looks like a uri, or a part of one, may hold a password.
_URI = re.compile(r"\S*(://|@)\S*")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command (None: the process's arguments) and return its exit code."""
    parser = _parser()
    try:
        options = parser.parse_args(argv)
        if options.command is None:
            parser.print_help(sys.stderr)
            return 2
        run: Callable[[Any], int] = import_module(f"fastlock.cli.{options.command}").run
        code = run(options)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        return _complain("interrupted", 130)
    except BrokenPipeError:
        # Who read us has gone; the interpreter must not complain about it at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except LockLost as error:
        return _complain(str(error), 1)
    except (FastlockError, ImportError) as error:
        return _complain(str(error))
    except Exception as error:
        return _complain(_unforeseen(error))


def _complain(message: str, code: int = 2) -> int:
    """Say it in one line."""
    print(f"fastlock: {one_line(message)}", file=sys.stderr)
    return code


def one_line(text: str) -> str:
    """``text`` in one line, without what a terminal would obey: it may be a server's."""
    return "".join(c if c.isprintable() else "?" for c in " ".join(text.split()))


def _unforeseen(error: Exception) -> str:
    """What and where, without the values that a traceback could show."""
    where = ""
    trace = error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        where = f" at {os.path.basename(code.co_filename)}:{trace.tb_lineno}"
        trace = trace.tb_next
    return f"{type(error).__name__}{where}: {_URI.sub('(a uri)', str(error))}"


class _Parser(argparse.ArgumentParser):
    """One line for an error, in which no argument is quoted that could hold a password."""

    def error(self, message: str) -> NoReturn:
        text = _URI.sub("(a uri)", message)
        self.exit(2, f"{self.prog}: {' '.join(text.split())}; see {self.prog} --help\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="fastlock",
        description="Distributed locks in Redis or Valkey, for the hot path.",
        epilog="FASTLOCK_CORE=python|cython chooses the core.",
    )
    parser.add_argument("--version", action="version", version=f"fastlock {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=_Parser)

    demo = commands.add_parser(
        "demo",
        help="watch locks work on a real server, beside redis-py's Lock",
        description="Threads and asyncio tasks increment counters on the server by an unprotected "
        "read and write, each increment under a lock; then the counters are compared with what "
        "was counted here. Starts a server of its own unless --url or --env names one.",
        epilog="Exit code: 0 no update was lost, 1 some were, 2 the work could not be done.",
    )
    which = demo.add_mutually_exclusive_group()
    which.add_argument("--url", help="use this server (keys of its own, removed at the end)")
    which.add_argument(
        "--env", action="store_true",
        help="use the server of FASTLOCK_URL and its kin; others cannot see a password there",
    )  # fmt: skip
    demo.add_argument(
        "--seconds", type=_within(float, 0.2, 3600), default=6.0, metavar="S",
        help="time to work, all rows of the table together (default: 6)",
    )  # fmt: skip
    demo.add_argument(
        "--threads", type=_within(int, 1, 256), default=16, metavar="N", help="default: 16"
    )
    demo.add_argument(
        "--tasks", type=_within(int, 1, 4096), default=64, metavar="N", help="default: 64"
    )
    demo.add_argument(
        "--no-lock", action="store_true", help="the same work without locks: updates get lost"
    )
    demo.add_argument("--json", action="store_true", help="print the result as JSON")

    doctor = commands.add_parser(
        "doctor",
        help="what is installed, what the server can do, what to mend",
        description="Says what is installed, which core runs and why, which settings are in "
        "force, and how the server does; takes and releases one lock of its own there.",
        epilog="Exit code: 0 nothing is wrong, 1 a line begins with 'problem:', 2 wrong usage.",
    )
    doctor.add_argument(
        "--url",
        help="the server (default: FASTLOCK_URL and its kin, which keep a password out of the list "
        "of processes, else redis://localhost:6379)",
    )
    return parser


def _within(kind: type[int] | type[float], low: float, high: float) -> Callable[[str], float]:
    """An argparse type: a number from ``low`` to ``high``."""

    def read(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = low - 1
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"must be a number from {low} to {high}")
        return value

    return read
