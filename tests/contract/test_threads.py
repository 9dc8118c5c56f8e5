"""What both cores promise to threads that do the same thing at the same instant.

Law: no test waits for an accident alone. What a thread may do in the middle of another's work
is done there by the test, on every Python; beside it, many threads try it at once, which shows
little with the GIL and much without.
"""

from __future__ import annotations

import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
from _harness import CORES
from _line import PING, Line, failure, until

from fastlock import _impl, _pymux, _pypack, sync
from fastlock.errors import ProtocolError, TransportError

THREADS = 16
ROUNDS = 200


def at_once(*works: Callable[[], Any]) -> list[Any]:
    """Each in a thread of its own, all let go together; what they returned, in order."""
    gate = threading.Barrier(len(works))
    results: list[Any] = [None] * len(works)
    errors: list[BaseException] = []

    def run(place: int) -> None:
        gate.wait(30)
        try:
            results[place] = works[place]()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(place,)) for place in range(len(works))]
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    finally:
        sys.setswitchinterval(before)
    assert errors == []
    assert not any(thread.is_alive() for thread in threads)
    return results


@pytest.fixture
def codec(core: str) -> _impl.Core:
    return _impl.load(core)


# ------------------------------------------------------------------ tokens


def test_no_two_threads_get_the_same_number(codec: _impl.Core) -> None:
    numbered = codec.numbered(b"<", b">")
    keys: list[str | bytes] = [f"k{n}" for n in range(20)]

    def one_by_one() -> list[bytes]:
        return [numbered.next() for _ in range(ROUNDS * len(keys))]

    def many() -> list[bytes]:
        return [token for _ in range(ROUNDS) for _, token in numbered.pairs(keys, b"")]

    given = [token for got in at_once(*[one_by_one, many] * (THREADS // 2)) for token in got]
    assert sorted(int(token[1:-1], 16) for token in given) == list(range(1, len(given) + 1))


def test_a_list_that_grows_while_it_is_numbered(codec: _impl.Core) -> None:
    numbered = codec.numbered(b"<", b">")
    keys: list[Any] = []
    between: list[bytes] = []

    class Key(str):
        def encode(self, *_: Any) -> bytes:
            between.append(numbered.next())
            if len(keys) < 40:
                keys.append("one more")
            return b"key"

    keys += [Key("key") for _ in range(20)]
    tokens = [token for _, token in numbered.pairs(keys, b"")]
    assert len(tokens) == 40
    assert len({*tokens, *between}) == 60


def test_a_signal_handler_draws_a_token_while_one_is_drawn() -> None:
    """At every point of Python code; the compiled one has none inside."""
    numbered = _impl.load("python").numbered(b"<", b">")
    drawn: list[bytes] = []
    inside = False

    def look(frame: Any, event: str, _: Any) -> None:
        nonlocal inside
        if frame.f_code.co_filename == _pypack.__file__ and not inside:
            inside = True
            drawn.append(numbered.next())
            inside = False

    before = sys.getprofile()
    sys.setprofile(look)
    try:
        drawn += [numbered.next() for _ in range(3)]
    finally:
        sys.setprofile(before)
    assert len(set(drawn)) == len(drawn) > 6


# ------------------------------------------------------------------ packing, decoding, leases


def test_one_prepared_command_is_filled_by_all(codec: _impl.Core) -> None:
    prepared = codec.prepare(b"SET", bytes, bytes, b"PX", int)

    def fill(number: int) -> None:
        for turn in range(ROUNDS * 5):
            key, ttl = b"k" * (number + 1), number * 1000 + turn % 3
            assert prepared.fill(key, b"t", ttl) == codec.pack(b"SET", key, b"t", b"PX", ttl)

    at_once(*[lambda number=number: fill(number) for number in range(THREADS)])


def test_every_thread_s_leases_keep_their_references(codec: _impl.Core) -> None:
    loops = codec.leases(sync.Lease)
    things = (object(), float("30.5"), "".join(["k", "ey"]), (bytes(3), bytes(4)))
    client, ttl, key, pair = things
    before = [sys.getrefcount(thing) for thing in things]

    def work() -> None:
        for _ in range(ROUNDS):
            replies = [b"OK", None, b"OK"] * 10
            leases = loops.make(client, 1, [key] * 30, [pair] * 30, replies, ttl, ttl)
            assert loops.foreign(client, 1, leases) == -1
            places = loops.held(leases)
            assert loops.release(leases, places) == ([pair] * 20, {})
            results = [False] * 30
            loops.released(leases, places, results)
            assert sum(results) == 20

    at_once(*[work] * THREADS)
    assert [sys.getrefcount(thing) for thing in things] == before


def test_all_release_the_same_leases(codec: _impl.Core) -> None:
    loops = codec.leases(sync.Lease)
    pairs = [(b"k%d" % n, b"t%d" % n) for n in range(50)]
    leases = loops.make(None, 1, ["k"] * 50, pairs, [b"OK"] * 50, 30.0, 99.5)

    def work() -> None:
        for _ in range(ROUNDS):
            found, _doubts = loops.release(leases, range(50))
            assert found == pairs
            loops.released(leases, range(50), [False] * 50)

    at_once(*[work] * THREADS)
    assert {(lease.over, lease.freed) for lease in leases} == {(True, True)}


if "cython" in CORES:  # what it parses is no Python object

    def test_a_decoder_in_the_hands_of_many_threads_does_not_crash() -> None:
        """It belongs to one; what the others do to it comes to nothing good, but to an end."""
        decoder = _impl.load("cython").decoder()
        data = b"*2\r\n$3\r\nabc\r\n-ERR x\r\n+OK\r\n:1\r\n%1\r\n+k\r\n,1.5\r\n"

        def feed(step: int) -> None:
            with suppress(ProtocolError):
                for turn in range(ROUNDS):
                    at = turn * step % len(data)
                    assert isinstance(decoder.feed(data[at : at + step]), list)

        at_once(*[lambda step=step: feed(step) for step in range(1, THREADS + 1)])


# ------------------------------------------------------------------ the Pipe


def echo(line: Line) -> Callable[[], None]:
    """The far end: gives each command's last word back."""

    def run() -> None:
        held = b""
        with suppress(OSError):
            while chunk := line.far.recv(65536):
                held += chunk
                words = held.split(b"\r\n")
                whole = (len(words) - 1) // 3  # *1 $n word
                line.far.sendall(b"".join(b"+%b\r\n" % words[3 * n + 2] for n in range(whole)))
                held = b"\r\n".join(words[3 * whole :])

    return run


def said(word: bytes) -> bytes:
    return b"*1\r\n$%d\r\n%b\r\n" % (len(word), word)


@pytest.mark.parametrize("ends", ["close", "abort", "far end"])
def test_everybody_gets_what_is_theirs_until_the_end(line: Line, ends: str) -> None:
    pipe = line.pipe
    ready = threading.Semaphore(0)
    odd_seen = threading.Event()

    def caller(number: int) -> None:
        with suppress(TransportError):
            for turn in range(10**9):
                mine = [b"%d-%d-%d" % (number, turn, part) for part in range(1 + turn % 3)]
                assert pipe.call(b"".join(map(said, mine)), len(mine), 30) == mine
                if turn == 10:
                    ready.release()

    def sender() -> None:
        with suppress(TransportError):
            for turn in range(10**9):
                pipe.post(said(b"for nobody"), 1)
                if pipe.defer(said(b"odd"), 1) and turn % 8 == 0:
                    pipe.call(b"", 0, 30)

    def reader() -> None:
        latest = 0
        while not pipe.broken:
            assert pipe.owed >= 0
            settled = pipe.settled
            assert settled >= latest
            latest = settled
            odd = pipe.odd()
            assert [reply for _, reply in odd] == [b"odd"] * len(odd)
            if odd:
                odd_seen.set()

    def end() -> None:
        for _ in range(THREADS):
            assert ready.acquire(timeout=30)
        assert odd_seen.wait(30)
        if ends == "far end":
            line.far.shutdown(2)
        else:
            getattr(pipe, ends)(*[] if ends == "close" else ["for a test"])

    callers = [lambda number=number: caller(number) for number in range(THREADS)]
    at_once(echo(line), *callers, sender, sender, reader, end)
    assert pipe.broken
    assert pipe.owed == 0


def test_a_lone_caller_may_leave_while_the_python_pipe_is_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_pymux, "SLICE", 0.9)  # so long it reads in one go
    line = Line("python")

    class Places(deque[Any]):
        """Behind the lone caller somebody else has come; while they are told, it leaves."""

        def append(self, place: Any) -> None:
            super().append(place)
            super().append(_pymux.Place(1))

        def __iter__(self) -> Iterator[Any]:
            for place in super().__iter__():
                if len(self) == 2:
                    line.far.sendall(b"+mine\r\n")
                    until(lambda: len(self) == 1)
                yield place

    places = line.pipe._places = Places()
    answers: list[Any] = []
    caller = threading.Thread(target=lambda: answers.append(line.pipe.call(PING, 1, 10)))
    caller.start()
    line.hear(PING)
    line.pipe.abort("for a test")
    caller.join(5)
    assert answers == [[b"mine"]]
    assert not places
    assert str(failure(lambda: line.pipe.call(PING, 1, 5))) == "for a test"
    line.far.close()
