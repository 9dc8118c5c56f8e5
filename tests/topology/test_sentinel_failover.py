"""A master that Sentinels watch is killed under load, and another one is promoted.

Law: real processes, ``kill -9``; three Sentinels and two replicas. What was acquired is judged by
its history; when the next master was promoted, the Sentinels say.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from itertools import pairwise
from typing import Any, NamedTuple

import pytest
from _harness import SERVERS, Ways
from _sentinel import Watched, wait_until
from _servers import Server

from fastlock.errors import LockLost, OutcomeUnknown, TransportError

pytestmark = pytest.mark.slow

#: Seconds after the promotion in which a client must go on by itself.
GOES_ON = 1.0
#: Of the load's leases, in seconds. A release that the old master has answered may be lost with
#: it; then its key is there until this has passed, which it has when another one is promoted.
TTL = 1.0
#: Seconds after the kill in which an answer of the old master may still be read.
LATE = 0.3


@pytest.fixture(scope="module")
def server(server_of: Any) -> Iterator[Watched]:
    server_of(SERVERS[0])  # for the sum at the end
    watched = Watched(SERVERS[0])
    yield watched
    watched.discard()


class Held(NamedTuple):
    """One lease: when its acquire returned, and when its release was called, or it ended."""

    worker: int
    key: str
    token: str
    since: float
    until: float


class Promotion:
    """Notes when the Sentinels have named another master. A thread of its own."""

    def __init__(self, watched: Watched, old: Server) -> None:
        self.at = 0.0
        self._watched = watched
        self._old = old.port
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def _watch(self) -> None:
        wait_until(lambda: self._watched.named() - {0, self._old}, 30)
        self.at = time.monotonic()

    def wait(self) -> float:
        """When; seconds on the monotonic clock."""
        self._thread.join()
        assert self.at, "nobody was promoted"
        return self.at


class Load:
    """Workers that take and free locks: the even ones a common key, the odd ones their own."""

    def __init__(self, fl: Ways, clients: list[Any]) -> None:
        self.history: list[Held] = []
        self.over = False
        self.common = fl.key("common")
        self._workers = [
            fl.spawn(self._work(fl, number, clients[number // 2 % len(clients)]))
            for number in range(8)
        ]

    async def _work(self, fl: Ways, number: int, client: Any) -> None:
        key = fl.key("own") if number % 2 else self.common
        while not self.over:
            lease = await client.acquire(key, ttl=TTL, timeout=30)
            since, left = time.monotonic(), lease.remaining()
            await fl.sleep(0.002)
            until = min(time.monotonic(), since + left)
            self.history.append(Held(number, key, lease.token, since, until))
            with suppress(TransportError, OutcomeUnknown):  # its key is not there any more
                await lease.release()

    async def end(self) -> None:
        self.over = True
        for worker in self._workers:
            await worker

    def judge(self, killed: float, promoted: float) -> None:
        """Everybody went on in time, and what was acquired since excludes each other."""
        after = [held for held in self.history if held.since > killed + LATE]
        for key in {held.key for held in self.history}:
            first = min(held.since for held in after if held.key == key)
            assert first < promoted + GOES_ON, (key, first - promoted)
        before = {held.token for held in self.history} - {held.token for held in after}
        assert before, "there was no load before"
        tokens = [held.token for held in self.history]
        assert len(tokens) == len(set(tokens)), "one acquisition was reported twice"
        common = [held for held in after if held.key == self.common]
        common.sort(key=lambda held: held.since)
        assert len(common) > 10
        for one, next_one in pairwise(common):
            assert one.until <= next_one.since, "two held the key on the new master"


@pytest.mark.alone
async def test_clients_go_on_with_the_promoted_master(fl: Ways, server: Watched) -> None:
    server.restore()
    old = server.master
    replicas = server.replicas()
    clients = [fl.client(server.uri, retries=10) for _ in range(2)]
    keeping, waiting = clients[0], fl.client(server.uri, retries=10, client_name="waiting",
                                             retry_timeout=60_000)  # fmt: skip
    kept = await keeping.acquire(fl.key("kept"), ttl=20, auto_renew=True)
    waiter = fl.spawn(waiting.acquire(kept.key, ttl=20, timeout=60))
    await fl.until(lambda: is_told(old))
    assert old.admin.wait(2, 5000) == 2  # both have it
    load = Load(fl, clients)
    await fl.sleep(0.3)

    for replica in replicas:  # no replica gets the next key
        replica.freeze()
    old.admin.execute_command("CLIENT", "KILL", "TYPE", "replica")
    gone = await keeping.acquire(fl.key("gone"), ttl=9, auto_renew=True)
    promotion = Promotion(server, old)
    killed = time.monotonic()
    old.kill()
    for replica in replicas:
        replica.thaw()

    # A lease whose key did not survive is lost, in a third of its ttl and a second.
    assert await gone.lost.wait(30) is True
    told = time.monotonic()
    promoted = promotion.wait()
    assert told < promoted + 9 / 3 + 1
    assert not server.admin.exists(gone.key)
    with pytest.raises(LockLost):
        await gone.extend()

    # One whose key did goes on, and who waits for it is woken by the new master.
    await fl.until(lambda: is_told(server.master), 20)
    assert kept.valid()
    assert not kept.lost
    assert not waiter.done()
    begun = time.monotonic()
    assert await kept.release() is True
    lease = await waiter
    assert time.monotonic() - begun < 5  # it looks by itself every ten seconds at most
    assert server.admin.get(lease.key) == lease.token.encode()
    assert await lease.release() is True

    await fl.sleep(max(0.0, promoted + GOES_ON - time.monotonic()))
    await load.end()
    load.judge(killed, promoted)


def is_told(master: Server) -> bool:
    """Whether that server tells who waits of a change."""
    return any(
        one["name"] == "waiting" and "t" in one["flags"] for one in master.admin.client_list()
    )


@pytest.mark.parametrize(
    ("wrong", "found"),
    [
        (None, ""),
        (Held(1, "key", "other", 10.0505, 10.06), "two held the key on the new master"),
        (Held(1, "key", "after 3", 12.0, 12.1), "one acquisition was reported twice"),
        (Held(1, "own", "before", 1.0, 1.1), "min"),  # it never went on
    ],
)
def test_the_judge_finds_what_is_wrong(wrong: Held | None, found: str) -> None:
    load = Load.__new__(Load)
    load.common = "key"
    load.history = [
        Held(0, "key", f"{when} {turn}", second + turn / 100, second + turn / 100 + 0.005)
        for when, second in (("before", 0), ("after", 10))
        for turn in range(20)
    ]
    if wrong is None:
        load.judge(5.0, 9.5)
        return
    load.history.append(wrong)
    with pytest.raises((AssertionError, ValueError), match=found):
        load.judge(5.0, 9.5)
