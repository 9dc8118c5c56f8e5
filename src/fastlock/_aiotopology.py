"""Floor 5, asyncio: which connection serves a key, and who makes it when it is gone.

Law: that of ``_topology.py``, for the tasks of one event loop at a time.
"""

from __future__ import annotations

import asyncio
from asyncio import get_running_loop as _running_loop
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from . import _commands, _fork
from ._aiopipe import AsyncPipe, within
from ._clock import clock
from ._commands import ServerInfo
from ._connect import open_async
from ._impl import Core
from ._replies import is_transient, not_ready
from ._topology import Link, closed_error, connection_to_kill, copy_of
from .config import Config
from .errors import FastlockError, ServerError, TransportError


class AsyncServer:
    """The one server of an asyncio client. Belongs to one event loop at a time."""

    def __init__(self, config: Config, core: Core, on_connect: Callable[[bool], None]) -> None:
        self._config = config
        self._core = core
        self._on_connect = on_connect
        self._closed = False
        self._forget()
        _fork.register(self)

    def _forget(self) -> None:
        self._link: Link | None = None
        self._attempt: asyncio.Task[Link] | None = None
        self._last: ServerInfo | None = None
        self.strays: list[ServerInfo] = []  # connections left that may still carry something

    def alive(self) -> Link | None:
        """The working connection, whichever loop it belongs to, if there is one."""
        link = self._link
        if link is None or link.pipe.broken or link.pipe.loop.is_closed():
            return None
        return link

    def ready(self) -> Link | None:
        """The working connection of the running loop, if there is one."""
        link = self.alive()
        if link is not None and link.pipe.loop is not asyncio.get_running_loop():
            raise FastlockError("the client belongs to another event loop; use one per loop")
        return link

    def serving(self, _keys: object) -> Link | None:
        """As ``ready``: it serves all keys."""
        return self.ready()

    def link_of_this_loop(self) -> Link | None:
        """As ``ready``, at less cost: None also where that would complain."""
        link = self._link
        if link is None or link.pipe.broken or link.pipe.loop is not _running_loop():
            return None
        return link

    async def link(self, timeout: float) -> Link:
        """As SyncServer.link."""
        link = self.ready()
        if link is not None:
            return link
        if self._closed:
            raise closed_error()
        if self._link is not None and self._link.pipe.loop.is_closed():
            self._link.pipe.abandon("its event loop is closed")
            self._link = None
        attempt = self._attempt
        if attempt is None or attempt.done() or attempt.get_loop().is_closed():
            # A task of its own: a caller that is cancelled does not take the others along.
            attempt = self._attempt = asyncio.ensure_future(self._connect())
            attempt.add_done_callback(retrieve)
        await asyncio.wait([attempt], timeout=timeout)
        if not attempt.done():
            raise TransportError(f"no answer in time: still connecting to {self._config.address}")
        if attempt.cancelled():  # by close()
            raise closed_error()
        try:
            return attempt.result()
        except FastlockError as error:
            raise copy_of(error) from None

    async def _connect(self) -> Link:
        link = await self.spare(self._last)
        if self._closed:
            await link.pipe.close()
            raise closed_error()
        again = self._last is not None
        self._link, self._last = link, link.info
        self._on_connect(again)
        return link

    async def end_strays(self, link: Link, timeout: float) -> None:
        """As SyncServer.end_strays."""
        for stray in self.strays.copy():
            old = connection_to_kill(stray, link.info)
            if old is not None:
                try:
                    kill = link.pipe.one(_commands.kill_connection(self._core.pack, old))
                    await within(kill, timeout)
                except TransportError as error:  # the caller's own command was not sent
                    raise TransportError(str(error)) from None
            with suppress(ValueError):  # another task's work
                self.strays.remove(stray)

    async def spare(self, last: ServerInfo | None = None) -> Link:
        """A new connection, for whoever closes it; before it carries anything, ``last`` ends."""
        config, pack = self._config, self._core.pack
        end = clock() + config.connect_timeout
        try:
            opened = await open_async(config, config.connect_timeout)
        except ServerError as error:
            raise not_ready(error) if is_transient(error) else error from None
        pipe = AsyncPipe(self._core.decoder(), config.socket_timeout)
        pipe.attach(opened.transport)
        try:
            data, count = _commands.greeting(pack)
            replies = await asyncio.wait_for(pipe.call(data, count), end - clock())
            commands, info = _commands.dialect(self._core, replies, opened.protocol)
            old = connection_to_kill(last, info)
            if old is not None:
                kill = pipe.call(_commands.kill_connection(pack, old), 1)
                await asyncio.wait_for(kill, end - clock())
        except BaseException as error:
            pipe.abort("could not be set up")
            if isinstance(error, (TransportError, asyncio.TimeoutError)):
                why = str(error) or f"no answer within {config.connect_timeout} s"
                raise TransportError(f"{config.address}: {why}") from None
            raise
        return Link(pipe, commands, info, opened.keep, named=config.sentinels is not None)

    def dismiss(self) -> None:
        """Let everybody who waits go, before the connection is closed."""
        self._closed = True
        attempt, self._attempt = self._attempt, None
        if attempt is not None and not attempt.done() and not attempt.get_loop().is_closed():
            attempt.cancel()
        link = self.alive()
        if link is not None:
            link.pipe.dismiss("the client was closed")

    async def close(self) -> None:
        """As SyncServer.close."""
        self.dismiss()
        link, self._link = self._link, None
        if link is None:
            return
        if link.pipe.loop.is_closed():
            link.pipe.abandon("its event loop is closed")
        else:
            await link.pipe.close()

    def forked(self) -> None:
        """As SyncServer.forked."""
        link = self._link
        self._forget()
        if link is not None:
            link.pipe.abandon("the connection belongs to the parent process")


def retrieve(task: asyncio.Future[Any]) -> None:
    """Nobody may be left to hear of the failure: that is no warning's business."""
    if not task.cancelled():
        task.exception()
