"""Python programs that tests run beside them, and talk to by lines.

Law: a program that waits for ever fails its test: every line has to come in time, and
whatever happens the process is gone when the test is over.
"""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

TESTS = Path(__file__).parent
#: Seconds that a line, or the end, may take: far beyond what any of them needs.
PATIENCE = 60


class Program:
    """One running program."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self._held = b""

    @property
    def pid(self) -> int:
        return self.process.pid

    def said(self) -> str:
        """Its next line; at its end what it complained of."""
        out = self.process.stdout
        assert out is not None
        with selectors.DefaultSelector() as selector:
            selector.register(out, selectors.EVENT_READ)
            while b"\n" not in self._held:
                assert selector.select(PATIENCE), "the program says nothing"
                more = os.read(out.fileno(), 4096)
                if not more:
                    assert self.process.stderr is not None
                    return f"it ended: {self._held!r} {self.process.stderr.read().decode()}"
                self._held += more
        line, _, self._held = self._held.partition(b"\n")
        return line.decode()

    def tell(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n".encode())
        self.process.stdin.flush()

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def ended(self, timeout: float = PATIENCE) -> tuple[int, str, str]:
        """Its code, and what it had left to say and to complain of."""
        out, err = self.process.communicate(timeout=timeout)
        return self.process.returncode, (self._held + out).decode(), err.decode()


@contextmanager
def program(*words: str, **variables: str) -> Iterator[Program]:
    """``python WORDS``, with the tests' modules at hand and any warning an error.

    It is the first of a group of processes; those that it leaves behind end with the test.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith("FASTLOCK_")}
    path = os.pathsep.join(filter(None, [str(TESTS), kept.get("PYTHONPATH")]))
    process = subprocess.Popen(
        # A client that is not closed leaves its socket to the end, which some programs are about.
        [sys.executable, "-W", "error", "-W", "ignore::ResourceWarning", *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**kept, "PYTHONPATH": path, **variables},
        start_new_session=True,
    )
    try:
        with process:
            try:
                yield Program(process)
            finally:
                if process.poll() is None:
                    process.kill()
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
