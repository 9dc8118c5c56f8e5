"""Floor 5, a cluster: one ordinary connection per master, and who reads the map.

Law: that of ``_topology.py`` for each node, whose ``SyncServer`` this uses. One caller reads the
map, the others wait for it; nobody waits in a signal's handler that has interrupted that one.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from . import _fork
from ._asides import Asides
from ._clock import clock
from ._cluster import OLD, PATIENCE, SHY, Address, Book
from ._commands import ServerInfo
from ._errands import Errands
from ._event import Event
from ._impl import Core
from ._listener import Listener
from ._queue import Place
from ._sockets import patched_by
from ._topology import Link, SyncServer, closed_error
from .config import Config
from .errors import FastlockError, TransportError

if TYPE_CHECKING:
    from ._effects import Confirmed


class Node:
    """One server of the cluster: its connections, and its pushes."""

    def __init__(self, config: Config, cluster: Cluster) -> None:
        self.address: Address = (config.host, config.port)
        self.failed_at = float("-inf")
        self.server = SyncServer(config, cluster.core, cluster.on_connect, cluster.too_late)
        self.asides = Asides(self.server)
        self.listener = Listener(config, cluster.core)

    def close(self) -> None:
        """End its connections."""
        self.asides.close()
        self.listener.close()
        self.server.close()


class _Reading:
    """One reading of the map: its owner's thread, and its end."""

    def __init__(self) -> None:
        self.owner = threading.get_ident()
        self.done = Event()


class Cluster:
    """All nodes of a sync client's cluster. Any thread may call it.

    What floor 1 asks of the one server it may ask here; what goes to a node, goes to that one's.
    """

    #: No way leads straight to a connection: which one it is, depends on the key.
    _link: None = None
    strays: Sequence[ServerInfo] = ()

    def __init__(
        self,
        config: Config,
        core: Core,
        on_connect: Callable[[bool], None],
        on_patched: Callable[[], Core],
    ) -> None:
        self.core = core
        self._on_connect = on_connect
        self.moved: Callable[[], None] = lambda: None  # called when the map was read
        self._config = config
        self._on_patched = on_patched
        self._closed = False
        self._over = Event()
        self._green = patched_by()
        self.book: Book[Node] = Book(config, self._make)
        self._forget()
        _fork.register(self)

    def _forget(self) -> None:
        self._readings: dict[str, _Reading] = {}  # "now"
        self._errands = Errands("fastlock-cluster")

    def _make(self, config: Config) -> Node:
        if self._closed:
            raise closed_error()
        return Node(config, self)

    def on_connect(self, again: bool) -> None:
        """A node's connection was made; not for a client that was closed meanwhile."""
        self._on_connect(again)
        if self._closed:
            self._close_nodes()
            raise closed_error()

    def too_late(self) -> Core:
        """A library of green threads came when the nodes were known already."""
        raise FastlockError(
            f"{patched_by()} has patched the sockets since this client met its cluster, which "
            "therefore would not yield: patch first, and make a new client"
        )

    # -- the map

    def look(self, timeout: float) -> None:
        """Have the map read, in at most ``timeout`` seconds; once for all who ask meanwhile.

        Raises TransportError (not sent), ServerError (no node may be asked), ProtocolError,
        FastlockError when closed.
        """
        mine = _Reading()
        try:
            reading = self._readings.setdefault("now", mine)
            if reading is mine:
                self._read(clock() + timeout)
                return
        finally:
            try:
                self._finish(mine)
            except BaseException:  # an interrupt: others must not wait for ever
                self._finish(mine)
                raise
        if reading.owner != mine.owner:
            reading.done.wait(timeout)

    def _finish(self, mine: _Reading) -> None:
        if self._readings.get("now") is mine:
            del self._readings["now"]
        mine.done.set()

    def _read(self, end: float) -> None:
        if self._closed:
            raise closed_error()
        if patched_by() != self._green:
            if self.book.nodes:
                self.too_late()
            self.core, self._green = self._on_patched(), patched_by()
        failure: FastlockError | None = None
        for ask in self._sources():
            left = min(end - clock(), PATIENCE)
            if left <= 0:
                break
            try:
                before = self.book.serving
                self.book.learn(*ask(left))
            except FastlockError as error:
                if self._closed:
                    raise closed_error() from None
                failure = error
            else:
                self._settle_in(before)
                return
        if failure is None or isinstance(failure, TransportError):
            why = failure or "there was no time"
            raise TransportError(f"no node of {self._config.address} tells the map: {why}")
        raise failure

    def _sources(self) -> Iterable[Callable[[float], tuple[Any, Address]]]:
        """Whom to ask: who works, then other nodes, then those that the user has named."""
        now = clock()

        def order(node: Node) -> tuple[bool, bool]:
            return node.failed_at > now - SHY, node.server.ready() is None

        for node in sorted(self.book.candidates(), key=order):
            yield partial(self._told_by, node)
        for address in self.book.seeds():
            yield partial(self._told_at, address)

    def _told_by(self, node: Node, timeout: float) -> tuple[Any, Address]:
        try:
            link = node.server.link(timeout)
            return self._slots(link, timeout), node.address
        except TransportError:
            node.failed_at = clock()
            raise

    def _told_at(self, address: Address, timeout: float) -> tuple[Any, Address]:
        """Over a connection for this alone: its name may not be the one the cluster knows."""
        config = self.book.config_of(address)
        link = SyncServer(config, self.core, _nothing, self.too_late).spare(timeout)
        try:
            return self._slots(link, timeout), address
        finally:
            link.pipe.close()

    def _slots(self, link: Link, timeout: float) -> Any:
        (reply,) = link.pipe.call(self.core.pack(b"CLUSTER", b"SLOTS"), 1, timeout)
        return reply

    def _settle_in(self, before: Sequence[Node | None]) -> None:
        """After a reading: what depends on who serves what."""
        now = set(self.book.serving)
        for node in {node for node in before if node is not None} - now:
            node.listener.look()
        for node in self.book.gone(OLD + self._config.socket_timeout):
            node.close()
        self.moved()

    def hint(self) -> None:
        """Have the map read in the background, if that is due."""
        book = self.book
        now = clock()
        if self._closed or not book.due_behind(now):
            return
        book.hinted, book.read_at = False, now  # this one's, whatever comes of it
        self._errands.add(self._look_quietly)

    def pause(self, seconds: float) -> None:
        """At most until it is closed."""
        self._over.wait(seconds)

    def _look_quietly(self) -> None:
        with suppress(FastlockError):  # whoever needs it reads it, and is told
            self.look(PATIENCE)

    # -- as of the one server

    def ready(self) -> Link | None:
        """A working connection to any node, if there is one."""
        for node in list(self.book.nodes.values()):
            link = node.server.ready()
            if link is not None:
                return link
        return None

    def link(self, timeout: float) -> Link:
        """A working connection to any node that serves slots; makes one if needed."""
        end = clock() + timeout
        if self.book.due():
            self.look(timeout)
        node = self.book.any_node()
        if node is None:
            raise TransportError(f"no node of {self._config.address} serves any slot")
        return node.server.link(end - clock())

    def serving(self, keys: Iterable[bytes]) -> Link | None:
        """The working connection to the one node that serves them all, if there is one."""
        node = self.book.node_of_all(keys)
        return None if node is None else node.server.ready()

    def links(self) -> list[Link]:
        """All working connections."""
        found = [node.server.ready() for node in list(self.book.nodes.values())]
        return [link for link in found if link is not None]

    def succeed(self, other: Cluster) -> None:
        """Take the place of a closed one: first connections end the other's last."""
        for address, node in list(other.book.nodes.items()):
            self.book.node_at(address).server.succeed(node.server)

    def close(self) -> None:
        """As ``SyncServer.close``, of each node."""
        self._closed = True
        self._over.set()
        self._close_nodes()
        reading = self._readings.get("now")
        if reading is not None:
            reading.done.set()
        self._errands.finish(1.0)

    def _close_nodes(self) -> None:
        for node in list(self.book.nodes.values()):
            node.close()

    def forked(self) -> None:
        """In a forked child: the connections are the parent's, and are told as well."""
        self.book.forget()
        self._forget()


class ClusterAsides:
    """Those of all nodes, of either API; see ``Asides``.

    ``send`` takes a command to its node, as any other; what waits for replicas it brings to that
    node's ``asides``.
    """

    def __init__(self, book: Book[Any], send: Callable[[Confirmed], Any]) -> None:
        self._book = book
        self._send = send

    def call(self, call: Confirmed, _patience: float) -> Any:
        """As ``Asides.call``."""
        return self._send(call)

    def close(self) -> None:
        """As ``Asides.close``, of each node."""
        for node in list(self._book.nodes.values()):
            node.asides.close()


class ClusterListener:
    """Waits at the node that serves the keys; see ``Listener``."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._closed = False

    def wait(
        self,
        place: Place,
        keys: Sequence[bytes],
        until: float,
        _about: object,
        turn: bytes | None = None,
    ) -> bool:
        """As ``Listener.wait``; False also for keys of several nodes."""
        node = self._cluster.book.node_of_all(keys)
        if node is None or self._closed:
            return False
        return node.listener.wait(place, keys, until, node.server.ready(), turn)

    @property
    def back_in(self) -> float:
        """As ``Listener.back_in``, of whichever comes first."""
        return min([node.listener.back_in for node in self._nodes()], default=float("inf"))

    def _nodes(self) -> list[Node]:
        return list(self._cluster.book.nodes.values())

    def stop(self) -> None:
        """As ``Listener.stop``."""
        self._closed = True
        for node in self._nodes():
            node.listener.stop()

    def close(self) -> None:
        """As ``Listener.close``."""
        self.stop()
        for node in self._nodes():
            node.listener.close()

    def fit(self, core: Core) -> None:
        """Its nodes are made with the core of then."""


def _nothing(_again: bool) -> None:
    """For a connection that no tokens are drawn for."""
