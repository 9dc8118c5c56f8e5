"""Whose turn it is to extend a lease of a sync client.

Law: one extension of a lease at a time, lest the answers be believed in another order than the
server's; a renewed one waits meanwhile. No interrupt leaves a lock taken: each is in a ``with`` of
its own, in the frame that works under it, and is looked after once more behind it (CPython 3.14 can
be interrupted between taking it and the block). No handler waits for the call that it came into,
nor for somebody who waits for that: it is refused.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeVar

from .errors import LockError

if TYPE_CHECKING:
    from ._renewal import Renewal
    from ._sync_lease import Lease

R = TypeVar("R")


class Turns:
    """One client's.

    Who extends one lease holds its gate. Who extends many holds ``_many``, lists them, and waits
    for those that have gone through a gate before; who comes later finds its lease listed.
    """

    def __init__(self) -> None:
        self.forked()

    def forked(self) -> None:
        """In a forked child: whoever held a lock is not here to leave it."""
        self._guard = threading.RLock()  # of the making of gates, and of the list
        self._many = threading.RLock()
        self._listed: frozenset[int] = frozenset()  # ids of leases; out of date after an interrupt
        self._thread = threading.local()  # .gates: those that it has taken, and may hold

    def alone(self, lease: Lease, work: Callable[[], None]) -> None:
        """Carry ``work`` out while nobody else extends the lease, nor renews it."""
        renewal: Renewal | None = lease._renewal
        while True:
            gate = self._gate(lease)
            try:
                with gate:
                    self._gates().append(gate)
                    if id(lease) not in self._listed:
                        try:
                            if renewal is not None:
                                renewal.pause()
                            return work()
                        finally:
                            if renewal is not None:
                                renewal.resume()
            finally:
                if gate._is_owned():
                    gate.release()
            many = self._unless_inside(lease.key)
            try:
                with many:  # until it is listed no more
                    self._listed = frozenset()
            finally:
                if many._is_owned():
                    many.release()

    def together(self, leases: Iterable[Lease | None], work: Callable[[], R]) -> R:
        """Carry ``work`` out while nobody else extends any of these, nor renews it."""
        distinct = {id(lease): lease for lease in leases if lease is not None}
        renewals = [lease._renewal for lease in distinct.values() if lease._renewal is not None]
        many = self._unless_inside(next(iter(distinct.values())).key if distinct else "")
        paused: list[Renewal] = []
        try:
            with many:
                try:
                    with self._guard:  # a gate made later finds the list
                        self._listed = frozenset(distinct)
                    for lease in distinct.values():
                        if lease._turn is not None:
                            self._pass(self._gate(lease))
                    paused = renewals
                    for renewal in paused:
                        renewal.pause()
                    return work()
                finally:
                    for renewal in paused:
                        renewal.resume()
                    self._listed = frozenset()
        finally:
            if many._is_owned():
                many.release()

    def _pass(self, gate: Any) -> None:
        try:
            with gate:
                pass
        finally:
            if gate._is_owned():
                gate.release()

    def _gate(self, lease: Lease) -> Any:
        """Of one lease; LockError if this thread is inside."""
        with self._guard:
            if lease._turn is None:
                lease._turn = threading.RLock()
        renewal = lease._renewal
        gate: Any = lease._turn if renewal is None else renewal.gate
        if gate._is_owned():
            raise _inside(lease.key)
        return gate

    def _unless_inside(self, key: str | bytes) -> Any:
        """``_many``; LockError if this thread is inside of that, or of anybody's gate.

        Whoever holds it may be waiting for that gate.
        """
        many: Any = self._many
        if self._gates() or many._is_owned():
            raise _inside(key)
        return many

    def _gates(self) -> list[Any]:
        """Those that this thread holds."""
        try:
            gates: list[Any] = self._thread.gates
        except AttributeError:
            gates = self._thread.gates = []
        gates[:] = [gate for gate in gates if gate._is_owned()]
        return gates


def _inside(key: str | bytes) -> LockError:
    """A signal's handler in the middle of an extension would be answered first, and the
    interrupted one overwrite what it learned.
    """
    return LockError(
        f"{key!r}: this thread is in the middle of an extension, which a handler has "
        "interrupted; extend it when that is done",
        key,
    )
