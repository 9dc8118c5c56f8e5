"""A master with replicas, for tests: real processes, each ended here by its own id.

Law: as of ``_servers.py``. A group is started once in a session for each kind of server; whoever
stops one of its replicas lets it go on before the test ends.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import _servers
import pytest

#: They are asked to copy at once, not after five seconds, in which more replicas might come.
AT_ONCE = {"repl_diskless_sync_delay": "0"}


class Master(_servers.Server):
    """A server with replicas of its own."""

    def __init__(self, kind: str, number: int) -> None:
        super().__init__(kind, **AT_ONCE)
        self.replicas = [_servers.Server(kind, **AT_ONCE) for _ in range(number)]
        for replica in self.replicas:
            replica.admin.execute_command("REPLICAOF", "127.0.0.1", self.port)
        until(lambda: self.online() == number and self.confirmed() == number)

    def online(self) -> int:
        """How many replicas have copied everything, and hear of each write."""
        facts = self.admin.info("replication")
        slaves = [facts[f"slave{n}"] for n in range(facts["connected_slaves"])]
        return sum(one["state"] == "online" for one in slaves)

    def confirmed(self) -> int:
        """How many replicas have all that there is by now; asked by somebody else."""
        self.admin.set("fl:mark", "x", px=1000)
        return int(self.admin.wait(len(self.replicas), 1000))

    @contextmanager
    def without_replicas(self, number: int | None = None) -> Iterator[None]:
        """The first ``number`` of them, or all, are stopped meanwhile, but stay connected."""
        stopped = self.replicas[: number if number is not None else len(self.replicas)]
        for replica in stopped:
            replica.freeze()
        try:
            yield
        finally:
            for replica in stopped:
                replica.thaw()
            until(lambda: self.confirmed() == len(self.replicas))

    # -- what it was asked

    def count(self) -> Callable[[], dict[str, int]]:
        """From now on; the function tells how often each command was carried out until then."""
        self.admin.config_resetstat()

        def counted() -> dict[str, int]:
            stats: dict[str, Any] = self.admin.info("commandstats")
            return {name.removeprefix("cmdstat_"): one["calls"] for name, one in stats.items()}

        return counted

    def waiting(self) -> int:
        """How many connections are in a WAIT at this moment."""
        return sum(one["cmd"] == "wait" and "b" in one["flags"] for one in self.admin.client_list())

    def named(self, name: str) -> list[str]:
        """The numbers of the connections that have this name."""
        return [one["id"] for one in self.admin.client_list() if one["name"] == name]


def master(kind: str) -> Master:
    """The session's master of that kind, with two replicas.

    A server that was given may have replicas, but none that a test could stop.
    """
    kind = "valkey" if kind == "given" else kind
    if _servers.binary_of(kind) is None:
        pytest.skip(f"{kind}-server is not installed")
    return _started(kind)


@cache
def _started(kind: str) -> Master:
    started = Master(kind, 2)
    _servers.MET[f"{kind} with replicas"] = f"{started.version} with replicas"
    return started


def until(true: Callable[[], Any], timeout: float = 20.0) -> None:
    """Until ``true()`` is."""
    end = time.monotonic() + timeout
    while not true():
        assert time.monotonic() < end, "the replicas are not ready in time"
        time.sleep(0.01)
