"""What both codecs promise, on both: the same bytes, the same values, the same errors.

Law: no socket here. Where hiredis-py can speak, it is the third voice. It is part of the
test extra; only wheels are tested where it is not installed.
"""

from __future__ import annotations

import copy
import inspect
import pickle
import sys
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from _streams import BAD, GOOD, cores, cut, decoded, plain
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fastlock import _impl
from fastlock._resp import FEED_TYPE, MALFORMED, PACK_TYPES
from fastlock.errors import ConfigError

hiredis: Any
try:
    import hiredis
except ImportError:
    hiredis = None


@pytest.fixture
def codec(core: str) -> _impl.Core:
    return _impl.load(core)


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


@pytest.mark.parametrize(("data", "value"), GOOD, ids=lambda part: repr(part)[:40])
def test_every_type_at_every_split_point(codec: _impl.Core, data: bytes, value: Any) -> None:
    expected = [plain(value)]
    assert decoded(codec, [data]) == expected
    assert decoded(codec, [data[i : i + 1] for i in range(len(data))]) == expected
    for place in range(len(data) + 1):
        assert decoded(codec, [data[:place], data[place:]]) == expected


@pytest.mark.parametrize("data", BAD, ids=lambda data: repr(data)[:40])
def test_what_came_before_the_fault_is_delivered(codec: _impl.Core, data: bytes) -> None:
    stream = b"+OK\r\n$1\r\nx\r\n" + data
    expected = [plain(b"OK"), plain(b"x"), ("ProtocolError", MALFORMED)]
    assert decoded(codec, [stream]) == expected
    assert decoded(codec, [stream, b"+more\r\n"]) == expected
    if len(stream) < 200:
        for place in range(len(stream) + 1):
            assert decoded(codec, [stream[:place], stream[place:]]) == expected


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
    assert {name for name in dir(kind) if not name.startswith("_")} == {"feed", "spent"}
    assert inspect.getdoc(kind) == inspect.getdoc(type(_impl.load("python").decoder()))
    assert inspect.getdoc(kind.spent) == inspect.getdoc(type(_impl.load("python").decoder()).spent)
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
