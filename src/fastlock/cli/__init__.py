"""The command line: ``fastlock run``, ``status``, ``watch``, ``release`` and others.

Law: a command is imported when it is asked for; whatever goes wrong becomes one readable line
that says what to try, never a traceback, never a secret. It is laid out by click (extra
``cli``); without that ``doctor`` alone works, and says so.

Exit codes stand in ``_exits.py``.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from importlib.util import find_spec

from fastlock.errors import AcquireTimeout, ConfigError, FastlockError, LockLost

from . import _exits

__all__ = ["main"]

#: Whatever looks like a uri, or a part of one, may hold a password.
_URI = re.compile(r"\S*(://|@)\S*")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command (None: the process's arguments) and return its exit code."""
    from . import _streams

    try:
        _streams.prepare()
        words = list(sys.argv[1:] if argv is None else argv)
        parser = "_plain" if find_spec("click") is None else "_parser"
        code: int = import_module(f"fastlock.cli.{parser}").run(words)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        return complain("interrupted", _exits.INTERRUPTED)
    except BrokenPipeError:
        return _streams.unread()
    except (FastlockError, ImportError) as error:
        return complain(_told(error), _code(error))
    except OSError as error:  # of our own: a server's is a TransportError
        return _streams.unwritten(error)
    except Exception as error:
        return complain(_unforeseen(error), _exits.UNFORESEEN)


def _told(error: FastlockError | ImportError) -> str:
    """What is wrong and, where it is the server, what to try."""
    if not isinstance(error, FastlockError):
        return str(error)
    from ._advice import what_to_try

    advice = what_to_try(error)
    return f"{error}; {advice}" if advice else str(error)


def _code(error: FastlockError | ImportError) -> int:
    if isinstance(error, (ConfigError, ImportError)):
        return _exits.USAGE
    if isinstance(error, AcquireTimeout):
        return _exits.NOT_ACQUIRED
    return _exits.FOUND_WRONG if isinstance(error, LockLost) else _exits.SERVER


def complain(message: str, code: int = _exits.USAGE, command: str = "fastlock") -> int:
    """Say it in one line, if stderr can be written; the exit code, in any case."""
    with suppress(OSError):
        print(f"{command}: {one_line(message)}", file=sys.stderr, flush=True)
    return code


def one_line(text: str) -> str:
    """``text`` in one line, without what a terminal would obey: it may be a server's."""
    return "".join(c if c.isprintable() else " " if c.isspace() else "?" for c in text).strip()


def printable(key: str) -> str:
    """A key as people read and type it: spaces stay, what a terminal would obey is spelled out."""
    return "".join(c if c.isprintable() else _spelled(c) for c in key)


def _spelled(char: str) -> str:
    """A sign by its number; a byte that is no UTF-8, for which a surrogate stands, by its own."""
    if "\udc80" <= char <= "\udcff":
        return f"\\x{ord(char) - 0xDC00:02x}"
    return char.encode("unicode_escape").decode()


def quoted(key: str) -> str:
    """A key inside a sentence."""
    return f"'{printable(key)}'"


def without_uris(text: str) -> str:
    """``text`` without what could be a password: for words that a user typed."""
    return _URI.sub("(a uri)", text)


def _unforeseen(error: Exception) -> str:
    """What and where, without the values that a traceback could show."""
    where = ""
    trace = error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        where = f" at {os.path.basename(code.co_filename)}:{trace.tb_lineno}"
        trace = trace.tb_next
    return f"{type(error).__name__}{where}: {without_uris(str(error))}"
