"""The Python decoder: RESP parsed where the compiled core is absent.

Law: the same names, arguments, results and errors as ``_codec.pyx``; it reads
RESP and writes none, and knows no sockets.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from ._resp import (
    ELEMENT_COST,
    ERROR_COST,
    FEED_TYPE,
    INT64,
    MALFORMED,
    MAX_BIGNUM,
    MAX_DEPTH,
    MAX_LINE,
    MAX_REPLY,
    Push,
)
from .errors import ProtocolError, ServerError

__all__ = ["Decoder"]

_CRLF = b"\r\n"
#: What mostly comes, and alone: the answers to one try and one release.
_USUAL = {b"+OK\r\n": b"OK", b":1\r\n": 1, b":0\r\n": 0, b"$-1\r\n": None, b"_\r\n": None}
_SMALL = {b"%d" % n: n for n in range(-1, 1025)}
_INTEGER = re.compile(rb"-?[1-9][0-9]{0,18}")
_DOUBLE = re.compile(rb"-?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_MOST_DIGITS = MAX_BIGNUM + 1  # characters of a line that is a number, a sign among them
_BIGNUM = re.compile(rb"-?[0-9]{1,%d}" % MAX_BIGNUM)
_NOT_FINITE = {b"inf", b"-inf", b"nan", b"-nan"}
_KINDS = frozenset(b"+-:$*_#,(=~%>|")  # attributes too: a line of one is refused when it is whole


class _Malformed(Exception):
    """Inside the decoder only: the bytes are not RESP or exceed a limit."""


def _integer(line: bytes) -> int:
    small = _SMALL.get(line)
    if small is not None:
        return small
    if _INTEGER.fullmatch(line):
        value = int(line)
        if value in INT64:
            return value
    raise _Malformed


def _boolean(line: bytes) -> bool:
    if line in (b"t", b"T"):
        return True
    if line in (b"f", b"F"):
        return False
    raise _Malformed


def _double(line: bytes) -> float:
    if line.lower() in _NOT_FINITE:
        return float(line)
    if _DOUBLE.fullmatch(line) and len(line) < 326:
        value = float(line)
        vanished = value == 0 and line.lower().partition(b"e")[0].strip(b"-0.")
        if abs(value) != float("inf") and not vanished:
            return value
    raise _Malformed


def _bignum(line: bytes) -> int:
    if _BIGNUM.fullmatch(line):
        return int(line)
    raise _Malformed


def _null(line: bytes) -> None:
    if line:
        raise _Malformed


#: RESP3's one-line types, by their first byte.
_LINES: dict[int, Callable[[bytes], Any]] = {
    b":"[0]: _integer,
    b"#"[0]: _boolean,
    b","[0]: _double,
    b"("[0]: _bignum,
    b"_"[0]: _null,
}


class Decoder:
    """Bytes in, replies out; the result does not depend on how they are chunked.

    Simple and bulk strings are ``bytes``, numbers ``int`` / ``float`` / ``bool``,
    nulls ``None``, arrays and sets ``list``, maps a flat ``list`` of keys and
    values, pushes ``Push``, server errors ``ServerError`` values. A malformed
    stream gives one ``ProtocolError`` value after all good replies; from then on
    ``feed`` raises it. Belongs to one thread at a time. No pickling, no subclasses.
    """

    __slots__ = ("_failed", "_left", "_missing", "_rest", "_spent", "_stack")

    def __init__(self) -> None:
        # What has come and is not parsed; of a string that is still coming a bytearray, for
        # bytes would be copied with every piece of it.
        self._rest: bytes | bytearray = b""
        self._missing = 0  # bytes of that string which are still to come
        self._left = MAX_REPLY
        self._spent = 0
        self._stack: list[list[Any]] = []  # [container, items still missing], outermost first
        self._failed = False

    def __init_subclass__(cls) -> None:
        raise TypeError("type 'Decoder' is not an acceptable base type")

    def __reduce__(self) -> Any:
        raise TypeError("a Decoder cannot be pickled or copied")

    @property
    def spent(self) -> int:
        """What all replies so far have cost, in bytes as ``MAX_REPLY`` counts; pushes nothing."""
        return self._spent

    def feed(self, data: bytes) -> list[Any]:
        """Take in some bytes; return the replies that are complete now, in order.

        Raises TypeError unless ``data`` is exact ``bytes``, ProtocolError when the
        stream was found malformed by an earlier call.
        """
        if type(data) is not bytes:
            raise TypeError(FEED_TYPE)
        if self._failed:
            raise ProtocolError(MALFORMED)
        if not self._rest and not self._stack:
            usual = _USUAL.get(data, _USUAL)
            if usual is not _USUAL:
                return [usual]
        replies: list[Any] = []
        if self._missing:
            self._rest += data
            self._missing -= len(data)
            if self._missing > 0:
                return replies
            data = b""
        try:
            self._parse(bytes(self._rest) + data if self._rest else data, replies)
        except _Malformed:
            self._failed = True
            self._rest = b""
            self._stack.clear()
            replies.append(ProtocolError(MALFORMED))
        return replies

    def _parse(self, data: bytes, replies: list[Any]) -> None:
        stack = self._stack
        left = self._left  # what this top-level reply may still cost, in bytes
        size = len(data)
        start = missing = 0
        while start < size:
            kind = data[start]
            end = data.find(_CRLF, start + 1)
            if end < 0:
                most = _MOST_DIGITS
                if kind == 43 or kind == 45:
                    most = max(most, min(left, MAX_LINE))
                if kind not in _KINDS or size - start - 1 > most + 1:
                    raise _Malformed
                break
            line = data[start + 1 : end]
            end += 2
            value: Any
            if kind == 43 or kind == 45:  # + -
                length = len(line)
                if length > 2 or kind == 45:
                    left -= length if kind == 43 else length + ERROR_COST
                    # find, for "in" costs CPython an exception first
                    if left < 0 or length > MAX_LINE:
                        raise _Malformed
                if line.find(b"\r") >= 0 or line.find(b"\n") >= 0:
                    raise _Malformed
                value = line if kind == 43 else ServerError(line.decode("utf-8", "replace"))
            elif kind == 36 or kind == 61:  # $ =
                length = _integer(line)
                if length == -1:
                    value = None
                elif not 0 <= length <= left:
                    raise _Malformed
                else:
                    stop = end + length
                    if size < stop + 2:
                        missing = stop + 2 - size
                        break
                    if data[stop : stop + 2] != _CRLF:
                        raise _Malformed
                    value = data[end:stop]
                    left -= length
                    end = stop + 2
                    if kind == 61:
                        if length < 4 or value[3] != 58:
                            raise _Malformed
                        value = value[4:]
            elif kind in _LINES:
                value = _LINES[kind](line)
                if kind == 40:  # (
                    left -= len(line)
                    if left < 0:
                        raise _Malformed
            elif kind in b"*~%>":
                count = _integer(line)
                if kind == 62 and (stack or count < 0):  # a push inside a reply, or none at all
                    raise _Malformed
                if count == -1:
                    value = None
                else:
                    if kind == 37:
                        count *= 2
                    left -= count * ELEMENT_COST
                    if count < 0 or left < 0 or len(stack) >= MAX_DEPTH:
                        raise _Malformed
                    value = Push() if kind == 62 else []
                    if count:
                        stack.append([value, count])
                        start = end
                        continue
            else:
                raise _Malformed
            start = end
            while stack:
                top = stack[-1]
                top[0].append(value)
                top[1] -= 1
                if top[1]:
                    break
                value = stack.pop()[0]
            else:
                replies.append(value)
                if left != MAX_REPLY:
                    if type(value) is not Push:
                        self._spent += MAX_REPLY - left
                    left = MAX_REPLY
        self._left = left
        self._missing = missing
        self._rest = bytearray(data[start:]) if missing else data[start:]
