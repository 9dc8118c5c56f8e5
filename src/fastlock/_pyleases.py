"""The loops over many leases in Python, where the compiled ones are absent.

Law: the same names, arguments and results as ``_leases.pyx``. They know the fields of a
lease and what the usual answers are, and no operation.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import compress
from typing import Any

from ._doubt import SHARED, UNDER_WAY

__all__ = ["Leases"]

_blank = object.__new__


class Leases:
    """Loops over leases of ``kind``, whose ``__init__`` is never called."""

    __slots__ = ("_kind",)

    def __init__(self, kind: type) -> None:
        self._kind = kind

    def one(
        self,
        client: Any,
        generation: int,
        key: str | bytes,
        pair: tuple[bytes, bytes],
        ttl: float,
        deadline: float,
        since: float | None = None,
    ) -> Any:
        """A lease; ``ttl`` in seconds. ``since`` is when it began, if that is said."""
        lease: Any = _blank(self._kind)
        lease._client = client
        lease._generation = generation
        lease._turn = None
        lease.key = key
        lease.pair = pair
        lease.ttl = ttl
        lease._deadline = deadline
        lease.since = since
        lease.doubt = lease.over = lease.freed = False
        return lease

    def make(
        self,
        client: Any,
        generation: int,
        keys: Sequence[str | bytes],
        pairs: Sequence[tuple[bytes, bytes]],
        replies: Sequence[Any],
        ttl: float,
        deadline: float,
    ) -> list[Any]:
        """For each OK a lease, for each nil None; up to any other reply. ``ttl`` in seconds."""
        one = self.one
        leases: list[Any] = []
        if not len(keys) == len(pairs) == len(replies):
            raise ValueError("as many keys and pairs as replies")
        for key, pair, reply in zip(keys, pairs, replies, strict=True):
            if reply == b"OK":
                leases.append(one(client, generation, key, pair, ttl, deadline))
            elif reply is None:
                leases.append(None)
            else:
                break
        return leases

    def holds(self, leases: list[Any], results: list[bool], now: float) -> list[tuple[float, int]]:
        """Seconds that leases were held whose result is True, and how many were held so long."""
        found: list[tuple[float, int]] = []
        if len(results) != len(leases):
            raise ValueError("as many results as leases")
        seconds, many, last = 0.0, 0, None
        for lease in compress(leases, results):
            deadline, since = lease._deadline, lease.since
            if deadline is last and since is None:  # of the same batch
                many += 1
                continue
            if many:
                found.append((seconds, many))
            many, last = 1, deadline if since is None else None
            seconds = now - (deadline - (0.99 * lease.ttl - 0.002) if since is None else since)
        if many:
            found.append((seconds, many))
        return found

    def foreign(self, client: Any, generation: int, leases: list[Any]) -> int:
        """Where the first is that is neither None nor this client's of this process; or -1."""
        kind = self._kind
        for place, lease in enumerate(leases):
            if lease is None:
                continue
            if type(lease) is not kind:
                return place
            if lease._client is not client or lease._generation != generation:  # type: ignore[attr-defined]
                return place
        return -1

    def held(self, leases: list[Any]) -> Sequence[int]:
        """Where those are that are not over; a range if all are."""
        held = [place for place, lease in enumerate(leases) if lease is not None and not lease.over]
        return range(len(leases)) if len(held) == len(leases) else held

    def release(
        self, leases: list[Any], places: Sequence[int]
    ) -> tuple[list[tuple[bytes, bytes]], dict[int, int]]:
        """Say of each that it is under way; the pairs, and where there was doubt before: which."""
        doubts = {place: leases[place].doubt for place in places if leases[place].doubt}
        pairs = []
        for place in places:
            lease = leases[place]
            if not lease.doubt:
                lease.doubt = UNDER_WAY
            elif lease.doubt is UNDER_WAY and place in doubts:
                lease.doubt = SHARED
            pairs.append(lease.pair)
        return pairs, doubts

    def released(self, leases: list[Any], places: Sequence[int], results: list[bool]) -> None:
        """Each is freed by us."""
        for place in places:
            lease = leases[place]
            lease.over = lease.freed = results[place] = True
            lease.doubt = False
