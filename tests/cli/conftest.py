"""A server for the command line's tests, and two that are none."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import _cli
import _servers
import pytest


@pytest.fixture(autouse=True)
def _no_process_is_left() -> Iterator[None]:
    yield
    _cli.end_all()


@pytest.fixture(scope="module")
def shop() -> Iterator[_servers.Server]:
    """An embedded server for this module: its users and keys may be changed."""
    server = _servers.Server("valkey")
    yield server
    server.discard()


@pytest.fixture
def nobody() -> str:
    """The uri of a port where nobody listens."""
    return f"redis://127.0.0.1:{_servers.free_port()}"


@pytest.fixture
def babbler() -> Iterator[str]:
    """The uri of a server that speaks something else."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def babble() -> None:
            while True:
                try:
                    peer, _ = listener.accept()
                except OSError:
                    return
                with peer:
                    peer.recv(1000)
                    peer.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        thread = threading.Thread(target=babble, daemon=True)
        thread.start()
        yield f"redis://127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)
    thread.join(5)
