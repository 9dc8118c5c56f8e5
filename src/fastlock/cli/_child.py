"""The command that ``fastlock run`` runs: in which process group, and how it is told things.

Law: whoever has the terminal shares it. In the terminal's foreground group the child stays in
ours, so that Ctrl-C, Ctrl-Z and reading from the terminal are as without us; what the keyboard
sends it gets from there, and not from us as well. Anywhere else it leads a group of its own, and
whatever it is told its own children are told too.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import warnings
from collections.abc import Iterable, Mapping, Sequence

from fastlock.errors import FastlockError

from . import _exits
from ._ending import dies_with_us
from ._signals import Heard


class NotRun(FastlockError):
    """The command could not be started; ``code`` is what shells say then."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


def check(command: str) -> None:
    """Raises NotRun if there surely is no such command: better before the lock is taken."""
    if shutil.which(command) is not None:
        return
    if os.path.dirname(command) and os.path.exists(command):
        raise NotRun(f"{command}: cannot be executed", _exits.NOT_EXECUTABLE)
    raise NotRun(f"{command or repr(command)}: command not found", _exits.NOT_FOUND)


def _has_terminal() -> bool:
    """Whether our process group is the foreground group of the controlling terminal."""
    with contextlib.suppress(OSError):
        terminal = os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY)
        try:
            return os.tcgetpgrp(terminal) == os.getpgrp()
        finally:
            os.close(terminal)
    return False


class Child:
    """A running command. The main thread's: where that ends, however it does, so does the child.

    (Linux; elsewhere a child outlives a parent that was killed by force.)
    """

    def __init__(
        self,
        words: Sequence[str],
        variables: Mapping[str, str],
        mask: Iterable[int],
        outlives: bool,
    ) -> None:
        """Start it, with ``mask`` as its blocked signals; raises NotRun."""
        self.shares = _has_terminal()
        die = None if outlives else dies_with_us()

        def prepare() -> None:  # in the child: its only thread
            if not self.shares:
                os.setpgid(0, 0)
            if die is not None:
                die()
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)

        try:
            with warnings.catch_warnings():  # of forking beside threads, which are left behind
                warnings.simplefilter("ignore", DeprecationWarning)
                self._process = subprocess.Popen(words, env=variables, preexec_fn=prepare)
        except FileNotFoundError:
            raise NotRun(f"{words[0]}: command not found", _exits.NOT_FOUND) from None
        except OSError as error:
            raise NotRun(
                f"{words[0]}: cannot be executed: {error.strerror}", _exits.NOT_EXECUTABLE
            ) from None

    def code(self) -> int | None:
        """Its exit code, as shells say it; None while it runs."""
        code = self._process.poll()
        return _exits.SIGNALLED - code if code is not None and code < 0 else code

    def pass_on(self, heard: Heard) -> None:
        """Tell it of a signal that came to us, unless it has got that itself."""
        if not (self.shares and heard.keyboard):
            self.tell(heard.number)

    def tell(self, number: int) -> None:
        """Send it a signal; to its whole group, if that is its own."""
        if self._process.poll() is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            if self.shares:
                os.kill(self._process.pid, number)
            else:
                os.killpg(self._process.pid, number)
