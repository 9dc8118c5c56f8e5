"""The command line as users run it: a process of its own.

Law: what it prints is read whole; its environment holds no setting but those given.
"""

from __future__ import annotations

import contextlib
import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from fastlock import _impl
from fastlock.cli import main

#: Every process started; those that a failed test has left are ended after it.
RUNNING: list[subprocess.Popen[str]] = []
SECRET = "hunter2-not-to-be-seen"
#: Runs the command line in a Python where some packages cannot be imported.
WITHOUT = """
import sys
for name in {names!r}:
    sys.modules[name] = None
from fastlock.cli import main
sys.exit(main(sys.argv[1:]))
"""


class Ran(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()


def started(*args: str, python: tuple[str, ...] = ("-m", "fastlock"), **env: str) -> Any:
    """The process, with pipes for its output."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("FASTLOCK_")}
    process = subprocess.Popen(
        [sys.executable, *python, *args],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # The core that this test session runs on, where a test does not name one.
        env={**kept, "FASTLOCK_CORE": _impl.core.name, **env},
    )
    RUNNING.append(process)
    return process


def ended(process: Any) -> Ran:
    """Its exit code and output; neither may show a traceback or the secret."""
    out, err = process.communicate(timeout=120)
    for text in (out, err):
        assert "Traceback" not in text, text
        assert SECRET not in text, text
    return Ran(process.returncode, out, err)


def cli(*args: str, **env: str) -> Ran:
    """Run it to its end."""
    return ended(started(*args, **env))


def here(*args: str) -> Ran:
    """Say it to this process's own: for words that are refused before anything is done."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(args)
    assert SECRET not in out.getvalue() + err.getvalue()
    return Ran(code, out.getvalue(), err.getvalue())


def cli_without(names: tuple[str, ...], *args: str, **env: str) -> Ran:
    """As ``cli``, without those packages."""
    return ended(started(*args, python=("-c", WITHOUT.format(names=names)), **env))


def complaint(ran: Ran) -> str:
    """The one line of stderr; there is nothing else."""
    assert ran.out == ""
    (line,) = ran.err.splitlines()
    return line


def until(true: Callable[[], Any], timeout: float = 60.0) -> Any:
    """Wait for it; the value it has then."""
    end = time.monotonic() + timeout
    while not (value := true()):
        assert time.monotonic() < end, f"not true within {timeout} s"
        time.sleep(0.01)
    return value


def children(process: Any) -> set[int]:
    """Ids of the processes that it has started and that still run."""
    listed = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True, check=True)
    pairs = [tuple(map(int, line.split())) for line in listed.stdout.splitlines()]
    return {pid for pid, parent in pairs if parent == process.pid}


def running(pids: set[int]) -> bool:
    """Whether any of these processes still runs (a zombie does not)."""
    chosen = ["ps", "-o", "stat=", "-p", ",".join(map(str, pids))]
    listed = subprocess.run(chosen, capture_output=True, text=True, check=False)
    return any(not line.startswith("Z") for line in listed.stdout.split())


def line(process: Any) -> str:
    """Its next line, without waiting for its end."""
    said: str = process.stdout.readline()
    assert said, process.stderr.read()
    return said.rstrip("\n")


def end_all() -> None:
    """End what still runs, politely: it may have a server to end."""
    for process in RUNNING:
        if process.poll() is None:
            process.terminate()
            process.wait(20)
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                stream.close()
    RUNNING.clear()


__all__ = [
    "SECRET", "Ran", "children", "cli", "cli_without", "complaint", "end_all", "ended", "here",
    "line", "running", "signal", "started", "until",
]  # fmt: skip
