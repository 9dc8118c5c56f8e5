"""W5's loops: callers who all want one lock, as threads, tasks or processes.

Law: only whoever holds the lock writes to the board, so that the board needs no other guard;
two callers inside at once are found out and end the process. A hand-over is an acquisition by
another caller than the last one. What is counted ends at the word to stop: with sleepers, the
turns that each caller still finishes then are more equal than all those before.
"""

from __future__ import annotations

import asyncio
import ctypes
import multiprocessing
import signal
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from .figures import latency_figures
from .servers import calls_between, command_calls

#: Takes the lock, waiting for it, and what it gave is for the other one, that frees it.
Side = tuple[Callable[[], Any], Callable[[Any], None]]
AsyncSide = tuple[Callable[[], Awaitable[Any]], Callable[[Any], Awaitable[None]]]

NOBODY = -1
clock = time.perf_counter  # seconds; the same for all processes of a machine


class Broken(Exception):
    """Two callers held the lock at once."""


@dataclass
class Board:
    """What all callers see: who holds the lock, who held it last, whether to stop."""

    stop: int = 0
    last: int = NOBODY
    inside: int = NOBODY


class SharedBoard(ctypes.Structure):
    """The same, in memory that all processes see."""

    _fields_ = [("stop", ctypes.c_int), ("last", ctypes.c_int), ("inside", ctypes.c_int)]


@dataclass
class Caller:
    """What one caller did before the word to stop; ``waits``, in seconds, are those of its
    hand-overs, also of the one that it was waiting for at that word."""

    number: int
    board: Any
    done: int = 0
    handovers: int = 0
    held: float = 0.0
    waits: list[float] = field(default_factory=list)
    counts: bool = False

    def enter(self, waited: float) -> None:
        """It has the lock."""
        board = self.board
        if board.inside != NOBODY:
            raise Broken(f"{board.inside} and {self.number}")
        board.inside = self.number
        self.counts = not board.stop
        self.done += self.counts
        last, board.last = board.last, self.number
        if last not in (NOBODY, self.number):
            self.handovers += self.counts
            self.waits.append(waited)

    def leave(self, held: float) -> None:
        """It is about to free the lock."""
        self.board.inside = NOBODY
        if self.counts:
            self.held += held


def summary(
    callers: Sequence[Caller], seconds: float, cpu: float, calls: dict[str, int], quantiles: bool
) -> dict[str, Any]:
    """One round. ``least`` and ``most``: acquisitions in relation to a fair share; ``calls``
    and ``commands``: the server's, by name and all; ``p50``, ``p99``, ``max``: of the waits."""
    done = [caller.done for caller in callers]
    fair = max(1, sum(done)) / len(done)
    waits = [one for caller in callers for one in caller.waits]
    return {
        "pairs": sum(done),
        "seconds": seconds,
        "cpu": cpu,
        "handovers": sum(caller.handovers for caller in callers),
        "held": sum(caller.held for caller in callers),
        "least": min(done) / fair,
        "most": max(done) / fair,
        "commands": sum(calls.values()),
        "calls": calls,
        **latency_figures(waits, quantiles),
    }


def turns(caller: Caller, side: Side, hold: float) -> None:
    """Take the lock, hold it so many seconds, free it, until the word to stop."""
    enter, leave = side
    board = caller.board
    while not board.stop:
        asked = clock()
        lease = enter()
        got = clock()
        caller.enter(got - asked)
        if hold:
            time.sleep(hold)
        caller.leave(clock() - got)
        leave(lease)


async def async_turns(caller: Caller, side: AsyncSide, hold: float) -> None:
    """The same in a task."""
    enter, leave = side
    board = caller.board
    while not board.stop:
        asked = clock()
        lease = await enter()
        got = clock()
        caller.enter(got - asked)
        if hold:
            await asyncio.sleep(hold)
        caller.leave(clock() - got)
        await leave(lease)


def threads(
    sides: list[Side], hold: float, port: int, amount: float, quantiles: bool
) -> dict[str, Any]:
    """A thread for each side, so many seconds; each holds the lock ``hold`` seconds."""
    board = Board()
    callers = [Caller(number, board) for number in range(len(sides))]
    failures: list[BaseException] = []
    begin = threading.Barrier(len(sides) + 1)

    def work(caller: Caller) -> None:
        begin.wait()
        try:
            turns(caller, sides[caller.number], hold)
        except BaseException as failure:
            failures.append(failure)

    workers = [threading.Thread(target=work, args=(caller,)) for caller in callers]
    for worker in workers:
        worker.start()
    calls = command_calls(port)
    begin.wait()
    cpu, began = time.process_time(), clock()
    time.sleep(amount)
    board.stop = 1
    seconds, cpu = clock() - began, time.process_time() - cpu
    calls = calls_between(calls, command_calls(port))
    for worker in workers:
        worker.join()
    if failures:
        raise failures[0]
    return summary(callers, seconds, cpu, calls, quantiles)


async def tasks(
    sides: list[AsyncSide], hold: float, port: int, amount: float, quantiles: bool
) -> dict[str, Any]:
    """A task for each side."""
    board = Board()
    callers = [Caller(number, board) for number in range(len(sides))]
    calls = command_calls(port)
    cpu, began = time.process_time(), clock()
    workers = [
        asyncio.ensure_future(async_turns(caller, side, hold))
        for caller, side in zip(callers, sides, strict=True)
    ]
    await asyncio.sleep(amount)
    board.stop = 1
    seconds, cpu = clock() - began, time.process_time() - cpu
    calls = calls_between(calls, command_calls(port))
    await asyncio.gather(*workers)
    return summary(callers, seconds, cpu, calls, quantiles)


def end_with_parent() -> None:
    """The system ends this process with the one that started it, however that ends; nothing
    where it has no such call."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def processes(
    side: Callable[[], Side], count: int, hold: float, port: int
) -> Callable[[float, bool], dict[str, Any]]:
    """So many processes, each with a connection of its own; measures when called."""
    fork = multiprocessing.get_context("fork")
    board: Any = fork.RawValue(SharedBoard)
    lines = []
    for number in range(count):
        ours, theirs = fork.Pipe()
        worker = fork.Process(target=_worker, args=(side, number, hold, board, theirs), daemon=True)
        worker.start()
        theirs.close()
        lines.append(ours)
    for line in lines:
        line.recv()  # connected

    def measure(amount: float, quantiles: bool) -> dict[str, Any]:
        board.stop, board.last, board.inside = 0, NOBODY, NOBODY
        calls = command_calls(port)
        began = clock()
        for line in lines:
            line.send(None)
        time.sleep(amount)
        board.stop = 1
        seconds = clock() - began
        calls = calls_between(calls, command_calls(port))
        callers, cpu = [], 0.0
        for number, line in enumerate(lines):
            done, handovers, held, waits, used = line.recv()
            callers.append(Caller(number, board, done, handovers, held, waits))
            cpu += used
        return summary(callers, seconds, cpu, calls, quantiles)

    return measure


def _worker(side: Callable[[], Side], number: int, hold: float, board: Any, line: Any) -> None:
    end_with_parent()
    enter, leave = both = side()
    leave(enter())
    line.send("connected")
    while True:
        line.recv()
        cpu, caller = time.process_time(), Caller(number, board)
        turns(caller, both, hold)
        cpu = time.process_time() - cpu
        line.send((caller.done, caller.handovers, caller.held, caller.waits, cpu))
