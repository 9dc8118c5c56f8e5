"""Floor 2, locks with fencing numbers: the same tries, by a verb that gives a number too.

Law: that of ``_ops.py``, and of ``_claim.py``, whose Claim this is. One verb takes a lock and
recognises an earlier try, so that a try whose reply was lost has the number it was given then.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from . import _args
from ._claim import Claim, L
from ._replies import number_of, with_companion
from .errors import ServerError


class Fenced(Claim[L]):
    """A claim whose leases have numbers."""

    __slots__ = ()

    plain = ("acquire_fenced", "acquire_fenced")
    asking = "acquire_fenced"
    handing: str | None = "hand_over_fenced"
    numbered = True

    def lease(self, index: int, sent_at: float, reply: Any = None) -> L:
        lease = super().lease(index, sent_at)
        lease.number = number_of(reply)
        return lease

    def all_leases(self, sent_at: float, reply: Sequence[int]) -> list[L]:
        leases = super().all_leases(sent_at, reply)
        for lease, number in zip(leases, reply, strict=True):
            lease.number = number
        return leases

    def checked(self, reply: Any, index: int = 0) -> Any:
        if isinstance(reply, ServerError):
            raise with_companion(reply, self.keys[index:], self.pairs[index:])
        return reply


def fenced(claim: Claim[L], fence: object) -> Fenced[L]:
    """The same claim with numbers; ``fence`` is what the caller said instead of False."""
    _args.flag("fence", fence)
    return Fenced(
        claim.keys, claim.pairs, claim.ttl, claim.until, claim.retries, claim.make,
        claim.generation,
    )  # fmt: skip
