"""From one process's release, or its death, to another's acquire returning: both sides.

Law: the other process is forked before this one has connections, threads or a loop. It takes
the lock first and says so; then this one waits for it. What the other has to tell, it tells
when it is asked, so that nothing but the lock's own work lies within the time that is taken.
A caller who gets a lock before that was free is found out and ends the process.
"""

from __future__ import annotations

import asyncio
import atexit
import inspect
import multiprocessing
import os
import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from . import rivals
from .child_w5 import Broken, Side, clock, end_with_parent
from .figures import latency_figures

#: A holder's side, and what gives the moment of its latest sending, if that is noted.
Holder = tuple[Callable[[], Any], Callable[[Any], Any], Callable[[], float] | None]
#: The contestant that holds the lock where one that runs in a loop waits for it.
HOLDERS = {"fastlock-aio": "fastlock", "redis-aio": "redis-py"}
#: Seconds that the lock is held at least, once the other one knows that it is.
HELD = 0.002
#: Seconds by which that differs: as long as a rival that polls sleeps, so that the release
#: comes at any moment of its sleep.
SPREAD = max(HELD, rivals.SLEEP)
#: Seconds before a holder is killed; its waiter waits by then.
ALIVE = 0.02
#: Round trips of a PING after each wake-up.
PINGS = 4
#: Seconds by which a server's clock, in whole milliseconds, may be early.
EARLY = 0.002


def holder_of(name: str) -> str:
    """Who holds the lock for this one: BENCH_HOLDER, else the same library."""
    return os.environ.get("BENCH_HOLDER") or HOLDERS.get(name, name)


def holder_side(holder: Any, key: str, ttl: float) -> Holder:
    """The holder's side. redis-py does much before it sends a release, and that is no wake-up."""
    noting = getattr(holder, "note_sending", None)
    sent = None if noting is None else noting()
    enter, leave = holder.side(key, ttl)
    return enter, leave, sent


@dataclass
class Samples:
    """Seconds, of one round: ``late`` from the lock's being free to having it."""

    late: list[float] = field(default_factory=list)
    pings: list[float] = field(default_factory=list)
    theirs: float = 0.0  # CPU time of the other process and its children

    def got(self, when: float, told: tuple[float, float]) -> None:
        """The lock was taken at that moment; ``told`` by the other: when it was free, and the
        CPU time that it has used since it told the last time."""
        free, used = told
        self.theirs += used
        if when < free - EARLY:
            raise Broken(f"taken {free - when:.6f} s too early")
        self.late.append(when - free)

    def report(self, seconds: float, cpu: float) -> dict[str, Any]:
        """One round; ``ping`` is the median round trip of a PING."""
        ping = latency_figures(self.pings)["p50"]
        late = latency_figures(self.late, quantiles=True)
        figures = {"pairs": len(self.late), "seconds": seconds, "cpu": cpu + self.theirs}
        return {**figures, "ping": ping, **late}


def measure(
    kind: Any, partner: Callable[[float], Holder], where: tuple[int, str], key: str, ttl: float
) -> Callable[[str, float], dict[str, Any]]:
    """``partner`` makes the holder's side; with a ttl, in seconds, the holder is killed."""
    fork = multiprocessing.get_context("fork")
    line, theirs = fork.Pipe()
    if ttl:
        other = fork.Process(target=_dying, args=(partner, ttl, theirs))
    else:
        other = fork.Process(target=_releasing, args=(partner, theirs))
    other.start()
    atexit.register(other.kill)  # else the end of this process waits for it
    theirs.close()
    if inspect.iscoroutinefunction(kind):
        loop = asyncio.new_event_loop()
        waiter = loop.run_until_complete(kind(*where, 2))
        side = waiter.side(key)
        return lambda mode, amount: loop.run_until_complete(
            tasks(side, waiter.client.ping, line, amount)
        )
    waiter = kind(*where)
    side = waiter.side(key)
    return lambda mode, amount: threads(side, waiter.client.ping, line, amount)


def threads(side: Side, ping: Callable[[], Any], line: Any, amount: float) -> dict[str, Any]:
    """Wake-ups for so many seconds, at least one."""
    enter, leave = side
    samples = Samples()
    cpu, began = time.process_time(), clock()
    while not samples.late or clock() - began < amount:
        line.send(None)
        line.recv()  # the other has it
        lease = enter()
        got = clock()
        leave(lease)
        line.send(None)
        samples.got(got, line.recv())
        for _ in range(PINGS):
            asked = clock()
            ping()
            samples.pings.append(clock() - asked)
    return samples.report(clock() - began, time.process_time() - cpu)


async def tasks(side: Any, ping: Callable[[], Any], line: Any, amount: float) -> dict[str, Any]:
    """The same in a loop that has nothing else to do."""
    enter, leave = side
    samples = Samples()
    cpu, began = time.process_time(), clock()
    while not samples.late or clock() - began < amount:
        line.send(None)
        line.recv()
        lease = await enter()
        got = clock()
        await leave(lease)
        line.send(None)
        samples.got(got, line.recv())
        for _ in range(PINGS):
            asked = clock()
            await ping()
            samples.pings.append(clock() - asked)
    return samples.report(clock() - began, time.process_time() - cpu)


# -- the other process


def _cpu() -> float:
    """CPU seconds of this process and of its children that have ended."""
    return sum(os.times()[:4])


def _releasing(partner: Callable[[float], Holder], line: Any) -> None:
    """Holds the lock a moment and frees it; tells when it began to, or sent that where noted."""
    end_with_parent()
    enter, leave, sent = partner(rivals.TTL)
    used = _cpu()
    while True:
        line.recv()
        lease = enter()
        line.send("held")
        time.sleep(HELD + random.uniform(0, SPREAD))
        free = clock()
        leave(lease)
        if sent is not None:
            free = sent()
        line.recv()
        before, used = used, _cpu()
        line.send((free, used - before))


def _dying(partner: Callable[[float], Holder], ttl: float, line: Any) -> None:
    """Lets a process take the lock and kills it; tells when its lease was over."""
    end_with_parent()
    fork = multiprocessing.get_context("fork")
    used = _cpu()
    while True:
        line.recv()
        ours, theirs = fork.Pipe()
        holder = fork.Process(target=_holding, args=(partner, ttl, theirs))
        holder.start()
        free = ours.recv()
        line.send("held")
        time.sleep(ALIVE)
        holder.kill()
        holder.join()
        holder.close()
        ours.close()
        theirs.close()
        line.recv()
        before, used = used, _cpu()
        line.send((free, used - before))


def _holding(partner: Callable[[float], Holder], ttl: float, line: Any) -> None:
    end_with_parent()
    enter, _, _ = partner(ttl)
    asked = clock()
    lease = enter()  # kept, for whoever frees what is forgotten
    line.send(asked + ttl)
    signal.pause()
    raise Broken(f"{lease} outlived its holder")
