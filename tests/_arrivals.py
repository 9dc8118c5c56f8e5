"""Who came for a fair lock, and who got it, in the order in which the server did both.

Law: the server's own word, by MONITOR, which tells of every command of every script; nothing is
taken from those who wait.
"""

from __future__ import annotations

import re
import socket
import threading
from collections import deque
from contextlib import suppress
from typing import Any

from _waiting import queue_of

#: The last command that is heard: all before it have come.
LAST = b'"ECHO" "that is all"'


class Arrivals:
    """Listens within its ``with``, to ``end``; nobody waits for the key before."""

    def __init__(self, server: Any, key: str) -> None:
        self._server = server
        places = rb'"ZADD" "%b" "NX" "-\d+" "a([^"]+)"' % re.escape(queue_of(key))
        self._said = re.compile(rb'%b|"SET" "%b" "([^"]+)"' % (places, re.escape(key.encode())))
        self._sock = socket.socket(socket.AF_UNIX)
        self._found: list[tuple[bytes, bytes]] = []
        self._whole = False
        self._thread = threading.Thread(target=self._listen)

    def __enter__(self) -> Arrivals:
        self._sock.connect(self._server.socket_path)
        self._sock.sendall(b"MONITOR\r\n")
        assert self._sock.recv(5) == b"+OK\r\n"
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        with suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._sock.close()

    def _listen(self) -> None:
        rest = b""
        while True:
            more = self._sock.recv(1 << 20)
            if not more:
                return
            whole, _, rest = (rest + more).rpartition(b"\r\n")
            self._found += self._said.findall(whole)
            if LAST in whole:
                self._whole = True
                return

    def end(self) -> int:
        """How many waited and got it. It was never anybody's who had somebody before him."""
        self._server.admin.echo("that is all")
        self._thread.join(60)
        assert self._whole, "the server does not tell all"
        line: deque[bytes] = deque()
        served = 0
        for came, got in self._found:
            if came:
                if came not in line:
                    line.append(came)
            elif line:
                assert line.popleft() == got, f"after {served} in turn"
                served += 1
        return served
