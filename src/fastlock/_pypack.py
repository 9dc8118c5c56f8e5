"""The Python encoder: commands packed as RESP, keys and tokens made bytes, where the compiled
core is absent.

Law: the same names, arguments, results and errors as ``_pack.pyx``; it writes
RESP and reads none, and knows no sockets.
"""

from __future__ import annotations

import sysconfig
import threading
from itertools import count
from typing import Any

from ._args import wire_key
from ._resp import INT64, PACK_TYPES

__all__ = ["Numbered", "Prepared", "pack", "prepare"]

_MOST_HEADS = 1024
_HEADS = [b"$%d\r\n" % size for size in range(_MOST_HEADS)]  # formatting bytes is slow
_NOTHING = (None, None, None)
_FREE_THREADED = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))


def pack(*args: bytes | int) -> bytes:
    """One command as a RESP array of bulk strings.

    Takes exact ``bytes`` and exact ``int`` (64 bits, sent in decimal); anything
    else is a TypeError, an integer out of range an OverflowError.
    """
    parts = [b"*%d\r\n" % len(args)]
    for arg in args:
        if type(arg) is int:
            if arg not in INT64:
                raise OverflowError(PACK_TYPES)
            arg = b"%d" % arg
        elif type(arg) is not bytes:
            raise TypeError(PACK_TYPES)
        parts.append(b"$%d\r\n%b\r\n" % (len(arg), arg))
    return b"".join(parts)


class Prepared:
    """A command with holes; see ``prepare``."""

    __slots__ = ("_kinds", "_latest", "_texts")

    def __init__(self, texts: list[bytes], kinds: list[type]) -> None:
        self._texts = texts  # before, between and behind the holes
        self._kinds = kinds
        # Of a command that begins with two texts: what is before, between, the latest third
        # value, and what came behind the second with it.
        self._latest: tuple[bytes, bytes, Any, bytes] | None = None
        if kinds == [bytes, bytes]:
            self._latest = texts[0], texts[1], None, texts[2]

    def fill(
        self,
        first: bytes | int | None = None,
        second: bytes | int | None = None,
        third: bytes | int | None = None,
    ) -> bytes:
        """The command with these values, packed. Raises as ``pack``."""
        latest = self._latest
        if latest is not None and third is latest[2] and type(first) is type(second) is bytes:
            one, two = len(first), len(second)
            if one < _MOST_HEADS and two < _MOST_HEADS:
                before, between, _, behind = latest
                return b"".join((before, _HEADS[one], first, between, _HEADS[two], second, behind))
        return self._fill(first, second, third)

    def _fill(self, first: Any, second: Any, third: Any) -> bytes:
        texts = self._texts
        given = (first, second, third)
        filled = [texts[0]]
        hole = 0
        for kind in self._kinds:
            value = given[hole]
            hole += 1
            if type(value) is not kind:
                raise TypeError(PACK_TYPES)
            if type(value) is int:
                if value not in INT64:
                    raise OverflowError(PACK_TYPES)
                value = str(value).encode()
            size = len(value)
            head = _HEADS[size] if size < _MOST_HEADS else b"$%d\r\n" % size
            filled += (head, value, texts[hole])
        if given[hole:] != _NOTHING[hole:]:
            raise TypeError(PACK_TYPES)
        if hole == 3 and self._kinds[:2] == [bytes, bytes]:
            self._latest = texts[0], texts[1], third, b"".join(filled[-4:])
        return b"".join(filled)

    def many(
        self, pairs: list[tuple[bytes | int, bytes | int]], third: bytes | int | None = None
    ) -> bytes:
        """One after the other, with each pair as first and second value and the same third."""
        if len(self._kinds) < 2:
            raise TypeError(PACK_TYPES)
        before, between = self._texts[:2]
        behind = Prepared(self._texts[2:], self._kinds[2:]).fill(third)  # the same every time
        plain = self._kinds[:2] == [bytes, bytes]
        packed: list[bytes] = []
        for first, second in pairs:
            if plain and type(first) is type(second) is bytes:
                one, two = len(first), len(second)
                if one < _MOST_HEADS and two < _MOST_HEADS:
                    packed += (before, _HEADS[one], first, between, _HEADS[two], second, behind)
                    continue
            packed.append(self.fill(first, second, third))
        return b"".join(packed)


def prepare(*parts: bytes | int | type) -> Prepared:
    """One command with holes, ``fill(values...)`` and ``many(pairs, third)`` pack it.

    ``parts`` are what ``pack`` takes; the types ``bytes`` and ``int`` among them, 3 at
    most, stand for values to come.
    """
    kinds: list[type] = []
    texts = [b"*%d\r\n" % len(parts)]
    for part in parts:
        if part is bytes or part is int:
            if len(kinds) == 3:
                raise TypeError("a prepared command has at most 3 holes")
            kinds.append(part)
            texts.append(b"\r\n")
        else:
            texts[-1] += pack(part)[4:]  # type: ignore[arg-type]
    return Prepared(texts, kinds)


class Numbered:
    """Prefix, a number in hex, suffix: ``next()`` counts from 1.

    Any thread may call it; no two calls give the same bytes.
    """

    __slots__ = ("_form", "_mutex", "_numbers")

    def __init__(self, prefix: bytes, suffix: bytes) -> None:
        self._form = b"%b%%x%b" % (prefix.replace(b"%", b"%%"), suffix.replace(b"%", b"%%"))
        self._numbers = count(1)
        # itertools.count is atomic under the GIL only. A signal handler may come in between.
        self._mutex = threading.RLock() if _FREE_THREADED else None

    def next(self) -> bytes:
        """One more."""
        if self._mutex is None:
            return self._form % next(self._numbers)
        with self._mutex:
            return self._form % next(self._numbers)

    def pairs(self, keys: list[str | bytes], prefix: bytes) -> list[tuple[bytes, bytes]]:
        """(wire key, one more) for each key, in order; ConfigError for what is no key."""
        following = self.next
        return [(wire_key(key, prefix), following()) for key in keys]
