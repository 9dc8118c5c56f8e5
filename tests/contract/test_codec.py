"""What both codecs promise, on both: the same bytes, the same values, the same errors.

Law: no socket here. Where hiredis-py can speak, it is the third voice. It is part of the
test extra; only wheels are tested where it is not installed.
"""

from __future__ import annotations

import copy
import inspect
import itertools
import math
import pickle
import sys
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fastlock import _impl
from fastlock._resp import (
    ELEMENT_COST,
    FEED_TYPE,
    MALFORMED,
    MAX_BIGNUM,
    MAX_DEPTH,
    MAX_REPLY,
    PACK_TYPES,
    Push,
)
from fastlock.errors import ConfigError, ProtocolError, ServerError

hiredis: Any
try:
    import hiredis
except ImportError:
    hiredis = None


@pytest.fixture
def codec(core: str) -> _impl.Core:
    return _impl.load(core)


def plain(value: Any) -> Any:
    """Comparable also for errors, NaN and types that compare equal (1, True, 1.0)."""
    if isinstance(value, list):
        return type(value).__name__, [plain(item) for item in value]
    if isinstance(value, Exception):
        return type(value).__name__, str(value)
    return type(value).__name__, repr(value)


def decoded(core: _impl.Core, chunks: list[bytes]) -> list[Any]:
    """All values of the stream; feeding on after a protocol error must raise it."""
    decoder = core.decoder()
    values: list[Any] = []
    for chunk in chunks:
        if values and isinstance(values[-1], ProtocolError):
            with pytest.raises(ProtocolError):
                decoder.feed(chunk)
        else:
            values += decoder.feed(chunk)
    return [plain(value) for value in values]


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(edges)]


# ------------------------------------------------------------------ packing

PACKED = [
    ((), b"*0\r\n"),
    ((b"PING",), b"*1\r\n$4\r\nPING\r\n"),
    ((b"",), b"*1\r\n$0\r\n\r\n"),
    ((b"a\r\nb\0", 0), b"*2\r\n$5\r\na\r\nb\0\r\n$1\r\n0\r\n"),
    ((-1, 10, 2**63 - 1), b"*3\r\n$2\r\n-1\r\n$2\r\n10\r\n$19\r\n9223372036854775807\r\n"),
    ((-(2**63),), b"*1\r\n$20\r\n-9223372036854775808\r\n"),
    ((b"x" * 1000,), b"*1\r\n$1000\r\n" + b"x" * 1000 + b"\r\n"),
    ((b"k",) * 12, b"*12\r\n" + b"$1\r\nk\r\n" * 12),
]


@pytest.mark.parametrize(("args", "data"), PACKED)
def test_pack(codec: _impl.Core, args: tuple[Any, ...], data: bytes) -> None:
    assert codec.pack(*args) == data
    if hiredis:
        assert hiredis.pack_command(args or (b"",)) == (data if args else b"*1\r\n$0\r\n\r\n")


class Bytes(bytes):
    pass


class Int(int):
    pass


@pytest.mark.parametrize(
    "arg", ["text", bytearray(b"x"), memoryview(b"x"), None, 1.0, True, Bytes(b"x"), Int(1), [b"x"]]
)
def test_pack_refuses_other_types_and_subclasses(codec: _impl.Core, arg: object) -> None:
    with pytest.raises(TypeError) as caught:
        codec.pack(b"GET", arg)
    assert str(caught.value) == PACK_TYPES


@pytest.mark.parametrize("number", [2**63, -(2**63) - 1, 10**30])
def test_pack_refuses_integers_beyond_64_bits(codec: _impl.Core, number: int) -> None:
    with pytest.raises(OverflowError) as caught:
        codec.pack(number)
    assert str(caught.value) == PACK_TYPES


@given(st.lists(st.one_of(st.binary(max_size=50), st.integers(-(2**63), 2**63 - 1)), min_size=1))
def test_all_packers_agree(args: list[bytes | int]) -> None:
    texts = [arg if isinstance(arg, bytes) else b"%d" % arg for arg in args]
    expected = b"*%d\r\n" % len(texts) + b"".join(b"$%d\r\n%b\r\n" % (len(t), t) for t in texts)
    for core in cores():
        assert core.pack(*args) == expected
    if hiredis:
        assert hiredis.pack_command(tuple(args)) == expected


VALUES = st.one_of(st.binary(max_size=50), st.integers(-(2**63), 2**63 - 1))


@given(st.lists(st.tuples(VALUES, st.booleans()), max_size=6))
def test_a_prepared_command_is_the_packed_one(parts: list[tuple[bytes | int, bool]]) -> None:
    holes = [value for value, hole in parts if hole]
    shape = [type(value) if hole else value for value, hole in parts]
    for core in cores():
        if len(holes) > 3:
            with pytest.raises(TypeError, match="at most 3 holes"):
                core.prepare(*shape)
        else:
            packed = core.prepare(*shape)
            assert packed.fill(*holes) == core.pack(*[value for value, _ in parts])


@pytest.mark.parametrize(
    "args",
    [
        (),
        (b"k",),
        (b"k", None),
        (1, 1),
        (b"k", b"1"),
        (b"k", True),
        (Bytes(b"k"), 1),
        (b"k", Int(1)),
        (b"k", 1, b"more"),
    ],
)
def test_a_prepared_command_refuses_what_does_not_fit(
    codec: _impl.Core, args: tuple[Any, ...]
) -> None:
    with pytest.raises(TypeError) as caught:
        codec.prepare(b"GET", bytes, int).fill(*args)
    assert str(caught.value) == PACK_TYPES
    with pytest.raises(OverflowError):
        codec.prepare(b"GET", bytes, int).fill(b"k", 2**63)
    with pytest.raises(TypeError) as caught:
        codec.prepare(b"GET", "text")
    assert str(caught.value) == PACK_TYPES


@given(st.lists(st.tuples(st.binary(max_size=20), st.binary(max_size=20))), st.integers(0, 2**40))
def test_many_prepared_commands_are_one_after_the_other(
    pairs: list[tuple[bytes, bytes]], number: int
) -> None:
    for core in cores():
        three = core.prepare(b"SET", bytes, b"NX", bytes, int)
        assert three.many(pairs, number) == b"".join([three.fill(*p, number) for p in pairs])
        two = core.prepare(b"GET", bytes, bytes)
        assert two.many(pairs) == b"".join([core.pack(b"GET", *p) for p in pairs])


@pytest.mark.parametrize("pairs", [[(b"k", b"v"), (b"k", "v")], [(b"k", b"v"), (None, b"v")]])
def test_many_refuse_what_does_not_fit(codec: _impl.Core, pairs: list[Any]) -> None:
    for odd in [(b"k",)], [(b"k", b"v", b"w")], [None], [1]:
        with pytest.raises((TypeError, ValueError)):
            codec.prepare(bytes, bytes).many(odd)
    with pytest.raises(TypeError) as caught:
        codec.prepare(bytes, bytes).many(pairs)
    assert str(caught.value) == PACK_TYPES


def test_many_prepared_commands_of_equal_and_other_sizes(codec: _impl.Core) -> None:
    prepared = codec.prepare(b"A", bytes, b"B", bytes, b"C", int)
    sizes = [(1, 1), (1, 1), (9, 10), (9, 10), (10, 9), (10, 9), (10, 9), (0, 0), (0, 0), (1, 1)]
    sizes += [(2000, 9), (2000, 9), (9, 2000), (9, 2000), (100_000, 1), (100_000, 1), (1, 1)]
    pairs = [
        (bytes([65 + place]) * first, bytes([97 + place]) * second)
        for place, (first, second) in enumerate(sizes)
    ]
    assert prepared.many(pairs, 30_000) == b"".join(
        [codec.pack(b"A", first, b"B", second, b"C", 30_000) for first, second in pairs]
    )


@pytest.mark.parametrize(("prefix", "suffix"), [(b"", b""), (b"f", b"f"), (b"a-", b".host:1")])
def test_numbered_carries(codec: _impl.Core, prefix: bytes, suffix: bytes) -> None:
    numbered = codec.numbered(prefix, suffix)
    for number in range(1, 0x1102):
        assert numbered.next() == b"%b%x%b" % (prefix, number, suffix)
    assert numbered.pairs(["k"], b"p:") == [(b"p:k", b"%b1102%b" % (prefix, suffix))]


def test_numbered_counts_in_hex_and_never_twice(codec: _impl.Core) -> None:
    source = codec.numbered(b"a%-", b".\0z")
    following = source.next
    assert [following() for _ in range(15)] == [b"a%%-%x.\0z" % n for n in range(1, 16)]
    assert source.pairs(["k", b"\xff", "ü"], b"p:") == [
        (b"p:k", b"a%-10.\0z"),
        (b"p:\xff", b"a%-11.\0z"),
        (b"p:\xc3\xbc", b"a%-12.\0z"),
    ]
    assert source.pairs([], b"p:") == []
    assert source.pairs(["k" * 2000], b"")[0][0] == b"k" * 2000
    for odd in ("", b"", 1, None, "k" * 70_000):
        with pytest.raises(ConfigError, match=r"^key: "):
            source.pairs(["fine", odd], b"")
    before = int(following()[3:-3], 16)
    with ThreadPoolExecutor(4) as pool:
        futures = [pool.submit(lambda: [following() for _ in range(5000)]) for _ in range(4)]
        given = [text for future in futures for text in future.result()]
    assert len(set(given)) == len(given) == 20000
    assert following() == b"a%%-%x.\0z" % (before + 20_001)


def test_the_clock_counts_suspended_time(codec: _impl.Core) -> None:
    before = time.clock_gettime(time.CLOCK_BOOTTIME)
    now = codec.clock()
    assert before <= now <= time.clock_gettime(time.CLOCK_BOOTTIME)


# ------------------------------------------------------------------ decoding

GOOD: list[tuple[bytes, Any]] = [
    (b"+OK\r\n", b"OK"),
    (b"+\r\n", b""),
    (b":0\r\n", 0),
    (b":-9223372036854775808\r\n", -(2**63)),
    (b":9223372036854775807\r\n", 2**63 - 1),
    (b"$3\r\nabc\r\n", b"abc"),
    (b"$0\r\n\r\n", b""),
    (b"$4\r\n\r\n\0\xff\r\n", b"\r\n\0\xff"),
    (b"$-1\r\n", None),
    (b"*-1\r\n", None),
    (b"_\r\n", None),
    (b"*0\r\n", []),
    (b"*2\r\n:1\r\n$1\r\nx\r\n", [1, b"x"]),
    (b"*2\r\n*1\r\n+a\r\n*0\r\n", [[b"a"], []]),
    (b"~2\r\n:1\r\n:2\r\n", [1, 2]),
    (b"%1\r\n+k\r\n:1\r\n", [b"k", 1]),
    (b"%0\r\n", []),
    (b"#t\r\n", True),
    (b"#f\r\n", False),
    (b",1.5\r\n", 1.5),
    (b",-0\r\n", -0.0),
    (b",1e5\r\n", 1e5),
    (b",inf\r\n", math.inf),
    (b",-inf\r\n", -math.inf),
    (b",nan\r\n", math.nan),
    (b"(123456789012345678901234567890\r\n", 123456789012345678901234567890),
    (b"(-7\r\n", -7),
    (b"=7\r\ntxt:abc\r\n", b"abc"),
    (b"=4\r\ntxt:\r\n", b""),
    (b">2\r\n+invalidate\r\n*1\r\n$1\r\nk\r\n", Push([b"invalidate", [b"k"]])),
    (b"-ERR no\r\n", ServerError("ERR no")),
    (b"-NOSCRIPT No matching script.\r\n", ServerError("NOSCRIPT No matching script.")),
    (b"*2\r\n-WRONGTYPE x\r\n:1\r\n", [ServerError("WRONGTYPE x"), 1]),
    (b"*1\r\n" * MAX_DEPTH + b":1\r\n", None),  # as deep as allowed; value built below
]
deep: Any = 1
for _ in range(MAX_DEPTH):
    deep = [deep]
GOOD[-1] = (GOOD[-1][0], deep)


@pytest.mark.parametrize(("data", "value"), GOOD, ids=lambda part: repr(part)[:40])
def test_every_type_at_every_split_point(codec: _impl.Core, data: bytes, value: Any) -> None:
    expected = [plain(value)]
    assert decoded(codec, [data]) == expected
    assert decoded(codec, [data[i : i + 1] for i in range(len(data))]) == expected
    for place in range(len(data) + 1):
        assert decoded(codec, [data[:place], data[place:]]) == expected


BAD = [
    b"x",
    b"\r\n",
    b"\x16\x03\x01",
    b"HTTP/1.1 400 Bad Request\r\n",
    b":\r\n",
    b":1x\r\n",
    b":+1\r\n",
    b":01\r\n",
    b":-0\r\n",
    b": 1\r\n",
    b":9223372036854775808\r\n",
    "\u0661".join([":", "\r\n"]).encode(),
    b"$-2\r\n",
    b"$x\r\n",
    b"$1\r\nab\r\n",
    b"$1\r\na\n\n",
    b"*-2\r\n",
    b"*x\r\n",
    b"%-2\r\n",
    b"_x\r\n",
    b"#x\r\n",
    b"#\0\r\n",
    b"#\r\n",
    b",\r\n",
    b",+1\r\n",
    b",1e999\r\n",
    b",1e-999\r\n",
    b",0x10\r\n",
    b",1_0\r\n",
    b", 1\r\n",
    b",infinity\r\n",
    b"(\r\n",
    b"(-\r\n",
    b"(1x\r\n",
    b"(" + b"1" * (MAX_BIGNUM + 1) + b"\r\n",
    b"=3\r\ntxt\r\n",
    b"=4\r\ntxtx\r\n",
    b"+a\rb\r\n",
    b"-a\nb\r\n",
    b"|1\r\n+a\r\n+b\r\n",
    b"|0\r\n",
    b"|-1\r\n",
    b">-1\r\n",
    b"*1\r\n>1\r\n+a\r\n",
    b"*1\r\n" * (MAX_DEPTH + 1),
    b"*0\r\n"[:0] + b"*1\r\n" * MAX_DEPTH + b"*0\r\n",
    b"$%d\r\n" % (MAX_REPLY + 1),
    b"$99999999999999999999999\r\n",
    b"*%d\r\n" % (MAX_REPLY // ELEMENT_COST + 1),
    b"%%%d\r\n" % (MAX_REPLY // ELEMENT_COST),
]


@pytest.mark.parametrize("data", BAD, ids=lambda data: repr(data)[:40])
def test_what_came_before_the_fault_is_delivered(codec: _impl.Core, data: bytes) -> None:
    stream = b"+OK\r\n$1\r\nx\r\n" + data
    expected = [plain(b"OK"), plain(b"x"), ("ProtocolError", MALFORMED)]
    assert decoded(codec, [stream]) == expected
    assert decoded(codec, [stream, b"+more\r\n"]) == expected
    if len(stream) < 200:
        for place in range(len(stream) + 1):
            assert decoded(codec, [stream[:place], stream[place:]]) == expected


def test_a_line_without_end_is_refused_at_the_limit(codec: _impl.Core) -> None:
    decoder = codec.decoder()
    chunk = b"a" * 65536
    values = decoder.feed(b"+")
    fed = 0
    while not values:
        fed += len(chunk)
        assert fed <= MAX_REPLY + 2 * len(chunk)
        values = decoder.feed(chunk)
    assert [plain(value) for value in values] == [("ProtocolError", MALFORMED)]


def test_a_reply_of_the_largest_size_passes_and_the_next_has_its_own_limit(
    codec: _impl.Core,
) -> None:
    data = b"$%d\r\n" % MAX_REPLY + bytes(MAX_REPLY) + b"\r\n"
    decoder = codec.decoder()
    for _ in range(2):
        (value,) = decoder.feed(data)
        assert len(value) == MAX_REPLY


def test_the_limit_counts_all_of_a_reply(codec: _impl.Core) -> None:
    half = b"$%d\r\n" % (MAX_REPLY // 2) + bytes(MAX_REPLY // 2) + b"\r\n"
    assert decoded(codec, [b"*2\r\n" + half + half]) == [("ProtocolError", MALFORMED)]


@pytest.mark.parametrize("data", [bytearray(b"+OK\r\n"), "+OK", None, memoryview(b""), Bytes(b"")])
def test_feed_takes_exact_bytes(codec: _impl.Core, data: object) -> None:
    decoder = codec.decoder()
    with pytest.raises(TypeError) as caught:
        decoder.feed(data)  # type: ignore[arg-type]
    assert str(caught.value) == FEED_TYPE
    assert decoder.feed(b"+OK\r\n") == [b"OK"]


# ------------------------------------------------------------------ surface


def test_the_surface_is_the_same(codec: _impl.Core) -> None:
    decoder = codec.decoder()
    for attempt in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="a Decoder cannot be pickled or copied"):
            attempt(decoder)
    kind: Any = type(decoder)
    with pytest.raises(TypeError, match="is not an acceptable base type"):
        type("Sub", (kind,), {})
    if sys.implementation.name == "cpython":  # elsewhere everything has weak references
        with pytest.raises(TypeError):
            weakref.ref(decoder)
    with pytest.raises((AttributeError, TypeError)):
        decoder.anything = 1  # type: ignore[attr-defined]
    assert kind.__name__ == "Decoder"
    assert {name for name in dir(kind) if not name.startswith("_")} == {"feed"}
    assert inspect.getdoc(kind) == inspect.getdoc(type(_impl.load("python").decoder()))
    assert inspect.getdoc(kind.feed) == inspect.getdoc(_impl.load("python").decoder().feed)
    python = _impl.load("python")
    for name in ("pack", "prepare", "numbered"):
        assert inspect.getdoc(getattr(codec, name)) == inspect.getdoc(getattr(python, name))
    for mine, other in (
        (codec.prepare(b"GET", bytes), python.prepare(b"GET", bytes)),
        (codec.numbered(b"", b""), python.numbered(b"", b"")),
    ):
        names = {name for name in dir(mine) if not name.startswith("_")}
        assert names == {name for name in dir(other) if not name.startswith("_")}
        for name in names:
            assert inspect.getdoc(getattr(mine, name)) == inspect.getdoc(getattr(other, name))


# ------------------------------------------------------------------ fuzz


def cores() -> list[_impl.Core]:
    found = [_impl.load("python")]
    with suppress(ImportError):  # a pure build: the Python codec is compared with hiredis alone
        found.append(_impl.load("cython"))
    return found


def frame(value: Any) -> bytes:
    """A value as RESP3."""
    if value is None:
        return b"_\r\n"
    if isinstance(value, bool):
        return b"#t\r\n" if value else b"#f\r\n"
    if isinstance(value, int):
        return (b":%d\r\n" if value in range(-(2**63), 2**63) else b"(%d\r\n") % value
    if isinstance(value, float):
        return b",%b\r\n" % repr(value).encode()
    if isinstance(value, bytes):
        return b"$%d\r\n%b\r\n" % (len(value), value)
    if isinstance(value, str):
        return b"+%b\r\n" % value.encode()
    assert isinstance(value, list)
    return b"*%d\r\n" % len(value) + b"".join(frame(item) for item in value)


line = st.text(st.characters(codec="utf-8", exclude_characters="\r\n"), max_size=20)
scalars = st.one_of(
    st.none(), st.booleans(), st.integers(-(10**25), 10**25), st.floats(allow_subnormal=False),
    st.binary(max_size=40), line,
)  # fmt: skip
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=4), max_leaves=12)
cuts = st.lists(st.integers(0, 2000), max_size=6)


def as_hiredis(value: Any) -> Any:
    if isinstance(value, list):
        return [as_hiredis(item) for item in value]
    return value.encode() if isinstance(value, str) else value


@settings(max_examples=300, deadline=None)
@given(st.lists(values, max_size=6), cuts)
def test_valid_streams_in_three_voices(sent: list[Any], places: list[int]) -> None:
    stream = b"".join(frame(value) for value in sent)
    expected = [plain(as_hiredis(value)) for value in sent]
    for core in cores():
        assert decoded(core, [stream]) == expected
        assert decoded(core, cut(stream, places)) == expected
    if not hiredis:
        return
    reader = hiredis.Reader(notEnoughData=Ellipsis)
    reader.feed(stream)
    voice = []
    while (value := reader.gets()) is not Ellipsis:
        voice.append(plain_of_hiredis(value))
    assert voice == [plain_of_hiredis(as_hiredis(value)) for value in sent]


def plain_of_hiredis(value: Any) -> Any:
    """hiredis gives big numbers as text."""
    if isinstance(value, list):
        return [plain_of_hiredis(item) for item in value]
    if type(value) is int and value not in range(-(2**63), 2**63):
        return repr(str(value).encode())
    return repr(value.encode() if isinstance(value, str) else value)


tokens = st.sampled_from([data for data, _ in GOOD[:-1]] + [data for data in BAD if len(data) < 60])


@settings(max_examples=600, deadline=None)
@given(st.lists(tokens, max_size=6), cuts, st.integers(0, 500), st.integers(-1, 255))
@example([b"|0\r\n"], [], 2, 0)  # an attribute that is not whole
def test_any_stream_means_the_same_to_both(
    parts: list[bytes], places: list[int], where: int, byte: int
) -> None:
    stream = bytearray(b"".join(parts))
    if byte >= 0 and stream:
        stream[where % len(stream)] = byte
    first, *others = (decoded(core, [bytes(stream)]) for core in cores())
    assert all(other == first for other in others)
    for core in cores():
        assert decoded(core, cut(bytes(stream), places)) == first


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60), cuts)
def test_noise_means_the_same_to_both(noise: bytes, places: list[int]) -> None:
    first, *others = (decoded(core, [noise]) for core in cores())
    assert all(other == first for other in others)
    for core in cores():
        assert decoded(core, cut(noise, places)) == first
