"""Who waits for a fair lock, as the server has it.

Law: the queue is read, never written; what it means stands in ``_scripts/fair.lua``.
"""

from __future__ import annotations

from typing import Any

from fastlock._slots import queue

#: Seconds that a place lasts from its waiter's last step, as docs/fair.md says.
PLACE = 3.0


def queue_of(key: str | bytes) -> bytes:
    """The name of the key's queue."""
    return queue(key.encode() if isinstance(key, str) else key)


def waiting(admin: Any, key: str | bytes) -> list[bytes]:
    """The tokens of those who have a place, the first one first."""
    members = admin.zrangebyscore(queue_of(key), "-inf", "(0")
    assert all(member.startswith(b"a") for member in members)
    return [member[1:] for member in members]


def nothing_left(admin: Any, key: str | bytes) -> bool:
    """Whether there is neither lock nor queue."""
    return not admin.exists(key, queue_of(key))
