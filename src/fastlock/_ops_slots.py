"""Floor 2, locks of several slots of a cluster, all or none.

Law: that of ``_ops.py``. No step of a server spans slots. So the locks of one slot are taken in
one step, slot after slot in an order that is the same for all callers, and each is tried once;
where one is refused, those before it are freed again, and only then is anything waited for: nobody
holds some of them while he waits for others.

All rounds have the same tokens. So a round begins only when every release of the one before was
answered: one that is still under way could free what is taken anew.
"""

from __future__ import annotations

from collections.abc import Sequence

from ._claim import PLAIN, Claim, L
from ._effects import Backoff, Now, Op, WaitFor
from ._ops import acquire_unknown, answer_by, sensible
from ._ops_many import all_held, give_back, portions, try_all
from ._replies import checked, is_transient, not_ready, wants_spelling_out
from ._slots import slot
from ._tokens import Pair
from .errors import TransportError


def spread(claim: Claim[L]) -> bool:
    """Whether the claim's locks are of several slots."""
    return len({slot(key) for key, _ in claim.pairs}) > 1


def acquire_spread(claim: Claim[L]) -> Op[list[L]]:
    """All locks or none, tried until they are ours or the claim's deadline has passed."""
    places: dict[int, list[int]] = {}
    for place, (key, _) in enumerate(claim.pairs):
        places.setdefault(slot(key), []).append(place)
    parts = [(own, _part(claim, own)) for _, own in sorted(places.items())]
    verbs = [f"{claim.plain[0]}_all"] * len(parts)
    now = 0.0
    while True:
        until = answer_by(claim.until, now)
        claim.possible = len(claim.pairs)  # until all that was taken is freed again
        found: dict[int, L] = {}
        taken: list[Pair] = []
        refused: Claim[L] | None = None
        asked = False
        for number, (own, part) in enumerate(parts):
            leases, tried_at, verb = yield from try_all(part, verbs[number], until)
            if leases is None:
                refused, asked = part, not verb.startswith(PLAIN)
                verbs[number] = f"{claim.asking}_all"
                break
            found.update(zip(own, leases, strict=True))
            taken += part.pairs
        now = yield Now()
        if refused is None:
            if all(now < lease.deadline for lease in found.values()):
                return [found[place] for place in range(len(claim.pairs))]
            tried_at = now  # some have ended while the others were taken
        yield from _free(claim, taken)
        claim.possible = 0
        if claim.until is not None and tried_at >= claim.until:
            raise all_held(claim)
        if refused is not None:
            now = yield from _wait(refused, asked)


def _part(claim: Claim[L], places: Sequence[int]) -> Claim[L]:
    """The same claim to some of its locks."""
    return type(claim)(
        [claim.keys[place] for place in places],
        [claim.pairs[place] for place in places],
        claim.ttl, claim.until, claim.retries, claim.make, claim.generation,
    )  # fmt: skip


def _wait(refused: Claim[L], asked: bool) -> Op[float]:
    """Until these may have become free; the time."""
    wait = WaitFor([key for key, _ in refused.pairs], refused.until, lined=False)
    wait.tried, wait.asked = True, asked
    try:
        now: float = yield wait
        return now
    finally:
        try:
            wait.leave()
        except BaseException:  # an interrupt: leaving twice does no harm
            wait.leave()
            raise


def _free(claim: Claim[L], pairs: Sequence[Pair]) -> Op[None]:
    """Release all, every answer heard. OutcomeUnknown: one was lost; the claim has all of them."""
    failures = 0
    spelled_out = False
    rest = list(portions(pairs))
    while rest:
        try:
            call = give_back(rest[0], claim.giving_back)
            call.spelled_out = spelled_out
            sent_at, replies = yield call
            again = False
            for reply in replies:
                yield from sensible(call, sent_at, reply)
                if is_transient(reply):
                    raise not_ready(reply)
                if wants_spelling_out(reply) and not spelled_out:
                    again = True
                else:
                    checked(reply, claim.keys[0])
            if not again:
                rest.pop(0)
            spelled_out = spelled_out or again
            continue
        except TransportError as error:
            if error.sent:
                raise acquire_unknown(claim, error) from error
            failures += 1
            if failures > claim.retries:
                raise
        yield Backoff(failures, None)
