"""The shell in which commands of the pages run, and the servers that they find.

Law: real servers, commands as they stand but for what ``INSTEAD`` says. What a session prints is
compared with the page; numbers, labels and the lines of tables may differ.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import _replicas
import _servers
import pytest
from _pages import Block

import fastlock
from fastlock import _impl

#: What is run in a command's place.
INSTEAD = {
    # Nobody is there to be asked.
    "fastlock release --force orders:42": "fastlock release --force --yes orders:42",
    # It would go on until Ctrl-C.
    "fastlock watch orders:": "fastlock watch orders: --once",
    # Each of the five rows takes as many seconds.
    "fastlock bench --seconds 1": "fastlock bench --seconds 0.2",
    "fastlock bench --seconds 5": "fastlock bench --seconds 0.2",
    # A busy machine needs longer to start the next command; the session's end ends this one.
    "fastlock run report -- sh -c 'echo working on $FASTLOCK_KEY; sleep 1' &": (
        "fastlock run report -- sh -c 'echo working on $FASTLOCK_KEY; sleep 300' &"
    ),
    # The shell's part of it is the reader's.
    'eval "$(fastlock completion bash)"': "fastlock completion bash",
    'eval "$(fastlock completion zsh)"': "fastlock completion zsh",
    "fastlock completion fish > ~/.config/fish/completions/fastlock.fish": (
        "fastlock completion fish"
    ),
}
#: Seconds for a command, and for a line that must come.
PATIENCE = 90.0


class Shell:
    """Where commands run: with this ``fastlock`` first on PATH, and a server in FASTLOCK_URL."""

    def __init__(self, server: _servers.Server, folder: Path) -> None:
        self.server = server
        self.servers = [server]  # all that the page has been led to
        self.folder = folder
        self.variables = {
            **{name: value for name, value in os.environ.items() if "FASTLOCK" not in name},
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "HOME": str(folder),
            "FASTLOCK_CORE": _impl.core.name,
            "COLUMNS": "100",
        }

    def left(self) -> list[bytes]:
        """Locks at the servers: everything but what ends by itself beside them."""
        keys = [key for server in self.servers for key in server.admin.keys("*")]
        return [key for key in keys if key != b"fl:mark" and b":fastlock." not in key]

    def run(self, command: str) -> str:
        """To its end, which must be a good one; what it printed."""
        command = INSTEAD.get(command, command)
        ran = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", self._placed(command)],
            capture_output=True, text=True, timeout=PATIENCE, env=self._environment(command),
            cwd=self.folder, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        assert ran.returncode == 0, f"{command}: {ran.returncode}\n{ran.stdout}{ran.stderr}"
        assert "Traceback" not in ran.stderr, ran.stderr
        return ran.stdout

    def session(self, block: Block) -> None:
        """Say each ``$ command`` to one shell when what was said before has been answered."""
        if "jq " in block.text and shutil.which("jq") is None:
            pytest.skip("jq is not installed")
        process = subprocess.Popen(
            ["bash"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, bufsize=1, env=self._environment(block.text), cwd=self.folder,
        )  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        heard: list[str] = []
        stdout = process.stdout
        reader = threading.Thread(target=lambda: heard.extend(iter(stdout.readline, "")))
        reader.start()
        wanted: list[str] = []
        try:
            for line in block.text.splitlines():
                if line.startswith("$ "):
                    _heard(heard, wanted)
                    command = INSTEAD.get(line[2:], line[2:])
                    # The first look of many, unlike a single one, has durations.
                    command = command.replace(" --once", " --interval 600 &")
                    process.stdin.write(self._placed(command) + "\n")
                elif line.strip():
                    wanted.append(line)
            _heard(heard, wanted)
            process.stdin.write('[ -z "$!" ] || kill $!\nwait\n')
            process.stdin.close()
            process.wait(PATIENCE)
            reader.join(PATIENCE)
        finally:
            process.kill()
            process.wait()
            reader.join(PATIENCE)
            stdout.close()
        said = [line for line in heard if line.strip()]
        assert _alike(said) == _alike(wanted), "".join(said)

    def _placed(self, command: str) -> str:
        return command.replace("localhost:6379", f"localhost:{self.server.port}")

    def _environment(self, command: str) -> dict[str, str]:
        url = {} if "--url" in command else {"FASTLOCK_URL": self.server.uri}
        return {**self.variables, **url}

    @contextmanager
    def scene(self, _: Shell) -> Iterator[None]:
        """The one of every page that names none: an empty server."""
        yield


def _heard(heard: list[str], wanted: list[str]) -> None:
    """Wait for as many lines as the page has by now."""
    end = time.monotonic() + PATIENCE
    while len([line for line in heard if line.strip()]) < len(wanted):
        assert time.monotonic() < end, f"wanted:\n{wanted}\nheard:\n{''.join(heard)}"
        time.sleep(0.01)


def _alike(lines: list[str]) -> list[str]:
    """But for numbers, labels, versions, and how wide a table is; exit codes are as they are."""
    shown = (line.strip() for line in lines if line.strip())
    return [line if line.isdigit() else _shape(line) for line in shown]


def _shape(text: str) -> str:
    text = re.sub(r"[\w.-]+:\d+(?=\s|;|$)", "LABEL", text)
    text = text.replace("orders:LABEL", "LABEL")
    text = re.sub(r"core (cython|python)", "core CORE", text)
    text = re.sub(r"(valkey|redis) ([\d.]+)", "SERVER", text)
    text = re.sub(r"\b(DELIFEQ|DELEX|EVALSHA)\b", "RELEASE", text)
    text = re.sub(r"redis://localhost:\d+", "URI", text)
    text = re.sub(r"[\d,]*\d(\.\d+)*", "#", text)
    return re.sub(r"[ ─]+", " ", text)


# ------------------------------------------------------------------ what the pages' servers are


def places(text: str, shell: Shell) -> dict[str, str]:
    """Address that the text names -> that of a real server."""
    if "min_replicas" in text:
        shell.servers[0] = _replicas.master("valkey")
        shell.servers[0].admin.flushall()  # what earlier tests have left there
    port = str(shell.servers[0].port)
    replaced = {"localhost:6379": f"localhost:{port}"}
    replaced['"connection.port", 6379'] = f'"connection.port", {port}'
    replaced["redis.Redis()"] = f"redis.Redis(port={port})"
    replaced["port=6379"] = f"port={port}"
    replaced["start_http_server(9000)"] = "start_http_server(0)"  # one that is free
    if "a.example" in text:
        shell.servers += _independent()
        for letter, server in zip("abc", _independent(), strict=True):
            replaced[f"{letter}.example:6379"] = f"localhost:{server.port}"
    return replaced


_started: list[_servers.Server] = []


def _independent() -> list[_servers.Server]:
    """Three, for a quorum; started once."""
    while len(_started) < 3:
        _started.append(_servers.Server("valkey"))
    return _started


# ------------------------------------------------------------------ what was there before


@contextmanager
def _orders(shell: Shell) -> Iterator[None]:
    """orders:42 and orders:43 are held; somebody waits for the latter in its fair queue."""
    with fastlock.Client(shell.server.uri) as client, fastlock.Client(shell.server.uri) as other:
        leases = [client.acquire(f"orders:{n}", ttl=300) for n in (42, 43)]
        waiter = threading.Thread(target=_waits, args=(other,))
        waiter.start()
        while not shell.server.admin.exists(b"orders:43:fastlock.queue:{orders:43}"):
            time.sleep(0.01)
        try:
            yield
        finally:
            client.release_many(leases)
            waiter.join(PATIENCE)


def _waits(client: Any) -> None:
    client.acquire("orders:43", ttl=30, timeout=PATIENCE, fair=True).release()


SCENES: dict[str, Callable[[Shell], AbstractContextManager[None]]] = {
    "docs/cli.md": _orders,
    "docs/operations.md": _orders,
}
