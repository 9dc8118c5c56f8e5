"""What connecting and both kinds of Pipe do to sockets. Law: redis-py is unknown here."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from typing import Any

from . import _fork


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


class Held:
    """The socket that a thread is connecting with; a forked child closes its copy.

    For nobody goes on with it there: that thread is the parent's. Whoever takes the
    socket over detaches it, or is told of a fork itself.
    """

    def __init__(self) -> None:
        self.sock: Any = None
        _fork.register(self)

    def hold(self, sock: Any) -> Any:
        """This one from now on; gives it back."""
        self.sock = sock
        return sock

    def forked(self) -> None:
        """In a forked child."""
        if self.sock is not None:
            close_descriptor(self.sock)
