"""Floor 1, sync: whose turn it is to extend a lease.

Law: one extension of a lease at a time, lest the answers be believed in another order than the
server's; a renewed one waits meanwhile. No interrupt leaves a gate shut: each is a plain lock in
a ``with`` of the extending frame. No handler waits for the call that it came into: it is refused.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from .errors import LockError

if TYPE_CHECKING:
    from ._sync_lease import Lease


class Turns:
    """One client's.

    Who extends one lease holds its gate. Who extends many holds ``many``, lists them, and waits
    for those that have gone through a gate before; who comes later finds its lease listed.
    """

    def __init__(self) -> None:
        self.forked()

    def forked(self) -> None:
        """In a forked child: whoever held a lock is not here to leave it."""
        self._guard = threading.RLock()  # of the making of gates, and of the list
        self._many = threading.RLock()
        self._listed: frozenset[int] = frozenset()  # ids of leases; out of date after an interrupt

    def gate(self, lease: Lease) -> threading.RLock:
        """To be entered by who extends this one; LockError if this thread is about that."""
        with self._guard:
            if lease._turn is None:
                lease._turn = threading.RLock()
        renewal = lease._renewal
        return _not_ours(lease._turn if renewal is None else renewal.gate, lease.key)

    def many(self, leases: Iterable[Lease | None]) -> threading.RLock:
        """To be entered by who extends these; LockError if this thread is about others."""
        keys = [lease.key for lease in leases if lease is not None]
        return _not_ours(self._many, keys[0] if keys else "")

    def is_listed(self, lease: Lease) -> bool:
        """Behind the gate: whether it is being extended with many, as far as is known."""
        return id(lease) in self._listed

    def wait(self, lease: Lease) -> None:
        """Before the gate: until it is not."""
        with _not_ours(self._many, lease.key):
            self._listed = frozenset()

    @contextmanager
    def together(self, leases: Iterable[Lease | None]) -> Iterator[None]:
        """Behind ``many``: with these, and none of them renewed meanwhile."""
        distinct = {id(lease): lease for lease in leases if lease is not None}
        with self._guard:  # a gate made later finds the list
            self._listed = frozenset(distinct)
        renewals = [lease._renewal for lease in distinct.values() if lease._renewal is not None]
        try:
            for lease in distinct.values():
                if lease._turn is not None:
                    with self.gate(lease):
                        pass
            for renewal in renewals:
                renewal.pause()
            yield
        finally:
            self._listed = frozenset()
            for renewal in renewals:
                renewal.resume()


@contextmanager
def alone(lease: Lease) -> Iterator[None]:
    """Behind the gate: without renewals."""
    renewal = lease._renewal
    if renewal is None:
        yield
        return
    try:
        renewal.pause()
        yield
    finally:
        renewal.resume()


def _not_ours(lock: Any, key: str | bytes) -> threading.RLock:
    """LockError if this thread holds it already.

    That would be a signal's handler in the middle of an extension: its own would be answered
    first, and the interrupted one overwrite what it learned.
    """
    if lock._is_owned():
        raise LockError(
            f"{key!r}: this thread is in the middle of an extension, which a handler has "
            "interrupted; extend it when that is done",
            key,
        )
    return lock  # type: ignore[no-any-return]
