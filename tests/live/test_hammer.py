"""Many threads at once do everything to one client, and their counts must agree.

Law: every count is a thread's own until all have ended; what the server says at the end is
the truth. ``--hammer`` says how many seconds; ``make test-ft`` gives it 60, without the GIL.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import pytest
from _harness import Ways, client_class, gil, one_server, sync_only

THREADS = 16
LOOPS = 8
TASKS = 4
BATCH = 20
TTL = 3600.0  # a machine that stops for a while must not change the counts


def counted(threads: int, run: Callable[[int], Counter[str]]) -> Counter[str]:
    """The sum of what each thread has counted."""
    counts: list[Counter[str]] = []
    errors: list[BaseException] = []

    def one(number: int) -> None:
        try:
            counts.append(run(number))
        except BaseException as error:
            errors.append(error)

    started = [threading.Thread(target=one, args=(number,)) for number in range(threads)]
    for thread in started:
        thread.start()
    for thread in started:
        thread.join()
    assert errors == []
    assert len(counts) == threads
    return sum(counts, Counter())


class Hammer:
    """What ``THREADS`` threads do to ``client`` for some seconds."""

    def __init__(self, client: Any, name: str, seconds: float) -> None:
        self.client = client
        self.name = name
        self.hot = f"{name}:hot"
        self.seconds = seconds
        self.inside = 0  # changed by the holder of the hot lock alone, and not atomically
        self.tokens: list[set[str]] = [set() for _ in range(THREADS)]  # a thread's own, each

    def run(self) -> Counter[str]:
        end = time.monotonic() + self.seconds

        def thread(number: int) -> Counter[str]:
            return Thread(self, number).run(end)

        return counted(THREADS, thread)


class Thread:
    """One of them: every kind of call in turn."""

    def __init__(self, hammer: Hammer, number: int) -> None:
        self.hammer = hammer
        self.client = hammer.client
        self.key = f"{hammer.name}:{number}"
        self.number = number
        self.count: Counter[str] = Counter()

    def run(self, end: float) -> Counter[str]:
        steps = (
            self.lone, self.hot, self.batch, self.deferred, self.blocked, self.both, self.adopted,
            self.waiting,
        )  # fmt: skip
        turn = self.number
        while time.monotonic() < end:
            steps[turn % len(steps)]()
            turn += 1
        self.count["tokens"] = len(self.hammer.tokens[self.number])
        return self.count

    def took(self, *leases: Any) -> None:
        self.count["taken"] += len(leases)
        self.hammer.tokens[self.number].update(lease.token for lease in leases)

    def lone(self) -> None:
        lease = self.client.try_acquire(self.key, ttl=TTL)
        self.took(lease)
        lease.extend(TTL + self.count["taken"] % 1000 / 1000)  # more than any cache holds
        assert lease.valid()
        self.count["freed"] += lease.release()

    def hot(self) -> None:
        lease = self.client.try_acquire(self.hammer.hot, ttl=TTL)
        if lease is None:
            self.count["busy"] += 1
            return
        self.took(lease)
        self.enter()
        self.count["freed"] += lease.release()

    def waiting(self) -> None:
        with self.client.lock(self.hammer.hot, ttl=TTL) as lease:
            self.took(lease)
            self.enter()
        self.count["freed"] += lease.freed

    def enter(self) -> None:
        before = self.hammer.inside
        time.sleep(0)  # let the others run
        self.hammer.inside = before + 1
        self.count["inside"] += 1

    def batch(self) -> None:
        leases = self.client.try_acquire_many([f"{self.key}:{n}" for n in range(BATCH)], ttl=TTL)
        self.took(*leases)
        assert self.client.extend_many(leases, TTL) == [True] * BATCH
        self.count["freed"] += sum(self.client.release_many(leases))

    def deferred(self) -> None:
        lease = self.client.try_acquire(self.key, ttl=TTL)
        self.took(lease)
        lease.release(wait=False)
        self.count["freed"] += not lease.lost

    def blocked(self) -> None:
        with self.client.lock(self.key, ttl=TTL, release="deferred") as lease:
            self.took(lease)
            assert self.client.try_acquire(self.key) is None
            assert self.client.locked(self.key)
        self.count["freed"] += lease.freed

    def both(self) -> None:
        with self.client.lock_all([f"{self.key}:a", f"{self.key}:b"], ttl=TTL) as leases:
            self.took(*leases)
        self.count["freed"] += sum(lease.freed for lease in leases)

    def adopted(self) -> None:
        lease = self.client.try_acquire(self.key, ttl=TTL)
        self.took(lease)
        self.count["freed"] += self.client.adopt(self.key, lease.token).release()
        assert lease.release() is False


@sync_only
@one_server
async def test_counts_of_many_threads_agree(fl: Ways, pytestconfig: pytest.Config) -> None:
    before = gil()
    name = fl.key("name").replace(":", "-")
    client = await fl.warm(fl.client(client_name=name, retry_timeout=5))
    hammer = Hammer(fl.raw(client), fl.key(), pytestconfig.getoption("--hammer"))
    counts = hammer.run()
    print(f"{THREADS} threads, GIL {before}: {dict(counts)}")
    # One more while somebody waits, and for a while after that.
    assert [entry["name"] for entry in fl.admin.client_list()].count(name) <= 2
    await client.close()  # after which every deferred release has been answered
    assert counts["taken"] == counts["freed"] > THREADS
    assert counts["tokens"] == counts["taken"] == len(set[str]().union(*hammer.tokens))
    assert hammer.inside == counts["inside"] > 0
    assert fl.admin.keys(f"{hammer.name}*") == []
    assert gil() == before
    assert before != "on" or find_spec("hiredis")


@sync_only
@one_server
async def test_what_one_thread_holds_is_no_other_s(fl: Ways, pytestconfig: pytest.Config) -> None:
    """Leases are kept and looked at: a key whose references are miscounted is freed in use."""
    client, name = fl.raw(await fl.warm(fl.client())), fl.key()
    end = time.monotonic() + pytestconfig.getoption("--hammer")
    odd: list[tuple[str, tuple[bytes, bytes]]] = []

    def is_odd(key: str, pair: tuple[bytes, bytes]) -> bool:
        return pair[0] != key.encode() or sys.getrefcount(pair[0]) != 2

    def work(number: int) -> None:
        done = 0
        while time.monotonic() < end:
            pairs = []
            for _ in range(200):
                key = f"{name}:{number}:{done}"
                done += 1
                lease = client.acquire(key, TTL)
                pairs.append((key, lease.pair))
                lease.release()
            odd.extend(one for one in pairs if is_odd(*one))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wrong = [one for one in odd if is_odd(*one)]
    assert len(wrong) <= 2, wrong  # the latest, which the client remembers


@sync_only
@one_server
async def test_counts_of_many_loops_agree(fl: Ways, pytestconfig: pytest.Config) -> None:
    """Each thread has a loop and a client of its own; one key is everybody's."""
    name, end = fl.key(), time.monotonic() + pytestconfig.getoption("--hammer")
    inside = 0

    async def task(client: Any, key: str, count: Counter[str]) -> None:
        nonlocal inside
        while time.monotonic() < end:
            async with client.lock(key, ttl=TTL) as lease:
                assert await client.try_acquire(key) is None
            count["freed"] += lease.freed
            leases = await client.try_acquire_many([f"{key}:{n}" for n in range(BATCH)], ttl=TTL)
            assert None not in leases
            freed = sum(await client.release_many(leases))  # counted when no task is in between
            count["freed"] += freed
            count["taken"] += 1 + BATCH
            lease = await client.try_acquire(f"{name}:hot", ttl=TTL)
            if lease is not None:
                before = inside
                time.sleep(0)
                inside = before + 1
                count["inside"] += 1
                count["taken"] += 1
                await lease.release(wait=False)
                count["freed"] += not lease.lost

    async def loop(number: int) -> Counter[str]:
        count: Counter[str] = Counter()
        async with client_class("async", fl.core)(fl.server.uri) as client:
            keys = [f"{name}:{number}:{n}" for n in range(TASKS)]
            await asyncio.gather(*[task(client, key, count) for key in keys])
        return count

    counts = counted(LOOPS, lambda number: asyncio.run(loop(number)))
    print(f"{LOOPS} loops of {TASKS} tasks, GIL {gil()}: {dict(counts)}")
    assert counts["taken"] == counts["freed"] > LOOPS
    assert inside == counts["inside"] > 0
    assert fl.admin.keys(f"{name}*") == []
