"""Socket options both kinds of Pipe need. Law: no state."""

from __future__ import annotations

import contextlib
import socket
import struct
from typing import Any


def reset_on_close(sock: Any) -> None:
    """Make closing send RST, so that nothing unsent lands later."""
    with contextlib.suppress(OSError):  # a unix socket, or already closed
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
