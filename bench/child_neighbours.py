"""The neighbours' loops: one caller takes and frees a great batch, another does single pairs
on the same client meanwhile.

Law: the other caller's latencies are kept apart: before the batch, and while it runs; the
memory is the process's peak while the batch runs, less what it held before.
"""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from .figures import latency_figures

Pair = Callable[[], None]
AsyncPair = Callable[[], Awaitable[None]]


def resident() -> int:
    """Bytes of memory in use now; 0 where /proc is missing."""
    with suppress(OSError):
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")
    return 0


def forget_peak() -> None:
    """Begin a new peak; where the system has no such thing the peak is that of the process."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak() -> int:
    """The most bytes of memory in use since then."""
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    with suppress(ImportError):
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return 0


class Watch:
    """The neighbour's latencies, before and beside; ends it too."""

    def __init__(self) -> None:
        self.stop = False
        self.beside = False
        self.quiet: list[float] = []
        self.late: list[float] = []

    def report(self, batch: float, cpu: float, grown: int) -> dict[str, Any]:
        """One round; ``seconds`` is how long the batch took, ``pairs`` are the neighbour's."""
        quiet = latency_figures(self.quiet)
        before = {f"quiet_{name}": value for name, value in quiet.items()}
        beside = latency_figures(self.late)
        return {
            "pairs": len(self.late), "seconds": batch, "cpu": cpu, "grown": grown,
            **beside, **before,
        }  # fmt: skip


def threads(pair: Pair, batch: Pair, amount: float) -> dict[str, Any]:
    """The neighbour in a thread of its own: alone for ``amount`` seconds, then beside."""
    watch = Watch()
    failures: list[BaseException] = []
    clock = time.perf_counter

    def neighbour() -> None:
        try:
            while not watch.stop:
                beside, began = watch.beside, clock()
                pair()
                took = clock() - began
                (watch.late if beside or watch.beside else watch.quiet).append(took)
        except BaseException as failure:
            failures.append(failure)

    worker = threading.Thread(target=neighbour)
    worker.start()
    time.sleep(amount)
    gc.collect()
    forget_peak()
    before, cpu = resident(), time.process_time()
    watch.beside, began = True, clock()
    try:
        batch()
        seconds = clock() - began
        cpu, grown = time.process_time() - cpu, peak() - before
    finally:
        watch.stop = True
        worker.join()
    if failures:
        raise failures[0]
    return watch.report(seconds, cpu, grown)


async def tasks(pair: AsyncPair, batch: AsyncPair, amount: float) -> dict[str, Any]:
    """The neighbour in a task of its own."""
    watch = Watch()
    clock = time.perf_counter

    async def neighbour() -> None:
        while not watch.stop:
            beside, began = watch.beside, clock()
            await pair()
            took = clock() - began
            (watch.late if beside or watch.beside else watch.quiet).append(took)

    worker = asyncio.ensure_future(neighbour())
    await asyncio.sleep(amount)
    gc.collect()
    forget_peak()
    before, cpu = resident(), time.process_time()
    watch.beside, began = True, clock()
    try:
        await batch()
        seconds = clock() - began
        cpu, grown = time.process_time() - cpu, peak() - before
    finally:
        watch.stop = True
        await worker
    return watch.report(seconds, cpu, grown)
