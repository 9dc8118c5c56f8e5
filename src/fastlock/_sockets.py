"""What connecting and both kinds of Pipe do to sockets. Law: redis-py is unknown here."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections.abc import Callable
from typing import Any

from . import _fork
from ._event import Event


def patched_by() -> str | None:
    """The library of green threads that has replaced the socket module's class, if any."""
    module = socket.socket.__module__
    return None if module == "socket" else module.partition(".")[0]


def reset_on_close(sock: Any) -> None:
    """Make closing send RST, so that nothing unsent lands later."""
    with contextlib.suppress(OSError):  # a unix socket, or already closed
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def close_descriptor(sock: Any) -> None:
    """Close without shutdown or a TLS goodbye, which a forked parent would feel."""
    if type(sock).__module__ in ("socket", "ssl"):
        sock.close()  # an interrupt cannot part the socket from its descriptor
        return
    descriptor = sock.detach()  # a green socket's close would speak to the event loop
    if descriptor >= 0:
        os.close(descriptor)


def point_at_nothing(sock: Any) -> None:
    """As ``close_descriptor``, of a socket whose event loop keeps the number in mind."""
    if sock.fileno() >= 0:
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, sock.fileno())
        os.close(null)


class Held:
    """The socket that somebody is connecting with; a forked child lets go of its copy.

    For nobody goes on with it there: that thread, or loop, is the parent's. Whoever takes
    the socket over detaches it, or is told of a fork itself.
    """

    def __init__(self, let_go: Callable[[Any], None]) -> None:
        self.sock: Any = None
        self._let_go = let_go
        self.over = Event()  # set when it was halted
        _fork.register(self)

    @property
    def halted(self) -> bool:
        """Whether another thread has ended the connecting."""
        return self.over.is_set()

    def hold(self, sock: Any) -> Any:
        """This one from now on; gives it back."""
        self.sock = sock
        if self.halted:
            self.halt()
        return sock

    def halt(self) -> None:
        """End the connecting, from another thread: whatever it waits for fails at once."""
        self.over.set()
        if self.sock is not None:
            with contextlib.suppress(OSError):  # not begun, or over
                if type(self.sock).__module__ == "ssl":
                    # Its own method would take its state away from under whoever waits.
                    socket.socket.shutdown(self.sock, socket.SHUT_RDWR)
                else:
                    self.sock.shutdown(socket.SHUT_RDWR)

    def forked(self) -> None:
        """In a forked child."""
        if self.sock is not None:
            self._let_go(self.sock)
