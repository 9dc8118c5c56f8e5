"""Floor 2, first come first served: tries that have a place in a queue at the server.

Law: that of ``_ops.py``, whose tries these use. A try is one step at the server: it
takes the lock if nobody waits before us, else comes in at the end of the queue or keeps its
place. A place is lost ``PLACE`` after the latest step, so that a waiter who died stops nobody
for longer. Whatever leaves an acquire early must leave the queue too: the claim says while it may
have a place, and is given back by a verb that leaves it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from . import _args
from ._claim import Claim, L
from ._effects import Now, Op, WaitFor
from ._ops import _try
from ._ops_fenced import Fenced
from ._replies import with_queue
from ._scripted import BEHIND, FIRST, PLACE, turn
from ._tokens import Pair
from .errors import AcquireTimeout, FastlockError, ServerError

#: Seconds after which a waiter asks again at the latest, to keep its place.
KEEP = PLACE / 1000 / 3


class Fair(Claim[L]):
    """A claim with a place in the queue of its lock."""

    __slots__ = ("asking", "queued")

    verbs = ("acquire_fair", "acquire_fair_last")  #: of a step, and of the last one
    giving_back = "give_back_fair"
    handing: str | None = None  # whose turn it is the server knows

    asking: str  # the verb of the step under way, which recognises an earlier one
    queued: bool  # whether the server may have a place for us

    @property
    def maybe(self) -> Sequence[Pair]:
        return self.pairs if self.queued else super().maybe

    def last_trace(self, now: float) -> float:
        return super().last_trace(now) if self.possible else now + PLACE / 1000

    def checked(self, reply: Any, index: int = 0) -> Any:
        if isinstance(reply, ServerError):
            raise with_queue(reply, self.keys[index], self.pairs[index][0])
        return reply


class FairFenced(Fair[L], Fenced[L]):
    """The same, with a fencing number."""

    __slots__ = ()

    verbs = ("acquire_fair_fenced", "acquire_fair_fenced_last")


def in_queue(claim: Claim[L], fair: object) -> Fair[L]:
    """The same claim with a place in the queue; ``fair`` is what the caller said
    instead of False."""
    _args.flag("fair", fair)
    kind = FairFenced if isinstance(claim, Fenced) else Fair
    made: Fair[L] = kind(
        claim.keys, claim.pairs, claim.ttl, claim.until, claim.retries, claim.make,
        claim.generation,
    )  # fmt: skip
    made.asking, made.queued = kind.verbs[0], False
    return made


def acquire_fair(claim: Fair[L]) -> Op[L]:
    """Steps until the lock is ours or the claim's deadline has passed.

    The step at the deadline gives the place up, so that a timeout costs no further one.
    """
    key, until = claim.pairs[0][0], claim.until
    wait = WaitFor((key,), until, lined=False)  # the line is the server's
    now = (yield Now()) if until is not None else 0.0
    heard = False  # an answer, which said that we have a place
    try:
        while True:
            last = until is not None and now >= until
            claim.asking = claim.verbs[last]
            claim.queued = True
            try:
                lease, asked_at, holder = yield from _try(claim, claim.asking, now=now)
            except FastlockError:
                claim.queued = heard or bool(claim.possible)
                raise
            if lease is not None:
                return lease
            heard = wait.tried = wait.asked = True
            if last:
                claim.queued = False
                kept = holder.endswith(FIRST)
                raise AcquireTimeout(
                    f"{claim.keys[0]!r} was still {'kept for' if kept else 'held by'} "
                    f"{holder} when the timeout ended",
                    claim.keys[0],
                )
            wait.turn = turn(*claim.pairs[0]) if holder.endswith(BEHIND) else None
            wait.until = asked_at + KEEP if until is None else min(until, asked_at + KEEP)
            now = yield wait
    finally:
        try:
            wait.leave()
        except BaseException:  # an interrupt: leaving twice does no harm
            wait.leave()
            raise
