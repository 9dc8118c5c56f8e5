"""Rivals for a few locks of a quorum whose servers are killed meanwhile; what they saw.

Law: as of tests/chaos, whose history and checker judge: workers know nothing of these. The log
says nothing of the servers: whatever befell one of them, it excuses nothing.
"""

from __future__ import annotations

import random
import threading
from collections import Counter
from itertools import count
from typing import Any

from _harness import Ways
from _quorum import Masters, quorum
from chaos._checker import Verdict, check
from chaos._history import history_of
from chaos._log import Event, now

import fastlock

#: Seconds; long beside a restart, so that a lease outlasts it.
TTL = 2.0


class Tale:
    """The events of a run. Threads append to one list, which needs no lock."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.seen: Counter[str] = Counter()
        self._numbers = count(1)

    def tell(self, who: str, e: str, **fields: Any) -> None:
        self.events.append({"e": e, "t": now(), "p": who, **fields})
        self.seen[e] += 1

    def begin(self, who: str, key: str, ttl: float = TTL) -> str:
        name = f"{who}-{next(self._numbers)}"
        self.tell(
            who, "try", id=name, key=key, ttl=ttl, how="acquire", fence=False, renew=False,
            fair=False,
        )  # fmt: skip
        return name

    def got(self, who: str, name: str, lease: Any) -> None:
        valid, deadline = lease.valid(), lease.deadline
        self.tell(who, "got", id=name, valid=valid, deadline=deadline, ttl=lease.ttl, fence=None)

    async def take(self, who: str, client: Any, key: str, timeout: float) -> tuple[str, Any]:
        """One acquire, told; the lease, or None."""
        name = self.begin(who, key)
        try:
            lease = await client.acquire(key, ttl=TTL, timeout=timeout)
        except (fastlock.AcquireTimeout, fastlock.OutcomeUnknown, fastlock.TransportError) as why:
            self.tell(who, "not", id=name, why=type(why).__name__)
            return name, None
        self.got(who, name, lease)
        return name, lease

    async def give(self, who: str, name: str, lease: Any) -> None:
        """One release, told."""
        self.tell(who, "release", id=name)
        try:
            answer = str(await lease.release()).lower()
        except fastlock.OutcomeUnknown:
            answer = "unknown"
        self.tell(who, "released", id=name, answer=answer)

    def verdict(self) -> Verdict:
        """Of all that was told; every worker has come to its end."""
        events = sorted(self.events, key=lambda event: float(event["t"]))
        for who in sorted({event["p"] for event in events}):
            events.append({"e": "end", "t": now(), "p": who, "left": []})
        return check(history_of(events))


class Killer(threading.Thread):
    """kill -9 of one server after the other while rivals acquire; each is started again at once.

    ``middle`` counts the kills that struck while a rival was inside an acquire, be it between
    two tries.
    """

    def __init__(self, nodes: Masters, kills: int, acquiring: set[str], seed: int) -> None:
        super().__init__(name="body", daemon=True)
        self._nodes = nodes
        self._kills = kills
        self._acquiring = acquiring
        self._random = random.Random(seed)
        self.middle = 0
        self.over = threading.Event()

    def run(self) -> None:
        try:
            for _ in range(self._kills):
                self.over.wait(self._random.uniform(0.0, 0.01))
                number = self._random.randrange(len(self._nodes))
                self.middle += bool(self._acquiring)
                self._nodes.kill(number)
                self._nodes.start(number)
        finally:
            self.over.set()


async def run(fl: Ways, nodes: Masters, kills: int, seed: int = 1) -> tuple[Tale, int]:
    """Rivals until so many servers were killed; what they told, and kills amid an acquire."""
    tale, acquiring = Tale(), set[str]()
    keys = [fl.key(), fl.key()]
    killer = Killer(nodes, kills, acquiring, seed)

    async def rival(who: str) -> None:
        client = quorum(fl, nodes.uris, retry_timeout=10, node_timeout=0.1)
        chance = random.Random(who)
        while not killer.over.is_set():
            acquiring.add(who)
            name, lease = await tale.take(who, client, chance.choice(keys), 0.5)
            acquiring.discard(who)
            if lease is not None:
                await fl.sleep(chance.choice((0.0, 0.001, 0.02)))
                await tale.give(who, name, lease)

    killer.start()
    await fl.together([rival(who) for who in "abcd"])
    killer.join(60)
    return tale, killer.middle
