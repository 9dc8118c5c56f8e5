"""Floor 1, sync: the client of a cluster, which is that of one server but for where things go.

Law: that of ``sync.py``. What is decided about a command's way stands in ``_cluster.py``; this
carries it out. Every command goes by its key's slot at that moment, also one about a lease: none
holds on to the node it came from.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from . import _fork, _impl
from ._background import Background
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
from ._clusterrenewal import ClusterKeeper, on_a_thread
from ._clustertopology import Cluster, ClusterAsides, ClusterListener, Node
from ._deferred import Deferred
from ._effects import Call, Confirmed, Op
from ._errands import Errands
from ._impl import TicketLike
from ._renewal import Terms
from ._resp import Reentered
from ._tokens import Pair
from ._topology import Link, closed_error, too_late
from .errors import FastlockError, TransportError
from .sync import Client

R = TypeVar("R")
C = TypeVar("C", bound=Claim[Any])


#: Seconds to read what has already come, while another node was waited for in vain.
GLANCE = 0.005


class Flight:
    """One parcel on its way, and what came of it: a ticket, or the reason why there is none."""

    __slots__ = ("aside", "link", "outcome", "parcel", "sent_at", "ticket", "timeout")

    def __init__(self, parcel: Parcel) -> None:
        self.parcel = parcel
        self.link: Any = None
        self.ticket: TicketLike | None = None
        self.outcome: TransportError | None = None
        self.aside = False  # a handler has come into the connection's own code
        self.sent_at = 0.0
        self.timeout = 0.0  # seconds from then on


class Clustered(OnCluster, Client):
    """Locks on a cluster, over one connection to each of its masters; see Client."""

    _cluster: Cluster

    def _reach(self) -> None:
        here: Any = self
        here._server = self._cluster = Cluster(
            self.config, self._core, self._connected, self._patched
        )
        self._book, self._slot = self._cluster.book, self._core.slot
        here._asides = ClusterAsides(self._cluster.book, self._call)
        here._deferred = ClusterDeferred(self._cluster, self._background, self._patience)
        here._listener = ClusterListener(self._cluster)
        here._keeper = ClusterKeeper(
            self._cluster, self.config, functools.partial(on_a_thread, Errands("fastlock-by-hand"))
        )

    def _new_background(self) -> Background:
        return Background(self._settle, self._meter, self._lanes)

    def _patched(self) -> _impl.Core:
        self._core = _impl.fit(self._core)
        self._turns.forked()
        self._background = self._new_background()
        self._deferred.forked(self._background)
        return self._core

    def _acquire(self, operation: Callable[[C], Op[R]], claim: C, terms: Terms | None = None) -> R:
        return super()._acquire(self._spread(operation, claim), claim, terms)

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
        return node.server._link

    def _outcome(
        self, link: Link, said: tuple[Any, ...], timeout: float
    ) -> tuple[bool, TransportError | None, Any]:
        begun, failure, answer = super()._outcome(link, said, timeout)
        if begun and self._cluster.book.astray(link, failure, answer and answer[1]):
            return False, None, None
        return begun, failure, answer

    def _call(self, call: Call) -> Answer:
        op = self._routed(call)
        answer: Any = None
        try:
            effect = op.send(None)
            while True:
                try:
                    answer = self._carry_out(effect, call)
                except FastlockError as error:
                    effect = op.throw(error)
                else:
                    effect = op.send(answer)
        except StopIteration as end:
            result: Answer = end.value
            return result

    def _carry_out(self, effect: Any, call: Call) -> Any:
        kind = type(effect)
        if kind is Send:
            answers = self._send(effect.parcels)
            self._cluster.hint()
            return answers
        if kind is Look:
            left = self._patience if call.until is None else call.until - clock()
            return self._cluster.look(min(left, self._patience))
        over = self._closed if self._background.runs_here() else self._closing
        if over.wait(effect.seconds):
            raise closed_error()
        return None

    def _send(self, parcels: list[Parcel]) -> list[Answer | TransportError]:
        """All are written, by this thread, before an answer of any is waited for."""
        if len(parcels) == 1:
            return [self._deliver(parcels[0])]
        generation = _fork.generation
        end = clock() + self._patience
        flights = [Flight(parcel) for parcel in parcels]
        try:
            for flight in sorted(flights, key=_to_connect):  # connecting takes time
                self._write(flight, end)
            answers = [self._read(flight) for flight in flights]
        finally:
            try:
                _leave(flights)
            except BaseException:  # an interrupt: leaving twice does no harm
                _leave(flights)
                raise
        _fork.check(generation)  # a signal handler's, meanwhile
        return answers

    def _write(self, flight: Flight, end: float) -> None:
        """Connect, at most until ``end``, and send; what fails is the flight's outcome."""
        node, call, asking = flight.parcel
        server = node.server
        generation = _fork.generation
        try:
            flight.timeout = timeout = min(self._time_for(call), end - clock())
            if server.strays:
                server.end_strays(timeout)
            flight.link = link = server.link(timeout)
            _fork.check(generation)
            data, count = words(link, call, asking)
            call.left = True
            flight.timeout = self._time_for(call)
            flight.sent_at = clock()
            if flight.timeout <= 0:
                raise too_late()
            flight.ticket = link.pipe.ticket()
            flight.ticket.send(data, count)
        except Reentered:
            flight.ticket = None
            flight.aside = True
        except TransportError as error:
            _fork.check(generation)
            node.failed_at = clock()
            flight.ticket = None
            flight.outcome = error
        except FastlockError as error:
            flight.ticket = None
            flight.outcome = unsent(error)

    def _read(self, flight: Flight) -> Answer | TransportError:
        """Wait for its answers."""
        node, call, asking = flight.parcel
        if flight.aside:
            call.left = True
            try:
                return self._deliver_aside(node, call, asking, flight.timeout)
            except FastlockError as error:
                return _without_asking(unsent(error), asking)
        if flight.ticket is None:
            assert flight.outcome is not None
            return flight.outcome
        try:
            left = flight.sent_at + flight.timeout - clock()
            replies = flight.ticket.wait(max(left, GLANCE))
            self._meter.answered(flight.sent_at)
            return flight.sent_at, without_asking(replies, asking)
        except TransportError as error:
            node.failed_at = clock()
            self._failed(error, flight.link, flight.sent_at, flight.timeout)
            return _without_asking(error, asking)

    def _deliver(self, parcel: Parcel) -> Answer | TransportError:
        """Send it to its node and wait for the answers."""
        node, call, asking = parcel
        if type(call) is Confirmed:
            return self._deliver_confirmed(node, call, asking)
        server = node.server
        generation = _fork.generation
        timeout = self._time_for(call)
        try:
            if server.strays:
                server.end_strays(timeout)
            link = server.link(timeout)
            _fork.check(generation)
            data, count = words(link, call, asking)
            call.left = True
            sent_at = clock()
            timeout = self._time_for(call)
            if timeout <= 0:
                raise too_late()
            replies = link.pipe.call(data, count, timeout)
            self._meter.answered(sent_at)
            return sent_at, without_asking(replies, asking)
        except Reentered:
            call.left = True
            try:
                return self._deliver_aside(node, call, asking, timeout)
            except TransportError as error:
                return _without_asking(error, asking)
        except TransportError as error:
            _fork.check(generation)
            node.failed_at = clock()
            if error.sent or error.timed_out:
                self._failed(error, link, sent_at, timeout)
                _without_asking(error, asking)
            return error

    def _deliver_aside(self, node: Node, call: Call, asking: bool, timeout: float) -> Answer:
        """As ``_call_aside``, at one node."""
        said = self._beside(node.server, timeout, lambda link: words(link, call, asking))
        return said[0], without_asking(said[1], asking)

    def _deliver_confirmed(
        self, node: Node, call: Confirmed, asking: bool
    ) -> Answer | TransportError:
        """The same on a connection that nobody else uses, with WAIT behind it."""
        generation = _fork.generation
        try:
            before = self._core.pack(b"ASKING") if asking else b""
            return node.asides.call(call, self._patience, before)
        except TransportError as error:
            _fork.check(generation)
            node.failed_at = clock()
            return error

    def _post_back(self, pairs: list[Pair], verb: str, link: Link | None) -> None:
        for node, own in self._cluster.book.by_node(pairs).items():
            super()._post_back(own, verb, node.server.ready())


class ClusterDeferred:
    """Sends a release that nobody waits for to the node of its key; see ``Deferred``.

    A refusal, as of a slot that has moved, goes to the background like a lost answer.
    """

    def __init__(self, cluster: Cluster, background: Background, patience: float) -> None:
        self._cluster = cluster
        self._background = background
        self._patience = patience
        self._of: dict[Node | None, Deferred] = {}

    def send(self, lease: Any) -> None:
        """As ``Deferred.send``."""
        node = self._cluster.book.node_of(lease.pair[0])
        (self._of.get(node) or self._new(node)).send(lease)

    def _new(self, node: Node | None) -> Deferred:
        known = self._cluster.book.nodes.values()
        for other in [*self._of]:
            if other is not None and other not in known:
                self._of.pop(other, None)  # it has served nothing for long
        ready = _nobody if node is None else node.server.ready
        return self._of.setdefault(node, Deferred(ready, self._background, self._patience))

    def close(self, timeout: float) -> None:
        """As ``Deferred.close``, of all nodes together."""
        end = clock() + timeout
        for deferred in list(self._of.values()):
            deferred.close(max(0.0, end - clock()))

    def forked(self, background: Background) -> None:
        """In a forked child: what is under way is the parent's."""
        self._of = {}
        self._background = background


def _to_connect(flight: Flight) -> bool:
    """Whether its node has no connection that works, or something is left there to be ended."""
    server = flight.parcel.node.server
    return bool(server.strays) or server.ready() is None


def _leave(flights: Sequence[Flight]) -> None:
    """What is still under way nobody waits for. What is given back lands behind it."""
    for flight in flights:
        if flight.ticket is not None:
            flight.ticket.leave()


def _without_asking(error: TransportError, asking: bool) -> TransportError:
    """The same, its ``replies`` to the commands alone."""
    error.replies = without_asking(list(error.replies), asking)
    return error


def _nobody() -> None:
    """There is no connection."""
