"""redis-py's connections and parsers, fitted for one handshake under a deadline.

Law: all that is known of redis-py's insides stands here (redis-py 5.1 to 8): the
connections take their time limits from the guard, the parsers read through it and keep
the server's errors as they came. redis-py is imported where
its classes are first needed.
"""

from __future__ import annotations

import asyncio
import functools
import importlib
import socket
import ssl
from collections.abc import Callable
from time import monotonic
from typing import Any, NamedTuple

from . import _fork
from ._sockets import Held
from ._version import __version__
from .config import Config
from .errors import ConfigError

#: What a reply may begin with, and what a TLS record does (an alert, a handshake).
_RESP = b"+-:$*%~>|(#,_=!"
_TLS = b"\x15\x16"
#: A handshake's answers take some hundred bytes; more is no Redis or Valkey server.
_MAX_BYTES = 65536


class NotRESP(Exception):
    """The peer sent what no Redis or Valkey server sends."""


class SpeaksTLS(Exception):
    """The peer answered a plain connection in TLS."""


class Closed(Exception):
    """The server closed the connection as soon as it was made."""


class NotMaster(Exception):
    """The server is a replica, and a master was looked for."""


class Guard:
    """Watches one handshake: its time, its bytes, the server's words, the secrets.

    ``master``: whether the server must be one. ``most``: bytes that its answers may take.
    """

    def __init__(
        self,
        config: Config,
        timeout: float,
        held: Held,
        master: bool = False,
        most: int = _MAX_BYTES,
    ) -> None:
        self.deadline = monotonic() + timeout
        self.hello: dict[str, Any] = {}
        self.secrets = [config.password] if config.password else []
        self.closed = False
        self.provider_error: Exception | None = None
        self._resp3 = config.protocol == 3
        self._received = 0
        self._most = most
        self.master = master
        self._role: Any = None
        self.unread: Callable[[], int] = int  # bytes received and not yet parsed (asyncio)
        self.held = held

    @property
    def heard(self) -> bool:
        """Whether the peer has said anything."""
        return self._received > 0

    def remaining(self) -> float:
        """Seconds left; never 0, which would mean "do not block" to a socket."""
        return max(self.deadline - monotonic(), 0.001)

    def received(self, data: bytes) -> None:
        """Look at what has just arrived; nothing means that the peer closed."""
        if not data:
            self.closed = True
        elif not self._received:
            if data[0] in _TLS:
                raise SpeaksTLS
            if data[0] not in _RESP:
                raise NotRESP
        self._received += len(data)
        if self._received > self._most:
            raise NotRESP

    def replied(self, reply: Any) -> Any:
        """Keep the answer to HELLO, the only map of a handshake."""
        if isinstance(reply, dict) and not self.hello:
            self.hello = {_str(key): _str(value) for key, value in reply.items()}
            self._role = self.hello.get("role")
        return reply

    def pong(self, read: Callable[[], Any]) -> None:
        try:
            answer = read()
        except Exception as error:
            self.pong_refused(error)
        else:
            if answer not in (b"PONG", "PONG"):
                raise NotRESP

    def pong_refused(self, error: Exception) -> None:
        """A user without the right to PING is let in all the same."""
        if not getattr(error, "raw", "").startswith("NOPERM"):
            raise error

    def role(self, answer: Any) -> None:
        """The answer to ROLE, where there was no HELLO, which tells the same."""
        self._role = _str(answer[0]) if isinstance(answer, list) and answer else None

    def finish(self, unread: int) -> None:
        """The handshake is over; refuse what must not be handed on."""
        if self.closed:
            raise Closed
        if unread or (self._resp3 and self.hello.get("proto") != 3):
            raise NotRESP
        if self.master and self._role != "master":
            raise NotMaster


def _str(value: Any) -> Any:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


class _Provider:
    """The user's credential provider, with its failures told from the server's."""

    def __init__(self, provider: Any, guard: Guard) -> None:
        self._provider = provider
        self._guard = guard

    def get_credentials(self) -> tuple[str, ...]:
        try:
            return self._checked(self._provider.get_credentials())
        except Exception as error:
            self._guard.provider_error = error
            raise

    async def get_credentials_async(self) -> tuple[str, ...]:
        get = getattr(self._provider, "get_credentials_async", None)
        if get is None:
            return self.get_credentials()
        try:
            return self._checked(await get())
        except Exception as error:
            self._guard.provider_error = error
            raise

    def _checked(self, given: Any) -> tuple[str, ...]:
        fits = isinstance(given, tuple | list) and len(given) in (1, 2)
        if not fits or not all(isinstance(part, str) for part in given):
            raise ConfigError(
                "credential_provider", "must give (password,) or (username, password), as text"
            )
        self._guard.secrets.append(given[-1])
        return tuple(given)


class _Metered:
    """A socket for redis-py's reader: one deadline for all reads together."""

    def __init__(self, sock: Any, guard: Guard) -> None:
        self._sock = sock
        self._guard = guard

    def recv(self, size: int) -> bytes:
        self._sock.settimeout(self._guard.remaining())
        data: bytes = self._sock.recv(size)
        self._guard.received(data)
        return data


class _MeteredStream:
    """A StreamReader for redis-py's asyncio parsers that looks at bytes as they come."""

    def __init__(self, reader: Any, guard: Guard) -> None:
        self._reader = reader
        self._guard = guard
        self._held = b""
        guard.unread = lambda: len(self._held)

    async def _more(self) -> bool:
        data = await self._reader.read(4096)
        self._guard.received(data)
        self._held += data
        return bool(data)

    def _take(self, size: int) -> bytes:
        taken, self._held = self._held[:size], self._held[size:]
        return taken

    async def readline(self) -> bytes:
        while b"\n" not in self._held and await self._more():
            pass
        return self._take(self._held.find(b"\n") + 1)

    async def readexactly(self, size: int) -> bytes:
        while len(self._held) < size and await self._more():
            pass
        if len(self._held) < size:
            raise EOFError
        return self._take(size)


# What is mixed into redis-py's parsers


class _Raw:
    """Keeps an error as the server wrote it."""

    @classmethod
    def parse_error(cls, response: str) -> Any:
        error = super().parse_error(response)  # type: ignore[misc]
        error.raw = response
        return error


class _SyncParser(_Raw):
    _guard: Guard
    _buffer: Any

    def on_connect(self, connection: Any) -> None:
        super().on_connect(connection)  # type: ignore[misc]
        self._guard = connection.guard
        self._buffer._sock = _Metered(connection._sock, connection.guard)

    def read_response(self, *args: Any, **kwargs: Any) -> Any:
        return self._guard.replied(super().read_response(*args, **kwargs))  # type: ignore[misc]


class _AsyncParser(_Raw):
    _guard: Guard

    def on_connect(self, connection: Any) -> None:
        super().on_connect(connection)  # type: ignore[misc]
        self._guard = connection.guard
        self._stream = _MeteredStream(connection._reader, connection.guard)

    async def read_response(self, *args: Any, **kwargs: Any) -> Any:
        reply = await super().read_response(*args, **kwargs)  # type: ignore[misc]
        return self._guard.replied(reply)


# What is mixed into redis-py's connections


class _Timed:
    """Every time limit of redis-py is what the guard has left."""

    guard: Guard
    context: ssl.SSLContext | None
    host: str

    @property
    def socket_timeout(self) -> float:
        return self.guard.remaining()

    @socket_timeout.setter
    def socket_timeout(self, _value: object) -> None: ...

    @property
    def socket_connect_timeout(self) -> float:
        return self.guard.remaining()

    @socket_connect_timeout.setter
    def socket_connect_timeout(self, _value: object) -> None: ...


class _Sync(_Timed):
    def _connect(self) -> Any:
        """As redis-py's own; but a forked child finds the socket from its beginning on."""
        failure = OSError("the name has no address")
        for family, address in self._addresses():
            sock = self.guard.held.hold(socket.socket(family, socket.SOCK_STREAM))
            try:
                sock.settimeout(self.guard.remaining())
                sock.connect(address)
                break
            except OSError as error:
                failure = error
                sock.close()
            except BaseException:
                sock.close()
                raise
        else:
            raise failure
        return sock if self.context is None else self._secured(sock)

    def _addresses(self) -> list[tuple[int, Any]]:
        raise NotImplementedError

    def _secured(self, sock: Any) -> Any:
        held = self.guard.held
        context: Any = self.context
        try:
            # The handshake apart: it is what takes time, and here the socket is known.
            secured = context.wrap_socket(
                sock, server_hostname=self.host, do_handshake_on_connect=False
            )
            held.hold(secured).do_handshake()
        except BaseException:
            held.sock.close()
            raise
        return secured


class _SyncTCP(_Sync):
    port: int

    def _addresses(self) -> list[tuple[int, Any]]:
        return _looked_up(self.host, self.port)


class _SyncUnix(_Sync):
    path: str

    def _addresses(self) -> list[tuple[int, Any]]:
        return [(socket.AF_UNIX, self.path)]


class _Async(_Timed):
    async def _connect(self) -> None:
        """Over a socket of our own, which a forked child finds from its beginning on.

        The loop's look-up of names would be invisible to forks. (And redis-py's own way to
        a unix socket goes through the handshake twice.)
        """
        loop = asyncio.get_running_loop()
        failure = OSError("the name has no address")
        for family, address in await self._addresses():
            sock = self.guard.held.hold(socket.socket(family, socket.SOCK_STREAM))
            try:
                sock.setblocking(False)
                await loop.sock_connect(sock, address)
                self._reader, self._writer = await asyncio.open_connection(
                    sock=sock,
                    ssl=self.context,
                    server_hostname=None if self.context is None else self.host,
                )
                return
            except OSError as error:
                failure = error
                sock.close()
            except BaseException:
                sock.close()
                raise
        raise failure

    async def _addresses(self) -> list[tuple[int, Any]]:
        raise NotImplementedError


class _AsyncTCP(_Async):
    port: int

    async def _addresses(self) -> list[tuple[int, Any]]:
        return await asyncio.to_thread(_looked_up, self.host, self.port)


class _AsyncUnix(_Async):
    path: str

    async def _addresses(self) -> list[tuple[int, Any]]:
        return [(socket.AF_UNIX, self.path)]


def _looked_up(host: str, port: int) -> list[tuple[int, Any]]:
    """Family and address of each socket that leads there, best first."""
    with _fork.look_ups.one():
        found = socket.getaddrinfo(host, port, 0, socket.SOCK_STREAM)
    return [(family, address) for family, _, _, _, address in found]


class _Classes(NamedTuple):
    tcp: Any
    unix: Any
    resp2: Any
    resp3: Any


@functools.lru_cache(maxsize=1)
def _sync_classes() -> _Classes:
    connection: Any = importlib.import_module("redis.connection")
    parsers: Any = importlib.import_module("redis._parsers")
    return _Classes(
        type("SyncTCP", (_SyncTCP, connection.Connection), {}),
        type("SyncUnix", (_SyncUnix, connection.UnixDomainSocketConnection), {}),
        type("SyncRESP2", (_SyncParser, parsers._RESP2Parser), {}),
        type("SyncRESP3", (_SyncParser, parsers._RESP3Parser), {}),
    )


@functools.lru_cache(maxsize=1)
def _async_classes() -> _Classes:
    connection: Any = importlib.import_module("redis.asyncio.connection")
    parsers: Any = importlib.import_module("redis._parsers")
    return _Classes(
        type("AsyncTCP", (_AsyncTCP, connection.Connection), {}),
        type("AsyncUnix", (_AsyncUnix, connection.UnixDomainSocketConnection), {}),
        type("AsyncRESP2", (_AsyncParser, parsers._AsyncRESP2Parser), {}),
        type("AsyncRESP3", (_AsyncParser, parsers._AsyncRESP3Parser), {}),
    )


def sync_connection(config: Config, guard: Guard, context: ssl.SSLContext | None) -> Any:
    """redis-py's Connection for these settings, not yet connected."""
    return _made(_sync_classes(), config, guard, context)


def async_connection(config: Config, guard: Guard, context: ssl.SSLContext | None) -> Any:
    """redis-py's asyncio Connection for these settings, not yet connected."""
    return _made(_async_classes(), config, guard, context)


def _made(classes: _Classes, config: Config, guard: Guard, context: ssl.SSLContext | None) -> Any:
    make = classes.tcp if config.unix_socket is None else classes.unix
    parser = classes.resp2 if config.protocol == 2 else classes.resp3
    connection = make(**_arguments(config, guard), parser_class=parser)
    connection.guard = guard
    connection.context = context
    return connection


def _arguments(config: Config, guard: Guard) -> dict[str, Any]:
    """What redis-py's Connection takes. Holds the password: never kept in a frame."""
    where: dict[str, Any] = (
        {"host": config.host, "port": config.port}
        if config.unix_socket is None
        else {"path": config.unix_socket}
    )
    if config.credential_provider is not None:
        where["credential_provider"] = _Provider(config.credential_provider, guard)
    else:
        where |= {"username": config.username, "password": config.password}
    return {
        **where,
        **_library(),
        "db": config.db,
        "client_name": config.client_name,
        "protocol": config.protocol,
        "health_check_interval": 0,
    }


def _library() -> dict[str, Any]:
    """How the server lists us (CLIENT SETINFO)."""
    try:
        driver: Any = importlib.import_module("redis.driver_info")
    except ImportError:
        return {"lib_name": "fastlock", "lib_version": __version__}
    return {"driver_info": driver.DriverInfo(name="fastlock", lib_version=__version__)}
