"""Eight processes that all want one lock: none of them is left behind.

Law: what each had it counts itself, for as long as all of them are at it; in which order fair ones
came, the server tells. ``--shares`` says for how many seconds.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import pytest
from _arrivals import Arrivals
from _harness import APIS, CORES, Ways, one_server
from _program import Program, program
from _waiting import nothing_left

pytestmark = [pytest.mark.slow, one_server]

PROCESSES = 8
SYNC = """
import sys, time
import fastlock

uri, key, hold, fair, seconds = sys.argv[1:]
hold, fair, seconds = float(hold), fair == "fair", float(seconds)
client = fastlock.Client(uri, socket_timeout=30)
client.ping()
print("ready", client.core, flush=True)
sys.stdin.readline()
count, end = 0, time.monotonic() + seconds
while time.monotonic() < end:
    lease = client.acquire(key, 60, 60, fair=fair)
    if hold:
        time.sleep(hold)
    count += time.monotonic() < end
    assert lease.release() is True
print(count, flush=True)
"""
ASYNC = """
import asyncio, sys, time
import fastlock.aio

async def main():
    uri, key, hold, fair, seconds = sys.argv[1:]
    hold, fair, seconds = float(hold), fair == "fair", float(seconds)
    async with fastlock.aio.Client(uri, socket_timeout=30) as client:
        await client.ping()
        print("ready", client.core, flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        count, end = 0, time.monotonic() + seconds
        while time.monotonic() < end:
            lease = await client.acquire(key, 60, 60, fair=fair)
            if hold:
                await asyncio.sleep(hold)
            count += time.monotonic() < end
            assert await lease.release() is True
        print(count, flush=True)

asyncio.run(main())
"""
CODE = {"sync": SYNC, "async": ASYNC}


def compete(
    server: Any, key: str, ways: list[tuple[str, str]], hold: float, fair: str, seconds: float
) -> list[int]:
    """A process of each of these ways; how often each had the lock."""
    with ExitStack() as stack:
        started: list[Program] = []
        for api, core in ways:
            words = ("-c", CODE[api], server.uri, key, str(hold), fair, str(seconds))
            started.append(stack.enter_context(program(*words, FASTLOCK_CORE=core)))
        for one, (_, core) in zip(started, ways, strict=True):
            assert one.said() == f"ready {core}"
        for one in started:
            one.tell("go")
        counts = [int(one.said()) for one in started]
        for one in started:
            assert one.ended() == (0, "", "")
        return counts


# Both APIs and both cores, in half of the time of all four.
@pytest.mark.parametrize(("api", "core"), [("sync", "cython"), ("async", "python")])
@pytest.mark.parametrize("hold", [0, 0.001])
async def test_each_has_at_least_half_of_its_fair_share(
    fl: Ways, hold: float, pytestconfig: Any
) -> None:
    key, ways = fl.key(), [(fl.api, fl.core)] * PROCESSES
    seconds = pytestconfig.getoption("shares")
    counts = compete(fl.server, key, ways, hold, "plain", seconds)
    assert min(counts) >= sum(counts) / PROCESSES / 2, counts
    assert nothing_left(fl.admin, key)


@pytest.mark.parametrize("hold", [0, 0.001])
def test_fair_ones_have_it_in_the_order_in_which_they_came(
    server: Any, own_server: Any, hold: float, pytestconfig: Any
) -> None:
    """Of both APIs and cores, at one key."""
    key, ways = "shared", [(api, core) for api in APIS for core in CORES] * 2
    seconds = pytestconfig.getoption("shares")
    with Arrivals(own_server, key) as arrivals:
        counts = compete(own_server, key, ways, hold, "fair", seconds)
        served = arrivals.end()
    assert len(ways) == PROCESSES
    assert served > sum(counts) / 2  # the others found nobody waiting
    assert min(counts) >= sum(counts) / PROCESSES / 2, counts
    assert nothing_left(own_server.admin, key)
