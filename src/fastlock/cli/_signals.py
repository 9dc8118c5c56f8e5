"""Signals for a command that runs another one: taken one by one, in order, by a thread.

Law: they are blocked in every thread, so none interrupts anything between two bytecodes, and none
is lost; a thread takes them with the system's own word on who has sent them. Signals that were
ignored when the process began stay so, as nohup and shells mean it. They stay blocked to the
end of the process: a late one must not change its exit code.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterable
from typing import NamedTuple

#: Those by which people and systems end a program, or tell it something.
_PASSED_ON = ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2")
#: Whether the system says who has sent a signal; elsewhere the keyboard's are taken for its own.
_EXACT: bool = sys.platform == "linux"


class Heard(NamedTuple):
    """One signal. ``keyboard``: the terminal has sent it, to its whole foreground group."""

    number: int
    keyboard: bool


class Ear:
    """Made by the main thread, before there is any other: threads inherit what is blocked."""

    def __init__(self) -> None:
        # Left alone it could be dropped unheard; ignored, it would reap children.
        signal.signal(signal.SIGCHLD, lambda *_: None)
        passed_on = {getattr(signal, name) for name in _PASSED_ON}
        heard = {number for number in passed_on if signal.getsignal(number) != signal.SIG_IGN}
        self._numbers = {*heard, signal.SIGCHLD}
        #: What was blocked before, as a child should have it again.
        self.before: Iterable[int] = signal.pthread_sigmask(signal.SIG_BLOCK, self._numbers)
        self._closing = False
        self._thread: threading.Thread | None = None

    def listen(self, tell: Callable[[Heard], object]) -> None:
        """Call ``tell`` on a thread of its own for each signal; SIGCHLD is one of them."""
        self._thread = threading.Thread(
            target=self._listen, args=(tell,), name="fastlock-signals", daemon=True
        )
        self._thread.start()

    def _listen(self, tell: Callable[[Heard], object]) -> None:
        while True:
            heard = self._take()
            if self._closing:
                return
            tell(heard)

    def _take(self) -> Heard:
        if _EXACT:
            told = signal.sigwaitinfo(self._numbers)
            return Heard(told.si_signo, told.si_code > 0)  # above 0: the kernel's own
        number = signal.sigwait(self._numbers)
        return Heard(number, number in (signal.SIGINT, signal.SIGQUIT))

    def close(self) -> None:
        """End the thread."""
        self._closing = True
        if self._thread is not None and self._thread.ident is not None:
            signal.pthread_kill(self._thread.ident, signal.SIGCHLD)
            self._thread.join()
