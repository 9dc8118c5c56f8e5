"""Floor 1, a cluster: where leases are renewed, by a heartbeat for each node.

Law: that of ``_renewal.py``. A lease is renewed at the node that serves its slot: when that is
another one its entry moves to that one's heartbeat, deadline and all, but not in the middle of an
extension. Whoever moves entries is a thread for that alone, which may read the map.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from . import _fork
from ._clock import clock
from ._cluster import PASSING, PATIENCE
from ._errands import Errands
from ._renewal import Keeper, Renewal
from .errors import FastlockError, ServerError

if TYPE_CHECKING:
    from ._cluster import Address
    from ._clustertopology import Cluster, Node
    from ._impl import BeatLike, Core
    from .config import Config

#: Seconds between two looks at an entry that could not move.
AGAIN = 0.05


class Roaming:
    """An entry that may move to another heartbeat; see ``_pyheartbeat.Beat``, whose face it has."""

    __slots__ = ("_mutex", "inner", "paused")

    def __init__(self, inner: BeatLike, mutex: threading.RLock) -> None:
        self._mutex = mutex
        self.inner = inner
        self.paused = False

    @property
    def number(self) -> int:
        return self.inner.number

    @property
    def deadline(self) -> float:
        return self.inner.deadline

    @deadline.setter
    def deadline(self, deadline: float) -> None:
        with self._mutex:
            self.inner.deadline = deadline

    @property
    def unsure(self) -> bool:
        return self.inner.unsure

    def pause(self, timeout: float) -> bool:
        with self._mutex:
            self.paused = True  # from here on it stays where it is
            inner = self.inner
        return inner.pause(timeout)

    def resume(self, data: bytes, usual: bytes | int, period: float, span: float) -> None:
        with self._mutex:
            self.paused = False
            self.inner.resume(data, usual, period, span)

    def recode(self, data: bytes, usual: bytes | int) -> None:
        self.inner.recode(data, usual)

    def remove(self) -> None:
        self.inner.remove()


class NodeKeeper(Keeper):
    """Renews what one node serves."""

    def __init__(self, node: Node, core: Core, config: Config, homes: ClusterKeeper) -> None:
        self._homes = homes
        self.node = node
        super().__init__(node.server, core, config)

    def _forget(self) -> None:
        super()._forget()
        self.mutex = self._homes.mutex  # one for all: entries move between them

    def add(self, renewal: Renewal, deadline: float) -> None:
        with self.mutex:
            renewal.beat = Roaming(self._entry(renewal, deadline), self.mutex)

    def renewals(self) -> list[Renewal]:
        """Those that are kept here."""
        with self.mutex:
            return list(self._renewals.values())

    def take(self, renewal: Renewal) -> bool:
        """Have it from another one, unless it is in the middle of an extension."""
        with self.mutex:
            before, beat = renewal._keeper, renewal.beat
            if renewal.done or before is self:
                return True
            assert isinstance(beat, Roaming)
            assert isinstance(before, NodeKeeper)
            old = beat.inner
            if beat.paused:
                return False
            if not old.pause(0.0):  # a renewal is under way
                old.resume(*before._words(renewal), *renewal.timing())
                return False
            beat.inner = self._entry(renewal, old.deadline)
            renewal._keeper = self
            before._renewals.pop(old.number, None)
            old.remove()
            return True

    def _unreached(self) -> None:
        self._homes.trouble()

    def _mind(self, renewal: Renewal, error: ServerError) -> None:
        if error.code == "MOVED":
            with suppress(FastlockError):
                self._homes.cluster.book.follow(error, self.node.address)
            self._homes.settle()
        elif error.code == "ASK":
            self._homes.by_hand(renewal)
        elif error.code in PASSING:
            self._homes.trouble()
        else:
            super()._mind(renewal, error)


class ClusterKeeper:
    """Renews a client's leases, each at its node; has a Keeper's face where floor 1 needs it.

    ``by_hand`` extends a lease as its user would, from no matter which thread, and returns at
    once: while its slot is on its way its entry can say it at neither node.
    """

    def __init__(
        self, cluster: Cluster, config: Config, by_hand: Callable[[Renewal], None]
    ) -> None:
        self.cluster = cluster
        self.by_hand = by_hand
        self._config = config
        self._stopped = False
        self._forget()
        cluster.moved = self._moved
        _fork.register(self)

    def _forget(self) -> None:
        self.mutex = threading.RLock()
        self._keepers: dict[Address, NodeKeeper] = {}
        self._errands = Errands("fastlock-homes")
        self._settling = False
        self.used = False
        self._gone = 0  # renewals of keepers that are no more

    def at(self, address: Address | None) -> NodeKeeper:
        """The keeper for what the node there serves; None: nobody knows, so any."""
        book = self.cluster.book
        node = book.node_at(book.seeds()[0] if address is None else address)
        with self.mutex:
            keeper = self._keepers.get(node.address)
            if keeper is None or keeper.node is not node:
                config = book.config_of(node.address)
                keeper = NodeKeeper(node, self.cluster.core, config, self)
                self._replace(node.address, keeper)
                self.used = True
                if self._stopped:
                    keeper.stop()
            return keeper

    @property
    def renewed(self) -> int:
        """As of ``Keeper``, of all."""
        with self.mutex:
            return self._gone + sum(keeper.renewed for keeper in self._keepers.values())

    # -- moving

    def trouble(self) -> None:
        """A node does not do its work: perhaps another one does."""
        self.cluster.book.stale = True
        self.settle()

    def _moved(self) -> None:
        if self.used:
            self.settle()

    def settle(self) -> None:
        """Have each lease renewed where its slot is served, soon."""
        with self.mutex:
            if self._settling or self._stopped:
                return
            self._settling = True
        self._errands.add(self._settle)

    def _settle(self) -> None:
        book = self.cluster.book
        with self.mutex:
            self._settling = False
        if book.due() or (book.hinted and book.due_behind(clock())) or not book.serving:
            with suppress(FastlockError):  # the keeper that needs it comes again
                self.cluster.look(PATIENCE)
        with self.mutex:
            keepers = list(self._keepers.values())
        waiting = False
        for keeper in keepers:
            for renewal in keeper.renewals():
                node = book.node_of(renewal.pair[0])
                if node is not None and node is not keeper.node:
                    waiting = not self.at(node.address).take(renewal) or waiting
            self._let_go(keeper)
        if waiting:
            self.cluster.pause(AGAIN)
            self.settle()

    def _let_go(self, keeper: NodeKeeper) -> None:
        """Of one whose node the cluster has no more, when it has nothing left."""
        address = keeper.node.address
        with self.mutex:
            if keeper.renewals() or self.cluster.book.nodes.get(address) is keeper.node:
                return
            if self._keepers.get(address) is keeper:
                self._replace(address, None)
        keeper.stop()

    def _replace(self, address: Address, keeper: NodeKeeper | None) -> None:
        """Mutex held. What the former one has counted stays counted."""
        before = self._keepers.pop(address, None)
        if before is not None:
            self._gone += before.renewed
        if keeper is not None:
            self._keepers[address] = keeper

    # -- the end

    def stop(self) -> None:
        """As ``Keeper.stop``."""
        with self.mutex:
            self._stopped = True
            keepers = list(self._keepers.values())
        for keeper in keepers:
            keeper.stop()

    def ended(self) -> bool:
        """As ``Keeper.ended``."""
        return all(keeper.ended() for keeper in list(self._keepers.values()))

    def join(self, timeout: float) -> None:
        """As ``Keeper.join``, of each."""
        self._errands.finish(timeout)
        for keeper in list(self._keepers.values()):
            keeper.join(timeout)

    def forked(self) -> None:
        """In a forked child: its parent's leases are none of its own."""
        keepers = list(self._keepers.values())
        self._forget()
        for keeper in keepers:  # which may have been told before
            keeper.mutex = self.mutex


def extended_by_hand(lease: Any) -> None:
    """As its user would; whatever fails here the next renewal meets."""
    with suppress(FastlockError):
        lease.extend()


def on_a_thread(errands: Errands, renewal: Renewal) -> None:
    """``by_hand`` of a sync client."""
    lease = renewal._lease()
    if lease is not None and not renewal.done:
        errands.add(partial(extended_by_hand, lease))
