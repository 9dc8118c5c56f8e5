"""Floor 2: the life of a lock, as generators. What to send, when to wait, what an answer means.

Law: no clock, no randomness, no sockets, no threads, no asyncio. An operation yields
an effect and is sent what came of it; sync.py and aio.py carry effects out:

    Call(verb, args, ...)   -> (time before sending, list of replies), or throws
                               TransportError with ``.sent_at`` (seconds) added
    Backoff(n, until)       -> now, after the n-th failure's pause, at most ``until``
    WaitFor(key, until)     -> now, when the key may have become free, at most ``until``
    Now()                   -> now

Times are seconds on fastlock's clock, ttls on the wire are milliseconds.

Whatever leaves an acquire early must leave the lock not held: its Claim says at every
moment what the server may hold on our behalf, and the driver gives that back.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import Any, Generic, Protocol, TypeVar

from ._commands import TRANSIENT, Pair, asked, checked, wants_spelling_out
from .errors import AcquireTimeout, LockLost, OutcomeUnknown, ServerError, TransportError

T = TypeVar("T")
Op = Generator[Any, Any, T]

#: Commands one Call sends at once: about 1 MB of bytes, and one deadline for all.
BATCH = 10_000
#: Seconds an answer may take after the caller's own deadline, for the last try is
#: sent at that deadline.
GRACE = 1.0


class Call:
    """Send one verb of ``_commands`` and wait for its ``count`` replies."""

    __slots__ = ("args", "count", "refused", "spelled_out", "until", "verb")

    def __init__(
        self,
        verb: str,
        args: tuple[Any, ...],
        count: int = 1,
        until: float | None = None,
        spelled_out: bool = False,
    ) -> None:
        self.verb = verb
        self.args = args
        self.count = count
        self.until = until  # the caller's deadline; None: only the socket's timeout
        self.spelled_out = spelled_out  # in the dialect that needs nothing of the server
        self.refused = False  # this user may not use the server's own commands


class Backoff:
    """Pause before the next connection, after failure number ``failures`` in a row."""

    __slots__ = ("failures", "until")

    def __init__(self, failures: int, until: float | None) -> None:
        self.failures = failures
        self.until = until


class WaitFor:
    """Wait until the key may have become free."""

    __slots__ = ("key", "until")

    def __init__(self, key: bytes, until: float | None) -> None:
        self.key = key
        self.until = until


class Now:
    """Ask the time."""

    __slots__ = ()


class HeldLease(Protocol):
    """What operations read and write of a lease."""

    key: str | bytes
    ttl: float
    deadline: float
    pair: Pair
    doubt: bool
    over: bool


L = TypeVar("L", bound=HeldLease)


class Claim(Generic[L]):
    """One acquisition of one or more locks: what is wanted, and what may be ours by now."""

    __slots__ = ("keys", "make", "maybe", "pairs", "retries", "ttl", "until")

    def __init__(
        self,
        keys: Sequence[str | bytes],
        pairs: Sequence[Pair],
        ttl: int,
        until: float | None,
        retries: int,
        make: Callable[[str | bytes, Pair, int, float], L],
    ) -> None:
        self.keys = keys  # as the caller wrote them
        self.pairs = pairs
        self.ttl = ttl  # ms
        self.until = until  # s; None: no deadline
        self.retries = retries
        self.make = make
        self.maybe: Sequence[Pair] = ()  # what the server may hold for us

    def lease(self, index: int, sent_at: float) -> L:
        return self.make(self.keys[index], self.pairs[index], self.ttl, deadline(sent_at, self.ttl))


def deadline(sent_at: float, ttl: int) -> float:
    """When a lease surely still holds until: the ttl counts from before the sending.

    The margin of 1 % + 2 ms for clocks that tick at different speed is the one of the
    Redlock description (https://redis.io/docs/latest/develop/clients/patterns/distributed-locks).
    """
    return sent_at + ttl / 1000 - (ttl / 100_000 + 0.002)


# ------------------------------------------------------------------ one exchange


def _exchange(call: Call) -> Op[tuple[float, Any]]:
    """One verb, one reply; spelled out if the server lacks the script or the command."""
    sent_at, replies = yield call
    if wants_spelling_out(replies[0]):
        call.spelled_out = True
        call.refused = replies[0].code != "NOSCRIPT"
        sent_at, replies = yield call
    return sent_at, replies[0]


def _transient(reply: Any) -> TransportError | None:
    """A refusal that will pass is a failure to reach a working server."""
    if isinstance(reply, ServerError) and reply.code in TRANSIENT:
        return TransportError(f"the server is not ready: {reply}")
    return None


def ask(
    verb: str, args: tuple[Any, ...], key: str | bytes, retries: int, count: int = 1
) -> Op[Any]:
    """A question that may be repeated freely: its replies, checked."""
    failures = 0
    while True:
        try:
            _, replies = yield Call(verb, args, count)
            failure = _transient(replies[0])
            if failure is None:
                return [checked(reply, key) for reply in replies]
        except TransportError as error:
            failure = error
        failures += 1
        if failures > retries:
            raise failure
        yield Backoff(failures, None)


# ------------------------------------------------------------------ acquire


def try_acquire(claim: Claim[L]) -> Op[L | None]:
    """One try: the lease, or None when somebody else has the lock."""
    lease, _, _ = yield from _try(claim, "acquire")
    return lease


def acquire(claim: Claim[L]) -> Op[L]:
    """Tries until the lock is ours or the claim's deadline has passed."""
    verb = "acquire"
    until = claim.until
    while True:
        lease, refused_at, holder = yield from _try(claim, verb)
        if lease is not None:
            return lease
        if until is not None and refused_at >= until:
            raise AcquireTimeout(
                f"{claim.keys[0]!r} was still held by {holder} when the timeout ended",
                claim.keys[0],
            )
        yield WaitFor(claim.pairs[0][0], until)
        verb = "ask"  # which also finds out that the key holds something else than a lock


def _try(claim: Claim[L], verb: str) -> Op[tuple[L | None, float, str]]:
    """One try, repeated over lost connections until its outcome is known.

    Returns the lease or None, the time before sending, and the holder's label. The first
    try is a plain SET NX; repetitions carry the same token and ask whose the lock is, so
    that a try whose reply was lost is recognised.
    """
    first: float | None = None  # when the oldest try without an answer was sent
    failures = 0
    key, token = claim.pairs[0]
    until = None if claim.until is None else claim.until + GRACE
    while True:
        claim.maybe = claim.pairs
        try:
            sent_at, reply = yield from _exchange(Call(verb, (key, token, claim.ttl), 1, until))
            failure = _transient(reply)
        except TransportError as error:
            failure = error
            if error.sent:
                first = error.sent_at if first is None else first
                verb = "ask"
        if failure is None:
            if verb == "acquire":
                checked(_definite(claim, reply), claim.keys[0])
                if reply is not None:
                    return claim.lease(0, sent_at), sent_at, ""
                return None, sent_at, "somebody else"
            holder = asked(checked(_definite(claim, reply, token), claim.keys[0]), token)
            if holder is None:
                return claim.lease(0, sent_at), sent_at, ""
            if holder:
                return None, sent_at, holder
            lease = yield from _recognised(claim, sent_at if first is None else first)
            if lease is not None:
                return lease, sent_at, ""
            first, failures = None, 0
            continue
        if first is None:
            claim.maybe = ()
        failures += 1
        if failures > claim.retries:
            raise _given_up(claim, failure, first is not None)
        now = yield Backoff(failures, until)
        if until is not None and now >= until:
            raise _given_up(claim, failure, first is not None)


def _definite(claim: Claim[L], reply: Any, token: bytes | None = None) -> Any:
    """Note in the claim what a definite answer says: refused or failed means not ours."""
    if token is None:
        ours = reply is not None and not isinstance(reply, ServerError)
    else:
        ours = reply is None or reply == token
    if not ours:
        claim.maybe = ()
    return reply


def _recognised(claim: Claim[L], first: float) -> Op[L | None]:
    """An earlier try had taken the lock: count from its sending, or extend if that is over.

    A dead lease is never returned: None means it expired, so try anew.
    """
    lease = claim.lease(0, first)
    now = yield Now()
    if now < lease.deadline:
        return lease
    try:
        yield from extend(lease, claim.ttl, claim.retries, now)
    except LockLost:
        claim.maybe = ()
        return None
    return lease


def _given_up(claim: Claim[L], failure: TransportError, doubt: bool) -> Exception:
    if not doubt:
        return failure
    unknown = OutcomeUnknown(
        f"no answer about {claim.keys[0]!r} ({failure}); it is not held by this caller, and what "
        f"may have arrived is given back in the background or expires within its ttl",
        claim.keys[0],
    )
    unknown.__cause__ = failure
    return unknown


# ------------------------------------------------------------------ release, extend


def release(lease: HeldLease, retries: int) -> Op[bool]:
    """True: freed by us. False: it was no longer ours. OutcomeUnknown: cannot be known.

    When an answer was lost and the repetition finds the lock not ours, the lost one
    had freed it, provided that our own deadline has not passed.
    """
    failures = 0
    while True:
        failure: TransportError | None
        before = lease.doubt
        lease.doubt = True  # for whoever interrupts from here on
        try:
            _, reply = yield from _exchange(Call("release", lease.pair))
            failure = _transient(reply)
            if failure is not None:
                lease.doubt = before
        except TransportError as error:
            failure = error
            lease.doubt = before or error.sent
        if failure is None:
            if isinstance(reply, ServerError):
                lease.doubt = before
                checked(reply, lease.key)
            now = (yield Now()) if before else 0.0
            return _released(lease, reply, before, now)
        failures += 1
        if failures > retries:
            if lease.doubt:
                raise _release_unknown(lease) from failure
            raise failure
        yield Backoff(failures, None)


def _released(lease: HeldLease, reply: Any, doubt: bool, now: float) -> bool:
    lease.over = True
    if reply == 1:
        return True
    if not doubt:
        return False
    if now < lease.deadline:
        return True
    raise OutcomeUnknown(
        f"{lease.key!r}: the answer to a release was lost and the lease has ended since: whether "
        "it was freed or expired cannot be known",
        lease.key,
    )


def _release_unknown(lease: HeldLease) -> OutcomeUnknown:
    return OutcomeUnknown(
        f"{lease.key!r}: the answer to a release was lost; either it was freed or it expires "
        "within its ttl; release() may be called again",
        lease.key,
    )


def extend(lease: HeldLease, ttl: int, retries: int, now: float) -> Op[None]:
    """Replace the ttl if the lock is still ours, else LockLost.

    While an extension is unanswered, the deadline is the earliest it could leave.
    """
    failures = 0
    doubt = False
    before = lease.deadline
    while True:
        # An interrupt from here on leaves an extension that may have been carried out.
        earliest = min(before, deadline(now, ttl))
        lease.deadline = earliest
        try:
            sent_at, reply = yield from _exchange(Call("extend", (*lease.pair, ttl)))
            failure = _transient(reply)
        except TransportError as error:
            failure = error
            doubt = doubt or error.sent
        if failure is None:
            if reply in (b"OK", 1):
                lease.deadline, lease.ttl = deadline(sent_at, ttl), ttl / 1000
                return
            if not doubt:
                lease.deadline = before
            checked(reply, lease.key)
            lease.over = True
            raise LockLost(
                f"{lease.key!r} is no longer held by this lease: it expired, was deleted or "
                "taken over",
                lease.key,
            )
        if not doubt:
            lease.deadline = before
        failures += 1
        if failures > retries:
            if doubt:
                raise OutcomeUnknown(
                    f"{lease.key!r}: the answer to an extension was lost; the lease counts with "
                    "the earlier deadline",
                    lease.key,
                ) from failure
            raise failure
        yield Backoff(failures, None)


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
            sent_at, replies = yield Call("adopt", (pair[0],), 2)
        except TransportError:
            failures += 1
            if failures > retries:
                raise
            yield Backoff(failures, None)
            continue
        left, token = (checked(reply, key) for reply in replies)
        if token != pair[1]:
            raise LockLost(f"{key!r} is not held by that token", key)
        if left < 0:  # a lock without ttl, made by another library
            return make(key, pair, 0, float("inf"))
        return make(key, pair, left, deadline(sent_at, left))


# ------------------------------------------------------------------ many keys


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
    spelled_out = False
    while len(leases) < chunk.stop:
        rest = claim.pairs[len(leases) : chunk.stop]
        claim.maybe = [*held, *rest]
        failure: TransportError | None = None
        call = Call(verb, (rest, claim.ttl), len(rest), spelled_out=spelled_out)
        try:
            sent_at, replies = yield call
        except TransportError as error:
            failure = error
            sent_at, replies = error.sent_at, error.replies
        for reply in replies:
            index = len(leases)
            token = claim.pairs[index][1]
            if wants_spelling_out(reply) and not spelled_out:
                spelled_out = True
                break
            refusal = _transient(reply)
            if refusal is not None:
                failure = failure or refusal
                break
            checked(reply, claim.keys[index])
            counted_from = sent_at
            if verb == "acquire_many":
                ours = reply is not None
            else:
                holder = asked(reply, token)
                ours = not holder
                if holder == "" and first is not None:
                    counted_from = first
            if ours:
                held.append(claim.pairs[index])
            leases.append(claim.lease(index, counted_from) if ours else None)
        if len(leases) < chunk.stop and (failure is None or failure.sent):
            first = sent_at if first is None else first
            verb = "ask_many"
        if failure is None:
            continue
        failures += 1
        if failures > claim.retries:
            if first is None:
                claim.maybe = held
            raise _given_up(claim, failure, first is not None)
        yield Backoff(failures, None)


def release_many(leases: Sequence[HeldLease], retries: int) -> Op[list[bool]]:
    """Release each; True or False for each, in order.

    The first OutcomeUnknown or ServerError is raised after all have been tried; those
    leases may be released again.
    """
    results: list[bool] = [False] * len(leases)
    rest = [index for index, lease in enumerate(leases) if not lease.over]
    failures = 0
    spelled_out = False
    trouble: OutcomeUnknown | ServerError | None = None
    while rest:
        chunk = [leases[index] for index in rest[:BATCH]]
        before = [lease.doubt for lease in chunk]
        for lease in chunk:
            lease.doubt = True
        call = Call("release_many", ([lease.pair for lease in chunk],), len(chunk))
        call.spelled_out = spelled_out
        failure: TransportError | None = None
        sent = True
        try:
            _, replies = yield call
        except TransportError as error:
            failure, sent, replies = error, error.sent, error.replies
        now = yield Now()
        again = []
        spelled_out = False
        for place, (lease, doubt) in enumerate(zip(chunk, before, strict=True)):
            reply = replies[place] if place < len(replies) else failure
            if isinstance(reply, TransportError):
                lease.doubt = doubt or sent
                again.append(rest[place])
            elif wants_spelling_out(reply) and not call.spelled_out:
                lease.doubt = doubt
                spelled_out = True
                again.append(rest[place])
            elif _transient(reply):
                lease.doubt = doubt
                failure = failure or _transient(reply)
                again.append(rest[place])
            else:
                lease.doubt = doubt
                try:
                    checked(reply, lease.key)
                    results[rest[place]] = _released(lease, reply, doubt, now)
                except (OutcomeUnknown, ServerError) as error:
                    trouble = trouble or error
        rest = again + rest[BATCH:]
        if failure is not None:
            failures += 1
            if failures > retries:
                for index in rest:
                    if leases[index].doubt:
                        raise _release_unknown(leases[index]) from failure
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
    doubt = False
    while True:
        claim.maybe = claim.pairs
        try:
            sent_at, reply = yield from _exchange(Call(verb, (claim.pairs, claim.ttl), 1, until))
            failure = _transient(reply)
        except TransportError as error:
            failure = error
            if error.sent:
                verb, doubt = "ask_all", True
        if failure is None:
            failures = 0
            if reply == 1:
                return [claim.lease(index, sent_at) for index in range(len(claim.pairs))]
            if doubt:  # an earlier try may have taken them and lost some since
                yield from settle(claim.pairs, sent_at + claim.ttl / 1000)
            claim.maybe, doubt = (), False
            checked(reply, claim.keys[0])
            if claim.until is not None and sent_at >= claim.until:
                raise AcquireTimeout(
                    f"some of {len(claim.keys)} locks were still held by somebody else when the "
                    "timeout ended; none was taken",
                    claim.keys[0],
                )
            yield WaitFor(claim.pairs[0][0], claim.until)
            continue
        if not doubt:
            claim.maybe = ()
        failures += 1
        if failures > claim.retries:
            raise _given_up(claim, failure, doubt)
        now = yield Backoff(failures, until)
        if until is not None and now >= until:
            raise _given_up(claim, failure, doubt)


def settle(pairs: Sequence[Pair], until: float) -> Op[None]:
    """Give back what may be ours, in the background, as long as it could still be there."""
    failures = 0
    while True:
        try:
            for start in range(0, len(pairs), BATCH):
                yield give_back(pairs[start : start + BATCH])
            return
        except (TransportError, ServerError):
            failures += 1
        if (yield Backoff(failures, until)) >= until:
            return


def give_back(pairs: Sequence[Pair]) -> Call:
    """Release whatever of these is ours, on any server and whatever came before."""
    return Call("release_many", (pairs,), len(pairs), spelled_out=True)
