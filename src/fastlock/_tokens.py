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
from collections.abc import Callable
from typing import Any

Pair = tuple[bytes, bytes]  # wire key, token

_FORM = re.compile(rb"[A-Za-z0-9_-]{22}-[0-9a-f]+\.(.*)", re.DOTALL)


class TokenSource:
    """Makes tokens, for any thread: ``next()`` one more, ``pairs(keys, prefix)`` one for each.

    ``numbered`` is the core's.
    """

    def __init__(self, label: str | None, numbered: Callable[[bytes, bytes], Any]) -> None:
        self._wanted = label
        self._numbered = numbered
        self.renew()

    def renew(self) -> None:
        """Draw new random bits, as for a new connection, or in a forked child."""
        label = self._wanted or f"{socket.gethostname()}:{os.getpid()}"
        secret = secrets.token_urlsafe(16)
        # A source of its own: a token never mixes an old counter with new random bits.
        source = self._numbered(f"{secret}-".encode(), f".{label}".encode())
        self.source = source
        self.next: Callable[[], bytes] = source.next
        self.pairs: Callable[[list[str | bytes], bytes], list[Pair]] = source.pairs


def label_of(token: bytes) -> str:
    """The readable part of a token; "unknown" if another library made it."""
    form = _FORM.fullmatch(token)
    label = form[1].decode("utf-8", "replace") if form else ""
    return label if label.isprintable() and label else "unknown"  # ours are
