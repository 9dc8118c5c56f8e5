"""The straight way of a sync client in Python, where the compiled one cannot go.

Law: the same names, arguments and results as ``_straight.pyx``. Only the usual answer is
understood here; any other is handed back as the outcome of the operation's first Call, so
that what it means still stands in ``_ops`` alone.
"""

from __future__ import annotations

from typing import Any

from ._args import SURELY_SHORT, wire_key
from ._doubt import UNDER_WAY
from ._pytime import clock
from ._resp import Reentered
from .errors import TransportError

__all__ = ["Straight"]


class Straight:
    """``client``'s way over one Pipe: its ``leases``, commands, tokens, prefix of keys, meter."""

    __slots__ = (
        "_acquire",
        "_call",
        "_client",
        "_frees",
        "_meter",
        "_new",
        "_next",
        "_prefix",
        "_release",
        "_ticks",
        "freed",
        "freed_at",
    )

    def __init__(
        self,
        client: Any,
        leases: Any,
        pipe: Any,
        acquire: Any,
        release: Any,
        tokens: Any,
        prefix: bytes,
        meter: Any,
    ) -> None:
        self._client = client
        self._new = leases.one
        self._call = pipe.call
        self._acquire = acquire.fill
        self._release = release.fill
        self._next = tokens.next
        self._prefix = prefix
        self._meter = meter  # None: nothing is counted
        self._ticks = None if meter is None else meter.ticks
        self._frees = None if meter is None else meter.frees
        # The key of the latest release, and when it was sent; of any thread.
        self.freed, self.freed_at = b"", 0.0

    def __reduce__(self) -> Any:
        raise TypeError("what belongs to a client cannot be pickled or copied")

    def take(
        self,
        key: str | bytes,
        ttl: int,
        span: float,
        generation: int,
        timeout: float,
        trace: list[tuple[bytes, bytes]],
    ) -> Any:
        """A lease; None if somebody else has the lock; else (pair, sent at, reply or error).

        ``ttl`` is in ms, ``span`` in seconds from the sending to the deadline, ``timeout``
        in seconds. ``trace`` gets the pair before it is sent: for whoever is interrupted,
        perhaps with the lease on its way to him.
        """
        if type(key) is str and 0 < len(key) <= SURELY_SHORT and key.isascii():
            wire = self._prefix + key.encode()
        else:
            wire = wire_key(key, self._prefix)
        token = self._next()
        pair = (wire, token)
        trace.append(pair)
        sent_at = clock()
        try:
            (reply,) = self._call(self._acquire(wire, token, ttl), 1, timeout)
        except (TransportError, Reentered) as error:
            return pair, sent_at, error
        if reply == b"OK":
            ticks = self._ticks
            if ticks is not None and next(ticks):
                self._meter.sample(sent_at)
            return self._new(
                self._client, generation, key, pair, ttl / 1000, sent_at + span, sent_at
            )
        if reply is None:
            if self._meter is not None:
                self._meter.answered(sent_at)
            return None
        return pair, sent_at, reply

    def free(self, lease: Any, generation: int, timeout: float) -> Any:
        """True: freed. None: it takes more than this. Else (sent at, reply or error)."""
        if lease.over or lease.doubt or lease._generation != generation:
            return None
        lease.doubt = UNDER_WAY  # whoever is interrupted from here on leaves it in doubt
        if lease.over:  # handed over at this moment
            return None
        wire, token = lease.pair
        self.freed = wire
        self.freed_at = sent_at = clock()
        try:
            (reply,) = self._call(self._release(wire, token), 1, timeout)
        except (TransportError, Reentered) as error:
            return sent_at, error
        if reply == 1:
            lease.over = lease.freed = True
            frees = self._frees
            if frees is not None and next(frees):
                self._meter.held(lease, sent_at)
            return True
        return sent_at, reply
