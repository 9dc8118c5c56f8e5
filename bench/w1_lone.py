"""W1: one caller, one key, pair after pair. Law: client and server share one core, where a
wake-up costs a tenth of one across cores.
"""

from __future__ import annotations

from typing import Any

from .runner import Plan, Spec, compete
from .servers import Server
from .specs import COMPILED, named

QUICK = "c-hiredis c-deferred fastlock fastlock-deferred fastlock-pure redis-py+hiredis redis-py"
SHORT = (
    "c-sockets c-deferred c-hiredis c-hiredis-format fastlock fastlock-with fastlock-deferred"
    " fastlock-pure fastlock-deferred-pure fastlock-aio fastlock-aio-pure"
    " redis-py+hiredis redis-py redis-py-raw python-redis-lock pottery valkey-glide-sync"
    " redis-aio coredis valkey-glide"
)
FULL = SHORT + " drop-in drop-in-pure valkey-py fastlock-uvloop redis-aio-uvloop"
RIVAL, LIMIT = "redis-py+hiredis", "c-hiredis"
#: In one process: both cores beside the rival, in slices of 0.15 s.
TOGETHER = [
    Spec("fastlock", "compiled core", python="fastlock", env=COMPILED),
    Spec("fastlock-pure", "Python core", python="fastlock-python"),
    Spec("redis-py+hiredis", "redis-py Lock", python="redis-py", needs="redis, hiredis"),
]


def run(server: Server, cores: tuple[int, int], rounds: int, names: str) -> dict[str, Any]:
    """Each contestant in its own process, by turns."""
    plan = Plan("w1", 1, cores[0], cores[0], rounds, 0.2, latencies=min(3, rounds))
    return compete(named(names), plan, server)


def run_together(server: Server, cores: tuple[int, int], rounds: int) -> dict[str, Any]:
    """The Python contestants in one process, by turns."""
    plan = Plan("w1", 1, cores[0], cores[0], 2 * rounds, 0.15, together=True)
    return compete(TOGETHER, plan, server)
