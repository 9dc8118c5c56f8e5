"""Ctrl-C and SIGTERM while the main thread waits: handlers run at once, and nothing is left.

Law: the wait ends by the signal or by what the test lets go; every limit of time is far off.
Handlers say when they ran, on the clock of this machine that all processes share.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from _harness import Ways, async_only, one_server, sync_only
from _program import Program, program

SCENES = str(Path(__file__).resolve().parents[1] / "_scenes.py")
#: Which reply keeps the main thread waiting; of a pause, none does.
HELD = {
    "answer": "SET",
    "following": "SET",
    "connecting": "HELLO",
    "greeting connecting": "INFO",
    "another's connecting": "HELLO",
}
#: Seconds within which a handler must have run; it is due within a twentieth of one.
PROMPT = 0.5


async def begin(fl: Ways, process: Program, proxy: Any, wait: str) -> Any:
    """Until its main thread waits; gives what keeps it waiting."""
    held = proxy.fault("hold_reply", verb=HELD[wait]) if wait in HELD else None
    if wait in ("following", "another's connecting"):
        await fl.happened(held)
        process.tell("it leads")
    assert process.said() == "waits"
    if wait == "following":
        await fl.until(lambda: proxy.verbs().count("SET") == 2, 10)
    elif held is not None:
        await fl.happened(held)
    else:
        await fl.until(lambda: proxy.verbs().count("SET") >= 1, 10)
    time.sleep(0.1)  # from there to the wait
    return held


@asynccontextmanager
async def main_waits(fl: Ways, wait: str, handler: str) -> AsyncIterator[tuple[Program, Any, Any]]:
    """The program whose main thread waits, what keeps it waiting, and the proxy.

    ``handler`` "returns" or "raises". No lock is left by it.
    """
    proxy, key = fl.proxy(), fl.key()
    if wait == "pause":
        fl.admin.set(key, "taken", px=600_000)
    words = ("main_waits", fl.core, proxy.uri, key, wait, handler)
    with program(SCENES, *words) as process:
        yield process, await begin(fl, process, proxy, wait), proxy
    if wait == "pause":
        assert fl.admin.get(key) == b"taken"
        fl.admin.delete(key)
    await fl.until(lambda: not fl.admin.exists(key, f"{key}:other"))


def delay(process: Program, number: int) -> float:
    """Send the signal; how long its handler took to come."""
    sent = time.monotonic()
    process.signal(number)
    word, when = process.said().split()
    assert word == "handler"
    return float(when) - sent


@sync_only
@one_server
@pytest.mark.parametrize("wait", [*HELD, "pause"])
async def test_handlers_run_promptly_and_the_wait_goes_on(fl: Ways, wait: str) -> None:
    async with main_waits(fl, wait, "returns") as (process, held, _):
        delays = [delay(process, signal.SIGINT) for _ in range(5)]
        delays += [delay(process, signal.SIGTERM) for _ in range(5)]
        assert sorted(delays)[len(delays) // 2] < PROMPT, delays
        if wait != "pause":  # which is a minute
            held.go()
            assert process.said() == "acquired"
            assert process.ended() == (0, "", "")


@sync_only
@one_server
@pytest.mark.parametrize("wait", [*HELD, "pause"])
async def test_control_c_ends_the_wait_and_leaves_no_lock(fl: Ways, wait: str) -> None:
    """The answer is held back until the interrupt has come out."""
    async with main_waits(fl, wait, "raises") as (process, held, proxy):
        delay(process, signal.SIGINT)
        assert process.said() == "KeyboardInterrupt"
        process.tell("go on")
        if held is not None:
            held.go()
        assert process.ended() == (0, "", "")
    if wait in ("connecting", "greeting connecting"):
        assert proxy.verbs() == []  # nothing was sent, so nothing is given back


@sync_only
@one_server
@pytest.mark.parametrize("wait", ["answer", "pause"])
async def test_sigterm_ends_the_process_and_leaves_no_lock(fl: Ways, wait: str) -> None:
    """As a supervisor's: the handler raises SystemExit out of the wait."""
    async with main_waits(fl, wait, "raises") as (process, held, _):
        delay(process, signal.SIGTERM)
        if held is not None:
            held.go()
        assert process.ended() == (3, "", "")


@async_only
@one_server
@pytest.mark.parametrize("wait", ["answer", "connecting", "pause", "block"])
async def test_control_c_ends_asyncio_run_and_leaves_no_lock(fl: Ways, wait: str) -> None:
    proxy, key = fl.proxy(), fl.key()
    if wait == "pause":
        fl.admin.set(key, "taken", px=600_000)
    with program(SCENES, "task_waits", fl.core, proxy.uri, key, wait) as process:
        held = proxy.fault("hold_reply", verb=HELD[wait]) if wait in HELD else None
        assert process.said() == "waits"
        if wait == "block":
            assert process.said() == "held"
        elif held is not None:
            await fl.happened(held)
        else:
            await fl.until(lambda: proxy.verbs().count("SET") >= 1, 10)
        time.sleep(0.1)
        delays = [delay(process, signal.SIGTERM) for _ in range(5)]
        assert sorted(delays)[2] < PROMPT, delays
        process.signal(signal.SIGINT)
        assert process.said() == "left"
        if held is not None:
            held.go()
        assert process.said() == "KeyboardInterrupt"
        assert process.ended() == (0, "", "")
    if wait == "connecting":
        assert proxy.verbs() == []  # nothing was sent, so nothing is given back
    if wait == "pause":
        assert fl.admin.get(key) == b"taken"
        fl.admin.delete(key)
    await fl.until(lambda: not fl.admin.exists(key))


@sync_only
@one_server
async def test_a_killed_process_leaves_its_locks_to_their_ttl(fl: Ways) -> None:
    """kill -9 asks nobody: the key stays, and its ttl goes on."""
    proxy, key = fl.proxy(), fl.key()
    with program(SCENES, "main_waits", fl.core, proxy.uri, key, "answer", "returns") as process:
        held = await begin(fl, process, proxy, "answer")
        os.kill(process.pid, signal.SIGKILL)
        assert process.ended()[0] == -signal.SIGKILL
        held.go()
    assert 0 < fl.admin.pttl(key) <= 30_000
    fl.admin.delete(key)
