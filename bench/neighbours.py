"""Neighbours: a batch of 100,000 keys, and what it does to another caller of the same client.

Law: the server with the buffers it has by itself, on one core, the client on the other. One
caller does pair after pair; the other acquires all keys in one call and releases them in one
call. Rounds are whole batches, however long they take.
"""

from __future__ import annotations

from typing import Any

from .runner import Heat, Plan, race
from .servers import Server
from .specs import named

KEYS = 100_000
ALL = "fastlock fastlock-pure fastlock-aio fastlock-aio-pure redis-py-raw"


def run(server: Server, cores: tuple[int, int], rounds: int) -> dict[str, Any]:
    """One section."""
    return race([Heat(named(ALL), Plan("beside", KEYS, *cores, rounds, 0.3), server)])[0]
