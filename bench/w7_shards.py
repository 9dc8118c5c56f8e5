"""W7: one client over 1, 2, 4 and 8 masters of a cluster, and a batch over 3. Law: all masters on
one core, the client on the other; what counts is the client's CPU per pair. All sizes of one
kind of caller take turns within each round, the plain server too, so that they are one measurement.

How many pairs/s that is says nothing here, for the masters share a core. What would come of a core
for each is estimated from what client and masters used per pair: ``estimate``.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

from .clusters import clustered
from .figures import median
from .runner import Heat, Plan, race
from .servers import Server
from .specs import named

SHARDS = (1, 2, 4, 8)
#: Masters that a batch is spread over, and its keys.
BATCH_OVER, KEYS = 3, 10_000
#: Kinds of caller: workload, how many (a lone one goes through so many keys in turn), and whether
#: for each master. The same callers over more masters have less to send to each at once.
KINDS = {
    "lone": ("w1", 64, False),
    "threads": ("w2", 32, False),
    "tasks": ("w3", 256, False),
    "threads-each": ("w2", 8, True),
    "tasks-each": ("w3", 128, True),
}
#: Who is measured, on a cluster and on a plain server, in the same order.
CLUSTER = {
    "lone": "fastlock-cluster fastlock-cluster-pure redis-py-cluster",
    "threads": "fastlock-cluster fastlock-cluster-pure redis-py-cluster",
    "tasks": "fastlock-aio-cluster fastlock-aio-cluster-pure",
    "threads-each": "fastlock-cluster fastlock-cluster-pure",
    "tasks-each": "fastlock-aio-cluster fastlock-aio-cluster-pure",
    "batch": "fastlock-cluster fastlock-cluster-pure fastlock-aio-cluster "
    "fastlock-aio-cluster-pure",
}
PLAIN = {
    "lone": "fastlock fastlock-pure redis-py+hiredis",
    "threads": "fastlock fastlock-pure redis-py+hiredis",
    "tasks": "fastlock-aio fastlock-aio-pure",
    "threads-each": "fastlock fastlock-pure",
    "tasks-each": "fastlock-aio fastlock-aio-pure",
    "batch": "fastlock fastlock-pure fastlock-aio fastlock-aio-pure",
}
#: Cores of workers, and masters with a core each, of the estimate.
WORKERS, MASTERS = (1, 2, 4, 8, 16), SHARDS

Sections = dict[str, dict[str, Any]]


def run(server: Server, kind: str, cores: tuple[int, int], rounds: int) -> Sections:
    """Sections by name: w7-lone-plain, w7-lone-1, ... w7-batch-plain, w7-batch-3.

    ``server`` is the plain one, ``kind`` that of the masters.
    """
    with ExitStack() as stack:
        clusters = {
            masters: stack.enter_context(clustered(kind, cores[0], masters))
            for masters in sorted({*SHARDS, BATCH_OVER})
        }
        sections: Sections = {}
        for caller, (workload, count, each) in KINDS.items():
            plan = Plan(workload, count, *cores, rounds, 0.3)
            heats = {f"w7-{caller}-plain": Heat(named(PLAIN[caller]), plan, server)}
            for masters in SHARDS:
                plan = Plan(workload, count * masters if each else count, *cores, rounds, 0.3)
                heat = Heat(named(CLUSTER[caller]), plan, clusters[masters])
                heats[f"w7-{caller}-{masters}"] = heat
            sections.update(zip(heats, race(list(heats.values())), strict=True))
        plan = Plan("w4", KEYS, *cores, rounds, 0.3)
        heats = {
            "w7-batch-plain": Heat(named(PLAIN["batch"]), plan, server),
            f"w7-batch-{BATCH_OVER}": Heat(named(CLUSTER["batch"]), plan, clusters[BATCH_OVER]),
        }
        sections.update(zip(heats, race(list(heats.values())), strict=True))
    return sections


def growth(sections: Sections, caller: str, who: str) -> dict[int, float]:
    """For each number of masters above one: the CPU per pair in relation to that with one."""
    alone = sections.get(f"w7-{caller}-1")
    base = median(alone, who, "cpu") if alone else None
    found = {}
    for masters in SHARDS[1:]:
        section = sections.get(f"w7-{caller}-{masters}")
        here = median(section, who, "cpu") if section else None
        if base and here is not None:
            found[masters] = here / base
    return found


def costs(sections: Sections, caller: str, who: str, masters: int) -> tuple[float, float] | None:
    """CPU seconds per pair: the client's, and that of all masters together; None: not known."""
    section = sections.get(f"w7-{caller}-{masters}")
    client = median(section, who, "cpu") if section else None
    server = median(section, who, "server") if section else None
    return (client, server) if client and server else None


def estimate(client: float, server: float, workers: int, masters: int) -> tuple[float, float]:
    """pairs/s that so many cores of workers could ask for, and so many masters could serve.

    ``client`` and ``server`` are CPU seconds per pair. The lesser of the two is the estimate.
    """
    return workers / client, masters / server
