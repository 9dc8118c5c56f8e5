"""W3: asyncio tasks, a key each, one client. Law: the server on one core, the client on the
other; asyncio is compared with asyncio and uvloop with uvloop; all sizes take turns within
one round.
"""

from __future__ import annotations

from typing import Any

from .runner import Heat, Plan, race
from .servers import Server
from .specs import named

#: Numbers of tasks; at some of them the rivals run too.
CURVE = (1, 4, 16, 64, 256, 1024)
OURS = "fastlock-aio fastlock-aio-pure fastlock-uvloop fastlock-uvloop-pure"
SHORT = OURS + " redis-aio redis-aio-uvloop"
QUICK = "machinery fastlock-aio fastlock-aio-pure redis-aio fastlock-uvloop redis-aio-uvloop"
WIDE = "c-depth machinery machinery-uvloop " + SHORT + " coredis valkey-glide"
FULL = WIDE + " fastlock-aio-with drop-in-aio"
RIVAL, LIMIT = "redis-aio", "machinery"


def run(
    server: Server, cores: tuple[int, int], rounds: int, sizes: dict[int, str]
) -> dict[str, Any]:
    """Sections by name; ``sizes``: which contestants with how many tasks."""
    heats = [
        Heat(named(names), Plan("w3", tasks, *cores, rounds, 0.4, timed=True), server)
        for tasks, names in sizes.items()
    ]
    return dict(zip([f"w3-{tasks}" for tasks in sizes], race(heats), strict=True))


def sizes(full: bool = False) -> dict[int, str]:
    """The whole curve; at 256 tasks every rival and the bare machinery."""
    return {
        tasks: (FULL if full else WIDE) if tasks == 256 else SHORT if tasks >= 64 else OURS
        for tasks in CURVE
    }
