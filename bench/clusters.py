"""Clusters for measuring: masters alone, started here, ended here.

Law: that of ``servers.py``. All masters of all clusters share the server's core: what is measured
beside them is what the client pays, and what each of them used.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

from .servers import Server, ask, running

SLOTS = 16384
#: Seconds in which the masters must have met.
PATIENCE = 20.0


@dataclass
class Cluster(Server):
    """Its masters together; the port is that of the first."""

    masters: list[Server] = field(default_factory=list)

    @property
    def title(self) -> str:
        return f"{super().title} x {len(self.masters)}"

    def ask(self, *words: str) -> str:
        """As ``Server.ask``, of each; the first one's answer."""
        first, *_ = [master.ask(*words) for master in self.masters]
        return first

    def connections(self) -> int:
        return sum(master.connections() for master in self.masters)

    def cpu(self) -> float:
        return sum(master.cpu() for master in self.masters)


@contextmanager
def clustered(kind: str, core: int, masters: int) -> Iterator[Cluster]:
    """So many masters, each with an equal share of the slots, until the block ends."""
    with ExitStack() as stack:
        found = [
            stack.enter_context(running(kind, core, ("--cluster-enabled", "yes")))
            for _ in range(masters)
        ]
        for number, master in enumerate(found):
            first, end = SLOTS * number // masters, SLOTS * (number + 1) // masters
            _told(master, "CLUSTER", "SET-CONFIG-EPOCH", str(number + 1))
            _told(master, "CLUSTER", "ADDSLOTSRANGE", str(first), str(end - 1))
            bus = master.ask("CONFIG", "GET", "cluster-port").split()[-1]
            _told(found[0], "CLUSTER", "MEET", "127.0.0.1", str(master.port), bus)
        _wait_until_met(found)
        one = found[0]
        yield Cluster(
            one.port, one.pid, one.name, one.version, one.script, one.native, masters=found
        )


def _told(master: Server, *words: str) -> None:
    answer = master.ask(*words)
    if answer != "+OK":
        raise RuntimeError(f"{' '.join(words)}: {answer}")


def _wait_until_met(masters: list[Server]) -> None:
    end = time.monotonic() + PATIENCE
    for master in masters:
        while True:
            info = ask(master.port, "CLUSTER", "INFO")
            if "cluster_state:ok" in info and f"cluster_known_nodes:{len(masters)}" in info:
                break
            if time.monotonic() > end:
                raise RuntimeError(f"the masters have not met: {info}")
            time.sleep(0.02)
