"""Floor 1, asyncio: the client of a cluster, which is that of one server but for where things go.

Law: that of ``_sync_cluster.py``, for the tasks of one event loop at a time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple, TypeVar

from ._aio_lease import Lease
from ._aio_renewal import AsyncRenewal
from ._aioclustertopology import AsyncCluster, AsyncClusterListener, AsyncNode
from ._aiopipe import within
from ._aiotopology import retrieve
from ._claim import Claim
from ._clock import clock
from ._cluster import (
    OLD,
    Answer,
    Look,
    Parcel,
    Send,
    unsent,
    without_asking,
    words,
)
from ._clustered import OnCluster
from ._clusterrenewal import ClusterKeeper
from ._clustertopology import Cluster, ClusterAsides
from ._effects import Call, Confirmed, Op
from ._renewal import Renewal, Terms
from ._tokens import Pair
from ._topology import Link, too_late
from .aio import Client
from .errors import FastlockError, TransportError

R = TypeVar("R")
C = TypeVar("C", bound=Claim[Any])


class Flight(NamedTuple):
    """One parcel on its way."""

    sent_at: float
    timeout: float  # seconds from then on
    answer: asyncio.Future[list[Any]]


class Clustered(OnCluster, Client):
    """Locks on a cluster, over one connection to each of its masters; see Client."""

    _cluster: AsyncCluster

    def _reach(self) -> None:
        here: Any = self
        here._server = self._cluster = AsyncCluster(
            self.config, self._core, self._connected, self._bells.new
        )
        self._book, self._slot = self._cluster.book, self._core.slot
        here._asides = ClusterAsides(self._cluster.book, self._call)
        here._listener = AsyncClusterListener(self._cluster)
        # Renewals have connections of their own: the others' sockets belong to the loop.
        core = self._core
        here._renewing = renewing = Cluster(self.config, core, _nothing, lambda: core)
        here._keeper = ClusterKeeper(renewing, self.config, self._extend_by_hand)

    async def _acquire(
        self, operation: Callable[[C], Op[R]], claim: C, terms: Terms | None = None
    ) -> R:
        return await super()._acquire(self._spread(operation, claim), claim, terms)

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

    def _home(self, wire: bytes) -> Link | None:
        book = self._book
        if book.stale:
            return None
        node = book.serving[self._slot(wire)]
        if node is None or node.server.strays:
            return None
        if book.hinted or clock() > book.read_at + OLD:
            self._cluster.hint()
        return node.server.link_of_this_loop()

    def _astray(self, link: Link, failure: Any, answer: Any) -> bool:
        return self._cluster.book.astray(link, failure, answer)

    async def _call(self, call: Call) -> Answer:
        op = self._routed(call)
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
        """All are written in one turn of the loop, but for those that must connect first."""
        if len(parcels) == 1:
            return [await self._deliver(parcels[0])]
        loop = asyncio.get_running_loop()
        flights: list[Flight | TransportError | asyncio.Task[Answer | TransportError]] = []
        try:
            for parcel in parcels:
                try:
                    server = parcel.node.server
                    link = server.ready()
                    if link is None or server.strays:
                        flights.append(loop.create_task(self._deliver(parcel)))
                        continue
                    flight = self._write(parcel, link)
                    flight.answer.add_done_callback(retrieve)
                    flights.append(flight)
                except FastlockError as error:
                    flights.append(_lost(parcel, unsent(error), clock()))
            heard: list[Answer | TransportError] = []
            for parcel, each in zip(parcels, flights, strict=True):
                try:
                    if isinstance(each, Flight):
                        heard.append(await self._read(parcel, each))
                    else:
                        heard.append(each if isinstance(each, TransportError) else await each)
                except FastlockError as error:
                    heard.append(unsent(error))
            return heard
        finally:
            for each in flights:  # none goes on behind it
                if isinstance(each, asyncio.Task) and not loop.is_closed():
                    each.cancel()
                    each.add_done_callback(retrieve)

    async def _deliver(self, parcel: Parcel) -> Answer | TransportError:
        """Send it to its node and wait for the answers."""
        if type(parcel.call) is Confirmed:
            return await self._deliver_confirmed(parcel.node, parcel.call, parcel.asking)
        server = parcel.node.server
        sent_at = clock()
        try:
            link = parcel.node.server.ready()
            if link is None:
                link = await server.link(self._time_for(parcel.call))
            if server.strays:
                await server.end_strays(link, self._time_for(parcel.call))
            flight = self._write(parcel, link)
        except TransportError as error:
            return _lost(parcel, error, sent_at)
        return await self._read(parcel, flight)

    def _write(self, parcel: Parcel, link: Link) -> Flight:
        """Have it sent by the end of this turn of the loop."""
        _, call, asking = parcel
        timeout = self._time_for(call)
        if timeout <= 0:
            raise too_late()
        data, count = words(link, call, asking)
        call.left = True
        return Flight(clock(), timeout, link.pipe.call(data, count))

    async def _read(self, parcel: Parcel, flight: Flight) -> Answer | TransportError:
        """Wait for the answers."""
        answer: Any = flight.answer
        try:
            if flight.timeout < self._patience:
                answer = within(answer, max(0.0, flight.sent_at + flight.timeout - clock()))
            replies = await answer
            self._meter.answered(flight.sent_at)
            return flight.sent_at, without_asking(replies, parcel.asking)
        except TransportError as error:
            return _lost(parcel, error, flight.sent_at)

    async def _deliver_confirmed(
        self, node: AsyncNode, call: Confirmed, asking: bool
    ) -> Answer | TransportError:
        """The same on a connection that nobody else uses, with WAIT behind it."""
        try:
            before = self._core.pack(b"ASKING") if asking else b""
            return await node.asides.call(call, self._patience, before)
        except TransportError as error:
            node.failed_at = clock()
            return error

    def _post_back(self, pairs: list[Pair], verb: str, link: Link | None) -> None:
        for node, own in self._cluster.book.by_node(pairs).items():
            super()._post_back(own, verb, node.server.alive())

    async def _settle(self, pairs: list[Pair], until: float, verb: str) -> None:
        """At each node for itself: one that is slow keeps no other waiting."""
        settle = super()._settle
        lanes = [settle(own, until, verb) for own in self._lanes(pairs).values()]
        await asyncio.gather(*lanes)


def _lost(parcel: Parcel, error: TransportError, sent_at: float) -> TransportError:
    """The error of a parcel whose answers, or some of them, did not come."""
    parcel.node.failed_at = clock()
    error.sent_at = sent_at
    error.replies = without_asking(list(error.replies), parcel.asking)
    return error


async def _extended_by_hand(lease: Any) -> None:
    """As its user would; whatever fails here the next renewal meets."""
    with suppress(FastlockError):
        await lease.extend()


def _nothing(_again: bool) -> None:
    """For connections that no tokens are drawn for."""
