"""W5: eight callers on ONE key, as threads, as tasks, as processes; held not at all, 1 ms, 10 ms.

Law: the server on one core, all clients on the other; what counts is a hand-over to another
caller, for one lucky caller who takes the lock again and again is quick work for nobody. The
rival to be compared with polls a hundred times as often as it does by itself.
"""

from __future__ import annotations

from typing import Any

from . import variants
from .runner import Heat, Plan, race
from .servers import Server
from .specs import named

CALLERS = 8
#: Seconds that the lock is held, by the ending of a section's name.
HOLDS = {"": 0.0, "-1ms": 0.001, "-10ms": 0.010}
#: How a child runs the callers, the rival to be compared with, and the others.
KINDS = {
    "threads": ("w5", "redis-py+hiredis", "redis-py-default python-redis-lock"),
    "tasks": ("w5", "redis-aio", "redis-aio-default coredis"),
    "processes": ("w5p", "redis-py+hiredis", "redis-py-default python-redis-lock"),
}
RIVALS = {kind: rival for kind, (_, rival, _) in KINDS.items()}
#: The hold whose waits are kept one percent by one, for drawing.
DRAWN = "-1ms"


def run(server: Server, cores: tuple[int, int], rounds: int, quick: bool) -> dict[str, Any]:
    """Sections by name: w5-threads, w5-threads-1ms and so on."""
    sections: dict[str, Any] = {}
    for suffix, hold in HOLDS.items():
        heats = {}
        for kind, (loop, rival, others) in KINDS.items():
            if quick and suffix and (kind, suffix) != ("processes", "-1ms"):
                continue
            chosen = [variants.names(kind)[0], rival]
            if not quick:
                chosen = [*variants.names(kind), rival, *others.split()]
            plan = Plan(
                f"{loop}@{hold}", CALLERS, *cores, rounds, 0.3 if quick else 0.5,
                timed=suffix == DRAWN,
            )  # fmt: skip
            heats[f"w5-{kind}{suffix}"] = Heat(named(" ".join(chosen)), plan, server)
        if heats:
            sections.update(zip(heats, race(list(heats.values())), strict=True))
    return sections
