"""Looking at the lines of those who wait for locks of one client.

Law: what stands in ``Queue`` is looked at, and nothing is changed there.
"""

from __future__ import annotations

from typing import Any

from _harness import Ways

#: So patient that nothing but what the test does ends a wait.
PATIENT = {"retry_timeout": 60_000}
TAKEN = "another's"


def in_line(fl: Ways, client: Any, key: str) -> int:
    """How many of the client stand in line for the key."""
    return len(fl.raw(client)._queue.lines.get(key.encode(), ()))


async def lined_up(fl: Ways, client: Any, key: str, calls: list[Any]) -> list[Any]:
    """Start these one after the other, each when the one before stands in line."""
    before = in_line(fl, client, key)
    started = []
    for number, call in enumerate(calls, 1):
        started.append(fl.spawn(call))
        await fl.until(lambda n=number: in_line(fl, client, key) >= before + n, 10)  # type: ignore[misc]
    return started


def nobody_waits(fl: Ways, client: Any) -> bool:
    queue = fl.raw(client)._queue
    return not (queue.lines or queue.waiting or queue.threads)
