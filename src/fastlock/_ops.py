"""Floor 2: the life of a lock, as generators. What to send, when to wait, what an answer means.

Law: no clock, no randomness, no sockets, no threads, no asyncio. An operation yields an effect
(``_effects.py``) and is sent what came of it. What the server may hold meanwhile, its claim says
(``_claim.py``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ._args import NO_EXPIRY
from ._claim import OK, PLAIN, Claim, HeldLease, L, deadline
from ._doubt import SHARED, UNDER_WAY
from ._effects import Backoff, Call, Distrust, Downgrade, Now, Op, WaitFor
from ._handover import ASK, GIVEN, KEPT, SILENT, settle
from ._replies import (
    OURS,
    TAKEN,
    acquired,
    asked,
    checked,
    extended,
    is_nonsense,
    is_transient,
    is_unusual,
    lacks_command,
    lacks_native,
    not_ready,
    out_of_step,
    wants_spelling_out,
)
from ._tokens import Pair
from .errors import (
    AcquireTimeout,
    FastlockError,
    LockLost,
    OutcomeUnknown,
    ServerError,
    TransportError,
)

#: Seconds an answer may take after the caller's own deadline, for the last try is
#: sent at that deadline.
GRACE = 1.0


def answer_by(until: float | None, now: float) -> float | None:
    """When the answer to a try of now is waited for no longer; ``until`` is the caller's deadline.

    Who comes to its last try late, on a machine that stood still, needs an answer all the same.
    """
    return None if until is None else max(until, now) + GRACE


# ------------------------------------------------------------------ one exchange


def mended(call: Call, sent_at: float, unusual: Any) -> Op[tuple[float, Any]]:
    """What to make of an unusual reply: the answer after spelling the verb out, or itself.

    A refusal that will pass is a failure to reach a working server, and so is an answer that
    the command cannot have: TransportError.
    """
    yield from sensible(call, sent_at, unusual)
    reply = unusual
    if wants_spelling_out(unusual) and call.verb not in PLAIN:
        call.spelled_out = True
        sent_at, (reply,) = yield call
        yield from sensible(call, sent_at, reply)
        if not isinstance(reply, ServerError):
            if lacks_native(unusual):
                yield Downgrade(call.verb)
        elif lacks_command(unusual) and lacks_command(reply):
            reply = unusual  # it names the command that the user should have
    if is_transient(reply):
        raise not_ready(reply)
    return sent_at, reply


def sensible(call: Call, sent_at: float, reply: Any) -> Op[None]:
    """Nothing, if this may be the call's answer; else it is none, and the connection ends."""
    if is_nonsense(call.verb, reply) or (
        call.verb == "acquire_fenced_all"
        and type(reply) is list
        and len(reply) != len(call.args[0])
    ):
        yield Distrust()
        raise out_of_step(sent_at)


def ask(
    verb: str, args: tuple[Any, ...], key: str | bytes, retries: int, once: bool = False
) -> Op[Any]:
    """A question that may be repeated freely, unless it is said ``once``: its reply, checked."""
    failures = 0
    while True:
        try:
            call = Call(verb, args)
            sent_at, (reply,) = yield call
            if is_unusual(verb, reply):
                yield from sensible(call, sent_at, reply)
                if is_transient(reply):
                    raise not_ready(reply)
            return checked(reply, key)
        except TransportError as error:
            failures += 1
            if failures > retries or (once and error.sent):
                raise
        yield Backoff(failures, None)


def force_release(wire: bytes, key: str | bytes, retries: int) -> Op[bool]:
    """Delete the lock, whoever holds it. Sent once: a repetition could hit the next holder."""
    try:
        was = yield from ask("force_release", (wire,), key, retries, once=True)
        return was is not None
    except TransportError as error:
        if not error.sent:
            raise
        raise OutcomeUnknown(
            f"{key!r}: the answer to its forced release was lost; look who holds it before "
            "another try",
            key,
        ) from error


# ------------------------------------------------------------------ acquire


def try_acquire(claim: Claim[L]) -> Op[L | None]:
    """One try: the lease, or None when somebody else has the lock."""
    lease, _, _ = yield from _try(claim, claim.plain[claim.ttl == NO_EXPIRY])
    return lease


def acquire(claim: Claim[L], in_turn: bool = False) -> Op[L]:
    """Tries until the lock is ours or the claim's deadline has passed.

    The first try is sent at once, or ``in_turn`` behind those of this client who wait already.
    """
    verb = claim.plain[claim.ttl == NO_EXPIRY]
    handed = claim if claim.handing is not None and claim.ttl != NO_EXPIRY else None
    wait = WaitFor((claim.pairs[0][0],), claim.until, claim=handed)
    now = 0.0
    try:
        while True:
            doubt = False
            if in_turn:
                now = yield wait
                lease, doubt = _handed(claim, wait, now)
                if lease is not None:
                    wait.got(lease)
                    return lease
                verb = claim.asking  # which also finds out that the key holds no lock
            lease, refused_at, holder = yield from _try(claim, verb, doubt, now)
            if lease is not None:
                wait.got(lease)
                return lease
            if claim.until is not None and refused_at >= claim.until:
                raise AcquireTimeout(
                    f"{claim.keys[0]!r} was still held by {holder} when the timeout ended",
                    claim.keys[0],
                )
            in_turn = wait.tried = True
            wait.asked = verb not in PLAIN
    except (TransportError, ServerError, OutcomeUnknown):
        wait.alarm()
        raise
    finally:
        try:
            wait.leave()
        except BaseException:  # an interrupt: leaving twice does no harm
            wait.leave()
            raise


def acquire_in_turn(claim: Claim[L]) -> Op[L]:
    """``acquire`` for when others of this client wait for the lock already."""
    return acquire(claim, in_turn=True)


def _handed(claim: Claim[L], wait: WaitFor, now: float) -> tuple[L | None, bool]:
    """The lease that another one of this client was handed over as by ``now``; whether it may be
    one unheard.

    Then the hand-over is as a try whose reply was lost.
    """
    verdict, place = wait.verdict, wait.place
    if verdict is None or place is None:
        return None, False
    settle(claim, verdict)
    place.heard()
    wait.verdict = None
    if verdict.kind is GIVEN:
        return claim.lease(0, verdict.sent_at, verdict.reply), False
    if verdict.kind is KEPT:
        (lease,) = claim.make(
            claim.generation, claim.keys, claim.pairs, OK, claim.ttl, verdict.sent_at
        )
        assert lease is not None
        lease.since = now  # its deadline is the giver's, and does not tell
        return lease, False
    if verdict.kind is ASK and claim.first is None:
        claim.first = verdict.sent_at
    if verdict.kind is SILENT:
        error = TransportError("another caller was about to hand it over, and got no answer")
        raise acquire_unknown(claim, error) from error
    return None, verdict.kind is ASK


def _try(
    claim: Claim[L], verb: str, doubt: bool = False, now: float = 0.0
) -> Op[tuple[L | None, float, str]]:
    """One try, repeated over lost connections until its outcome is known.

    Returns the lease or None, the time before sending, and the holder's label. The first
    try is a plain SET NX; repetitions carry the same token and ask whose the lock is, so
    that a try whose reply was lost is recognised. Its age is that of the oldest one without
    an answer, from before a refusal too: where the server may not be told to end connections,
    that one can land after all. ``doubt``: something sent since the last refusal may have taken
    it unheard. ``now`` if its caller has waited.
    """
    failures = 0
    key, token = claim.pairs[0]
    until = answer_by(claim.until, now)
    while True:
        claim.possible = 1
        call = claim.call(verb, (key, token, claim.ttl), 1, until)
        try:
            sent_at, (reply,) = yield call
            if is_unusual(call.verb, reply):
                sent_at, reply = yield from mended(call, sent_at, reply)
        except FastlockError as error:
            if isinstance(error, TransportError) and error.sent:
                verb, doubt = claim.asking, True
                claim.first = error.sent_at if claim.first is None else claim.first
            if not doubt:
                claim.possible = 0
            if not isinstance(error, TransportError):  # no connection to be had: nothing was sent
                raise
            failures += 1
            yield from back_off(claim, failures, until, error, doubt)
            continue
        except BaseException:
            if not doubt and not call.left:
                claim.possible = 0
            raise
        found = acquired(reply) if verb in PLAIN else asked(reply, token)
        if found is TAKEN:
            lease: L | None = claim.lease(0, sent_at, reply)
        elif found is OURS:
            lease = yield from recognised(claim, 0, reply, claim.first, until)
            if lease is None:
                doubt, failures = False, 0
                continue
        else:
            if not doubt or not isinstance(reply, ServerError):
                claim.possible = 0
            claim.checked(reply)
            return None, sent_at, found
        if claim.confirm is not None:
            yield from claim.confirm(lease)
        return lease, sent_at, ""


def back_off(
    claim: Claim[L], failures: int, until: float | None, error: TransportError, doubt: bool
) -> Op[None]:
    """Pause before another attempt, or give up when retries or time are used up."""
    if failures <= claim.retries:
        now = yield Backoff(failures, until)
        if until is None or now < until:
            return
    if not doubt:
        raise error
    raise acquire_unknown(claim, error) from error


def acquire_unknown(claim: Claim[L], error: FastlockError) -> OutcomeUnknown:
    """The error when something may have been acquired and nothing certain was heard."""
    return OutcomeUnknown(
        f"no answer about {claim.keys[0]!r} ({error}); it is not held by this caller, and what "
        "may have arrived is given back in the background or ends with its ttl",
        claim.keys[0],
    )


def recognised(
    claim: Claim[L], index: int, reply: Any, first: float | None, until: float | None = None
) -> Op[L | None]:
    """An earlier try had taken the lock: count from its sending, or extend if that is over.

    ``first`` is when the oldest try without an answer was sent; None if there is none known.
    A dead lease is never returned: None means it expired, so try anew. The extension may
    take until ``until``; what it leaves in doubt is no lease: OutcomeUnknown, and the claim
    says it may be ours. A claim that is to ``confirm`` it has it extended in any case, for only
    what is written anew can be confirmed.
    """
    now = yield Now()
    lease = claim.lease(index, now if first is None else first, reply)
    known = first is not None or claim.ttl == NO_EXPIRY
    if now < lease.deadline and known and claim.confirm is None:
        return lease
    try:
        yield from extend(lease, claim.ttl, claim.retries, now, until, claim.call)
    except LockLost:
        return None
    except (TransportError, OutcomeUnknown) as error:
        raise acquire_unknown(claim, error) from error
    return lease


# ------------------------------------------------------------------ release, extend


def release(lease: HeldLease, retries: int, begun: bool = False) -> Op[bool]:
    """True: freed by us. False: it was no longer ours. OutcomeUnknown: cannot be known.

    When an answer was lost and the repetition finds the lock not ours, the lost one
    had freed it, provided that our own deadline has not passed. ``begun``: the first sending
    is under way, and the lease says so.
    """
    failures = 0
    lost = False  # an answer, of this call or of another that will not hear it
    sent = begun
    while True:
        lost = lost or lease.doubt is True
        if not lease.doubt:
            lease.doubt, begun = UNDER_WAY, True
        elif lease.doubt is UNDER_WAY and not begun:
            lease.doubt = SHARED
        if lease.freed and not sent:  # behind that: its token may be another lease's by now
            return False
        sent = False
        call = Call("release", lease.pair)
        try:
            sent_at, (reply,) = yield call
            if is_unusual(call.verb, reply):
                sent_at, reply = yield from mended(call, sent_at, reply)
                checked(reply, lease.key)
            lost = lost or lease.doubt is True
            now = (yield Now()) if lost else sent_at
            return released(lease, reply, lost, now)
        except OutcomeUnknown:
            raise
        except FastlockError as error:
            lost = lost or (isinstance(error, TransportError) and error.sent)
            unheard(lease, lost, begun)
            begun = False
            if not isinstance(error, TransportError):
                raise
            failures += 1
            if failures > retries:
                if lost:
                    raise release_unknown(lease) from error
                raise
        except BaseException:
            unheard(lease, lost or call.left, begun)
            raise
        yield Backoff(failures, None)


def unheard(lease: HeldLease, lost: bool, ours: bool) -> None:
    """Nobody will hear an answer to this sending, if it was one; ``ours``: UNDER_WAY is."""
    if lost:
        lease.doubt = True
    elif ours and lease.doubt is UNDER_WAY:
        lease.doubt = False


def released(lease: HeldLease, reply: Any, lost: bool, now: float) -> bool:
    """What an answer to a release means, if that to an earlier one was ``lost``."""
    decided, lease.over = lease.over, True
    if reply == 1 or (lost and not lease.freed and now < lease.deadline):
        lease.freed = True
        return True
    if lease.freed or decided or not lost:  # freed by another call, which was told so
        return False
    raise OutcomeUnknown(
        f"{lease.key!r}: the answer to a release was lost and the lease has ended since: whether "
        "it was freed or expired cannot be known",
        lease.key,
    )


def release_unknown(lease: HeldLease) -> OutcomeUnknown:
    """The error when the retries are used up and no answer has come."""
    return OutcomeUnknown(
        f"{lease.key!r}: the answer to a release was lost; either it was freed or it expires "
        "within its ttl; release() may be called again",
        lease.key,
    )


def extension_unknown(lease: HeldLease) -> OutcomeUnknown:
    """The error when the retries are used up and no answer has come."""
    return OutcomeUnknown(
        f"{lease.key!r}: the answer to an extension was lost; the lease counts with the earlier "
        "deadline",
        lease.key,
    )


def extend(
    lease: HeldLease,
    ttl: int,
    retries: int,
    now: float,
    until: float | None = None,
    sending: Callable[..., Call] = Call,
) -> Op[None]:
    """Replace the ttl if the lock is still ours, else LockLost; tried at most until ``until``.

    While an extension is unanswered, the deadline is the earliest it could leave.
    """
    failures = 0
    doubt = False
    before = lease.deadline
    while True:
        # An interrupt from here on leaves an extension that may have been carried out.
        lease.deadline = min(before, deadline(now, ttl))
        call = sending("extend", (*lease.pair, ttl), 1, until)
        try:
            sent_at, (reply,) = yield call
            if is_unusual(call.verb, reply):
                sent_at, reply = yield from mended(call, sent_at, reply)
        except FastlockError as error:
            doubt = doubt or (isinstance(error, TransportError) and error.sent)
            if not doubt:
                lease.deadline = before
            if not isinstance(error, TransportError):
                raise
            failures += 1
            if failures <= retries:
                paused = yield Backoff(failures, until)
                if until is None or paused < until:
                    continue
            if not doubt:
                raise
            raise extension_unknown(lease) from error
        if extended(reply):
            lease.deadline, lease.ttl = deadline(sent_at, ttl), ttl / 1000
            return
        if not doubt:
            lease.deadline = before
        checked(reply, lease.key)
        lease.over = True
        raise LockLost(
            f"{lease.key!r} is no longer held by this lease: it expired, was deleted or taken over",
            lease.key,
        )


def adopt(
    key: str | bytes,
    pair: Pair,
    retries: int,
    make: Callable[[str | bytes, Pair, int, float], L],
) -> Op[L]:
    """The lease of a token handed on by somebody else; LockLost if it holds no longer."""
    failures = 0
    while True:
        try:
            call = Call("adopt", (pair[0],), 2)
            sent_at, replies = yield call
            yield from sensible(call, sent_at, replies)
            if is_transient(replies[0]) or is_transient(replies[1]):
                raise not_ready(replies[0] if is_transient(replies[0]) else replies[1])
        except TransportError:
            failures += 1
            if failures > retries:
                raise
            yield Backoff(failures, None)
            continue
        left, token = (checked(reply, key) for reply in replies)
        if token != pair[1] or left in (-2, 0):  # -2: it was not there a moment before
            raise LockLost(f"{key!r} is not held by that token", key)
        if left == -1:  # a lock without ttl, made by another library
            return make(key, pair, 0, float("inf"))
        return make(key, pair, left, deadline(sent_at, left))
