"""Floor 1: what the drivers for threads and for tasks have in common.

Law: no waiting, and nothing that differs between the two. The way of a request stands in each of
them: ``_sync_driver.py``, ``_aio_driver.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Generic

from . import _args, _fork, _impl
from ._claim import Claim
from ._clock import clock
from ._effects import Backoff
from ._metrics import MeterLike, retrying
from ._pause import backoff_pause
from ._queue import Queue
from ._renewal import Keeper, Renewal, Terms
from ._tokens import Pair, TokenSource
from ._topology import Link
from .config import Config
from .lease import L


class DriverBase(Generic[L]):
    """What a ``Client`` is, below its calls; its leases are of class ``L``."""

    config: Config
    _core: _impl.Core
    _keeper: Keeper
    _loops: Any  # makes leases
    _meter: MeterLike
    _patience: float
    _prefix: bytes
    _queue: Queue
    _retries: int
    _server: Any
    _tokens: TokenSource
    _give_back_pairs: Any  # (pairs, until, generation, verb): see each
    _renewing_by: ClassVar[type[Renewal]]

    # -- claims and leases

    def _lease(self, key: str | bytes, pair: Pair, ttl: int, deadline: float) -> L:
        lease: L = self._loops.one(self, _fork.generation, key, pair, ttl / 1000, deadline)
        return lease

    def _made(
        self,
        generation: int,
        keys: Sequence[str | bytes],
        pairs: Sequence[Pair],
        replies: Sequence[Any],
        ttl: int,
        deadline: float,
    ) -> list[L | None]:
        made: list[L | None] = self._loops.make(
            self, generation, keys, pairs, replies, ttl / 1000, deadline
        )
        return made

    def _claim(self, keys: list[str | bytes], ttl: float, until: float | None = None) -> Claim[L]:
        milliseconds = _args.milliseconds(ttl)
        generation = _fork.generation  # before the tokens, which a child must not use
        pairs = self._tokens.pairs(keys, self._prefix)
        return self._claim_of(keys, pairs, milliseconds, until, generation)

    def _claim_of(
        self,
        keys: Sequence[str | bytes],
        pairs: Sequence[Pair],
        ttl: int,
        until: float | None,
        generation: int,
    ) -> Claim[L]:
        return Claim(keys, pairs, ttl, until, self._retries, self._made, generation)

    def _keep(self, acquired: Any, terms: Terms) -> None:
        """Renew it, or each of a list, from now on; None among them."""
        for lease in acquired if isinstance(acquired, list) else (acquired,):
            if lease is not None:
                self._renewing_by(self._keeper_of(lease), lease, terms)

    def _keeper_of(self, lease: L) -> Keeper:
        """By which it is renewed."""
        return self._keeper

    # -- the server

    @property
    def _shares(self) -> int:
        """How many servers share what goes out together."""
        return 1

    def _home(self, wire: bytes) -> Link | None:
        """The connection by which a command about the key goes straight, if no other one is."""
        return None

    def _downgrade(self, verb: str) -> float:
        link = self._server.ready()
        if link is not None:
            link.downgrade(verb)
        return clock()

    def _distrust(self) -> float:
        link = self._server.ready()
        if link is not None:
            link.pipe.abort("an answer came that its command cannot have")
        return clock()

    def _retrying(self, effect: Backoff) -> float:
        """Seconds to pause before another attempt, which is counted."""
        pause = backoff_pause(effect.failures)
        if effect.until is not None:
            pause = min(pause, max(0.0, effect.until - clock()))
        retrying(self._meter, effect.failures, pause)
        return pause

    # -- giving back

    def _give_back(self, claim: Claim[L]) -> None:
        """Whatever left the acquire: what the server may hold for it is released.

        At once on the same connection, behind what took it, then confirmed in the
        background until it is certain or the ttl has ended.
        """
        until = claim.last_trace(clock())
        self._give_back_pairs(list(claim.maybe), until, claim.generation, claim.giving_back)
