"""Floor 1, a cluster: what its clients for threads and for tasks have in common.

Law: no waiting, and nothing that differs between the two.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from functools import partial
from typing import Any, TypeVar

from . import _ops_many
from ._claim import Claim
from ._clock import clock
from ._cluster import Effects, is_many, routed, routed_many
from ._driver_base import DriverBase
from ._effects import Call, Op
from ._ops_slots import acquire_spread, spread
from ._tokens import Pair

R = TypeVar("R")

_classes: dict[type[Any], type[Any]] = {}


class OnCluster(DriverBase[Any]):
    """Stands before a ``Client`` among the bases of the class that its objects become."""

    _cluster: Any
    _keeper: Any

    @classmethod
    def of(cls, kind: type[Any]) -> type[Any]:
        """The class that an object of ``kind`` becomes where its config names a cluster."""
        if issubclass(kind, cls):
            return kind
        if kind not in _classes:
            named = {"__module__": kind.__module__, "__doc__": kind.__doc__}
            _classes.setdefault(kind, type(kind.__name__, (cls, kind), named))
        return _classes[kind]

    @property
    def _kind(self) -> type[Any]:
        """The class that was called to make this."""
        return type(self).__bases__[-1]

    @property
    def _shares(self) -> int:
        """How many servers share what goes out together."""
        masters: int = self._cluster.book.masters
        return masters

    def _spread(self, operation: Callable[..., Op[R]], claim: Claim[Any]) -> Callable[..., Op[R]]:
        """The same over the slots and the servers that the claim's locks are of."""
        if operation is _ops_many.acquire_all and spread(claim):
            over_slots: Callable[..., Op[Any]] = acquire_spread
            return over_slots
        if operation is _ops_many.try_acquire_many:
            return partial(operation, shares=self._shares)
        return operation

    def _keeper_of(self, lease: Any) -> Any:
        """The one of the node that serves its slot, as far as is known."""
        node = self._cluster.book.node_of(lease.pair[0])
        return self._keeper.at(None if node is None else node.address)

    def _routed(self, call: Call) -> Effects:
        """The way of one command, or of one about each of several pairs."""
        if is_many(call):
            return routed_many(call, self._cluster.book, self._patience, self._core.divide)
        return routed(call, self._cluster.book, self._patience)

    def _time_for(self, call: Call) -> float:
        """Seconds that its answer may take."""
        patience = self._patience
        return patience if call.until is None else min(patience, call.until - clock())

    def _downgrade(self, verb: str) -> float:
        for link in self._cluster.links():  # a user is the same at all nodes
            link.downgrade(verb)
        return clock()

    def _distrust(self) -> float:
        for link in self._cluster.links():
            link.pipe.abort("an answer came that its command cannot have")
        return clock()

    def _lanes(self, pairs: list[Pair]) -> dict[Hashable, list[Pair]]:
        """These pairs by the addresses of their nodes, each of which may be slow."""
        found: dict[Hashable, list[Pair]] = {}
        for pair in pairs:
            node = self._cluster.book.node_of(pair[0])
            found.setdefault(None if node is None else node.address, []).append(pair)
        return found
