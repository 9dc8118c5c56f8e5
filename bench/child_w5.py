"""W5's loops: callers who all want one lock, as threads, tasks or processes.

Law: only whoever holds the lock writes to the ledger, so that the ledger needs no other
guard; two callers inside at once are found out and end the process. A hand-over is an
acquisition by another caller than the last one.
"""

from __future__ import annotations

import asyncio
import ctypes
import multiprocessing
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

#: Takes the lock, waiting for it, and what it gave is for the other one, that frees it.
Side = tuple[Callable[[], Any], Callable[[Any], None]]
AsyncSide = tuple[Callable[[], Awaitable[Any]], Callable[[Any], Awaitable[None]]]

NOBODY = -1


class Broken(Exception):
    """Two callers held the lock at once."""


@dataclass
class Ledger:
    """What the holders wrote; seconds."""

    last: int = NOBODY
    inside: int = NOBODY
    handovers: int = 0
    held: float = 0.0
    waits: list[float] = field(default_factory=list)

    def enter(self, caller: int) -> None:
        """The caller has the lock."""
        if self.inside != NOBODY:
            raise Broken(f"{self.inside} and {caller}")
        self.inside = caller
        if self.last != caller:
            self.last = caller
            self.handovers += 1

    def leave(self, waited: float, held: float) -> None:
        """The caller is about to free it."""
        self.inside = NOBODY
        self.held += held
        self.waits.append(waited)

    def report(self, seconds: float, cpu: float, counts: list[int]) -> dict[str, Any]:
        """One round."""
        return {
            "pairs": sum(counts),
            "seconds": seconds,
            "cpu": cpu,
            "handovers": self.handovers,
            "held": self.held,
            "longest": max(self.waits, default=0.0),
            "least": min(counts) * len(counts) / max(1, sum(counts)),
        }


def threads(sides: list[Side], hold: float, amount: float) -> dict[str, Any]:
    """A thread for each side, so many seconds; each holds the lock ``hold`` seconds."""
    ledger = Ledger()
    counts = [0] * len(sides)
    failures: list[BaseException] = []
    begin = threading.Barrier(len(sides) + 1)
    stop = False
    clock = time.perf_counter

    def work(number: int) -> None:
        enter, leave = sides[number]
        begin.wait()
        try:
            while not stop:
                asked = clock()
                held = enter()
                got = clock()
                ledger.enter(number)
                if hold:
                    time.sleep(hold)
                ledger.leave(got - asked, clock() - got)
                leave(held)
                counts[number] += 1
        except BaseException as failure:
            failures.append(failure)

    workers = [threading.Thread(target=work, args=(number,)) for number in range(len(sides))]
    for worker in workers:
        worker.start()
    begin.wait()
    cpu, began = time.process_time(), clock()
    time.sleep(amount)
    stop = True
    for worker in workers:
        worker.join()
    if failures:
        raise failures[0]
    return ledger.report(clock() - began, time.process_time() - cpu, counts)


async def tasks(sides: list[AsyncSide], hold: float, amount: float) -> dict[str, Any]:
    """A task for each side."""
    ledger = Ledger()
    counts = [0] * len(sides)
    stop = False
    clock = time.perf_counter

    async def work(number: int) -> None:
        enter, leave = sides[number]
        while not stop:
            asked = clock()
            held = await enter()
            got = clock()
            ledger.enter(number)
            if hold:
                await asyncio.sleep(hold)
            ledger.leave(got - asked, clock() - got)
            await leave(held)
            counts[number] += 1

    cpu, began = time.process_time(), clock()
    workers = [asyncio.ensure_future(work(number)) for number in range(len(sides))]
    await asyncio.sleep(amount)
    stop = True
    await asyncio.gather(*workers)
    return ledger.report(clock() - began, time.process_time() - cpu, counts)


# -- processes


class Shared(ctypes.Structure):
    """The ledger in memory that all processes see."""

    _fields_ = [
        ("stop", ctypes.c_int),
        ("last", ctypes.c_int),
        ("inside", ctypes.c_int),
        ("handovers", ctypes.c_int),
        ("held", ctypes.c_double),
        ("longest", ctypes.c_double),
    ]


def processes(
    side: Callable[[], Side], count: int, hold: float
) -> Callable[[str, float], dict[str, Any]]:
    """So many processes, each with a connection of its own; measures when called."""
    fork = multiprocessing.get_context("fork")
    shared: Any = fork.RawValue(Shared)
    lines = []
    for number in range(count):
        ours, theirs = fork.Pipe()
        worker = fork.Process(
            target=_worker, args=(side, number, hold, shared, theirs), daemon=True
        )
        worker.start()
        theirs.close()
        lines.append(ours)
    for line in lines:
        line.recv()  # connected

    def measure(mode: str, amount: float) -> dict[str, Any]:
        shared.stop, shared.handovers, shared.held, shared.longest = 0, 0, 0.0, 0.0
        shared.last = shared.inside = NOBODY
        began = time.perf_counter()
        for line in lines:
            line.send(None)
        time.sleep(amount)
        shared.stop = 1
        answers = [line.recv() for line in lines]
        seconds = time.perf_counter() - began
        ledger = Ledger(handovers=shared.handovers, held=shared.held, waits=[shared.longest])
        return ledger.report(seconds, sum(cpu for _, cpu in answers), [done for done, _ in answers])

    return measure


def _worker(side: Callable[[], Side], number: int, hold: float, shared: Any, line: Any) -> None:
    enter, leave = side()
    leave(enter())
    line.send("connected")
    clock = time.perf_counter
    while True:
        line.recv()
        done, cpu = 0, time.process_time()
        while not shared.stop:
            asked = clock()
            held = enter()
            got = clock()
            if shared.inside != NOBODY:
                raise Broken(f"{shared.inside} and {number}")
            shared.inside = number
            if shared.last != number:
                shared.last = number
                shared.handovers += 1
            if hold:
                time.sleep(hold)
            shared.inside = NOBODY
            shared.longest = max(shared.longest, got - asked)
            shared.held += clock() - got
            leave(held)
            done += 1
        line.send((done, time.process_time() - cpu))
