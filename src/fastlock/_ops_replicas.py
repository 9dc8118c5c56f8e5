"""Floor 2, locks that replicas have confirmed before their caller has them.

Law: that of ``_ops.py``, whose tries these use: each is sent as ``Confirmed``, with WAIT behind it.
What WAIT says counts only where the command before it wrote the lock; so a lock that an earlier try
took unheard is extended, which writes it anew. A lock that too few replicas confirm is released
before the caller is told. Nobody hands a lock over to such a claim: that would be another
connection's write.
"""

from __future__ import annotations

from typing import Any

from . import _args
from ._claim import Claim, L
from ._effects import Call, Confirmed, Op
from ._ops import release
from ._ops_fenced import Fenced
from ._replies import checked
from .errors import FastlockError, NotReplicated, ServerError


class Replicated(Claim[L]):
    """A claim whose lease so many replicas must confirm."""

    __slots__ = ("_latest", "_patience", "_wanted")

    handing: str | None = None

    _wanted: int  # replicas
    _patience: int  # ms
    _latest: Confirmed

    def want(self, wanted: int, patience: int) -> None:
        """So many replicas must have the lock in ``patience`` ms."""
        self._wanted, self._patience = wanted, patience

    def call(
        self, verb: str, args: tuple[Any, ...], count: int = 1, until: float | None = None
    ) -> Call:
        call = self._latest = Confirmed(verb, args, count, until)
        call.wanted, call.patience = self._wanted, self._patience
        return call

    def confirm(self, lease: L) -> Op[None]:
        """Nothing if enough replicas have what the latest call wrote; else it is released.

        Then NotReplicated, or ServerError if the server refuses to WAIT.
        """
        confirmed = self._latest.confirmed
        if type(confirmed) is int and confirmed >= self._wanted:
            return
        trouble: FastlockError | None = None
        try:
            yield from release(lease, 0)
            self.possible = 0
        except FastlockError as error:  # the driver gives it back in the background
            trouble = error
        if isinstance(confirmed, ServerError):
            checked(confirmed, lease.key)
        failure = NotReplicated(
            f"{lease.key!r}: {confirmed} of the {self._wanted} replicas that were to confirm the "
            f"lock did in time (replica_timeout {self._patience / 1000} s); it "
            f"{'was released again' if trouble is None else 'is given back in the background'}",
            lease.key,
        )
        failure.confirmed, failure.wanted = confirmed, self._wanted
        raise failure from trouble


class ReplicatedFenced(Replicated[L], Fenced[L]):
    """The same, with a fencing number: the script's writes count as well."""

    __slots__ = ()

    handing = None


def replicated(
    claim: Claim[L], min_replicas: object, replica_timeout: object, fair: object = False
) -> Claim[L]:
    """The same claim, to be confirmed by replicas as the caller said; ConfigError: not so."""
    wanted, patience = _args.replicas(min_replicas, replica_timeout, claim.ttl, fair)
    if not wanted:
        return claim
    kind = ReplicatedFenced if isinstance(claim, Fenced) else Replicated
    made: Replicated[L] = kind(
        claim.keys, claim.pairs, claim.ttl, claim.until, claim.retries, claim.make,
        claim.generation,
    )  # fmt: skip
    made.want(wanted, patience)
    return made
