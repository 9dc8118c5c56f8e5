"""Floor 2, many locks at once: batches, all-or-nothing, and giving back.

Law: that of ``_ops.py``. A batch that loses its connection midway keeps what was answered and
asks again about the rest only.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

from ._claim import PLAIN, Claim, L
from ._effects import Backoff, Call, Distrust, Downgrade, Now, Op, WaitFor
from ._ops import answer_by, back_off, mended, recognised, sensible
from ._replies import (
    OURS,
    TAKEN,
    acquired,
    asked,
    checked,
    is_demoted,
    is_nonsense,
    is_transient,
    is_unusual,
    lacks_native,
    not_ready,
    out_of_step,
    told,
    wants_spelling_out,
)
from ._tokens import Pair
from .errors import (
    AcquireTimeout,
    FastlockError,
    ServerError,
    TransportError,
)

T = TypeVar("T")

#: Up to so many commands are sent by one Call, with one deadline for all.
AT_ONCE = 1_000
#: A larger batch is sent by so many. Other callers' commands come in between, so that it is also
#: how long these wait, again and again: about a millisecond.
PORTION = 250
#: Not more of them than for so many servers: the caller's own work on one takes time as well.
MOST_SHARES = 8


def portions(items: Sequence[T], shares: int = 1) -> Iterator[Sequence[T]]:
    """What goes out together: one Call's after the other's.

    ``shares``: so many servers have a share of it, and others wait for one's share only.
    """
    size = len(items)
    step = AT_ONCE if size <= AT_ONCE else PORTION * min(shares, MOST_SHARES)
    for start in range(0, size, step):
        yield items[start : start + step]


def try_acquire_many(claim: Claim[L], shares: int = 1) -> Op[list[L | None]]:
    """One try for each key; a lease or None for each, in order.

    A server error about any key gives all back and is raised.
    """
    leases: list[L | None] = []
    end = 0
    late = False
    for portion in portions(claim.pairs, shares):
        end += len(portion)
        late = (yield from _try_up_to(end, claim, leases)) or late
    now = (yield Now()) if late else 0.0
    if any(lease is not None and lease.deadline <= now for lease in leases if late):
        raise TransportError(
            "some of the locks would have ended before the last was answered; all are given back: "
            "take fewer at once, or a longer ttl",
            sent=True,
        )
    return leases


def _try_up_to(end: int, claim: Claim[L], leases: list[L | None]) -> Op[bool]:
    """``leases`` grows by one entry for each key, until there are ``end``; whether that took more
    than one round."""
    late = False
    verb = f"{claim.plain[0]}_many"
    first: float | None = None
    failures = 0
    spelled_out = lacking = False
    while len(leases) < end:
        begin = len(leases)
        rest = claim.pairs[begin:end]
        claim.possible = end
        failure: TransportError | None = None
        call = Call(verb, (rest, claim.ttl), len(rest), spelled_out=spelled_out)
        try:
            sent_at, replies = yield call
        except FastlockError as error:
            if not isinstance(error, TransportError):  # no connection to be had
                claim.possible = begin if first is None else end
                raise
            failure = error
            sent_at, replies = error.sent_at, error.replies
        if replies.count(b"OK") < len(replies):
            replies, failure = yield from up_to_nonsense(verb, sent_at, replies, failure)
        asking = verb != "acquire_many"
        if not asking:
            leases += claim.leases(begin, replies, sent_at)
        for place in range(len(leases) - begin, len(replies)):
            reply, index = replies[place], len(leases)
            if asking and not spelled_out and wants_spelling_out(reply):
                spelled_out, lacking = True, lacks_native(reply)
            elif is_transient(reply):
                failure = failure or not_ready(reply)
            elif isinstance(reply, TransportError):  # one node's of several; others have answered
                failure = failure or reply
            else:
                claim.checked(reply, index)
                found = asked(reply, claim.pairs[index][1]) if asking else acquired(reply)
                lease: L | None = None
                if found is TAKEN:
                    lease = claim.lease(index, sent_at, reply)
                elif found is OURS:
                    lease = yield from recognised(claim, index, reply, first)
                if found is not OURS or lease is not None:
                    leases.append(lease)
                    continue
            # Not decided yet; what was answered behind it may have been taken.
            if place + 1 < len(replies):
                first, verb = sent_at if first is None else first, f"{claim.asking}_many"
            break
        if len(leases) < end and (failure is None or failure.sent):
            first, verb = sent_at if first is None else first, f"{claim.asking}_many"
        if lacking and call.spelled_out:
            yield Downgrade(verb)
            lacking = False
        if failure is not None:
            failures += 1
            claim.possible = len(leases) if first is None else end
            yield from back_off(claim, failures, None, failure, first is not None)
        late = late or call.late or len(leases) < end
    return late


def up_to_nonsense(
    verb: str, sent_at: float, replies: Sequence[Any], failure: TransportError | None
) -> Op[tuple[Sequence[Any], TransportError | None]]:
    """The replies before the first that the verb cannot have, as if the connection ended there."""
    for place, reply in enumerate(replies):
        if is_nonsense(verb, reply) and not isinstance(reply, TransportError):
            yield Distrust()
            return replies[:place], out_of_step(sent_at)
    return replies, failure


def acquire_all(claim: Claim[L]) -> Op[list[L]]:
    """All locks or none, tried until they are ours or the claim's deadline has passed."""
    verb = f"{claim.plain[0]}_all"
    now = 0.0
    wait = WaitFor([key for key, _ in claim.pairs], claim.until, lined=False)
    wait.tried = True
    try:
        while True:
            leases, tried_at, verb = yield from try_all(claim, verb, answer_by(claim.until, now))
            if leases is not None:
                return leases
            if claim.until is not None and tried_at >= claim.until:
                raise all_held(claim)
            wait.asked = not verb.startswith(PLAIN)
            now = yield wait
            # It also finds out that a key holds something else than a lock.
            verb = f"{claim.asking}_all"
    finally:
        try:
            wait.leave()
        except BaseException:  # an interrupt: leaving twice does no harm
            wait.leave()
            raise


def try_all(
    claim: Claim[L], verb: str, until: float | None
) -> Op[tuple[list[L] | None, float, str]]:
    """One try for all or none, repeated over lost connections until its outcome is known.

    Returns the leases or None, the time before sending, and the verb that was answered.
    """
    failures = 0
    doubt = False  # an earlier sending may have taken them
    while True:
        claim.possible = len(claim.pairs)
        call = Call(verb, (claim.pairs, claim.ttl), 1, until)
        try:
            sent_at, (reply,) = yield call
            if is_unusual(verb, reply) or type(reply) is list:
                sent_at, reply = yield from mended(call, sent_at, reply)
        except FastlockError as error:
            if isinstance(error, TransportError) and error.sent:
                verb, doubt = f"{claim.asking}_all", True
            if not doubt:
                claim.possible = 0
            if not isinstance(error, TransportError):
                raise
            failures += 1
            yield from back_off(claim, failures, until, error, doubt)
            continue
        if reply == 1 or type(reply) is list:
            return claim.all_leases(sent_at, reply), sent_at, verb
        if not doubt or not isinstance(reply, ServerError):
            claim.possible = 0
        claim.checked(reply)
        return None, sent_at, verb


def all_held(claim: Claim[L]) -> AcquireTimeout:
    """The error when none was taken, for somebody else has some."""
    return AcquireTimeout(
        f"some of {len(claim.keys)} locks were still held by somebody else when the "
        "timeout ended; none was taken",
        claim.keys[0],
    )


def settle(pairs: Sequence[Pair], until: float, verb: str = "give_back") -> Op[None]:
    """Give back what may be ours, in the background, as long as it could still be there.

    ``verb`` is the claim's. A server that refuses as a replica may be the master again later.
    Raises ServerError when it refuses for good: then the ttl must do.
    """
    failures = 0
    spelled_out = False
    while True:
        try:
            for portion in portions(pairs):
                call = give_back(portion, verb)
                call.spelled_out = spelled_out
                call.until = until
                sent_at, replies = yield call
                for reply in replies:
                    yield from sensible(call, sent_at, reply)
                    if is_transient(reply) or is_demoted(reply):
                        raise not_ready(reply)
                    if wants_spelling_out(reply) and not spelled_out:
                        spelled_out = True
                        raise TransportError(f"in other words: {told(reply)}")
                    checked(reply, "of several" if len(pairs) > 1 else pairs[0][0])
            return
        except TransportError:
            failures += 1
        if (yield Backoff(failures, until)) >= until:
            return


def give_back(pairs: Sequence[Pair], verb: str) -> Call:
    """Release whatever of these is ours."""
    return Call(verb, (pairs,), len(pairs))
