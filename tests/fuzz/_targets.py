"""What is fuzzed: bytes in, and an AssertionError (or a sanitizer's end) for what must not be.

Law: the same bytes always do the same; each target holds both cores to each other and to a
model that is simpler than either.

codec   a stream of RESP, whole and in pieces: one meaning for all
pipe    callers and a server, in an order that the first bytes tell: see ``pipe``
pack    commands, packed by every packer: one meaning, and it reads back
"""

from __future__ import annotations

import random
import socket
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from _streams import cores, cut, plain

from fastlock import _impl, _pycodec, _pycore, _pymux, _pypack
from fastlock._resp import MALFORMED, MAX_LINE, NO_ANSWER, Push
from fastlock.errors import ProtocolError, TransportError

CORES = cores()
#: Longer ones add time and no meaning.
MOST_BYTES = 16384


# ------------------------------------------------------------------ codec


def codec(data: bytes) -> None:
    """However it is cut, the stream has one meaning, for every core."""
    data = data[:MOST_BYTES]
    meaning = _meaning(CORES[0], [data])
    for core in CORES[1:]:
        assert _meaning(core, [data]) == meaning, core.name
    for pieces in _pieces(data):
        for core in CORES:
            assert _meaning(core, pieces) == meaning, (core.name, pieces)


def _meaning(core: _impl.Core, pieces: list[bytes]) -> list[Any]:
    """The values, comparable; what they have cost."""
    decoder = core.decoder()
    values: list[Any] = []
    for piece in pieces:
        values += decoder.feed(piece)
        if values and type(values[-1]) is ProtocolError:
            break
    return [decoder.spent, *[(type(value), repr(value)) for value in values]]


def _pieces(data: bytes) -> Iterator[list[bytes]]:
    chance = zlib.crc32(data)
    if len(data) <= 256:
        yield [data[place : place + 1] for place in range(len(data))]
    yield cut(data, [chance % 65521, chance // 65521])


# ------------------------------------------------------------------ pack


def pack(data: bytes) -> None:
    """Every packer gives the same bytes, and a decoder reads back what was packed."""
    data = data[:MOST_BYTES]
    chance = random.Random(zlib.crc32(data))
    args: list[bytes | int] = [
        int.from_bytes(part[:8], "little", signed=True) if part[:1] < b"\x30" else part
        for part in cut(data, [chance.randrange(len(data) + 1) for _ in range(chance.randrange(9))])
    ]
    packed = CORES[0].pack(*args)
    assert all(core.pack(*args) == packed for core in CORES)
    words = [b"%d" % arg if type(arg) is int else arg for arg in args]
    for core in CORES:
        assert core.decoder().feed(packed) == [words]

    holes = [place for place in range(len(args)) if chance.random() < 0.4][:3]
    shape = [type(arg) if place in holes else arg for place, arg in enumerate(args)]
    values = [args[place] for place in holes]
    for core in CORES:
        prepared = core.prepare(*shape)
        assert prepared.fill(*values) == packed
        if len(holes) > 1:
            pairs = [
                tuple(_other(value, chance) for value in values[:2])
                for _ in range(chance.randrange(6))
            ]
            pairs.append((values[0], values[1]))
            one_by_one = [prepared.fill(*pair, *values[2:]) for pair in pairs]
            assert prepared.many(pairs, *values[2:]) == b"".join(one_by_one)
            assert one_by_one[-1] == packed
    texts = [word for word in words if word]
    named = [core.numbered(b"p-", b"." + data[:50]).pairs(texts, data[:9]) for core in CORES]
    assert all(pairs == named[0] for pairs in named)


def _other(value: bytes | int, chance: random.Random) -> bytes | int:
    """Another value of that type, often of another size."""
    if type(value) is int:
        return value // chance.choice([1, 7, 10**6])
    assert type(value) is bytes
    return chance.choice([value[::-1], value + value[:1], value[1:]])


# ------------------------------------------------------------------ pipe


def pipe(data: bytes) -> None:
    """Callers and a server that says anything, in one order for every Pipe and the model.

    The first byte is the number of steps, a byte each; what follows is cut into as many
    pieces as there are steps "say", of equal size.

        0 to 127     call, post, defer, in turns (``step % 4``: two of four are calls), of as
                     many replies as ``step // 4 % 5``, to a deferred one 1
        128 to 191   what unusual answers are there?
        192 to 255   the server says the next piece
    """
    steps, rest = _steps(data[:MOST_BYTES])
    said = deque(_equal_pieces(rest, sum(step >= 192 for step in steps)))
    expected = _run(Model(), steps, deque(said))
    for name, make in _pipes().items():
        near, far = socket.socketpair()
        with far:
            found = _run(Real(make(near), far), steps, deque(said))
        assert found == expected, name


def _steps(data: bytes) -> tuple[bytes, bytes]:
    number = data[0] % 32 if data else 0
    return data[1 : 1 + number], data[1 + number :]


def _equal_pieces(data: bytes, number: int) -> list[bytes]:
    size = -(-len(data) // number) if number else 0
    return [data[place * size : (place + 1) * size] for place in range(number)]


def _pipes() -> dict[str, Callable[[socket.socket], Any]]:
    found: dict[str, Callable[[socket.socket], Any]] = {core.name: core.pipe for core in CORES}
    if len(CORES) > 1:  # as it is on TLS
        found["Python's with the compiled decoder"] = _impl.load("cython").tls_pipe
    return found


def _run(pipe: Any, steps: bytes, said: deque[bytes]) -> list[Any]:
    """What the callers get. A call that would wait for what the server never says is posted."""
    shadow = Model()  # knows whether a call would wait
    events: list[Any] = []
    for step in steps:
        if step >= 192:
            piece = said.popleft()
            shadow.say(piece)
            pipe.say(piece)
            continue
        count = step // 4 % 5
        if step >= 128:
            shadow.odd()
            event = plain([list(pair) for pair in pipe.odd()])
        elif step % 4 == 3:
            _outcome(shadow.defer, count)
            event = _outcome(pipe.defer, count)
        elif step % 4 == 2 or shadow.would_wait(count):
            # Nobody waits for an answer that needs none: such a place would stay for ever.
            _outcome(shadow.post, count or 1)
            event = _outcome(pipe.post, count or 1)
        else:
            _outcome(shadow.call, count)
            event = _outcome(pipe.call, count)
        events.append((event, pipe.state()))
    pipe.end()
    return events


def _outcome(function: Callable[[int], Any], count: int) -> Any:
    try:
        return plain(function(count))
    except TransportError as error:
        return str(error), error.sent, error.timed_out, plain(list(error.replies))


class Real:
    """A Pipe, and the far end of its socket."""

    def __init__(self, pipe: Any, far: socket.socket) -> None:
        self.pipe = pipe
        self.far = far

    def say(self, piece: bytes) -> None:
        self.far.settimeout(5)
        try:
            self.far.sendall(piece)
        except OSError:
            assert self.pipe.broken

    def call(self, count: int) -> Any:
        return self.pipe.call(b"+" * count, count, 5)

    def post(self, count: int) -> Any:
        return self.pipe.post(b"+" * count, count)

    def defer(self, usual: int) -> Any:
        return self.pipe.defer(b"+", usual)

    def odd(self) -> Any:
        return self.pipe.odd()

    def state(self) -> Any:
        return self.pipe.broken, self.pipe.owed, self.pipe.settled

    def end(self) -> None:
        self.pipe.close()
        assert (self.pipe.broken, self.pipe.owed) == (True, 0)


class Model:
    """A Pipe's laws, with nothing in between: each answer is the oldest command's."""

    def __init__(self) -> None:
        self.decoder = _pycodec.Decoder()
        self.unread: list[Any] = []
        self.places: deque[list[Any]] = deque()  # [wanted, replies, number, usual, answered]
        self.kept: list[tuple[int, Any]] = []
        self.settled = self.numbers = 0
        self.reason: str | None = None
        self.stopped = False  # the stream is malformed: what comes is not looked at

    def say(self, piece: bytes) -> None:
        if not self.stopped:
            self.unread += self.decoder.feed(piece)
            self.stopped = bool(self.unread) and isinstance(self.unread[-1], ProtocolError)

    def would_wait(self, count: int) -> bool:
        if self.reason is not None:
            return False
        wanted = count + sum(place[0] - len(place[1]) for place in self.places)
        answers = [value for value in self.unread if type(value) is not Push]
        return wanted > len(answers) and not self.stopped

    def enter(self, count: int, number: int = 0, usual: int = 0) -> list[Any]:
        if self.reason is not None:
            raise TransportError(self.reason)
        place = [count, [], number, usual, False]
        self.places.append(place)
        return place

    def call(self, count: int) -> Any:
        place = self.enter(count)
        if count == 0 and len(self.places) == 1:
            self.places.clear()
            return []
        unread, self.unread = self.unread, []
        for value in unread:
            self.give(value)
        if place[4]:
            return place[1]
        assert self.reason is not None
        error = TransportError(self.reason, sent=count > 0)
        error.replies = place[1]
        raise error

    def give(self, value: Any) -> None:
        if type(value) is Push or self.reason is not None:
            return
        if isinstance(value, ProtocolError):
            self.fail(MALFORMED)
            return
        if not self.places:
            self.fail("the server answered what nobody had asked")
            return
        self.places[0][1].append(value)
        while self.places and len(self.places[0][1]) == self.places[0][0]:
            place = self.places.popleft()
            _, replies, number, usual, _ = place
            place[4] = True
            if not number:
                continue
            self.settled = number
            (reply,) = replies
            if type(reply) is list or (type(reply) is bytes and len(reply) > MAX_LINE):
                self.fail(NO_ANSWER)
            elif type(reply) is not int or reply != usual:
                self.kept.append((number, reply))

    def fail(self, reason: str) -> None:
        self.reason = self.reason or reason
        self.places.clear()

    def post(self, count: int) -> None:
        self.enter(count)

    def defer(self, usual: int) -> int:
        self.enter(1, self.numbers + 1, usual)
        self.numbers += 1
        return self.numbers

    def odd(self) -> list[tuple[int, Any]]:
        kept, self.kept = self.kept, []
        return kept

    def state(self) -> Any:
        return self.reason is not None, len(self.places), self.settled

    def end(self) -> None:
        pass


TARGETS: dict[str, Callable[[bytes], None]] = {"codec": codec, "pack": pack, "pipe": pipe}

#: What of the Python core a fuzzer must see into.
PYTHON = (_pypack, _pycodec, _pymux, _pycore)
