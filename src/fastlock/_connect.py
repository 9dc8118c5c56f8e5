"""Floor 5: redis-py opens a connection, secures and authenticates it; we take its socket.

Law: redis-py does the handshake and nothing after it: no retry, no health check, no
maintenance notices; the whole takes at most the time given (a synchronous name look-up
alone cannot be interrupted); what is handed over has no unread byte. redis-py is imported
at the first connection, not before.
"""

from __future__ import annotations

import asyncio
import socket
from dataclasses import dataclass
from functools import partial
from typing import Any

from ._connect_faults import fault, tls_context
from ._connect_redispy import Guard, async_connection, sync_connection
from ._connect_sentinel import follow, follow_async
from ._sockets import Held, close_descriptor, point_at_nothing
from .config import Config
from .errors import FastlockError

__all__ = ["Opened", "OpenedAsync", "open_async", "open_sync"]

#: Idle seconds before the first probe, seconds between probes, probes until given up.
_KEEPALIVE = (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3))


@dataclass(slots=True)
class Opened:
    """A ready connection. The taker owns ``sock`` (blocking, without a timeout).

    ``hello`` is the server's answer to HELLO, {} with protocol 2. ``keep`` must live as
    long as the connection does.
    """

    sock: socket.socket
    tls: bool
    keep: object
    protocol: int
    hello: dict[str, Any]


@dataclass(slots=True)
class OpenedAsync:
    """A ready connection of the running loop; see ``Opened``.

    ``transport`` has its reading paused, so that nothing gets lost before
    ``set_protocol()``; then call ``resume_reading()``. ``keep`` would close the transport
    if it died first.
    """

    transport: asyncio.Transport
    tls: bool
    keep: object
    protocol: int
    hello: dict[str, Any]


def open_sync(config: Config, timeout: float, held: Held | None = None) -> Opened:
    """Connect, secure and authenticate within ``timeout`` seconds.

    With Sentinels to the master that they name, as ``follow`` says. ``held`` has the socket
    meanwhile, and halts the connecting when another thread says so.

    Raises ServerError (the server refused: wrong password, no permission, ...),
    TransportError with ``sent`` False (no connection, no answer in time, TLS failed),
    ProtocolError (the peer does not speak RESP), ConfigError (a TLS file is unusable).
    """
    held = held or Held(close_descriptor)
    if config.sentinels is None:
        return _opened(config, timeout, held, master=False)
    return follow(config, timeout, held, partial(_opened, master=True))


def _opened(config: Config, timeout: float, held: Held, master: bool) -> Opened:
    guard = Guard(config, timeout, held, master)
    failure: FastlockError
    try:
        return _open_sync(config, guard)
    except Exception as error:
        failure = fault(error, config, guard, timeout)
    # Out here nothing of redis-py hangs on it: its frames know the password.
    raise failure


def _open_sync(config: Config, guard: Guard) -> Opened:
    context = tls_context(config) if config.ssl else None
    connection = sync_connection(config, guard, context)
    try:
        connection.connect()
        if config.protocol == 2:
            # There was no HELLO: this shows that the peer speaks RESP and lets us in.
            connection.send_command("PING")
            guard.pong(connection.read_response)
            if guard.master:
                connection.send_command("ROLE")
                guard.role(connection.read_response())
        sock = connection._sock
        guard.finish(connection._parser._buffer.unread_bytes())
    except BaseException:
        connection.disconnect()
        raise
    connection._sock = None  # from here on it cannot close the socket
    connection.disconnect()
    sock.settimeout(None)
    _tune(sock)
    return Opened(sock, context is not None, guard.held, config.protocol, guard.hello)


async def open_async(config: Config, timeout: float) -> OpenedAsync:
    """As ``open_sync``, in the running loop. Cancelling it leaves nothing open."""
    if config.sentinels is None:
        return await _opened_async(config, timeout, master=False)
    return await follow_async(config, timeout, partial(_opened_async, master=True))


async def _opened_async(config: Config, timeout: float, master: bool) -> OpenedAsync:
    guard = Guard(config, timeout, Held(point_at_nothing), master)
    done: list[OpenedAsync] = []
    failure: FastlockError
    try:
        await asyncio.wait_for(_open_async(config, guard, done), timeout)
        return done.pop()
    except Exception as error:
        failure = fault(error, config, guard, timeout)
    finally:
        # Before Python 3.12 a wait_for that is left may drop what was just finished.
        for opened in done:
            opened.transport.abort()
    raise failure


async def _open_async(config: Config, guard: Guard, done: list[OpenedAsync]) -> None:
    # Reading the system's certificate authorities takes tens of milliseconds.
    context = await asyncio.to_thread(tls_context, config) if config.ssl else None
    connection = async_connection(config, guard, context)
    try:
        await connection.connect()
        if config.protocol == 2:
            await connection.send_command("PING")
            try:
                answer = await connection.read_response()
            except Exception as error:
                guard.pong_refused(error)
            else:
                guard.pong(lambda: answer)
            if guard.master:
                await connection.send_command("ROLE")
                guard.role(await connection.read_response())
        reader, writer = connection._reader, connection._writer
        transport = writer.transport
        transport.pause_reading()
        guard.closed |= reader.at_eof() or transport.is_closing()
        reader.feed_eof()  # nothing reaches it any more: what it holds can be had at once
        guard.finish(guard.unread() + len(await reader.read()))
    except BaseException:
        if connection._writer is not None:
            connection._writer.transport.abort()
        raise
    finally:
        connection._reader = connection._writer = None
    sock = transport.get_extra_info("socket")
    if sock is not None:
        _tune(sock)
    keep = (reader, writer, guard.held)
    done.append(OpenedAsync(transport, context is not None, keep, config.protocol, guard.hello))


def _tune(sock: Any) -> None:
    """No delay for small writes, and a dead peer is noticed while idle."""
    if sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEPALIVE:
        option = getattr(socket, name, None)
        if option is not None:
            sock.setsockopt(socket.IPPROTO_TCP, option, value)
