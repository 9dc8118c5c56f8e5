"""The command line at a terminal: a pseudo terminal of its own, whose keyboard the test is.

Law: what it shows is read as it comes, so it never waits for its reader; a process that does not
end by itself is ended with the test.
"""

from __future__ import annotations

import fcntl
import os
import pty
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager

from _cli import SECRET

from fastlock import _impl

#: Makes the terminal its controlling one, then is what the words say.
LEADS = """
import fcntl, os, sys, termios
os.setsid()
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""
CTRL_C = b"\x03"


class Terminal:
    """One program at it. Lines end as the program wrote them, by \\n."""

    def __init__(self, *words: str, **env: str) -> None:
        self._near, far = pty.openpty()
        fcntl.ioctl(far, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
        kept = {name: text for name, text in os.environ.items() if not name.startswith("FASTLOCK_")}
        self.process = subprocess.Popen(
            [sys.executable, "-c", LEADS, "-m", "fastlock", *words],
            stdin=far, stdout=far, stderr=far,
            env={**kept, "FASTLOCK_CORE": _impl.core.name, "TERM": "xterm", **env},
        )  # fmt: skip
        os.close(far)
        self.shown = ""

    def type(self, keys: bytes) -> None:
        """As somebody at the keyboard would."""
        os.write(self._near, keys)

    def until(self, text: str, timeout: float = 60.0) -> str:
        """Wait until it has shown this; all that it has shown."""
        end = time.monotonic() + timeout
        while text not in self.shown:
            assert self.read(end - time.monotonic()), f"not shown: {text!r}; {self.shown!r}"
        return self.shown

    def ended(self, timeout: float = 60.0) -> int:
        """Its exit code, when it has shown everything."""
        end = time.monotonic() + timeout
        while self.read(end - time.monotonic()):
            pass
        code = self.process.wait(max(0.1, end - time.monotonic()))
        assert "Traceback" not in self.shown, self.shown
        assert SECRET not in self.shown, self.shown
        return code

    def read(self, seconds: float) -> bool:
        """Take what it shows within that time; False at its end, or if that is nothing."""
        if seconds <= 0 or not select.select([self._near], [], [], seconds)[0]:
            return False
        try:
            more = os.read(self._near, 65536)
        except OSError:  # how Linux says that nobody has it open any more
            return False
        self.shown += more.decode(errors="replace").replace("\r\n", "\n")
        return bool(more)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(20)
        os.close(self._near)


@contextmanager
def terminal(*words: str, **env: str) -> Iterator[Terminal]:
    """``fastlock WORDS`` at one."""
    it = Terminal(*words, **env)
    try:
        yield it
    finally:
        it.close()
