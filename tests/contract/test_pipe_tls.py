"""What the Pipe that serves TLS promises, with either core's decoder.

Law: the far end is a TLS server of Python's or OpenSSL's own, stopped where a network would be.
"""

from __future__ import annotations

import select
import signal
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from _servers import Certificates, free_port

from fastlock import _impl
from fastlock.errors import TransportError

PING = b"*1\r\n$4\r\nPING\r\n"


def test_records_that_tls_has_taken_count_as_sent(core: str, tmp_path: Path) -> None:
    """A write that wants to go on later has sent whole records, though it counts as nothing."""
    certificates = Certificates(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates.cert, certificates.key)
    full = threading.Event()
    decrypted = 0

    def far() -> None:
        nonlocal decrypted
        with context.wrap_socket(listener.accept()[0], server_side=True) as sock:
            full.wait(5)
            while decrypted < 100_000:
                decrypted += len(sock.recv(16384))
            pipe.abort("the network failed")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = threading.Thread(target=far)
        near = socket.create_connection(listener.getsockname())
        server.start()
        trusting = ssl.create_default_context(cafile=certificates.ca)
        pipe = _impl.load(core).tls_pipe(trusting.wrap_socket(near, server_hostname="localhost"))
        threading.Timer(0.3, full.set).start()
        with pytest.raises(TransportError) as caught:
            pipe.call(PING * 700_000, 700_000, 10)
        server.join(5)
    assert decrypted >= 100_000
    assert caught.value.sent is True


@pytest.fixture
def renegotiator(tmp_path: Path) -> Iterator[tuple[Any, ssl.SSLSocket]]:
    """OpenSSL's server for TLS 1.2, which renegotiates when told to; a socket connected to it.

    It prints what it hears, and says what it reads on its standard input.
    """
    certificates, port = Certificates(tmp_path), free_port()
    command = [
        "openssl", "s_server", "-accept", f"127.0.0.1:{port}", "-tls1_2", "-crlf",
        "-cert", certificates.cert, "-key", certificates.key,
    ]  # fmt: skip
    pipe = subprocess.PIPE
    server = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.STDOUT)
    context = ssl.create_default_context(cafile=certificates.ca)
    end = time.monotonic() + 20
    while True:
        try:
            plain = socket.create_connection(("127.0.0.1", port))
            break
        except ConnectionRefusedError:
            assert server.poll() is None
            assert time.monotonic() < end
            time.sleep(0.01)
    yield server, context.wrap_socket(plain, server_hostname="localhost")
    server.kill()
    with server:
        server.wait()


def test_a_write_that_must_read_first_does_not_spin(core: str, renegotiator: Any) -> None:
    """The server has asked to negotiate anew and says nothing more for a while."""
    server, sock = renegotiator
    descriptor = sock.fileno()
    pipe = _impl.load(core).tls_pipe(sock)
    server.stdin.write(b"R\n")
    server.stdin.flush()
    assert select.select([descriptor], [], [], 20)[0]  # its request is here
    server.send_signal(signal.SIGSTOP)
    for wait in (0.2, 1.0):  # the first call meets the request, the second cannot even write
        used = time.thread_time()
        with pytest.raises(TransportError, match="no answer in time"):
            pipe.call(PING, 1, wait)
        used = time.thread_time() - used
    assert used < 0.1  # seconds of CPU

    def answer() -> None:
        heard = 0
        while heard < 3:
            heard += server.stdout.readline() == b"PING\r\n"
        server.stdin.write(b"+1\n+2\n+3\n")
        server.stdin.flush()

    answering = threading.Thread(target=answer)
    answering.start()
    server.send_signal(signal.SIGCONT)
    assert pipe.call(PING, 1, 20) == [b"3"]
    answering.join()
    assert pipe.owed == 0
    pipe.close()


def test_a_call_in_two_steps_over_tls(core: str, tmp_path: Path) -> None:
    """Who has sent and does not wait yet has let the lead go: another caller reads for itself."""
    certificates = Certificates(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates.cert, certificates.key)

    def far() -> None:
        with context.wrap_socket(listener.accept()[0], server_side=True) as sock:
            rest = b""
            while data := sock.recv(16384):
                rest += data
                whole = len(rest) // len(PING)
                sock.sendall(b"+PONG\r\n" * whole)
                rest = rest[whole * len(PING) :]

    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = threading.Thread(target=far)
        near = socket.create_connection(listener.getsockname())
        server.start()
        trusting = ssl.create_default_context(cafile=certificates.ca)
        pipe = _impl.load(core).tls_pipe(trusting.wrap_socket(near, server_hostname="localhost"))
        tickets = [pipe.ticket() for _ in range(3)]
        for number, ticket in enumerate(tickets, 1):
            ticket.send(PING * number, number)
        heard: list[Any] = []
        other = threading.Thread(target=lambda: heard.append(pipe.call(PING, 1, 20)))
        other.start()
        other.join(20)
        assert heard == [[b"PONG"]]
        tickets[1].leave()
        assert tickets[2].wait(20) == [b"PONG"] * 3
        assert tickets[0].wait(20) == [b"PONG"]
        assert (pipe.owed, pipe.broken) == (0, False)
        pipe.close()
        server.join(20)
        assert not server.is_alive()
