"""W5's wake-ups: two processes, one waits for the other's lock; how long after that is free
does it have it, when it was released and when its holder was killed.

Law: the server on one core, both processes on the other. Released: from the moment before the
release was called (by redis-py: was sent), against the round trip of a PING on the waiter's own
client, after each wake-up. Killed: from the end of the dead one's lease. Both also on a server in
which very many other keys wait for their end, for such a server finds a key that is over later.
"""

from __future__ import annotations

from typing import Any

from .runner import Heat, Plan, race
from .servers import Server
from .specs import named

#: Seconds of the lease of a holder who is killed.
TTL = 0.2
#: Other keys with an end of their own, minutes away.
OTHERS = 200_000
FILL = (
    "for i = 1, tonumber(ARGV[1]) do "
    "redis.call('SET', 'bench:other:' .. i, 'x', 'PX', 600000 + i) end return 1"
)
OURS = "fastlock fastlock-pure fastlock-aio fastlock-aio-pure"
AFTER = "fastlock-after-redis-py fastlock-aio-after-redis-py"
RIVALS = "redis-py+hiredis redis-py-default redis-aio python-redis-lock"
CROWDED = "fastlock fastlock-aio redis-py+hiredis"
QUICK = "fastlock redis-py+hiredis"


def run(server: Server, cores: tuple[int, int], rounds: int, quick: bool) -> dict[str, Any]:
    """Sections by name: w5-wakeup, w5-killed, and the same with -200k."""
    wakeup = Plan("wakeup", 2, *cores, rounds, 0.5)
    if quick:
        return _race(server, {"w5-wakeup": (QUICK, wakeup)})
    killed = Plan(f"killed@{TTL}", 2, *cores, min(3, rounds), 0.6)
    dying = f"{OURS} redis-py+hiredis"
    alone = {"w5-wakeup": (f"{OURS} {AFTER} {RIVALS}", wakeup), "w5-killed": (dying, killed)}
    sections = _race(server, alone)
    server.ask("EVAL", FILL, "0", str(OTHERS))
    try:
        crowded = {"w5-wakeup-200k": (CROWDED, wakeup), "w5-killed-200k": (dying, killed)}
        return sections | _race(server, crowded)
    finally:
        server.ask("FLUSHALL")


def _race(server: Server, plans: dict[str, tuple[str, Plan]]) -> dict[str, Any]:
    heats = [Heat(named(names), plan, server) for names, plan in plans.values()]
    return dict(zip(plans, race(heats), strict=True))
