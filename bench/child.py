"""Python contestants in a process of their own: bench.child W NAME PORT SHA COUNT [uvloop].

W: ``w1`` a lone caller (of several keys: in turn), ``w2`` threads, ``w3`` tasks, ``w4`` batches,
``w5@SECONDS`` callers who all want one lock and hold it so long (threads or tasks),
``w5p@SECONDS`` the same as processes, ``wakeup`` from one process's release to another's
acquire, ``killed@SECONDS`` from the end of a dead process's lease, ``beside`` pairs beside a
batch.

Law: the protocol of runner.py and the loops around a pair, the same for ours and for rivals;
a pair that was not both acquired and released ends the process.
"""

from __future__ import annotations

import asyncio
import gc
import inspect
import itertools
import json
import os
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

from . import child_neighbours, child_w5, child_wakeup
from .figures import latency_figures

#: The number of the first key, for several processes at once.
FIRST = int(os.environ.get("BENCH_FIRST", "0"))

Pair = Callable[[], None]
AsyncPair = Callable[[], Awaitable[None]]
#: Pairs between two looks at the clock.
BETWEEN_CLOCKS = 16


def key_of(number: int) -> str:
    """16 bytes, as in the C programs."""
    return f"bench:key:{FIRST + number:06d}"


def report(pairs: int, seconds: float, cpu: float, **more: Any) -> dict[str, Any]:
    return {"pairs": pairs, "seconds": seconds, "cpu": cpu, **more}


# -- W1: one caller


def lone(pair: Pair, mode: str, amount: float) -> dict[str, float]:
    clock = time.perf_counter
    latencies: list[float] = []
    pairs = 0
    cpu, began = time.process_time(), clock()
    if mode == "n":
        for _ in range(int(amount)):
            pair()
        pairs = int(amount)
    elif mode == "l":
        last = began
        while last - began < amount:
            pair()
            last, before = clock(), last
            latencies.append(last - before)
        pairs = len(latencies)
    else:
        end = began + amount
        while clock() < end:
            for _ in range(BETWEEN_CLOCKS):
                pair()
            pairs += BETWEEN_CLOCKS
    figures = latency_figures(latencies, True)
    return report(pairs, clock() - began, time.process_time() - cpu, **figures)


async def lone_task(pair: AsyncPair, mode: str, amount: float) -> dict[str, float]:
    clock = time.perf_counter
    latencies: list[float] = []
    pairs = 0
    cpu, began = time.process_time(), clock()
    if mode == "n":
        for _ in range(int(amount)):
            await pair()
        pairs = int(amount)
    elif mode == "l":
        last = began
        while last - began < amount:
            await pair()
            last, before = clock(), last
            latencies.append(last - before)
        pairs = len(latencies)
    else:
        end = began + amount
        while clock() < end:
            for _ in range(BETWEEN_CLOCKS):
                await pair()
            pairs += BETWEEN_CLOCKS
    figures = latency_figures(latencies, True)
    return report(pairs, clock() - began, time.process_time() - cpu, **figures)


def in_turn(pairs: list[Any]) -> Any:
    """A pair that is each of these after the other; the one itself if it is the only one."""
    if len(pairs) == 1:
        return pairs[0]
    following = itertools.cycle(pairs).__next__
    return lambda: following()()


# -- W2: threads


def threads(pairs: list[Pair], mode: str, amount: float) -> dict[str, float]:
    counts = [0] * len(pairs)
    late: list[list[float]] = [[] for _ in pairs]
    failures: list[BaseException] = []
    begin = threading.Barrier(len(pairs) + 1)
    stop = False

    def work(number: int) -> None:
        pair, done, seen = pairs[number], 0, late[number]
        clock = time.perf_counter
        begin.wait()
        try:
            if mode == "l":
                last = clock()
                while not stop:
                    pair()
                    last, before = clock(), last
                    seen.append(last - before)
                    done += 1
            else:
                while done < amount if mode == "n" else not stop:
                    pair()
                    done += 1
        except BaseException as failure:
            failures.append(failure)
        counts[number] = done

    workers = [threading.Thread(target=work, args=(number,)) for number in range(len(pairs))]
    for worker in workers:
        worker.start()
    begin.wait()
    cpu, began = time.process_time(), time.perf_counter()
    if mode != "n":
        time.sleep(amount)
        stop = True
    for worker in workers:
        worker.join()
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    if failures:
        raise failures[0]
    least = min(counts) * len(counts) / sum(counts)
    all_seen = latency_figures([one for each in late for one in each])
    return report(sum(counts), seconds, cpu, least=least, **all_seen)


# -- W3: tasks


async def tasks(pairs: list[AsyncPair], mode: str, amount: float) -> dict[str, float]:
    stop = False
    late: list[float] = []
    clock = time.perf_counter

    async def work(pair: AsyncPair) -> int:
        done = 0
        if mode == "l":
            last = clock()
            while not stop:
                await pair()
                last, before = clock(), last
                late.append(last - before)
                done += 1
            return done
        while done < amount if mode == "n" else not stop:
            await pair()
            done += 1
        return done

    cpu, began = time.process_time(), time.perf_counter()
    workers = [asyncio.ensure_future(work(pair)) for pair in pairs]
    if mode != "n":
        await asyncio.sleep(amount)
        stop = True
    counts = await asyncio.gather(*workers)
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    least = min(counts) * len(counts) / sum(counts)
    return report(sum(counts), seconds, cpu, least=least, **latency_figures(late))


# -- W4: batches


def batches(batch: Pair, size: int, mode: str, amount: float) -> dict[str, float]:
    clock = time.perf_counter
    done = 0
    cpu, began = time.process_time(), clock()
    while done < amount if mode == "n" else clock() - began < amount:
        batch()
        done += 1
    return report(done * size, clock() - began, time.process_time() - cpu)


# -- the protocol

Measure = Callable[[str, float], dict[str, float]]


def answer_orders(measures: list[Measure]) -> None:
    """Until standard input ends. A third word on the line picks one of several contestants."""
    print("ready", flush=True)
    for line in sys.stdin:
        mode, amount, *which = line.split()
        measure = measures[int(which[0]) if which else 0]
        gc.collect()
        print(json.dumps(measure(mode, float(amount))), flush=True)


def sync_measure(workload: str, kind: Any, port: int, script: str, count: int) -> Measure:
    workload, _, hold = workload.partition("@")
    if workload == "w5p":

        def side() -> child_w5.Side:
            made: child_w5.Side = kind(port, script).side(key_of(0))
            return made

        together = child_w5.processes(side, count, float(hold), port)
        return lambda mode, amount: together(amount, mode == "l")
    contestant = kind(port, script)
    if workload == "w5":
        sides = [contestant.side(key_of(0)) for _ in range(count)]
        return lambda mode, amount: child_w5.threads(sides, float(hold), port, amount, mode == "l")
    if workload == "beside":
        many = contestant.batch([key_of(1 + i) for i in range(count)])
        one = contestant.pair(key_of(0))
        return lambda mode, amount: child_neighbours.threads(one, many, amount)
    if workload == "w4":
        batch = contestant.batch([key_of(i) for i in range(count)])
        batch()
        return lambda mode, amount: batches(batch, count, mode, amount)
    pairs = [contestant.pair(key_of(i)) for i in range(count)]
    if workload == "w1":
        turns = in_turn(pairs)
        lone(turns, "n", 3 * count)
        return lambda mode, amount: lone(turns, mode, amount)
    threads(pairs, "n", 1)
    return lambda mode, amount: threads(pairs, mode, amount)


def async_measure(
    workload: str, kind: Any, port: int, script: str, count: int, loop: asyncio.AbstractEventLoop
) -> Measure:
    run = loop.run_until_complete
    workload, _, hold = workload.partition("@")
    contestant = run(kind(port, script, count if workload != "beside" else 2))
    if workload == "w5":
        sides = [contestant.side(key_of(0)) for _ in range(count)]
        return lambda mode, amount: run(
            child_w5.tasks(sides, float(hold), port, amount, mode == "l")
        )
    if workload == "beside":
        many = contestant.batch([key_of(1 + i) for i in range(count)])
        one = contestant.pair(key_of(0))
        return lambda mode, amount: run(child_neighbours.tasks(one, many, amount))
    if workload == "w4":
        batch = contestant.batch([key_of(i) for i in range(count)])
        run(batch())
        return lambda mode, amount: batches(lambda: run(batch()), count, mode, amount)
    pairs = [contestant.pair(key_of(i)) for i in range(count)]
    if workload == "w1":
        turns = in_turn(pairs)
        run(lone_task(turns, "n", 3 * count))
        return lambda mode, amount: run(lone_task(turns, mode, amount))
    run(tasks(pairs, "n", 1))
    return lambda mode, amount: run(tasks(pairs, mode, amount))


def woken(known: dict[str, Any], name: str, where: tuple[int, str], ttl: float) -> Measure:
    holder = known[child_wakeup.holder_of(name)]

    def partner(ttl: float) -> child_wakeup.Holder:
        return child_wakeup.holder_side(holder(*where), key_of(0), ttl)

    return child_wakeup.measure(known[name], partner, where, key_of(0), ttl)


def new_loop(kind: str) -> asyncio.AbstractEventLoop:
    if kind == "uvloop":
        import uvloop

        loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
        return loop
    return asyncio.new_event_loop()


def main(workload: str, names: str, port: str, script: str, count: str, loop: str = "") -> None:
    """Connect, warm up, say "ready", measure on demand. ``names``: with commas between."""
    if os.environ.get("BENCH_HIREDIS") == "0":
        sys.modules["hiredis"] = None  # type: ignore[assignment]  # redis-py shall not find it
    from . import rivals

    known: dict[str, Any] = dict(rivals.CONTESTANTS)
    if set(names.split(",")) - set(known):
        from . import ours

        known |= ours.CONTESTANTS
    measures = []
    for name in names.split(","):
        kind = known[name]
        where = workload, kind, int(port), script, int(count)
        what, _, ttl = workload.partition("@")
        if what in ("wakeup", "killed"):
            measures.append(woken(known, name, (int(port), script), float(ttl or 0)))
        elif inspect.iscoroutinefunction(kind):
            measures.append(async_measure(*where, new_loop(loop)))
        else:
            measures.append(sync_measure(*where))
    answer_orders(measures)


if __name__ == "__main__":
    main(*sys.argv[1:])
