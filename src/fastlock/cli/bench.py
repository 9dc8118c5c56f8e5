"""``fastlock bench``: what locks cost here, on the server that is configured.

Law: measures fastlock alone, as this machine and that server do at this moment: figures of one
run, with what they were measured on. Every time is the caller's, from asking for a lock to having
freed it. However short the time is, one worker does something in it. Keys of its own, which end
with their ttl if they are not freed.
"""

from __future__ import annotations

import asyncio
import json
import os
import platform
import secrets
import threading
from argparse import Namespace
from collections.abc import Callable
from time import monotonic, perf_counter
from typing import Any, NamedTuple

import fastlock
from fastlock.config import Config
from fastlock.errors import LockLost

from ._screen import Progress, print_table, progress_bar
from ._settings import config_of

_HEAD = ("", "a second", "p50 ms", "p99 ms")
_TTL = 30.0


class _Row(NamedTuple):
    name: str
    seconds: float
    times: list[float]  #: of each operation, in seconds, sorted

    @property
    def rate(self) -> float:
        return len(self.times) / self.seconds

    def milliseconds(self, percent: int) -> float:
        place = min(len(self.times) - 1, len(self.times) * percent // 100)
        return round(1000 * self.times[place], 3)


def run(options: Namespace) -> int:
    """Measure and print."""
    config = config_of(options.url)
    with fastlock.Client(config) as client:
        info, core = client.server, client.core
    with progress_bar() as progress:
        rows = _rows(options, config, progress)
    if options.json:
        print(json.dumps(_as_json(options, config, core, info, rows), indent=2))
        return 0
    print(f"core {core}, Python {platform.python_version()}, {os.cpu_count()} processors here")
    print(f"server {info.name} {info.version} at {config.address}, {info.release_command}")
    cells = [
        [row.name, f"{row.rate:,.0f}", f"{row.milliseconds(50):.3f}", f"{row.milliseconds(99):.3f}"]
        for row in rows
    ]
    print_table(_HEAD, cells)
    print(
        "a pair takes and frees one lock; threads share one connection, and tasks another; one\n"
        "run, one process: the server, or several processes, may do more"
    )
    return 0


def _rows(options: Namespace, config: Config, progress: Progress) -> list[_Row]:
    mark = f"fastlock-bench:{secrets.token_hex(4)}:"
    many = options.threads
    each = options.seconds / 5

    def own(number: int) -> str:
        return f"{mark}{number}"

    def same(_number: int) -> str:
        return f"{mark}shared"

    plan: list[tuple[str, Callable[[str], _Row]]] = [
        ("round trips (PING)", lambda name: _pings(name, config, each)),
        ("pairs, 1 thread", lambda name: _threads(name, config, 1, own, each)),
        (f"pairs, {many} threads", lambda name: _threads(name, config, many, own, each)),
        (f"pairs, {many} threads, 1 key", lambda name: _threads(name, config, many, same, each)),
        (
            f"pairs, {options.tasks} tasks",
            lambda name: asyncio.run(_tasks(name, config, options.tasks, own, each)),
        ),
    ]
    rows = []
    for place, (name, measure) in enumerate(plan):
        progress(name, place / len(plan))
        rows.append(measure(name))
    return rows


def _pings(name: str, config: Config, seconds: float) -> _Row:
    times = []
    with fastlock.Client(config) as client:
        client.ping()
        started = perf_counter()
        while perf_counter() - started < seconds:
            times.append(client.ping())
        return _Row(name, perf_counter() - started, sorted(times))


def _threads(
    name: str, config: Config, count: int, key_of: Callable[[int], str], seconds: float
) -> _Row:
    """So many threads take and free locks; raises what the first to fail raised."""
    times: list[list[float]] = [[] for _ in range(count)]
    failed: list[BaseException] = []
    together = threading.Barrier(count + 1)
    over = threading.Event()

    def work(client: fastlock.Client, number: int) -> None:
        key, mine = key_of(number), times[number]
        together.wait()
        try:
            while not over.is_set() or not (number or mine):
                started = perf_counter()
                lease = client.acquire(key, _TTL, _TTL)
                if not lease.release():
                    raise LockLost(f"{key}: the lock was lost while held", key)
                mine.append(perf_counter() - started)
        except BaseException as error:
            failed.append(error)
            over.set()

    with fastlock.Client(config) as client:
        client.ping()
        workers = [
            threading.Thread(target=work, args=(client, number), daemon=True)
            for number in range(count)
        ]
        for worker in workers:
            worker.start()
        together.wait()
        started = perf_counter()
        try:
            over.wait(seconds)
        finally:
            over.set()
        for worker in workers:
            worker.join()
        took = perf_counter() - started
    if failed:
        raise failed[0]
    return _Row(name, took, sorted(time for mine in times for time in mine))


async def _tasks(
    name: str, config: Config, count: int, key_of: Callable[[int], str], seconds: float
) -> _Row:
    """The same in tasks of one loop."""
    times: list[float] = []
    async with fastlock.aio.Client(config) as client:
        await client.ping()
        end = monotonic() + seconds

        async def work(number: int) -> None:
            key = key_of(number)
            while monotonic() < end or not (number or times):
                started = perf_counter()
                lease = await client.acquire(key, _TTL, _TTL)
                if not await lease.release():
                    raise LockLost(f"{key}: the lock was lost while held", key)
                times.append(perf_counter() - started)

        started = perf_counter()
        await asyncio.gather(*map(work, range(count)))
        return _Row(name, perf_counter() - started, sorted(times))


def _as_json(
    options: Namespace, config: Config, core: str, info: Any, rows: list[_Row]
) -> dict[str, Any]:
    return {
        "core": core,
        "python": platform.python_version(),
        "processors": os.cpu_count(),
        "server": {
            "name": info.name, "version": info.version, "address": config.address,
            "release_command": info.release_command,
        },
        "threads": options.threads,
        "tasks": options.tasks,
        "rows": [
            {
                "name": row.name,
                "count": len(row.times),
                "per_second": round(row.rate, 1),
                "ms": {"p50": row.milliseconds(50), "p99": row.milliseconds(99)},
            }
            for row in rows
        ],
    }  # fmt: skip
