"""Fencing numbers, checked where the locked thing is.

    guard = fencing.Guard()
    with guard.writing("orders:42", lease.fence):  # StaleFence if a later holder was here
        ...

No lock can stop a holder that was frozen past its ttl and then writes on. What it writes
to can: it remembers the highest number it has seen, and refuses lower ones. A database
does that in the statement that writes (docs/fencing.md); Guard does it in a process.

Law: no client, no server, no clock; numbers are compared, and nothing else is made of them.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any
from weakref import WeakValueDictionary

from . import _args
from ._slots import companion
from .errors import StaleFence

__all__ = ["Guard", "StaleFence", "companion"]


class Guard:
    """Lets through who holds the latest fencing number, and refuses all former holders.

    For what lives in one process; any thread may use it. Equal numbers pass, so that one
    holder may write several times.

    Args:
        numbers: where the highest number of each resource is kept: any mapping, such as an
            open ``shelve`` for numbers that outlive the process. By default a dict, which
            keeps every resource it has seen; take out those that are gone.
    """

    def __init__(self, numbers: MutableMapping[Any, int] | None = None) -> None:
        self.numbers: MutableMapping[Any, int] = {} if numbers is None else numbers
        self._mutex = threading.Lock()  # guards both mappings
        self._turns: WeakValueDictionary[Any, Any] = WeakValueDictionary()  # of who is writing

    def check(self, resource: Any, fence: int | None) -> None:
        """Remember the number; StaleFence if a higher one was seen at this resource.

        What is written after this may still cross with a later holder's: see ``writing``.
        ConfigError for None, the number of a lease without one.
        """
        number = _args.fencing_number(fence)
        with self._mutex:
            seen = self.numbers.get(resource, 0)
            if number > seen:
                self.numbers[resource] = number
        if number < seen:
            raise _stale(resource, number, seen)

    @contextmanager
    def writing(self, resource: Any, fence: int | None) -> Iterator[None]:
        """``check``, and until the block ends everybody else's block of this resource waits.

        For threads: in asyncio, ``check`` and write without an ``await`` in between.
        """
        with self._mutex:
            turn = self._turns.setdefault(resource, threading.Lock())
        with turn:
            self.check(resource, fence)
            yield


def _stale(resource: Any, number: int, seen: int) -> StaleFence:
    error = StaleFence(
        f"{resource!r}: a later holder of its lock was here: {number} came after {seen}", resource
    )
    error.fence, error.seen = number, seen
    return error
