"""W4: one caller acquires N keys at once, then releases them at once. Law: the server on one
core, the client on the other; one pair is one key acquired and released.
"""

from __future__ import annotations

from typing import Any

from .runner import Plan, compete
from .servers import Server
from .specs import named

#: Keys in a batch.
SIZES = (10, 100, 1000, 10_000, 100_000)
ALL = "c-pipeline c-pipeline-hiredis fastlock fastlock-pure redis-py-raw"
#: On a server with a compare-and-delete of its own.
NATIVE = "c-pipeline-native c-pipeline fastlock fastlock-script"
RIVAL, LIMIT = "redis-py-raw", "c-pipeline"
NATIVE_RIVAL, NATIVE_LIMIT = "fastlock-script", "c-pipeline-native"


def run(
    server: Server, cores: tuple[int, int], rounds: int, keys: int, names: str = ALL
) -> dict[str, Any]:
    """So many keys in each batch; the greatest take a slice longer than asked for."""
    return compete(named(names), Plan("w4", keys, *cores, rounds, 0.4), server)
