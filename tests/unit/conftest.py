"""Fixtures of the tests of connecting."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from _connecting import Way


@pytest.fixture(params=["sync", "asyncio", "uvloop"])
def way(request: pytest.FixtureRequest) -> Iterator[Way]:
    if request.param == "sync":
        way = Way(None)
    elif request.param == "asyncio":
        way = Way(asyncio.new_event_loop())
    else:
        import uvloop

        way = Way(uvloop.new_event_loop())
    yield way
    for talk in way.talks:
        talk.close()
    if way.loop is not None:
        way.loop.run_until_complete(way.loop.shutdown_default_executor())
        way.loop.close()
