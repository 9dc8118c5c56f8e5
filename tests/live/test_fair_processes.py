"""fair=True between processes: their order is kept, and who was killed stops nobody for long."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
from _harness import Ways, one_server
from _program import Program, program
from _waiting import PLACE, nothing_left, waiting

pytestmark = [pytest.mark.slow, one_server]

TTL = 60
PROCESSES = 8
SYNC = """
import sys
import fastlock

client = fastlock.Client(sys.argv[1], retry_timeout=20)
print("ready", client.core, flush=True)
for _ in sys.stdin:
    lease = client.acquire(sys.argv[2], 60, fair=True)
    print("held", flush=True)
    sys.stdin.readline()
    print(lease.release(), flush=True)
"""
ASYNC = """
import asyncio
import sys
import fastlock.aio

async def main():
    async with fastlock.aio.Client(sys.argv[1], retry_timeout=20) as client:
        print("ready", client.core, flush=True)
        while await asyncio.to_thread(sys.stdin.readline):
            lease = await client.acquire(sys.argv[2], 60, fair=True)
            print("held", flush=True)
            await asyncio.to_thread(sys.stdin.readline)
            print(await lease.release(), flush=True)

asyncio.run(main())
"""


@contextmanager
def processes(fl: Ways, key: str, count: int) -> Iterator[list[Program]]:
    """So many, of this API and core, which come in when told the first time."""
    with ExitStack() as stack:
        code = SYNC if fl.sync else ASYNC
        words = ("-c", code, fl.server.uri, key)
        started = [
            stack.enter_context(program(*words, FASTLOCK_CORE=fl.core)) for _ in range(count)
        ]
        for one in started:
            assert one.said() == f"ready {fl.core}"
        yield started


async def come_in(fl: Ways, key: str, one: Program) -> bytes:
    """Its place is the last when this is over; its token."""
    before = len(waiting(fl.admin, key))
    one.tell("come in")
    await fl.until(lambda: len(waiting(fl.admin, key)) == before + 1, 30)
    return waiting(fl.admin, key)[-1]


async def test_eight_processes_are_served_in_the_order_in_which_they_came(fl: Ways) -> None:
    key = fl.key()
    holder = await fl.client().acquire(key, TTL)
    with processes(fl, key, PROCESSES) as started:
        order = [started[number] for number in (3, 7, 0, 5, 1, 6, 2, 4)]
        tokens = [await come_in(fl, key, one) for one in order]
        assert waiting(fl.admin, key) == tokens
        assert await holder.release() is True
        for number, one in enumerate(order):
            assert one.said() == "held"
            assert fl.admin.get(key) == tokens[number]
            assert waiting(fl.admin, key) == tokens[number + 1 :]
            one.tell("release")
            assert one.said() == "True"
        assert nothing_left(fl.admin, key)
        for one in started:
            assert one.ended() == (0, "", "")


@pytest.mark.parametrize("killed", ["the first", "two in the middle"])
async def test_who_was_killed_is_passed_over_after_its_place_has_ended(
    fl: Ways, killed: Any
) -> None:
    key = fl.key()
    holder = await fl.client().acquire(key, TTL)
    with processes(fl, key, 4) as started:
        tokens = [await come_in(fl, key, one) for one in started]
        dead = started[:1] if killed == "the first" else started[1:3]
        living = [one for one in started if one not in dead]
        for one in dead:
            one.signal(signal.SIGKILL)
            one.process.wait()
        when = time.monotonic()
        assert waiting(fl.admin, key) == tokens
        assert await holder.release() is True
        for one in living:
            assert one.said() == "held"
            # Its own look is a tenth of a second; the rest is for a busy machine.
            assert time.monotonic() - when < PLACE + 1
            assert fl.admin.get(key) == tokens[started.index(one)]
            one.tell("release")
            assert one.said() == "True"
        assert nothing_left(fl.admin, key)


async def test_a_frozen_process_comes_back_to_the_end(fl: Ways) -> None:
    """It has lost its place, and is not forgotten: it comes in again."""
    key = fl.key()
    holder = await fl.client().acquire(key, TTL)
    with processes(fl, key, 2) as (frozen, other):
        token = await come_in(fl, key, frozen)
        await come_in(fl, key, other)
        frozen.signal(signal.SIGSTOP)
        assert await holder.release() is True
        try:
            assert other.said() == "held"
            assert len(waiting(fl.admin, key)) == 0
        finally:
            frozen.signal(signal.SIGCONT)
        await fl.until(lambda: waiting(fl.admin, key) == [token])
        other.tell("release")
        assert other.said() == "True"
        assert frozen.said() == "held"
        frozen.tell("release")
        assert frozen.said() == "True"
        assert nothing_left(fl.admin, key)
