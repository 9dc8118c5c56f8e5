"""A Pipe whose far end is a script. Law: the bytes that come are the test's own."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from fastlock import _impl
from fastlock.errors import TransportError

PING = b"*1\r\n$4\r\nPING\r\n"


class Line:
    """A Pipe and the far end of its socket."""

    def __init__(self, core: str) -> None:
        near, self.far = socket.socketpair()
        self.far.settimeout(20)
        self.pipe = _impl.load(core).pipe(near)

    def hear(self, data: bytes) -> None:
        """Wait until exactly ``data`` has come."""
        got = b""
        while len(got) < len(data):
            chunk = self.far.recv(len(data) - len(got))
            assert chunk, "the other end has gone"
            got += chunk
        assert got == data

    def later(self, *steps: Callable[[], Any]) -> threading.Thread:
        """Play the far end's part in another thread."""
        thread = threading.Thread(target=lambda: [step() for step in steps])
        thread.start()
        return thread


def failure(call: Callable[[], Any]) -> TransportError:
    with pytest.raises(TransportError) as caught:
        call()
    return caught.value


def until(true: Callable[[], Any]) -> None:
    end = time.monotonic() + 20
    while not true():
        assert time.monotonic() < end
        time.sleep(0.002)
