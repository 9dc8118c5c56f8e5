"""W6: W2 from 1, 2 and 4 processes at once, a client each. Law: the server on one core, all
client processes on the other, all begin at one word; their pairs are added up.

No target: what several processes reach on one core says more about the machine than about
a client. It shows that nothing breaks down when several share a server.
"""

from __future__ import annotations

from typing import Any

from .runner import Heat, Plan, race
from .servers import Server
from .specs import named

PROCESSES = (1, 2, 4)
THREADS = 32  # in each process
ALL = "c-threads fastlock fastlock-pure redis-py+hiredis"


def run(server: Server, cores: tuple[int, int], rounds: int) -> dict[str, Any]:
    """Sections by name: w6-1, w6-2, w6-4."""
    heats = [
        Heat(named(ALL), Plan("w2", THREADS, *cores, rounds, 0.5, processes=number), server)
        for number in PROCESSES
    ]
    return dict(zip([f"w6-{number}" for number in PROCESSES], race(heats), strict=True))
