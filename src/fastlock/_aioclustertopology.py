"""Floor 5, asyncio, a cluster: one ordinary connection per master, and who reads the map.

Law: that of ``_clustertopology.py``, for the tasks of one event loop at a time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from . import _fork
from ._aioasides import AsyncAsides
from ._aiolistener import AsyncListener, NewBell
from ._aiotopology import AsyncServer
from ._clock import clock
from ._cluster import OLD, PATIENCE, SHY, Address, Book
from ._impl import Core
from ._queue import Place
from ._topology import Link, closed_error, copy_of
from .config import Config
from .errors import FastlockError, TransportError


class AsyncNode:
    """One server of the cluster: its connections, and its pushes."""

    def __init__(self, config: Config, cluster: AsyncCluster) -> None:
        self.address: Address = (config.host, config.port)
        self.failed_at = float("-inf")
        self.server = AsyncServer(config, cluster.core, cluster.on_connect)
        self.asides = AsyncAsides(self.server)
        self.listener = AsyncListener(config, cluster.core, cluster.new_bell)

    async def close(self) -> None:
        """End its connections."""
        self.asides.close()
        await self.listener.close()
        await self.server.close()


class AsyncCluster:
    """All nodes of an asyncio client's cluster. Belongs to one event loop at a time."""

    def __init__(
        self, config: Config, core: Core, on_connect: Callable[[bool], None], new_bell: NewBell
    ) -> None:
        self.core = core
        self.on_connect = on_connect
        self.new_bell = new_bell
        self._config = config
        self._closed = False
        self.book: Book[AsyncNode] = Book(config, self._make)
        self._forget()
        _fork.register(self)

    def _forget(self) -> None:
        self._reading: asyncio.Task[None] | None = None
        self._ending: set[asyncio.Task[None]] = set()

    def _make(self, config: Config) -> AsyncNode:
        if self._closed:
            raise closed_error()
        return AsyncNode(config, self)

    # -- the map

    async def look(self, timeout: float) -> None:
        """As ``Cluster.look``."""
        if self._closed:
            raise closed_error()
        reading = self._begin()
        await asyncio.wait([reading], timeout=timeout)
        if not reading.done():
            raise TransportError(f"no answer in time: still asking {self._config.address}")
        if reading.cancelled():  # by close()
            raise closed_error()
        try:
            reading.result()
        except FastlockError as error:
            raise copy_of(error) from None

    def _begin(self) -> asyncio.Task[None]:
        """The reading under way; a task of its own, which no caller takes along."""
        reading = self._reading
        loop = asyncio.get_running_loop()
        if reading is None or reading.done() or reading.get_loop() is not loop:
            reading = self._reading = loop.create_task(self._read())
            reading.add_done_callback(_retrieve)
        return reading

    async def _read(self) -> None:
        failure: FastlockError | None = None
        now = clock()

        def order(node: AsyncNode) -> tuple[bool, bool]:
            return node.failed_at > now - SHY, node.server.link_of_this_loop() is None

        before = self.book.serving
        for node in sorted(self.book.candidates(), key=order):
            try:
                link = await node.server.link(PATIENCE)
                self.book.learn(await self._slots(link), node.address)
                self._settle_in(before)
                return
            except FastlockError as error:
                if isinstance(error, TransportError):
                    node.failed_at = clock()
                failure = error
        for address in self.book.seeds():
            try:
                self.book.learn(await self._told_at(address), address)
                self._settle_in(before)
                return
            except FastlockError as error:
                failure = error
        if failure is None or isinstance(failure, TransportError):
            why = failure or "there was no time"
            raise TransportError(f"no node of {self._config.address} tells the map: {why}")
        raise failure

    async def _told_at(self, address: Address) -> Any:
        """Over a connection for this alone: its name may not be the one the cluster knows."""
        server = AsyncServer(self.book.config_of(address), self.core, _nothing)
        try:
            return await self._slots(await server.link(PATIENCE))
        finally:
            await server.close()

    async def _slots(self, link: Link) -> Any:
        answer = link.pipe.one(self.core.pack(b"CLUSTER", b"SLOTS"))
        try:
            return await asyncio.wait_for(answer, PATIENCE)
        except asyncio.TimeoutError:
            raise TransportError("no answer in time") from None

    def _settle_in(self, before: Sequence[AsyncNode | None]) -> None:
        now = set(self.book.serving)
        for node in {node for node in before if node is not None} - now:
            node.listener.look()
        for node in self.book.gone(OLD + self._config.socket_timeout):
            task = asyncio.get_running_loop().create_task(node.close())
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)

    def hint(self) -> None:
        """As ``Cluster.hint``."""
        book = self.book
        now = clock()
        if self._closed or not book.due_behind(now):
            return
        book.hinted, book.read_at = False, now
        self._begin()

    # -- as of the one server

    def _nodes(self) -> list[AsyncNode]:
        return list(self.book.nodes.values())

    def link_of_this_loop(self) -> Link | None:
        """None: no way leads straight to a connection; which one it is, depends on the key."""
        return None

    def ready(self) -> Link | None:
        """A working connection to any node, if there is one."""
        links = [node.server.ready() for node in self._nodes()]
        return next((link for link in links if link is not None), None)

    def alive(self) -> Link | None:
        """As ``AsyncServer.alive``, of any node."""
        links = [node.server.alive() for node in self._nodes()]
        return next((link for link in links if link is not None), None)

    def links(self) -> list[Link]:
        """All working connections."""
        links = [node.server.alive() for node in self._nodes()]
        return [link for link in links if link is not None]

    async def link(self, timeout: float) -> Link:
        """As ``Cluster.link``."""
        end = clock() + timeout
        if self.book.due():
            await self.look(timeout)
        node = self.book.any_node()
        if node is None:
            raise TransportError(f"no node of {self._config.address} serves any slot")
        return await node.server.link(end - clock())

    def serving(self, keys: Iterable[bytes]) -> Link | None:
        """As ``Cluster.serving``."""
        node = self.book.node_of_all(keys)
        return None if node is None else node.server.ready()

    def dismiss(self) -> None:
        """As ``AsyncServer.dismiss``, of each node."""
        self._closed = True
        reading = self._reading
        if reading is not None and not reading.done() and not reading.get_loop().is_closed():
            reading.cancel()
        for node in self._nodes():
            node.server.dismiss()

    async def close(self) -> None:
        """As ``AsyncServer.close``, of each node."""
        self.dismiss()
        loop = asyncio.get_running_loop()
        reading = self._reading
        if reading is not None and reading.get_loop() is loop:
            await asyncio.wait([reading])
        for node in self._nodes():
            await node.close()
        ending = [task for task in self._ending if task.get_loop() is loop]
        if ending:
            await asyncio.wait(ending)

    def forked(self) -> None:
        """In a forked child: the connections are the parent's, and are told as well."""
        self.book.forget()
        self._forget()


class AsyncClusterListener:
    """Waits at the node that serves the keys; see ``AsyncListener``."""

    def __init__(self, cluster: AsyncCluster) -> None:
        self._cluster = cluster
        self._closed = False

    async def wait(
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
        return await node.listener.wait(place, keys, until, node.server.ready(), turn)

    @property
    def back_in(self) -> float:
        """As ``Listener.back_in``, of whichever comes first."""
        return min([node.listener.back_in for node in self._nodes()], default=float("inf"))

    def _nodes(self) -> list[AsyncNode]:
        return list(self._cluster.book.nodes.values())

    def stop(self) -> None:
        """As ``Listener.stop``."""
        self._closed = True
        for node in self._nodes():
            node.listener.stop()

    async def close(self) -> None:
        """As ``Listener.close``."""
        self.stop()
        for node in self._nodes():
            await node.listener.close()


def _nothing(_again: bool) -> None:
    """For a connection that no tokens are drawn for."""


def _retrieve(task: asyncio.Task[None]) -> None:
    """Nobody may be left to hear of the failure: that is no warning's business."""
    if not task.cancelled():
        task.exception()
