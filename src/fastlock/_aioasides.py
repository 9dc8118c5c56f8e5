"""Floor 5, asyncio: connections beside the shared one, for commands that block theirs.

Law: that of ``_asides.py``, for the tasks of one event loop at a time.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from ._aiopipe import within
from ._aiotopology import AsyncServer, retrieve
from ._asides import KEPT, encoded, understood
from ._clock import clock
from ._fork import register
from ._topology import Link, closed_error, too_late
from .errors import TransportError

if TYPE_CHECKING:
    from ._effects import Confirmed


class AsyncAsides:
    """Those of an asyncio client. Belongs to one event loop at a time."""

    def __init__(self, server: AsyncServer) -> None:
        self._server = server
        self._closed = False
        self._forget()
        register(self)

    def _forget(self) -> None:
        self._free: list[Link] = []
        self._used: dict[int, Link] = {}  # by id
        self._openings: set[asyncio.Task[None]] = set()

    async def call(
        self, call: Confirmed, patience: float, before: bytes = b""
    ) -> tuple[float, list[Any]]:
        """As Asides.call."""
        link: Link | None = None
        answered = call.left = False
        try:
            timeout = patience if call.until is None else min(patience, call.until - clock())
            if self._server.ready() is None:
                # What a call leaves behind is given back over the shared one, also by ``close``.
                await self._server.link(timeout)
            link = await self._take(timeout)
            link.pipe.patience = patience
            if self._server.strays:
                await self._server.end_strays(link, timeout)
            sent_at = clock()
            link.pipe.patience = timeout = patience + call.lasts(sent_at) / 1000
            if call.until is not None:
                timeout = min(timeout, call.until - sent_at)
                if timeout <= 0:
                    raise too_late()
            data = before + encoded(call, link, sent_at)
            call.left = True
            try:
                answers = link.pipe.call(data, 2 + bool(before))
                replies = link.heard(await within(answers, timeout))
            except TransportError as error:
                error.sent_at = sent_at
                raise
            reply = understood(call, sent_at, replies[-2:])
            answered = True
            return sent_at, reply
        finally:
            if link is not None:
                self._leave(link, answered, call.left)

    async def _take(self, timeout: float) -> Link:
        """One that nobody uses, the latest first; else a new one."""
        end = clock() + timeout
        while True:
            while self._free:
                link = self._free.pop()
                if link.pipe.loop is not asyncio.get_running_loop():
                    link.pipe.abandon("its event loop is closed")
                elif not link.pipe.broken:
                    self._used[id(link)] = link
                    return link
            if self._closed:
                raise closed_error()
            # A task of its own: a caller that is cancelled leaves the connection to the next.
            opening = asyncio.ensure_future(self._open())
            self._openings.add(opening)
            opening.add_done_callback(self._openings.discard)
            opening.add_done_callback(retrieve)
            await asyncio.wait([opening], timeout=max(0.0, end - clock()))
            if not opening.done():
                raise TransportError("no answer in time: still connecting")
            if opening.cancelled():  # by close()
                raise closed_error()
            opening.result()  # what it failed with

    async def _open(self) -> None:
        link = await self._server.spare()
        if self._closed:
            link.pipe.abort("the client was closed")
            raise closed_error()
        self._free.append(link)

    def _leave(self, link: Link, answered: bool, sent: bool) -> None:
        """As Asides._leave."""
        if self._used.pop(id(link), None) is None:  # forked meanwhile: it is the parent's
            return
        broken = link.pipe.broken
        if answered and not (broken or self._closed) and len(self._free) < KEPT:
            self._free.append(link)
            return
        if not answered and sent:
            self._server.strays.append(link.info)
        _end(link, "no answer will be read on it any more")
        if broken:
            while self._free:
                _end(self._free.pop(), "another connection to the server has ended")

    def close(self) -> None:
        """As Asides.close."""
        self._closed = True
        for opening in self._openings:
            if not opening.get_loop().is_closed():
                opening.cancel()
        for link in (*self._free, *self._used.values()):
            _end(link, "the client was closed")
        self._free.clear()

    def forked(self) -> None:
        """In a forked child: they are the parent's."""
        links = (*self._free, *self._used.values())
        self._forget()
        for link in links:
            link.pipe.abandon("the connection belongs to the parent process")


def _end(link: Link, why: str) -> None:
    if link.pipe.loop.is_closed():
        link.pipe.abandon("its event loop is closed")
    else:
        link.pipe.abort(why)
