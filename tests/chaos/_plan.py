"""A seed -> which faults come when, and what each worker does, step by step.

Law: pure; nothing here depends on what happened before, so a seed gives the same faults at the
same times and the same steps again. How they meet is up to the machine.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from typing import NamedTuple

#: (API, core) of each worker process; its place here is its slot.
WAYS = (("sync", "cython"), ("async", "cython"), ("sync", "python"), ("async", "python"))
#: How each hands locks over between its threads or tasks.
HANDOVER = ("swap", "swap", "local", "local")
#: Threads or tasks of a process. A sync one's first is the main thread, which signals reach.
ACTORS = 4
#: What all fight for. Locks of even ones have fencing numbers, always: else they promise nothing.
KEYS = tuple(f"chaos:{number}" for number in range(6))
#: Seconds. A lease of a key that nobody else wants, to see whether it is given back at all.
LONG = 3600.0
PLAIN_TTLS = (0.3, 0.5, 1.0, 2.0)
RENEWED_TTLS = (1.0, 1.5, 3.0)
#: Of all leases, how many are renewed.
RENEWED = 0.4
#: Of those that are waited for, how many are fair.
FAIR = 0.4
#: No lease of KEYS lives longer, in seconds, without being extended.
LONGEST = 3.0

#: The server's data is gone: leases are valid by their own words, and nobody knows of them.
LOSSES = ("flush", "wipe", "failover")
SERVER_FAULTS = (
    *LOSSES,
    "restart",  # in order, with its data
    "crash",  # killed, with its data
    "demote",  # to a read-only replica, and back
    "clients",  # all connections killed
    "pause",  # CLIENT PAUSE
    "stall",  # stopped, its sockets stay
    "scripts",  # forgotten
    "memory",  # none left for writes
)
PROCESS_FAULTS = ("kill", "freeze", "interrupt")


class Fault(NamedTuple):
    at: float  #: seconds after the beginning
    kind: str
    seconds: float  #: how long it lasts, where that is ours to say
    slot: int  #: the process; -1: the server


def faults(
    seed: int, seconds: float, kinds: tuple[str, ...] = SERVER_FAULTS
) -> tuple[list[Fault], list[Fault]]:
    """Those of the server, of these kinds, and those of processes, in order, within ``seconds``."""
    return (
        _server_faults(Random(f"{seed}/server"), seconds, kinds),
        _process_faults(Random(f"{seed}/processes"), seconds),
    )


def _bags(random: Random, kinds: tuple[str, ...]) -> Iterator[str]:
    """Each kind once, then again and again, in ever new order: a short run has all of them.

    Losses come together, and less often: most of the time nothing is excused.
    """
    losses = [kind for kind in kinds if kind in LOSSES]
    others = [kind for kind in kinds if kind not in LOSSES]
    yield from random.sample(others, len(others))
    while True:
        yield from random.sample(losses, len(losses))
        for _ in range(3):
            yield from random.sample(others, len(others))


def _server_faults(random: Random, seconds: float, kinds: tuple[str, ...]) -> list[Fault]:
    planned: list[Fault] = []
    at = 0.5
    for kind in _bags(random, kinds):
        lasts = random.choice((random.uniform(0.05, 0.4), random.uniform(0.4, 1.5)))
        if kind not in ("demote", "pause", "stall", "memory"):
            lasts = 0.0
        if at + lasts > seconds:
            return planned
        planned.append(Fault(at, kind, lasts, -1))
        at += lasts + random.uniform(0.1, 0.9)
    raise AssertionError("bags never end")


def _process_faults(random: Random, seconds: float) -> list[Fault]:
    planned: list[Fault] = []
    interruptible = [slot for slot, (api, _) in enumerate(WAYS) if api == "sync"]
    at = 0.8
    for kind in _bags(random, PROCESS_FAULTS):
        slots = interruptible if kind == "interrupt" else range(len(WAYS))
        slot = random.choice(slots)
        lasts = random.choice((random.uniform(0.1, 1.0), random.uniform(1.0, 3.5)))
        if kind != "freeze":
            lasts = 0.0
        if at + lasts > seconds:
            return planned
        planned.append(Fault(at, kind, lasts, slot))
        at += random.uniform(0.3, 1.2)
    raise AssertionError("bags never end")


class Step(NamedTuple):
    """One thing an actor does: take one lock or two, hold, perhaps extend, let go."""

    how: str  #: "try", "wait", "with", "many", "all"
    keys: tuple[str, ...]  #: none: a key of its own, with a long ttl
    ttl: float
    patience: float  #: seconds to wait for it
    fence: bool
    renew: bool
    hold: float  #: seconds
    extend: float | None  #: to so many seconds, in the middle of holding
    ending: str  #: "release", "deferred", "expire"
    cut: float | None  #: asyncio: cancelled after so many seconds; 0: as soon as it has asked
    fork: bool  #: while holding
    look: bool  #: ask the server what it has, while holding and after
    fair: bool  #: in the order of arrival, among those who ask so


def steps(seed: int, slot: int, life: int, actor: int) -> Iterator[Step]:
    """What an actor does, endlessly; its process is the ``life``-th that fills the slot."""
    random = Random(f"{seed}/{slot}/{life}/{actor}")
    api = WAYS[slot][0]
    interrupted = api == "sync" and actor == 0
    while True:
        if not interrupted and random.random() < 0.15:
            yield _alone(random, api)
        else:
            yield _together(random, api)


def _cut(random: Random, api: str, hold: float, often: float) -> float | None:
    if api == "sync" or random.random() > often:
        return None
    return random.choice((0.0, random.uniform(0, 0.002), random.uniform(0, 0.05 + hold)))


def _fair(random: Random, how: str) -> bool:
    """What does not wait has no order."""
    return how in ("wait", "with") and random.random() < FAIR


def _alone(random: Random, api: str) -> Step:
    hold = random.uniform(0, 0.1)
    how = random.choice(("try", "wait", "with"))
    return Step(
        how=how,
        keys=(),
        ttl=LONG,
        patience=random.uniform(0.02, 0.5),
        fence=random.random() < 0.3,
        renew=False,
        hold=hold,
        extend=None,
        ending=random.choice(("release", "release", "deferred")),
        cut=_cut(random, api, hold, 0.6),
        fork=False,
        look=random.random() < 0.5,
        fair=_fair(random, how),
    )


def _together(random: Random, api: str) -> Step:
    how = random.choice(("try", "try", "wait", "wait", "wait", "with", "with", "many", "all"))
    fence = random.random() < 0.5
    candidates = KEYS[::2] if fence else KEYS[1::2]
    keys = tuple(random.sample(candidates, 2 if how in ("many", "all") else 1))
    renew = random.random() < RENEWED
    ttl = random.choice(RENEWED_TTLS if renew else PLAIN_TTLS)
    kind = random.random()
    if kind < 0.6:
        hold = random.uniform(0, 0.03)
    elif kind < 0.85:
        hold = random.uniform(0, 0.8) * ttl
    else:
        hold = random.uniform(0.8, 2.5 if renew else 1.5) * ttl
    extend = None
    if random.random() < 0.3:
        extend = random.choice(RENEWED_TTLS if renew else PLAIN_TTLS)
    ending = random.choice(("release",) * 7 + ("deferred",) * 2 + ("expire",))
    if ending == "expire" and (renew or how not in ("try", "wait")):
        ending = "release"
    return Step(
        how=how,
        keys=keys,
        ttl=ttl,
        patience=random.choice((random.uniform(0, 0.2), random.uniform(0.2, 3.0))),
        fence=fence,
        renew=renew,
        hold=hold,
        extend=extend,
        ending=ending,
        cut=_cut(random, api, hold, 0.25),
        fork=random.random() < 0.05,
        look=random.random() < 0.3,
        fair=_fair(random, how),
    )
