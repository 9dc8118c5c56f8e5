"""``close()`` while others wait: each of them is told at once, whatever it waits for.

Law: no answer comes and every limit of time is a minute, so that nothing else ends a wait.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest
from _harness import Ways, async_only, one_server

import fastlock

PATIENT = {"retry_timeout": 60_000, "socket_timeout": 60, "connect_timeout": 60}
#: Seconds; it takes milliseconds, and a minute if the wait is not ended.
AT_ONCE = 10
#: Which reply is held back; of a pause, none is.
HELD = {"answer": "SET", "connecting": "HELLO", "greeting": "INFO"}

CALLS: dict[str, Callable[[Any, str], Any]] = {
    "try_acquire": lambda client, key: client.try_acquire(key, 30),
    "acquire": lambda client, key: client.acquire(key, 30),
    "with": lambda client, key: client.lock(key, 30).__aenter__(),
}


@one_server
@pytest.mark.parametrize(
    ("how", "wait"),
    [
        *((how, wait) for how in CALLS for wait in HELD),
        ("acquire", "pause"),
        ("with", "pause"),
    ],
)
async def test_all_who_wait_are_told_at_once(fl: Ways, how: str, wait: str) -> None:
    """Five callers: with threads one of them reads, or connects, and the others wait behind."""
    proxy, key = fl.proxy(), fl.key()
    client = fl.client(proxy.uri, **PATIENT)
    if wait in ("answer", "pause"):
        await client.ping()
    held = proxy.fault("hold_reply", verb=HELD[wait]) if wait in HELD else None
    keys = [f"{key}:{number}" for number in range(5)]
    if wait == "pause":
        fl.admin.mset(dict.fromkeys(keys, "taken"))
    callers = [fl.spawn(CALLS[how](client, one)) for one in keys]
    if held is not None:
        await fl.happened(held)
    if wait in ("answer", "pause"):
        await fl.until(lambda: proxy.verbs().count("SET") >= 5, 10)
    await fl.sleep(0.1)
    began = time.monotonic()
    closing = fl.spawn(client.close())
    for caller in callers:
        with pytest.raises(fastlock.FastlockError, match="closed"):
            await caller
    assert time.monotonic() - began < AT_ONCE
    if held is not None:
        held.go()
    await closing
    if wait == "pause":
        assert set(fl.admin.mget(keys)) == {b"taken"}
        fl.admin.delete(*keys)
    await fl.until(lambda: not fl.admin.exists(*keys), 10)


@one_server
@async_only
async def test_what_a_cancelled_caller_gives_back_is_confirmed_before(
    fl: Ways, caplog: pytest.LogCaptureFixture
) -> None:
    """The answers to its try and to its giving back are on the way when the client is closed."""
    proxy, key = fl.proxy(), fl.key()
    client = fl.client(proxy.uri, **PATIENT)
    await client.ping()
    slow = proxy.fault("delay_reply", verb="SET", seconds=0.3)
    caller = asyncio.ensure_future(client.acquire(key, 30))
    await fl.until(lambda: fl.admin.exists(key))
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    await client.close()
    assert slow.happened.is_set()
    assert not fl.admin.exists(key)
    assert caplog.messages == []
