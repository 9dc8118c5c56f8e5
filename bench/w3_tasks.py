"""W3: asyncio tasks, a key each, one client. Law: the server on one core, the client on the
other; asyncio is compared with asyncio and uvloop with uvloop.
"""

from __future__ import annotations

from typing import Any

from .runner import Plan, compete
from .servers import Server
from .specs import named

SHORT = (
    "c-depth machinery fastlock-aio fastlock-aio-pure redis-aio fastlock-uvloop redis-aio-uvloop"
)
FULL = SHORT + " machinery-uvloop fastlock-aio-with drop-in-aio coredis"
RIVAL, LIMIT = "redis-aio", "machinery"


def run(
    server: Server, cores: tuple[int, int], rounds: int, full: bool, tasks: int
) -> dict[str, Any]:
    """So many tasks in each contestant's process."""
    plan = Plan("w3", tasks, *cores, rounds, 0.4)
    return compete(named(FULL if full else SHORT), plan, server)
