"""W5: eight callers on ONE key, as threads, as tasks, as processes; held not at all, or 1 ms.

Law: the server on one core, all clients on the other; what counts is a hand-over to another
caller, for one lucky caller who takes the lock again and again is quick work for nobody.
Rivals poll a hundred times as often as they do by themselves.
"""

from __future__ import annotations

from typing import Any

from .runner import Heat, Plan, race
from .servers import Server
from .specs import named

CALLERS = 8
HOLD = 0.001  # seconds
KINDS = {
    "threads": ("w5", "fastlock fastlock-pure redis-py+hiredis python-redis-lock"),
    "tasks": ("w5", "fastlock-aio fastlock-aio-pure redis-aio coredis"),
    "processes": ("w5p", "fastlock fastlock-pure redis-py+hiredis python-redis-lock"),
}
RIVALS = {"threads": "redis-py+hiredis", "tasks": "redis-aio", "processes": "redis-py+hiredis"}


def run(server: Server, cores: tuple[int, int], rounds: int) -> dict[str, Any]:
    """Sections by name: w5-threads, w5-threads-1ms and so on."""
    sections: dict[str, Any] = {}
    for suffix, hold in (("", 0.0), ("-1ms", HOLD)):
        heats = {
            f"w5-{kind}{suffix}": Heat(
                named(names), Plan(f"{loop}@{hold}", CALLERS, *cores, rounds, 0.6), server
            )
            for kind, (loop, names) in KINDS.items()
        }
        sections.update(zip(heats, race(list(heats.values())), strict=True))
    return sections
