"""Raw connections beside the locks': for the demo's counters and for questions to a server.

Law: one command, or one batch, at a time on a ``Wire``; no lock words. They are opened as
fastlock's own connections are (floor 5), so they work wherever those do.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections import deque
from errno import EAGAIN
from types import TracebackType
from typing import Any

from fastlock import _impl
from fastlock._connect import open_async, open_sync
from fastlock._resp import Push
from fastlock.config import Config
from fastlock.errors import ConfigError, ServerError, TransportError

#: More that the server has told unasked are not kept.
MOST_PUSHES = 100_000


def pack(*args: str | bytes | int) -> bytes:
    """One command."""
    words = [arg.encode() if isinstance(arg, str) else arg for arg in args]
    packed: bytes = _impl.core.pack(*words)
    return packed


def _answer(reply: Any) -> Any:
    """The reply, or raised if it is an error."""
    if isinstance(reply, Exception):
        raise reply
    return reply


class Wire:
    """A blocking connection. Belongs to one thread at a time."""

    def __init__(self, config: Config) -> None:
        if config.cluster is not None:
            raise ConfigError(
                "cluster",
                "this looks at one server; name one of the cluster's nodes, by redis://",
            )
        opened = open_sync(config, config.connect_timeout)
        self._sock, self._keep = opened.sock, opened.keep
        # The system's own time limit: Python's would cost a poll() before every recv().
        seconds, rest = divmod(config.socket_timeout, 1)
        limit = struct.pack("ll", int(seconds), int(rest * 1e6))
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
        self._feed = _impl.core.decoder().feed
        #: What the server has told unasked, oldest first, if it was asked to tell.
        self.pushes: deque[Push] = deque(maxlen=MOST_PUSHES)

    def exchange(self, command: bytes) -> Any:
        """Send one packed command, wait for its reply.

        Raises ServerError, TransportError, ProtocolError.
        """
        return _answer(self.exchange_all(command, 1)[0])

    def exchange_all(self, commands: bytes, count: int) -> list[Any]:
        """Send ``count`` packed commands in one write; their replies, errors of the server too.

        Raises TransportError, ProtocolError.
        """
        replies: list[Any] = []
        try:
            self._sock.sendall(commands)
            while len(replies) < count:
                data = self._sock.recv(65536)
                if not data:
                    raise TransportError("the server closed the connection", sent=True)
                for reply in self._feed(data):
                    if type(reply) is Push:
                        self.pushes.append(reply)
                    elif isinstance(reply, Exception) and not isinstance(reply, ServerError):
                        raise reply
                    else:
                        replies.append(reply)
            return replies
        except OSError as error:
            if isinstance(error, TransportError):
                raise
            why = "no answer in time" if error.errno == EAGAIN else error.strerror or str(error)
            raise TransportError(f"the connection failed: {why}", sent=True) from None

    def call(self, *args: str | bytes | int) -> Any:
        """As ``exchange``, packing the command."""
        return self.exchange(pack(*args))

    def refusal(self, *args: str | bytes | int) -> str | None:
        """The code of the server's error, None if it answered without one."""
        try:
            self.call(*args)
        except ServerError as error:
            return error.code
        return None

    def close(self) -> None:
        """Close the connection."""
        self._sock.close()

    def __enter__(self) -> Wire:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class AsyncWire(asyncio.Protocol):
    """A connection that the tasks of one loop share: answers come in the order of commands."""

    @classmethod
    async def open(cls, config: Config) -> AsyncWire:
        """Connect; raises as ``open_async`` does."""
        opened = await open_async(config, config.connect_timeout)
        wire = cls()
        wire._transport, wire._keep = opened.transport, opened.keep
        wire._transport.set_protocol(wire)
        wire._transport.resume_reading()
        return wire

    def __init__(self) -> None:
        self._transport: asyncio.Transport
        self._keep: object = None
        self._feed = _impl.core.decoder().feed
        self._waiting: deque[asyncio.Future[Any]] = deque()

    def exchange(self, command: bytes) -> asyncio.Future[Any]:
        """Send one packed command; the future gives its reply, or raises as ``Wire`` does."""
        future = asyncio.get_running_loop().create_future()
        if self._transport.is_closing():
            future.set_exception(TransportError("the connection is closed"))
            return future
        self._waiting.append(future)
        self._transport.write(command)
        return future

    def close(self) -> None:
        """Close the connection."""
        self._transport.close()

    def data_received(self, data: bytes) -> None:
        for reply in self._feed(data):
            if type(reply) is Push:
                continue
            if not isinstance(reply, ServerError) and isinstance(reply, Exception):
                self._transport.abort()
                self._fail(reply)
                return
            future = self._waiting.popleft()
            if future.done():
                continue
            if isinstance(reply, ServerError):
                future.set_exception(reply)
            else:
                future.set_result(reply)

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(TransportError("the server closed the connection", sent=True))

    def _fail(self, error: Exception) -> None:
        waiting, self._waiting = self._waiting, deque()
        for future in waiting:
            if not future.done():
                future.set_exception(error)
