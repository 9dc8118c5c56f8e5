"""Tokens: who holds a lock, as stored under its key.

Law: never the same token for two acquisitions. A token is 128 random bits, drawn
per client, connection and process, a counter, a dot and a readable label. Only
the label is ever shown.
"""

from __future__ import annotations

import os
import re
import secrets
import socket
import sysconfig
import threading
from itertools import count

_FORM = re.compile(rb"[A-Za-z0-9_-]{22}-[0-9a-f]+\.(.*)", re.DOTALL)
#: itertools.count is atomic under the GIL only.
_FREE_THREADED = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))


class TokenSource:
    """Makes tokens. Any thread may call it."""

    def __init__(self, label: str | None) -> None:
        self._wanted = label
        self.forked()

    def forked(self) -> None:
        """In a forked child: other random bits, and a mutex that nobody holds."""
        self._mutex = threading.Lock()
        self.renew()

    def renew(self) -> None:
        """Draw new random bits, as for a new connection."""
        label = self._wanted or f"{socket.gethostname()}:{os.getpid()}"
        # One assignment: a token never mixes an old counter with new random bits.
        self._parts = (secrets.token_urlsafe(16).encode(), count(1), label.encode())

    def __call__(self) -> bytes:
        secret, counter, label = self._parts
        if _FREE_THREADED:
            with self._mutex:
                return b"%b-%x.%b" % (secret, next(counter), label)
        return b"%b-%x.%b" % (secret, next(counter), label)


def label_of(token: bytes) -> str:
    """The readable part of a token; "unknown" if another library made it."""
    form = _FORM.fullmatch(token)
    return form[1].decode("utf-8", "replace") if form else "unknown"
