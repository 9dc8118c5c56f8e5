"""Streams of RESP for tests of the decoders: good ones with what they mean, and bad ones.

Law: bytes and values, no sockets.
"""

from __future__ import annotations

import itertools
import math
from contextlib import suppress
from typing import Any

from fastlock import _impl
from fastlock._resp import (
    ELEMENT_COST,
    MAX_BIGNUM,
    MAX_DEPTH,
    MAX_REPLY,
    Push,
)
from fastlock.errors import ProtocolError, ServerError


def cores() -> list[_impl.Core]:
    found = [_impl.load("python")]
    with suppress(ImportError):  # a pure build: the Python codec is compared with hiredis alone
        found.append(_impl.load("cython"))
    return found


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
            try:
                decoder.feed(chunk)
            except ProtocolError:
                continue
            raise AssertionError("a decoder took what came after a protocol error")
        values += decoder.feed(chunk)
    return [plain(value) for value in values]


def cut(data: bytes, places: list[int]) -> list[bytes]:
    """The stream in pieces that end at these places."""
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(edges)]


#: Bytes, and the one value that they are.
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

#: Bytes that end a stream.
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
