"""Both cores' straight way: the usual answers end it, any other is handed back as it came."""

from __future__ import annotations

import copy
import socket
from typing import Any

import pytest
from _line import Line, failure

from fastlock import _impl, sync
from fastlock._doubt import UNDER_WAY
from fastlock.errors import ConfigError, ServerError, TransportError


class Way:
    """A Straight over a line whose far end is the test."""

    def __init__(self, core: str, line: Line) -> None:
        self.line = line
        parts = _impl.load(core)
        self.meter = parts.meter()
        self.client = object()
        self.trace: list[tuple[bytes, bytes]] = []
        self.straight = parts.straight(
            self.client,
            parts.leases(sync.Lease),
            line.pipe,
            parts.prepare(b"SET", bytes, bytes, b"PX", int),
            parts.prepare(b"DEL", bytes, bytes),
            parts.numbered(b"t-", b".me"),
            b"p:",
            self.meter,
        )

    def take(self, key: Any = "k", ttl: int = 5000, timeout: float = 5) -> Any:
        self.trace.clear()
        return self.straight.take(key, ttl, 4.5, 7, timeout, self.trace)

    def answered(self, answer: bytes, key: Any = "k") -> Any:
        self.line.far.sendall(answer)
        return self.take(key)


@pytest.fixture
def way(core: str, line: Line) -> Way:
    return Way(core, line)


def test_ok_makes_a_lease(way: Way) -> None:
    before = sync.clock()
    lease = way.answered(b"+OK\r\n")
    assert type(lease) is sync.Lease
    assert (lease._client, lease._generation, lease.key, lease.ttl) == (way.client, 7, "k", 5.0)
    assert lease.pair == (b"p:k", b"t-1.me")
    assert way.trace == [lease.pair]
    assert before + 4.5 <= lease.deadline <= sync.clock() + 4.5
    assert (lease.doubt, lease.over, lease.freed, lease._turn) == (False, False, False, None)
    way.line.hear(b"*5\r\n$3\r\nSET\r\n$3\r\np:k\r\n$6\r\nt-1.me\r\n$2\r\nPX\r\n$4\r\n5000\r\n")


def test_nil_is_nobodys_lease(way: Way) -> None:
    assert way.answered(b"$-1\r\n") is None
    assert way.answered(b"+OK\r\n").pair[1] == b"t-2.me"


@pytest.mark.parametrize("key", [b"k", "k", "schlüssel", b"\x00\r\n", "k" * 5000, b"k" * 65000])
def test_any_key_goes_as_it_is(way: Way, key: str | bytes) -> None:
    raw = b"p:" + (key.encode() if isinstance(key, str) else key)
    lease = way.answered(b"+OK\r\n", key)
    assert (lease.key, lease.pair[0]) == (key, raw)
    way.line.hear(
        b"*5\r\n$3\r\nSET\r\n$%d\r\n%b\r\n$6\r\nt-1.me\r\n$2\r\nPX\r\n$4\r\n5000\r\n"
        % (len(raw), raw)
    )


@pytest.mark.parametrize("key", ["", b"", 7, None, "k" * 70000, bytearray(b"k")])
def test_what_is_no_key_is_not_sent(way: Way, key: Any) -> None:
    with pytest.raises(ConfigError):
        way.take(key)
    assert way.trace == []
    assert way.line.pipe.owed == 0


@pytest.mark.parametrize(
    ("answer", "reply"),
    [
        (b"+QUEUED\r\n", b"QUEUED"),
        (b"+OKAY\r\n", b"OKAY"),
        (b":1\r\n", 1),
        (b"$5\r\nother\r\n", b"other"),
        (b"*1\r\n+OK\r\n", [b"OK"]),
    ],
)
def test_an_unusual_answer_is_handed_back(way: Way, answer: bytes, reply: Any) -> None:
    pair, sent_at, said = way.answered(answer)
    assert (pair, said) == ((b"p:k", b"t-1.me"), reply)
    assert sent_at <= sync.clock()


def test_a_refusal_is_handed_back(way: Way) -> None:
    _, _, said = way.answered(b"-WRONGTYPE no lock\r\n")
    assert isinstance(said, ServerError)
    assert said.code == "WRONGTYPE"


def test_silence_is_handed_back(way: Way) -> None:
    pair, _, said = way.take(timeout=0.05)
    assert isinstance(said, TransportError)
    assert (said.sent, said.timed_out) == (True, True)
    assert way.trace == [pair]


def test_a_lost_connection_is_handed_back(way: Way) -> None:
    way.line.far.shutdown(socket.SHUT_WR)
    _, _, said = way.take()
    assert isinstance(said, TransportError)
    assert (said.sent, said.timed_out) == (True, False)
    _, _, said = way.take()
    assert said.sent is False
    assert failure(lambda: way.line.pipe.call(b"", 0, 1)).sent is False


def test_one_means_freed(way: Way) -> None:
    lease = way.answered(b"+OK\r\n")
    way.line.far.sendall(b":1\r\n")
    assert way.straight.free(lease, 7, 5) is True
    assert (lease.over, lease.freed) == (True, True)
    assert way.straight.free(lease, 7, 5) is None
    way.line.hear(
        b"*5\r\n$3\r\nSET\r\n$3\r\np:k\r\n$6\r\nt-1.me\r\n$2\r\nPX\r\n$4\r\n5000\r\n"
        b"*3\r\n$3\r\nDEL\r\n$3\r\np:k\r\n$6\r\nt-1.me\r\n"
    )


@pytest.mark.parametrize(("answer", "reply"), [(b":0\r\n", 0), (b"$-1\r\n", None), (b":2\r\n", 2)])
def test_any_other_answer_to_a_release_is_handed_back(way: Way, answer: bytes, reply: Any) -> None:
    lease = way.answered(b"+OK\r\n")
    way.line.far.sendall(answer)
    sent_at, said = way.straight.free(lease, 7, 5)
    assert said == reply
    assert sent_at <= sync.clock()
    assert (lease.doubt, lease.over, lease.freed) == (UNDER_WAY, False, False)
    assert way.straight.free(lease, 7, 5) is None  # what is in doubt takes more than this


def test_silence_about_a_release_is_handed_back(way: Way) -> None:
    lease = way.answered(b"+OK\r\n")
    _, said = way.straight.free(lease, 7, 0.05)
    assert isinstance(said, TransportError)
    assert said.sent is True
    assert lease.doubt is UNDER_WAY  # until the operation says what it means


def test_another_processes_lease_is_not_freed(way: Way) -> None:
    lease = way.answered(b"+OK\r\n")
    assert way.straight.free(lease, 8, 5) is None
    assert lease.doubt is False


def test_nobody_copies_it(way: Way) -> None:
    with pytest.raises(TypeError):
        copy.copy(way.straight)
