"""W5: eight callers on ONE key, as threads, as tasks, as processes; held not at all, 1 ms, 10 ms.

Law: the server on one core, all clients on the other; what counts is a hand-over to another
caller, for one lucky caller who takes the lock again and again is quick work for nobody. The
rival to be compared with polls a hundred times as often as it does by itself.
"""

from __future__ import annotations

from dataclasses import replace
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
#: Seconds of a slice without and with holding; rounds at the longest hold, which spreads least.
SHORT, SLICE, FEW = 0.4, 0.5, 3
#: The hold whose waits are kept one percent by one, for drawing.
DRAWN = "-1ms"


def run(server: Server, cores: tuple[int, int], rounds: int, quick: bool) -> dict[str, Any]:
    """Sections by name: w5-threads, w5-threads-1ms and so on."""
    sections: dict[str, Any] = {}
    for suffix, hold in HOLDS.items():
        longest = hold == max(HOLDS.values())
        plan = Plan(
            "", CALLERS, *cores, min(rounds, FEW) if longest else rounds,
            0.3 if quick else SLICE if hold else SHORT, timed=suffix == DRAWN,
        )  # fmt: skip
        heats = {
            f"w5-{kind}{suffix}": Heat(
                named(contestants(kind, quick, longest)),
                replace(plan, workload=f"{loop}@{hold}"),
                server,
            )
            for kind, (loop, *_) in KINDS.items()
            if not (quick and suffix) or (kind, suffix) == ("processes", "-1ms")
        }
        if heats:
            sections.update(zip(heats, race(list(heats.values())), strict=True))
    return sections


def contestants(kind: str, quick: bool = False, longest: bool = False) -> str:
    """Ours and the rivals, spaces between; at the longest hold without the Python core, for
    there its own speed matters least."""
    _, rival, others = KINDS[kind]
    if quick:
        return f"{variants.names(kind)[0]} {rival}"
    ours = [name for name in variants.names(kind) if not (longest and name.endswith("-pure"))]
    return " ".join([*ours, rival, others])
