"""A lease between two threads: what is counted of it is counted once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from fastlock._metrics import LOST
from fastlock._pyleases import Leases
from fastlock._pymeter import Meter
from fastlock.lease import BaseLease

#: Seconds that a thread waits for another one to look as well.
TOGETHER = 0.3


class Client:
    """Whose lease it is."""

    def __init__(self) -> None:
        self._meter = Meter()
        self.both = threading.Barrier(2)


class Watched(BaseLease):
    """Whoever looks when it began waits until a second thread looks, too, if one comes."""

    __slots__ = ("kept",)
    kept: Any

    @property
    def since(self) -> Any:
        found = self.kept
        try:
            self._client.both.wait(TOGETHER)
        except threading.BrokenBarrierError:  # nobody came
            self._client.both.abort()
        return found

    @since.setter
    def since(self, since: Any) -> None:
        self.kept = since


@pytest.mark.parametrize("other", [BaseLease._count_lost, BaseLease._remember])
def test_a_lease_is_lost_once(other: Callable[[Any], None]) -> None:
    """Also if another thread finds it out, or is about to extend it, at the same moment."""
    client = Client()
    lease: Any = Leases(Watched).one(client, 0, "k", (b"k", b"t"), 1.0, 100.0)
    thread = threading.Thread(target=other, args=(lease,))
    thread.start()
    lease._count_lost()
    thread.join()
    lease._count_lost()
    assert client._meter.counts()[LOST] == 1
