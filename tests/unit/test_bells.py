"""Bells of an event loop, and the one timer that they share."""

from __future__ import annotations

import asyncio
import gc
import weakref
from typing import Any

import pytest

import fastlock.aio
from fastlock._aio_waiting import MOST_BELLS, Alarm, Bell


def loops() -> list[Any]:
    found: list[Any] = [asyncio.new_event_loop]
    try:
        import uvloop
    except ImportError:
        return found
    return [*found, uvloop.new_event_loop]


@pytest.fixture(params=loops(), ids=lambda new: new.__module__.partition(".")[0])
def loop(request: pytest.FixtureRequest) -> Any:
    made = request.param()
    yield made
    made.close()


async def waited(alarm: Alarm, seconds: float) -> float:
    began = alarm.loop.time()
    await Bell(alarm).wait(seconds)
    return alarm.loop.time() - began


@pytest.mark.parametrize("count", [1, 10, 3 * MOST_BELLS])
def test_each_rings_at_its_time(loop: Any, count: int) -> None:
    async def all_of_them() -> None:
        alarm = Alarm(loop)
        times = [0.0002 + 0.05 * number / count for number in range(count)]
        took = await asyncio.gather(*[waited(alarm, seconds) for seconds in reversed(times)])
        for seconds, found in zip(reversed(times), took, strict=True):
            assert seconds - 0.002 <= found < seconds + 5
        assert not alarm._due
        assert alarm._timer is None

    loop.run_until_complete(asyncio.wait_for(all_of_them(), 30))


def test_what_rings_before_leaves_the_others_their_time(loop: Any) -> None:
    async def go() -> None:
        alarm = Alarm(loop)
        first, others = Bell(alarm), [Bell(alarm) for _ in range(3)]
        tasks = [asyncio.ensure_future(bell.wait(60)) for bell in (first, *others)]
        short = asyncio.ensure_future(waited(alarm, 0.02))
        await asyncio.sleep(0)
        tasks[1].cancel()
        first.set()
        await tasks[0]
        assert await asyncio.wait_for(short, 10) >= 0.018
        for bell in others:
            bell.set()
        await asyncio.gather(*tasks[2:])
        assert not alarm._due
        assert alarm._timer is None

    loop.run_until_complete(go())


def test_an_interrupt_in_the_middle_of_ringing_leaves_the_others_a_timer(loop: Any) -> None:
    class Struck(Bell):
        def set(self) -> None:
            raise RuntimeError("struck")

    async def go() -> None:
        alarm = Alarm(loop)
        loop.set_exception_handler(lambda *_: None)
        alarm.add(Struck(alarm), 0.005)
        assert await asyncio.wait_for(waited(alarm, 0.02), 10) >= 0.018

    loop.run_until_complete(go())


def test_a_bell_of_a_closed_loop_is_not_rung() -> None:
    loop = asyncio.new_event_loop()

    async def make() -> Bell:
        return Bell(Alarm(loop))

    bell = loop.run_until_complete(make())
    loop.close()
    bell.set()
    assert not bell._rung.done()


def test_a_client_goes_as_soon_as_nobody_has_it() -> None:
    gc.collect()
    gc.disable()
    try:
        client = fastlock.aio.Client()
        gone = weakref.ref(client)
        del client
        assert gone() is None
    finally:
        gc.enable()
