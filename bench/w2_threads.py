"""W2: threads, a key each, one client. Law: the server on one core, the client on the other."""

from __future__ import annotations

from typing import Any

from .runner import Plan, compete
from .servers import Server
from .specs import named

SHORT = "c-threads c-depth fastlock fastlock-pure redis-py+hiredis"
FULL = SHORT + " fastlock-with drop-in redis-py valkey-py python-redis-lock pottery"
RIVAL, LIMIT = "redis-py+hiredis", "c-threads"


def run(
    server: Server, cores: tuple[int, int], rounds: int, full: bool, threads: int
) -> dict[str, Any]:
    """So many threads in each contestant's process."""
    plan = Plan("w2", threads, *cores, rounds, 0.5)
    return compete(named(FULL if full else SHORT), plan, server)
