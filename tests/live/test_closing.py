"""``close()`` while others wait: each of them is told at once, whatever it waits for.

Law: no answer comes and every limit of time is a minute, so that nothing else ends a wait.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from _harness import Ways, one_server

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
    "fenced": lambda client, key: client.acquire(key, 30, fence=True),
}


@one_server
@pytest.mark.parametrize("wait", [*HELD, "pause"])
@pytest.mark.parametrize("how", CALLS)
async def test_all_who_wait_are_told_at_once(fl: Ways, how: str, wait: str) -> None:
    """Five callers: with threads one of them reads, or connects, and the others wait behind."""
    if (how, wait) in (("try_acquire", "pause"), ("fenced", "answer")):
        how = "acquire"  # a try does not wait; a fenced one is another command
    proxy, key = fl.proxy(), fl.key()
    client = fl.client(proxy.uri, **PATIENT)
    if wait in ("answer", "pause"):
        await client.ping()
    held = proxy.fault("hold_reply", verb=HELD[wait]) if wait in HELD else None
    keys = [key] * 5
    if wait == "pause":
        fl.admin.set(key, "taken", px=600_000)
    else:
        keys = [f"{key}:{number}" for number in range(5)]
    callers = [fl.spawn(CALLS[how](client, one)) for one in keys]
    if held is not None:
        await fl.happened(held)
    else:
        tries = {"fenced": "EVALSHA"}.get(how, "SET")
        await fl.until(lambda: len(proxy.verbs()) >= 5 and proxy.verbs()[0] in (tries, "EVAL"), 10)
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
        assert fl.admin.get(key) == b"taken"
        fl.admin.delete(key)
    await fl.until(lambda: fl.admin.keys(f"{key}*") == [], 10)
