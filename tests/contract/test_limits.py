"""What a server may cost us, whatever it sends: both codecs and both Pipes, the same bounds.

Law: every limit is met exactly where that can be; where it is memory, it is measured.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
from _line import PING, Line, failure
from _streams import decoded, plain

from fastlock import _impl
from fastlock._resp import (
    ELEMENT_COST,
    ERROR_COST,
    MALFORMED,
    MAX_ANSWER,
    MAX_BIGNUM,
    MAX_LINE,
    MAX_REPLY,
    NO_ANSWER,
    TOO_MUCH,
)

REFUSED = ("ProtocolError", MALFORMED)
MIB = 1024 * 1024


@pytest.fixture
def codec(core: str) -> _impl.Core:
    return _impl.load(core)


# ------------------------------------------------------------------ one reply


@pytest.mark.parametrize("kind", [b"+", b"-"])
def test_a_line_is_bounded(codec: _impl.Core, kind: bytes) -> None:
    fits, too_long = (kind + b"a" * size + b"\r\n" for size in (MAX_LINE, MAX_LINE + 1))
    for data in fits, too_long:
        whole = decoded(codec, [data])
        assert (whole == [REFUSED]) is (data is too_long)
        for place in (1, 2000, MAX_LINE, MAX_LINE + 1, MAX_LINE + 2):
            assert decoded(codec, [data[:place], data[place:]]) == whole


@pytest.mark.parametrize(
    ("kind", "most"),
    [(kind, MAX_LINE) for kind in "+-"] + [(kind, MAX_BIGNUM + 1) for kind in ":$*_#,(=~%>"],
)
def test_a_line_without_end_is_refused_at_the_limit(
    codec: _impl.Core, kind: str, most: int
) -> None:
    for size in (16, 1000):  # of the pieces
        decoder = codec.decoder()
        values = decoder.feed(kind.encode())
        fed = 0
        while not values:
            assert fed <= most + 1  # the last may be the CR of its end
            values = decoder.feed(b"1" * size)
            fed += size
        assert [plain(value) for value in values] == [REFUSED]
        assert fed > most + 1


def test_a_number_in_two_pieces_is_a_number_where_nothing_more_may_be_spent(
    codec: _impl.Core,
) -> None:
    count = MAX_REPLY // ELEMENT_COST
    stream = b"*%d\r\n" % count + b":1234567\r\n" * count
    for place in range(10):
        decoder = codec.decoder()
        assert decoder.feed(stream[: place - 10]) == []
        assert decoder.feed(stream[place - 10 :]) == [[1234567] * count]


def test_a_reply_of_the_largest_size_passes_and_the_next_has_its_own_limit(
    codec: _impl.Core,
) -> None:
    data = b"$%d\r\n" % MAX_REPLY + bytes(MAX_REPLY) + b"\r\n"
    decoder = codec.decoder()
    for _ in range(2):
        (value,) = decoder.feed(data)
        assert len(value) == MAX_REPLY


@pytest.mark.parametrize(
    ("item", "cost"),
    [
        (b"$%d\r\n" % MIB + bytes(MIB) + b"\r\n", MIB),
        (b"=%d\r\ntxt:" % MIB + bytes(MIB - 4) + b"\r\n", MIB),
        (b"+" + b"a" * MAX_LINE + b"\r\n", MAX_LINE),
        (b"-" + b"a" * MAX_LINE + b"\r\n", MAX_LINE + ERROR_COST),
        (b"-\r\n", ERROR_COST),
        (b"(" + b"1" * MAX_BIGNUM + b"\r\n", MAX_BIGNUM),
        (b"*8192\r\n" + b"_\r\n" * 8192, 8192 * ELEMENT_COST),
        (b"~8192\r\n" + b"_\r\n" * 8192, 8192 * ELEMENT_COST),
        (b"%4096\r\n" + b"_\r\n" * 8192, 8192 * ELEMENT_COST),
        (b"_\r\n", 0),
        (b":12\r\n", 0),
        (b",1.5\r\n", 0),
        (b"#t\r\n", 0),
        (b"+OK\r\n", 0),
    ],
    ids=lambda part: repr(part)[:20],
)
def test_the_limit_counts_all_of_a_reply(codec: _impl.Core, item: bytes, cost: int) -> None:
    most = MAX_REPLY // (cost + ELEMENT_COST)
    decoder = codec.decoder()
    (value,) = decoder.feed(b"*%d\r\n" % most + item * most)
    assert len(value) == most
    assert decoder.spent == most * (cost + ELEMENT_COST)
    assert decoded(codec, [b"*%d\r\n" % (most + 1) + item * (most + 1)]) == [REFUSED]


def test_what_was_spent_adds_up(codec: _impl.Core) -> None:
    decoder = codec.decoder()
    assert decoder.spent == 0
    spent = 0
    for data, cost in (
        (b"+OK\r\n", 0), (b"+OKE\r\n", 3), (b"$-1\r\n:1\r\n", 0), (b"$5\r\nabcde\r\n", 5),
        (b">2\r\n+invalidate\r\n*1\r\n+k\r\n", 0), (b"-ERR\r\n", 3 + ERROR_COST),
        (b"*1\r\n$9\r\nabc", 0), (b"defghi\r\n$3", 9 + ELEMENT_COST), (b"\r\n123\r\n+OK\r\n", 3),
    ):  # fmt: skip
        decoder.feed(data)
        spent += cost
        assert decoder.spent == spent, data
    decoder.feed(b"$4\r\nlast\r\n?")
    assert decoder.spent == spent + 4


# ------------------------------------------------------------------ all replies that a Pipe holds


def talking(line: Line, words: Iterable[bytes]) -> threading.Thread:
    """The far end says all this, as long as somebody listens."""

    def talk() -> None:
        with suppress(OSError):
            for word in words:
                line.far.sendall(word)

    thread = threading.Thread(target=talk)
    thread.start()
    return thread


def bulk(size: int) -> bytes:
    return b"$%d\r\n" % size + bytes(size) + b"\r\n"


def test_the_answer_to_one_call_is_bounded(line: Line) -> None:
    line.pipe.call(b"", 0, 5)
    enough = MAX_ANSWER // MIB
    far = talking(line, (bulk(MIB) for _ in range(enough + 40)))
    error = failure(lambda: line.pipe.call(PING, 1000, 60))
    line.far.close()
    far.join()
    assert str(error) == TOO_MUCH
    assert error.sent
    assert enough < len(error.replies) <= enough + 1
    assert line.pipe.broken


def test_each_call_has_its_own_bound(line: Line) -> None:
    number = 3 * MAX_ANSWER // MIB // 4
    far = talking(line, (bulk(MIB) for _ in range(3 * number)))
    for _ in range(3):
        assert len(line.pipe.call(PING, number, 60)) == number
    far.join()
    assert not line.pipe.broken


def test_many_small_answers_are_no_large_one(line: Line) -> None:
    """What earlier calls took does not count, whichever way they took it."""
    piece = b"+" + b"a" * MAX_LINE + b"\r\n"
    calls = MAX_ANSWER // MAX_LINE + 10
    far = talking(line, (piece for _ in range(calls)))
    for _ in range(calls):
        line.pipe.call(PING, 1, 5)
    far.join()
    line.pipe.post(PING, 1)
    line.far.sendall(b"+a\r\n+b\r\n")
    late = line.later(lambda: line.far.sendall(b"+c\r\n"))
    assert line.pipe.call(PING, 2, 5) == [b"b", b"c"]
    late.join()
    assert not line.pipe.broken


@pytest.mark.parametrize("answer", [b"*1\r\n:1\r\n", bulk(MAX_LINE + 1)], ids=["array", "bulk"])
def test_an_answer_that_is_kept_is_a_small_one(line: Line, answer: bytes) -> None:
    assert [line.pipe.defer(PING, 1), line.pipe.defer(PING, 1)] == [1, 2]
    far = talking(line, [bulk(MAX_LINE), answer])
    error = failure(lambda: line.pipe.call(PING, 1, 5))
    far.join()
    assert str(error) == NO_ANSWER
    assert line.pipe.settled == 2
    assert line.pipe.odd() == [(1, bytes(MAX_LINE))]


# ------------------------------------------------------------------ memory, measured


def alone(function: Callable[..., int], *args: Any) -> int:
    """Call it in a process of its own, whose memory nothing else has used."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(function, *args).result(110)


def peak() -> int:
    """The most memory that this process ever had, in MiB."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) // 1024


WORST = {
    "bulk": bulk(MAX_REPLY),
    "errors": b"*%d\r\n" % (MAX_REPLY // (ELEMENT_COST + ERROR_COST))
    + b"-\r\n" * (MAX_REPLY // (ELEMENT_COST + ERROR_COST)),
    "nulls": b"*%d\r\n" % (MAX_REPLY // ELEMENT_COST) + b"_\r\n" * (MAX_REPLY // ELEMENT_COST),
    "arrays": b"*%d\r\n" % (MAX_REPLY // ELEMENT_COST) + b"*0\r\n" * (MAX_REPLY // ELEMENT_COST),
    "numbers": b"*%d\r\n" % (MAX_REPLY // (ELEMENT_COST + MAX_BIGNUM))
    + (b"(" + b"9" * MAX_BIGNUM + b"\r\n") * (MAX_REPLY // (ELEMENT_COST + MAX_BIGNUM)),
    "maps": b"%%%d\r\n" % (MAX_REPLY // ELEMENT_COST // 2)
    + b",1.5\r\n" * (MAX_REPLY // ELEMENT_COST // 2 * 2),
}


#: Name, how it begins, what it goes on with, how often, and why it ends.
ENDLESS = [
    ("line", b"+", b"a" * 65536, MALFORMED),
    ("number", b":", b"1" * 65536, MALFORMED),
    ("string", b"$%d\r\n" % 2**40, bytes(65536), MALFORMED),
    ("array", b"*%d\r\n" % 2**40, b":1\r\n" * 16384, MALFORMED),
    ("arrays in arrays", b"", b"*1\r\n" * 16384, MALFORMED),
    (
        "pushes",
        b"",
        b">2\r\n+invalidate\r\n*1\r\n$1\r\nk\r\n" * 2000,
        "the server closed the connection",
    ),
    ("answers", b"", b"*1\r\n$1000\r\n" + bytes(1000) + b"\r\n", TOO_MUCH),
    ("errors", b"", b"-\r\n" * 20_000, TOO_MUCH),
]


@pytest.mark.memory
@pytest.mark.parametrize("name", WORST)
def test_the_largest_reply_takes_a_few_times_what_it_counts(core: str, name: str) -> None:
    """Buffers, the C copy and the Python objects together, also in single small pieces."""
    grown = alone(_cost_of_one, core, name)
    assert grown < 6 * MAX_REPLY // MIB


def _cost_of_one(core: str, name: str) -> int:
    data = WORST[name]
    decoder = _impl.load(core).decoder()
    decoder.feed(b"+OK\r\n")
    before = peak()
    values: list[Any] = []
    for start in range(0, len(data), 4096):
        values += decoder.feed(data[start : start + 4096])
    assert len(values) == 1
    return peak() - before


@pytest.mark.memory
@pytest.mark.parametrize("case", range(len(ENDLESS)), ids=[case[0] for case in ENDLESS])
def test_whatever_never_ends_takes_bounded_memory(core: str, case: int) -> None:
    most = 3 * MAX_ANSWER if ENDLESS[case][3] == TOO_MUCH else MAX_REPLY
    assert alone(_cost_of_endless, core, case) < most // MIB


def _cost_of_endless(core: str, case: int) -> int:
    name, begin, rest, reason = ENDLESS[case]
    total = 20_000_000 if name == "pushes" else 2 * MAX_ANSWER
    near, far = socket.socketpair()
    pipe = _impl.load(core).pipe(near)
    before = peak()

    def talk() -> None:
        with suppress(OSError):
            far.sendall(begin)
            for _ in range(total // len(rest)):
                far.sendall(rest)
        with suppress(OSError):
            far.shutdown(socket.SHUT_WR)

    talking = threading.Thread(target=talk)
    talking.start()
    error = failure(lambda: pipe.call(PING, 500_000, 100))
    grown = peak() - before
    assert str(error) == reason
    far.close()
    talking.join()
    pipe.close()
    return grown
