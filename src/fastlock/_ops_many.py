"""Floor 2, many locks at once: batches, all-or-nothing, and giving back.

Law: that of ``_ops.py``, whose effects and Claim these use. A batch that loses its
connection midway keeps what was answered and asks again about the rest only.
"""

from __future__ import annotations

from collections.abc import Sequence

from ._commands import (
    OURS,
    TAKEN,
    Pair,
    acquired,
    asked,
    checked,
    is_transient,
    lacks_command,
    not_ready,
    wants_spelling_out,
)
from ._ops import (
    GRACE,
    Backoff,
    Call,
    Claim,
    Downgrade,
    HeldLease,
    L,
    Now,
    Op,
    WaitFor,
    back_off,
    mended,
    recognised,
    release_unknown,
    released,
)
from .errors import (
    AcquireTimeout,
    FastlockError,
    OutcomeUnknown,
    ServerError,
    TransportError,
)

#: Commands one Call sends at once: about 1 MB of bytes, and one deadline for all.
BATCH = 10_000


def try_acquire_many(claim: Claim[L]) -> Op[list[L | None]]:
    """One try for each key; a lease or None for each, in order.

    A server error about any key gives all back and is raised.
    """
    leases: list[L | None] = []
    held: list[Pair] = []
    for start in range(0, len(claim.pairs), BATCH):
        chunk = range(start, min(start + BATCH, len(claim.pairs)))
        yield from _try_chunk(claim, chunk, leases, held)
    claim.maybe = held
    return leases


def _try_chunk(claim: Claim[L], chunk: range, leases: list[L | None], held: list[Pair]) -> Op[None]:
    """``leases`` grows by one entry for each key of the chunk, ``held`` by what is ours."""
    verb = "acquire_many"
    first: float | None = None
    failures = 0
    spelled_out = lacking = False
    while len(leases) < chunk.stop:
        rest = claim.pairs[len(leases) : chunk.stop]
        claim.maybe = [*held, *rest]
        failure: TransportError | None = None
        call = Call(verb, (rest, claim.ttl), len(rest), spelled_out=spelled_out)
        try:
            sent_at, replies = yield call
        except FastlockError as error:
            if not isinstance(error, TransportError):  # no connection to be had
                claim.maybe = [*held, *(() if first is None else rest)]
                raise
            failure = error
            sent_at, replies = error.sent_at, error.replies
        asking = verb == "ask_many"
        for place, reply in enumerate(replies):
            index = len(leases)
            if asking and not spelled_out and wants_spelling_out(reply):
                spelled_out, lacking = True, lacks_command(reply)
            elif is_transient(reply):
                failure = failure or not_ready(reply)
            else:
                checked(reply, claim.keys[index])
                found = asked(reply, claim.pairs[index][1]) if asking else acquired(reply)
                lease: L | None = None
                if found is TAKEN:
                    lease = claim.lease(index, sent_at)
                elif found is OURS:
                    lease = yield from recognised(claim, index, first)
                if found is not OURS or lease is not None:
                    if lease is not None:
                        held.append(claim.pairs[index])
                    leases.append(lease)
                    continue
            # Not decided yet; what was answered behind it may have been taken.
            if place + 1 < len(replies):
                first, verb = sent_at if first is None else first, "ask_many"
            break
        if len(leases) < chunk.stop and (failure is None or failure.sent):
            first, verb = sent_at if first is None else first, "ask_many"
        if lacking and call.spelled_out:
            yield Downgrade()
            lacking = False
        if failure is not None:
            failures += 1
            claim.maybe = [*held, *(() if first is None else rest)]
            yield from back_off(claim, failures, None, failure, first is not None)


def release_many(leases: Sequence[HeldLease | None], retries: int) -> Op[list[bool]]:
    """Release each; True or False for each, in order, False for None.

    The first OutcomeUnknown or ServerError is raised after all have been tried; those
    leases may be released again.
    """
    results: list[bool] = [False] * len(leases)
    rest = [(place, lease) for place, lease in enumerate(leases) if lease and not lease.over]
    failures = 0
    spelled_out = lacking = False
    trouble: OutcomeUnknown | ServerError | None = None
    while rest:
        chunk = rest[:BATCH]
        before = [lease.doubt for _, lease in chunk]
        for _, lease in chunk:
            lease.doubt = True
        call = Call("release_many", ([lease.pair for _, lease in chunk],), len(chunk))
        call.spelled_out = spelled_out
        failure: TransportError | None = None
        sent = True
        try:
            _, replies = yield call
        except FastlockError as error:
            if not isinstance(error, TransportError):
                for (_, lease), doubt in zip(chunk, before, strict=True):
                    lease.doubt = doubt
                raise
            failure, sent, replies = error, error.sent, error.replies
        now = yield Now()
        again = []
        if lacking and replies and not isinstance(replies[0], ServerError):
            yield Downgrade()
        spelled_out = lacking = False
        for index, ((place, lease), doubt) in enumerate(zip(chunk, before, strict=True)):
            reply = replies[index] if index < len(replies) else failure
            lease.doubt = doubt
            if isinstance(reply, TransportError):
                lease.doubt = doubt or sent
                again.append((place, lease))
            elif wants_spelling_out(reply) and not call.spelled_out:
                spelled_out, lacking = True, lacks_command(reply)  # type: ignore[arg-type]
                again.append((place, lease))
            elif is_transient(reply):
                failure = failure or not_ready(reply)  # type: ignore[arg-type]
                again.append((place, lease))
            else:
                try:
                    checked(reply, lease.key)
                    results[place] = released(lease, reply, doubt, now)
                except (OutcomeUnknown, ServerError) as error:
                    trouble = trouble or error
        rest = again + rest[BATCH:]
        if failure is not None:
            failures += 1
            if failures > retries:
                for _, lease in rest:
                    if lease.doubt:
                        raise release_unknown(lease) from failure
                raise failure
            yield Backoff(failures, None)
    if trouble is not None:
        raise trouble
    return results


def acquire_all(claim: Claim[L]) -> Op[list[L]]:
    """All locks or none, tried until they are ours or the claim's deadline has passed."""
    verb = "acquire_all"
    failures = 0
    until = None if claim.until is None else claim.until + GRACE
    doubt = False  # an earlier try may have taken them
    while True:
        claim.maybe = claim.pairs
        call = Call(verb, (claim.pairs, claim.ttl), 1, until)
        try:
            sent_at, (reply,) = yield call
            if isinstance(reply, ServerError):
                sent_at, reply = yield from mended(call, sent_at, reply)
        except FastlockError as error:
            if isinstance(error, TransportError) and error.sent:
                verb, doubt = "ask_all", True
            if not doubt:
                claim.maybe = ()
            if not isinstance(error, TransportError):
                raise
            failures += 1
            yield from back_off(claim, failures, until, error, doubt)
            continue
        failures = 0
        if reply == 1:
            return [claim.lease(index, sent_at) for index in range(len(claim.pairs))]
        if not doubt or not isinstance(reply, ServerError):
            claim.maybe, doubt = (), False
        checked(reply, claim.keys[0])
        if claim.until is not None and sent_at >= claim.until:
            raise AcquireTimeout(
                f"some of {len(claim.keys)} locks were still held by somebody else when the "
                "timeout ended; none was taken",
                claim.keys[0],
            )
        yield WaitFor(claim.pairs[0][0], claim.until)
        verb = "ask_all"  # which also finds out that a key holds something else than a lock


def settle(pairs: Sequence[Pair], until: float) -> Op[None]:
    """Give back what may be ours, in the background, as long as it could still be there.

    Raises ServerError when the server refuses for good: then the ttl must do.
    """
    failures = 0
    spelled_out = False
    while True:
        try:
            for start in range(0, len(pairs), BATCH):
                call = give_back(pairs[start : start + BATCH])
                if spelled_out:
                    call.verb, call.spelled_out = "release_many", True
                _, replies = yield call
                for reply in replies:
                    if is_transient(reply):
                        raise not_ready(reply)
                    if wants_spelling_out(reply) and not spelled_out:
                        spelled_out = True
                        raise TransportError(f"in other words: {reply}")
                    checked(reply, "of several" if len(pairs) > 1 else pairs[0][0])
            return
        except TransportError:
            failures += 1
        if (yield Backoff(failures, until)) >= until:
            return


def give_back(pairs: Sequence[Pair]) -> Call:
    """Release whatever of these is ours."""
    return Call("give_back", (pairs,), len(pairs))
