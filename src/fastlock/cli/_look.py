"""What a server knows of locks: who holds them, for how long, who waits in their fair queues.

Law: reads, and changes nothing; asks for many keys in one write, and scans in small steps. A
token goes no further than here: what is shown of it is its label.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from fastlock._args import wire_key
from fastlock._slots import QUEUE, SUFFIX, queue
from fastlock._tokens import label_of
from fastlock.errors import ServerError, TransportError

from . import printable
from ._settings import key_of
from ._wire import Wire, pack

#: Keys that one step of a scan looks at, more or less; keys asked about in one write.
STEP, BATCH = 500, 250
#: Seconds between two steps of a scan: others want the server too.
PAUSE = 0.002
#: Bytes of a value that are read: a token is shorter, and what is longer is no lock.
LONGEST = 256
#: Labels of those who wait that are shown of one lock.
MOST_SHOWN = 20
#: Places of one queue that are looked at.
MOST_PLACES = 1000
_SPECIAL = re.compile(rb"([*?\[\]^\\-])")


class Look(NamedTuple):
    """One lock at one moment."""

    wire: bytes  #: its key as the server sees it
    key: str  #: the same without the prefix; a surrogate stands for a byte that is no UTF-8
    holder: str | None  #: its label; None: nobody
    ttl: float | None  #: seconds left; None: free, or without end
    waiters: int | None  #: in its fair queue; None: this user may not look
    waiting: list[str]  #: their labels, first come first, the first few
    problem: str | None  #: the server's error about this key
    ours: bool  #: whether the value is a token of fastlock's
    token: bytes | None  #: tells one holder from the next; never shown

    @property
    def shown(self) -> str:
        """The key, for people."""
        return printable(self.key)

    def as_json(self) -> dict[str, Any]:
        """What scripts get of it."""
        return {
            "key": self.key, "held": self.holder is not None, "holder": self.holder,
            "ttl": self.ttl, "waiters": self.waiters, "waiting": self.waiting,
            "problem": self.problem,
        }  # fmt: skip


def wire_keys(keys: Sequence[str], prefix: str) -> list[bytes]:
    """As the server sees them; raises ConfigError."""
    return [wire_key(key_of(key), prefix.encode()) for key in keys]


def glob(prefix: str, pattern: str) -> bytes:
    """A pattern of the server's; the prefix stands for itself."""
    return literal(prefix.encode()) + pattern.encode(errors="surrogateescape")


def literal(text: bytes) -> bytes:
    """A pattern that matches the text alone."""
    return _SPECIAL.sub(rb"\\\1", text)


def scan(wire: Wire, pattern: bytes) -> Iterator[list[bytes]]:
    """Strings whose keys match, none of fastlock's own companions; some at each step."""
    cursor: Any = b"0"
    while True:
        words = ("SCAN", cursor, "MATCH", pattern, "COUNT", STEP, "TYPE", "string")
        answer = wire.call(*words)
        if not (isinstance(answer, list) and len(answer) == 2 and isinstance(answer[1], list)):
            raise TransportError("the server gave an answer that the command cannot have")
        cursor, found = answer
        yield [key for key in found if not is_companion(key)]
        if cursor == b"0":
            return
        time.sleep(PAUSE)


def is_companion(key: bytes) -> bool:
    """Whether it is a key beside a lock: its fencing numbers or its queue."""
    return SUFFIX in key or QUEUE in key


def locks(wire: Wire, keys: Sequence[bytes]) -> list[bytes]:
    """Those of them that hold a token of fastlock's, or may: at a small price."""
    if not keys:
        return []
    replies = wire.exchange_all(
        b"".join(pack("GETRANGE", key, 0, LONGEST - 1) for key in keys), len(keys)
    )
    return [
        key
        for key, value in zip(keys, replies, strict=True)
        if isinstance(value, ServerError) or _is_ours(value)  # an error: look says what it is
    ]


def look(wire: Wire, keys: Sequence[bytes], prefix: str = "") -> list[Look]:
    """How each of them is. Raises TransportError, and ServerError where nothing may be asked."""
    looks: list[Look] = []
    for start in range(0, len(keys), BATCH):
        looks += _some(wire, keys[start : start + BATCH], len(prefix.encode()))
    return looks


def _some(wire: Wire, keys: Sequence[bytes], skip: int) -> list[Look]:
    now = int(time.time() * 1000)
    try:
        seconds, micros = wire.call("TIME")
        now = int(seconds) * 1000 + int(micros) // 1000  # the server's, by which places end
    except ServerError:
        pass
    batch = []
    for key in keys:
        beside = queue(key)
        batch += [
            pack("GETRANGE", key, 0, LONGEST - 1),
            pack("PTTL", key),
            pack("ZCOUNT", beside, now, "+inf"),
            pack("ZRANGE", beside, 0, MOST_SHOWN - 1),
            pack("ZRANGE", beside, now, "+inf", "BYSCORE", "LIMIT", 0, MOST_PLACES),
        ]
    replies = wire.exchange_all(b"".join(batch), len(batch))
    for reply in replies[:2]:
        if isinstance(reply, ServerError) and reply.code != "WRONGTYPE":
            raise reply
    fives = [replies[at : at + 5] for at in range(0, len(replies), 5)]
    return [_one(key, skip, *five) for key, five in zip(keys, fives, strict=True)]


def _is_ours(value: bytes) -> bool:
    """Whether it is a token of fastlock's."""
    return len(value) < LONGEST and label_of(value) != "unknown"


def _one(
    wire: bytes, skip: int, value: Any, left: Any, waiters: Any, first: Any, places: Any
) -> Look:
    problem = next((str(r) for r in (value, left) if isinstance(r, ServerError)), None)
    held = problem is None and bool(value)
    ttl = left / 1000 if held and isinstance(left, int) and left >= 0 else None
    label = label_of(value) if held else None
    # Of each who waits there are two members: one in the order of arrival, all of which come
    # first, and one by the time when the place ends; those who died are passed over.
    there = {m[1:] for m in places} if isinstance(places, list) else set()
    came = [m[1:] for m in first if m[:1] == b"a"] if isinstance(first, list) else []
    tokens = [token for token in came if token in there]
    return Look(
        wire,
        wire[skip:].decode(errors="surrogateescape"),
        label,
        ttl,
        waiters if isinstance(waiters, int) else None,
        [label_of(token) for token in tokens],
        problem,
        held and _is_ours(value),
        value if held else None,
    )
