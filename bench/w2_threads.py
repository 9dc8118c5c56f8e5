"""W2: threads, a key each, one client. Law: the server on one core, the client on the other;
all sizes take turns within one round, so that a curve over them is one measurement.
"""

from __future__ import annotations

from typing import Any

from .runner import Heat, Plan, race
from .servers import Server
from .specs import named

#: Numbers of threads; at some of them the rivals and the limit run too.
CURVE = (1, 2, 4, 8, 16, 32, 64, 128, 256)
COMPARED = (8, 32, 64)
OURS = "fastlock fastlock-pure"
SHORT = "c-threads fastlock fastlock-pure redis-py+hiredis"
WIDE = (
    "c-threads c-depth fastlock fastlock-with fastlock-pure redis-py+hiredis redis-py"
    " python-redis-lock pottery valkey-glide-sync"
)
FULL = WIDE + " drop-in valkey-py"
RIVAL, LIMIT = "redis-py+hiredis", "c-threads"


def run(
    server: Server, cores: tuple[int, int], rounds: int, sizes: dict[int, str]
) -> dict[str, Any]:
    """Sections by name; ``sizes``: which contestants with how many threads."""
    heats = [
        Heat(
            named(names), Plan("w2", threads, *cores, rounds, slice_of(threads), timed=True), server
        )
        for threads, names in sizes.items()
    ]
    return dict(zip([f"w2-{threads}" for threads in sizes], race(heats), strict=True))


def slice_of(threads: int) -> float:
    """Seconds: long against what starting and ending so many threads takes."""
    return 0.4 if threads <= 64 else 1.0


def sizes(full: bool = False) -> dict[int, str]:
    """The whole curve; at 32 threads every rival, at the other compared sizes the best."""
    chosen = dict.fromkeys(CURVE, OURS)
    chosen.update(dict.fromkeys(COMPARED, WIDE if full else SHORT))
    chosen[32] = FULL if full else WIDE
    return chosen
