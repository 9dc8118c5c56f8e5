"""Where nobody answers, or not as a server should.

Law: each fault is told by one kind of error, within the time given.
"""

from __future__ import annotations

import socket
import time
from pathlib import Path

import pytest
from _connecting import SECRET, Way, bounded, peer

from fastlock._connect_faults import fault
from fastlock._connect_redispy import Guard
from fastlock.config import Config
from fastlock.errors import ProtocolError, TransportError


def test_a_closed_port_is_named(way: Way) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))  # bound, so that nobody else takes it; not listening
        config = Config(host="localhost", port=probe.getsockname()[1], password=SECRET)
        assert "refused the connection: is the server running" in way.refused(
            TransportError, config
        )


def test_an_unknown_host_is_named(way: Way) -> None:
    text = way.refused(TransportError, Config(host="no-such-host.invalid", password=SECRET))
    assert "'no-such-host.invalid' cannot be resolved" in text


def test_a_missing_socket_is_named(way: Way, tmp_path: Path) -> None:
    config = Config(unix_socket=str(tmp_path / "nobody.sock"))
    assert "there is no such socket" in way.refused(TransportError, config)
    (tmp_path / "file").write_text("")
    way.refused(TransportError, Config(unix_socket=str(tmp_path / "file" / "s.sock")))


@pytest.mark.parametrize("tls", [False, True])
def test_a_silent_peer_is_given_up_in_time(way: Way, tls: bool) -> None:
    with peer(lambda visitor: None) as port:
        config = Config(host="127.0.0.1", port=port, ssl=tls, password=SECRET)
        with bounded(0.3):
            assert "within 0.3 s" in way.refused(TransportError, config, 0.3)


def test_a_peer_that_never_accepts_is_given_up_in_time(way: Way) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        address = listener.getsockname()
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(address)
        time.sleep(0.05)
        with bounded(0.3):
            way.refused(TransportError, Config(host="127.0.0.1", port=address[1]), 0.3)
        for filler in fillers:
            filler.close()


@pytest.mark.parametrize("beginning", [b"$1000\r\n", b"+", b"%7\r\n"])
def test_dripping_bytes_do_not_prolong_the_time(way: Way, beginning: bytes) -> None:
    def drip(visitor: socket.socket) -> None:
        visitor.sendall(beginning)
        while True:
            visitor.sendall(b"1")
            time.sleep(0.05)

    with peer(drip) as port, bounded(0.4):
        way.refused(TransportError, Config(host="127.0.0.1", port=port), 0.4)


@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize(
    "garbage",
    [
        b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.2p1 Debian-2+deb12u3\r\n",
        b"220 mail.example.org ESMTP\r\n",
        b"ERROR\r\n",
        b"no line ever ends",
        b"\x00\x00\x00\x00",
        b"\n",
        b"+OK\r\n" * 9,
        b":12x\r\n",
        b"$abc\r\n",
        b"%-\r\n",
        b"*1\r\n" * 5000,
        b"+" + b"x" * 70000,
        b"$70000\r\n" + b"x" * 70000,
        b"%1\r\n+proto\r\n:2\r\n" * 9,
    ],
    ids=lambda garbage: repr(garbage[:12]),
)
def test_a_peer_that_speaks_something_else_is_named(
    way: Way, garbage: bytes, protocol: int
) -> None:
    def babble(visitor: socket.socket) -> None:
        visitor.recv(4096)
        visitor.sendall(garbage)

    with peer(babble) as port:
        config = Config(host="127.0.0.1", port=port, protocol=protocol)
        text = way.refused(ProtocolError, config)
    assert "not as a Redis or Valkey server does: check host and port" in text


def test_a_word_too_much_is_refused(way: Way) -> None:
    def chatter(visitor: socket.socket) -> None:
        while visitor.recv(4096):
            visitor.sendall(b"%1\r\n+proto\r\n:3\r\n+OK\r\n+OK\r\n+too much\r\n")

    with peer(chatter) as port:
        way.refused(ProtocolError, Config(host="127.0.0.1", port=port))


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("protocol", [2, 3])
def test_a_peer_that_hangs_up_is_named(way: Way, reset: bool, protocol: int) -> None:
    def hang_up(visitor: socket.socket) -> None:
        if not reset:
            visitor.recv(4096)  # unread bytes would make it a reset
        visitor.close()

    with peer(hang_up) as port:
        config = Config(host="127.0.0.1", port=port, protocol=protocol)
        text = way.refused(TransportError, config)
    assert "closed the connection during the handshake; if it expects TLS" in text


def test_a_peer_that_said_nothing_is_not_said_to_answer() -> None:
    """As uvloop puts it when it writes to one that has hung up."""
    config = Config()
    guard = Guard(config, 1.0, None)  # type: ignore[arg-type]
    error = RuntimeError("unable to perform operation; the handler is closed")
    assert "closed the connection" in str(fault(error, config, guard, 1.0))
    guard.received(b"+PONG\r\n")
    assert "answers, but not as" in str(fault(error, config, guard, 1.0))
