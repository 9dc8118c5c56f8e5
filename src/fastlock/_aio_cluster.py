"""Floor 1, asyncio: the client of a cluster, which is that of one server but for where things go.

Law: that of ``_sync_cluster.py``, for the tasks of one event loop at a time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

from . import _ops_many
from ._aio_lease import Lease
from ._aio_renewal import AsyncRenewal
from ._aioasides import AsyncAsides
from ._aioclustertopology import AsyncCluster, AsyncClusterListener
from ._aiopipe import within
from ._claim import Claim
from ._clock import clock
from ._cluster import (
    Answer,
    Look,
    Parcel,
    Send,
    is_many,
    routed,
    routed_many,
    unsent,
    without_asking,
    words,
)
from ._clusterrenewal import ClusterKeeper
from ._clustertopology import Cluster
from ._commands import Pair
from ._effects import Call, Op
from ._ops_slots import acquire_spread, refuse_replicas, spread
from ._renewal import Renewal, Terms
from ._topology import Link
from .aio import Client
from .errors import FastlockError, TransportError

R = TypeVar("R")
C = TypeVar("C", bound=Claim[Any])


class Clustered(Client):
    """Locks on a cluster, over one connection to each of its masters; see Client."""

    def _reach(self) -> None:
        here: Any = self
        here._server = self._cluster = AsyncCluster(
            self.config, self._core, self._connected, self._bells.new
        )
        here._asides = AsyncAsides(here._server)
        here._listener = AsyncClusterListener(self._cluster)
        # Renewals have connections of their own: the others' sockets belong to the loop.
        core = self._core
        here._renewing = renewing = Cluster(self.config, core, _nothing, lambda: core)
        here._keeper = ClusterKeeper(renewing, self.config, self._extend_by_hand)

    @property
    def _kind(self) -> type[Client]:
        return type(self).__bases__[-1]

    async def _acquire(
        self, operation: Callable[[C], Op[R]], claim: C, terms: Terms | None = None
    ) -> R:
        refuse_replicas(claim)
        if operation is _ops_many.acquire_all and spread(claim):
            over_slots: Any = acquire_spread
            operation = over_slots
        return await super()._acquire(operation, claim, terms)

    def _keep(self, acquired: Any, terms: Terms) -> None:
        homes: Any = self._keeper
        for lease in acquired if isinstance(acquired, list) else (acquired,):
            if lease is not None:
                node = self._cluster.book.node_of(lease.pair[0])
                AsyncRenewal(homes.at(None if node is None else node.address), lease, terms)

    def _defer(self, lease: Lease, link: Link | None = None) -> None:
        # Without a connection to its node any other one refuses it, and the background goes on.
        super()._defer(lease, self._cluster.serving((lease.pair[0],)))

    def _goes_round(self) -> bool:
        here = self._bells.are_of(asyncio.get_running_loop())
        return here and self._cluster.ready() is not None

    def _extend_by_hand(self, renewal: Renewal) -> None:
        """In the loop; in a keeper's thread now."""
        assert isinstance(renewal, AsyncRenewal)
        with suppress(RuntimeError):  # the loop is closed
            renewal._loop.call_soon_threadsafe(self._begin_to_extend, renewal)

    def _begin_to_extend(self, renewal: Renewal) -> None:
        lease = renewal._lease()
        if lease is None or renewal.done or self._closed:
            return
        task = asyncio.get_running_loop().create_task(_extended_by_hand(lease))
        self._settling.add(task)
        task.add_done_callback(self._settling.discard)

    # -- commands

    async def _call(self, call: Call) -> Answer:
        route = routed_many if is_many(call) else routed
        op = route(call, self._cluster.book, self._patience)
        answer: Any = None
        try:
            effect = op.send(None)
            while True:
                try:
                    answer = await self._carry_out(effect, call)
                except FastlockError as error:
                    effect = op.throw(error)
                else:
                    effect = op.send(answer)
        except StopIteration as end:
            result: Answer = end.value
            return result

    async def _carry_out(self, effect: Any, call: Call) -> Any:
        kind = type(effect)
        if kind is Send:
            answers = await self._send(effect.parcels)
            self._cluster.hint()
            return answers
        if kind is Look:
            left = self._patience if call.until is None else call.until - clock()
            return await self._cluster.look(max(0.0, min(left, self._patience)))
        return await self._sleep(effect.seconds)

    async def _send(self, parcels: list[Parcel]) -> list[Answer | TransportError]:
        if len(parcels) == 1:
            return [await self._deliver(parcels[0])]
        sending = [self._deliver(parcel) for parcel in parcels]
        answers = await asyncio.gather(*sending, return_exceptions=True)  # none goes on behind it
        heard: list[Answer | TransportError] = []
        for answer in answers:
            if isinstance(answer, FastlockError):
                heard.append(unsent(answer))
            elif isinstance(answer, BaseException):
                raise answer
            else:
                heard.append(answer)
        return heard

    async def _deliver(self, parcel: Parcel) -> Answer | TransportError:
        """Send it to its node and wait for the answers."""
        node, call, asking = parcel
        server = node.server
        sent_at = clock()
        try:
            link = server.ready()
            if link is None:
                link = await server.link(self._time_for(call))
            timeout = self._time_for(call)
            if timeout <= 0:
                raise TransportError("the caller's time was over before it could be sent")
            data, count = words(link, call, asking)
            call.left = True
            sent_at = clock()
            sending = link.pipe.call(data, count)
            if timeout < self._patience:
                sending = within(sending, timeout)
            replies = await sending
            self._meter.answered(sent_at)
            return sent_at, without_asking(replies, asking)
        except TransportError as error:
            node.failed_at = clock()
            error.sent_at = sent_at
            error.replies = without_asking(list(error.replies), asking)
            return error

    def _time_for(self, call: Call) -> float:
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

    def _post_back(self, pairs: list[Pair], verb: str, link: Link | None) -> None:
        for node, own in self._cluster.book.by_node(pairs).items():
            super()._post_back(own, verb, node.server.alive())


async def _extended_by_hand(lease: Any) -> None:
    """As its user would; whatever fails here the next renewal meets."""
    with suppress(FastlockError):
        await lease.extend()


def _nothing(_again: bool) -> None:
    """For connections that no tokens are drawn for."""


_classes: dict[type[Client], type[Client]] = {}


def clustered(kind: type[Client]) -> type[Client]:
    """The class that an object of ``kind`` becomes where its config names a cluster."""
    if issubclass(kind, Clustered):
        return kind
    if kind not in _classes:
        named = {"__module__": kind.__module__, "__doc__": kind.__doc__}
        _classes.setdefault(kind, type(kind.__name__, (Clustered, kind), named))
    return _classes[kind]
