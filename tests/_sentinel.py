"""Servers that Sentinels watch: real processes, a master, its replicas, and who promotes them.

Law: as of ``_servers.py``. Whatever is killed here comes back by ``restore``, so one topology
serves a whole module. What was promoted is looked up, never assumed.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import redis
from _servers import Server, binary_of, free_port, tls_binary

#: The name by which Sentinels know the master.
SERVICE = "main"
#: Milliseconds: a server that is silent for so long is down; the longest failover.
_DOWN_AFTER, _FAILOVER = 1000, 3000


def wait_until(true: Callable[[], Any], timeout: float = 60.0) -> None:
    """Until ``true()`` is; fails after ``timeout`` seconds. What cannot be reached is not."""
    end = time.monotonic() + timeout
    while True:
        with suppress(redis.RedisError, OSError):
            if true():
                return
        assert time.monotonic() < end, f"it did not come about within {timeout} s"
        time.sleep(0.02)


class SentinelServer:
    """One Sentinel that watches a master. ``lines`` are further ones of its configuration."""

    def __init__(
        self,
        kind: str,
        port: int,
        quorum: int,
        lines: tuple[str, ...] = (),
        tls: dict[str, str] | None = None,
    ) -> None:
        binary = tls_binary() if tls else binary_of(kind)
        assert binary is not None, f"{kind} is not installed"
        self.port = free_port()
        self.password: str | None = None
        self.tls = tls
        self.folder = Path(tempfile.mkdtemp(prefix="fl-"))
        conf = self.folder / "sentinel.conf"  # which it writes anew
        ports = f"port 0\ntls-port {self.port}" if tls else f"port {self.port}"
        secure = [f'{name} "{value}"' for name, value in (tls or {}).items()]
        conf.write_text(
            "\n".join(
                [
                    ports, "bind 127.0.0.1", f"dir {self.folder}", *secure,
                    f"sentinel monitor {SERVICE} 127.0.0.1 {port} {quorum}",
                    f"sentinel down-after-milliseconds {SERVICE} {_DOWN_AFTER}",
                    f"sentinel failover-timeout {SERVICE} {_FAILOVER}", *lines, "",
                ]
            )
        )  # fmt: skip
        self.command = [binary, str(conf), "--sentinel"]
        self.process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        """Start it, and wait until it answers."""
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                self.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=os.environ
            )
        wait_until(lambda: self("PING"))

    def __call__(self, *words: str) -> Any:
        """Its answer to one command, over a connection for that; True if it wants a password."""
        secure = {"ssl": True, "ssl_cert_reqs": "none"} if self.tls else {}
        with redis.Redis(port=self.port, socket_timeout=2, **secure) as asked:
            try:
                return asked.execute_command(*words)
            except redis.AuthenticationError:
                return True

    def state(self) -> dict[str, str]:
        """What it says of the master."""
        return _facts(self("SENTINEL", "MASTER", SERVICE))

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def end(self) -> None:
        """End it; it may be started again."""
        process, self.process = self.process, None
        if process is not None:
            process.send_signal(signal.SIGCONT)
            process.terminate()
            process.wait(10)

    def freeze(self) -> None:
        """Its sockets stay, nothing is answered."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def discard(self) -> None:
        self.end()
        shutil.rmtree(self.folder, ignore_errors=True)


def _facts(answer: Any) -> dict[str, str]:
    """Names and values, in RESP2 one after the other."""
    flat = [part for pair in answer.items() for part in pair] if type(answer) is dict else answer
    words = [part.decode() for part in flat]
    return dict(zip(words[::2], words[1::2], strict=True))


class Watched:
    """A master, ``replicas`` of it, and ``sentinels`` that promote one when the master is gone."""

    def __init__(self, kind: str, replicas: int = 2, sentinels: int = 3) -> None:
        kind = "valkey" if kind == "given" else kind
        self.kind = kind
        self.servers: list[Server] = []
        self.sentinels: list[SentinelServer] = []
        try:
            for _ in range(1 + replicas):
                self.servers.append(Server(kind, repl_diskless_sync_delay="0"))
            self.first = self.servers[0]
            for replica in self.servers[1:]:
                replica.admin.replicaof("127.0.0.1", str(self.first.port))
            for replica in self.servers[1:]:
                wait_until(lambda replica=replica: self._follows(replica, self.first))
            quorum = sentinels // 2 + 1
            for _ in range(sentinels):
                self.sentinels.append(SentinelServer(kind, self.first.port, quorum))
            wait_until(lambda: all(self._ready(one) for one in self.sentinels))
        except BaseException:
            self.discard()
            raise

    def _ready(self, sentinel: SentinelServer) -> bool:
        """Whether it knows all the others, and enough to promote a replica."""
        if int(sentinel.state()["num-other-sentinels"]) != len(self.sentinels) - 1:
            return False
        found = map(_facts, sentinel("SENTINEL", "REPLICAS", SERVICE))
        good = [one for one in found if one["flags"] == "slave"]
        return len(good) == len(self.servers) - 1

    def _follows(self, replica: Server, master: Server) -> bool:
        info = replica.admin.info("replication")
        return info.get("master_port") == master.port and info["master_link_status"] == "up"

    @property
    def uri(self) -> str:
        """Where clients are told to look."""
        return f"redis+sentinel://{','.join(one.address for one in self.sentinels)}/{SERVICE}"

    @property
    def master(self) -> Server:
        """The server that all Sentinels name, and that is one; waits until they agree."""
        found: list[Server] = []

        def agreed() -> bool:
            ports = self.named()
            found[:] = [one for one in self.servers if {one.port} == ports and one.process]
            return bool(found) and found[0].admin.info("replication")["role"] == "master"

        wait_until(agreed)
        return found[0]

    @property
    def admin(self) -> redis.Redis:
        """An independent client of the master."""
        return self.master.admin

    @property
    def version(self) -> str:
        return f"{self.servers[0].version} with Sentinel"

    def replicas(self) -> list[Server]:
        """Those that run and are no master."""
        master = self.master
        return [one for one in self.servers if one is not master and one.process is not None]

    def named(self) -> set[int]:
        """The ports that the Sentinels call the master's."""
        found = set()
        for sentinel in self.sentinels:
            state = sentinel.state()
            found.add(0 if "down" in state["flags"] else int(state["port"]))
        return found

    def restore(self) -> None:
        """Start what was killed; all follow the master that there is then.

        That may be another one by and by: on a busy machine a second of silence is enough for it.
        """

        def whole() -> bool:
            master = self.master
            for server in self.servers:
                if server.process is None:
                    server._admin = None
                    server.start()
                if server is not master and not self._follows(server, master):
                    if server.admin.info("replication").get("master_port") != master.port:
                        server.admin.replicaof("127.0.0.1", str(master.port))
                    return False
            return all(self._ready(one) for one in self.sentinels) and master is self.master

        wait_until(whole)

    def discard(self) -> None:
        """End all of it."""
        for process in (*self.sentinels, *self.servers):
            process.discard()
