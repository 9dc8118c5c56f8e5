"""Floor 1, sync: the client of a cluster, which is that of one server but for where things go.

Law: that of ``sync.py``. What is decided about a command's way stands in ``_cluster.py``; this
carries it out. Every command goes by its key's slot at that moment, also one about a lease: none
holds on to the node it came from.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from . import _fork, _impl, _ops_many
from ._asides import Asides
from ._background import Background
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
from ._clusterrenewal import ClusterKeeper, on_a_thread
from ._clustertopology import Cluster, ClusterListener, Node
from ._commands import Pair
from ._deferred import Deferred
from ._effects import Call, Op
from ._errands import Errands
from ._ops_slots import acquire_spread, refuse_replicas, spread
from ._renewal import Renewal, Terms
from ._resp import Reentered
from ._topology import Link, closed_error
from .errors import FastlockError, TransportError
from .sync import Client

R = TypeVar("R")
C = TypeVar("C", bound=Claim[Any])


class Clustered(Client):
    """Locks on a cluster, over one connection to each of its masters; see Client."""

    def _reach(self) -> None:
        here: Any = self
        here._server = self._cluster = Cluster(
            self.config, self._core, self._connected, self._patched
        )
        here._asides = Asides(here._server)
        here._deferred = ClusterDeferred(self._cluster, self._background, self._patience)
        here._listener = ClusterListener(self._cluster)
        here._keeper = ClusterKeeper(
            self._cluster, self.config, functools.partial(on_a_thread, Errands("fastlock-by-hand"))
        )

    @property
    def _kind(self) -> type[Client]:
        bases = type(self).__bases__
        return bases[-1]

    def _patched(self) -> _impl.Core:
        self._core = _impl.fit(self._core)
        self._turns.forked()
        self._background = Background(self._settle, self._meter)
        self._deferred.forked(self._background)
        return self._core

    def _acquire(self, operation: Callable[[C], Op[R]], claim: C, terms: Terms | None = None) -> R:
        refuse_replicas(claim)
        if operation is _ops_many.acquire_all and spread(claim):
            over_slots: Any = acquire_spread
            operation = over_slots
        return super()._acquire(operation, claim, terms)

    def _keep(self, acquired: Any, terms: Terms) -> None:
        homes: Any = self._keeper
        for lease in acquired if isinstance(acquired, list) else (acquired,):
            if lease is not None:
                node = self._cluster.book.node_of(lease.pair[0])
                Renewal(homes.at(None if node is None else node.address), lease, terms)

    # -- commands

    def _call(self, call: Call) -> Answer:
        route = routed_many if is_many(call) else routed
        op = route(call, self._cluster.book, self._patience)
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
        """Of several each on a thread, so that all are under way before one is answered."""
        if len(parcels) == 1:
            return [self._deliver(parcels[0])]
        generation = _fork.generation
        answers: list[Any] = [None] * len(parcels)
        left: list[bool] = []  # not empty: the caller waits no more

        def deliver(place: int) -> None:
            try:
                answers[place] = self._deliver(parcels[place], left)
            except FastlockError as error:
                answers[place] = unsent(error)
            except BaseException as error:
                answers[place] = error

        threads = [
            threading.Thread(target=deliver, args=(place,), name="fastlock-node", daemon=True)
            for place in range(1, len(parcels))
        ]
        here = [0]
        try:
            for place, thread in enumerate(threads, 1):
                try:
                    thread.start()
                except RuntimeError:  # the interpreter ends, or has no more of them
                    here.append(place)
            for place in here:
                deliver(place)
                if not isinstance(answers[place], tuple | TransportError):
                    raise answers[place]
            for thread in threads:
                if thread.ident is not None:
                    thread.join()
        except BaseException:
            left.append(True)
            self._leave(parcels[1:], threads)
            raise
        _fork.check(generation)  # a child has none of these threads
        for answer in answers:
            if not isinstance(answer, tuple | TransportError):
                raise answer
        return answers

    def _leave(self, parcels: Sequence[Parcel], threads: Sequence[threading.Thread]) -> None:
        """What is given back must land behind what these threads send, and they may be about to."""
        for parcel, thread in zip(parcels, threads, strict=True):
            link = parcel.node.server.ready()
            if link is not None and thread.ident is not None and thread.is_alive():
                link.pipe.abort("a caller was interrupted")

    def _deliver(self, parcel: Parcel, left: Sequence[bool] = ()) -> Answer | TransportError:
        """Send it to its node, unless the caller has ``left``, and wait for the answers."""
        node, call, asking = parcel
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
            if timeout <= 0 or left:
                raise TransportError("the caller's time was over before it could be sent")
            replies = link.pipe.call(data, count, timeout)
            self._meter.answered(sent_at)
            return sent_at, without_asking(replies, asking)
        except Reentered:
            call.left = True
            try:
                return self._deliver_aside(node, call, asking, timeout)
            except TransportError as error:
                error.replies = without_asking(list(error.replies), asking)
                return error
        except TransportError as error:
            _fork.check(generation)
            node.failed_at = clock()
            if error.sent or error.timed_out:
                self._failed(error, link, sent_at, timeout)
                error.replies = without_asking(list(error.replies), asking)
            return error

    def _time_for(self, call: Call) -> float:
        patience = self._patience
        return patience if call.until is None else min(patience, call.until - clock())

    def _deliver_aside(self, node: Node, call: Call, asking: bool, timeout: float) -> Answer:
        """As ``_call_aside``, at one node."""
        link = node.server.spare(timeout)
        sent_at = clock()
        try:
            replies = link.pipe.call(*words(link, call, asking), timeout)
            return sent_at, without_asking(replies, asking)
        except TransportError as error:
            error.sent_at = sent_at
            node.server.strays.append(link.info)
            raise
        except BaseException:
            node.server.strays.append(link.info)
            raise
        finally:
            link.pipe.close()

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


def _nobody() -> None:
    """There is no connection."""


_classes: dict[type[Client], type[Client]] = {}


def clustered(kind: type[Client]) -> type[Client]:
    """The class that an object of ``kind`` becomes where its config names a cluster."""
    if issubclass(kind, Clustered):
        return kind
    if kind not in _classes:
        named = {"__module__": kind.__module__, "__doc__": kind.__doc__}
        _classes.setdefault(kind, type(kind.__name__, (Clustered, kind), named))
    return _classes[kind]
