"""Floor 2, locks on several independent servers: what a majority of answers means.

Law: that of ``_ops.py``: no clock, no randomness, no sockets, no threads, no asyncio. A lock is
held by the token of one try on more than half of the nodes. What a node may hold that was not
heard is given back. The effects are those of ``_quorum_polls.py``.

Times are seconds on fastlock's clock, ttls on the wire are milliseconds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Generic, TypeVar

from ._claim import deadline
from ._doubt import UNDER_WAY
from ._effects import Backoff, Now, Op
from ._quorum_polls import AT_ONCE, Answer, GiveBack, Pause, Poll, Tally, heard, majority_of
from ._replies import checked, extended
from .errors import (
    AcquireTimeout,
    FastlockError,
    LockLost,
    OutcomeUnknown,
    ServerError,
    TransportError,
)

L = TypeVar("L")


# ------------------------------------------------------------------ acquire


class QuorumClaim(Generic[L]):
    """One acquisition: what is wanted, and at every moment what nodes may hold for it."""

    def __init__(
        self,
        key: str | bytes,
        ttl: int,
        until: float | None,
        nodes: int,
        token: Callable[[], bytes],
        make: Callable[[str | bytes, bytes, int, float, Votes], L],
        generation: int,
    ) -> None:
        self.key = key  # as the caller wrote it
        self.ttl = ttl  # ms
        self.until = until  # s; None: no deadline
        self.nodes = nodes
        self.majority = majority_of(nodes)
        self.generation = generation  # of processes
        self._draw = token
        self._make = make
        self.token = b""
        self.touched: set[int] = set()  # nodes that may hold the token

    def begin(self) -> Poll:
        """A try with a token of its own: what an earlier one left cannot free this one's."""
        self.touched.clear()
        self.token = self._draw()
        return Poll(
            "acquire", self.key, (self.token, self.ttl), range(self.nodes), self.majority,
            taken, self.until, self.ttl, self.touched,
        )  # fmt: skip

    def lease(self, until: float, voted: Iterable[int]) -> L:
        """Held until ``until``, by the votes of the nodes ``voted``."""
        votes = Votes(self.nodes, self.touched, voted, self.ttl)
        return self._make(self.key, self.token, self.ttl, until, votes)

    def trace(self, now: float) -> GiveBack:
        """What nodes may hold now is freed; to be called once the token is given up."""
        until = now + self.ttl / 1000
        return GiveBack(self.key, self.token, sorted(self.touched), until, self.generation)


def taken(reply: Any) -> bool:
    """Whether the node has given its vote."""
    return bool(reply == b"OK")


def try_acquire(claim: QuorumClaim[L]) -> Op[L | None]:
    """One round: the lease, or None when a majority answered and was not ours."""
    lease, _, tally = yield from _round(claim)
    if lease is None:
        failure = _unanswered(claim, tally)
        if failure is not None:
            raise failure
    return lease


def acquire(claim: QuorumClaim[L]) -> Op[L]:
    """Rounds until a majority is ours or the claim's deadline has passed.

    Nodes that cannot be reached may come back until then; a majority that refuses by an error
    will not change its mind.
    """
    while True:
        lease, sent_at, tally = yield from _round(claim)
        if lease is not None:
            return lease
        failure = _unanswered(claim, tally)
        if failure is not None and not isinstance(failure, (TransportError, OutcomeUnknown)):
            raise failure
        if claim.until is not None and sent_at >= claim.until:
            raise failure or AcquireTimeout(
                f"{claim.key!r}: {tally.yes} of {claim.nodes} nodes could be had when the timeout "
                f"ended, and {claim.majority} are a majority",
                claim.key,
            )
        yield Pause(claim.until, claim)


def _round(claim: QuorumClaim[L]) -> Op[tuple[L | None, float, Tally]]:
    """The lease or None, the time before sending, and what was answered."""
    sent_at, answers = yield from heard(claim.begin())
    now = yield Now()
    for answer in answers:
        if answer.heard and answer.reply is None:
            claim.touched.discard(answer.node)  # it has surely not taken the token
    tally = Tally(answers, taken)
    until = deadline(sent_at, claim.ttl)
    if tally.yes >= claim.majority and now < until:
        voted = [a.node for a in answers if a.heard and taken(a.reply)]
        return claim.lease(until, voted), sent_at, tally
    if claim.touched:
        yield claim.trace(now)
        claim.touched.clear()
    return None, sent_at, tally


def _unanswered(claim: QuorumClaim[L], tally: Tally) -> FastlockError | None:
    """The error when no majority has said yes or no."""
    if tally.yes + tally.no >= claim.majority:
        return None
    if tally.refusal is not None and claim.nodes - tally.permanent < claim.majority:
        return _refusal(tally.refusal, claim.key)
    text = f"{claim.key!r} is not held by this caller: {tally.why()}"
    if tally.yes + tally.silent >= claim.majority:
        return _from(
            tally, OutcomeUnknown(f"{text}; what may have arrived is given back", claim.key)
        )
    return _from(tally, TransportError(text, sent=bool(tally.silent)))


def _refusal(error: FastlockError, key: str | bytes) -> FastlockError:
    """A server's error with the key named and no token."""
    try:
        checked(error, key)
    except ServerError as named:
        return named
    return error


E = TypeVar("E", bound=FastlockError)


def _from(tally: Tally, error: E) -> E:
    error.__cause__ = tally.error
    return error


# ------------------------------------------------------------------ release


class Votes:
    """What is known of a lease, by node, over all calls of it.

    ``holders`` may have the token, ``voted`` have said so; ``ttl`` in ms.
    """

    __slots__ = ("beside", "freed", "given", "gone", "longest", "nodes", "unheard", "voted")

    def __init__(self, nodes: int, holders: Iterable[int], voted: Iterable[int], ttl: int) -> None:
        self.nodes = nodes
        self.voted: set[int] = set(voted)  # when last heard of, before any release
        self.freed: set[int] = set()  # by us
        #: It was not ours there before anything of us could free it, or has never been.
        self.gone: set[int] = set(range(nodes)).difference(holders)
        self.unheard: set[int] = set()  # something may have freed it there, and was not heard
        self.given: set[int] = set()  # the background frees it there
        self.longest = ttl  # ms; the most that any node was told
        #: Node -> the fewest ms that it may still be told by renewals, whose connection is not
        #: that of extensions by hand: behind any of these.
        self.beside: dict[int, int] = {}

    def learn(self, answers: Iterable[Answer]) -> None:
        """Answers to an extension: who could carry it out has the token."""
        for answer in answers:
            if answer.heard and not isinstance(answer.reply, ServerError):
                if extended(answer.reply):
                    self.voted.add(answer.node)
                else:
                    self.voted.discard(answer.node)

    def may_land(self, nodes: Iterable[int], ttl: int) -> None:
        """A renewal that these nodes have not answered, and that another connection may pass."""
        for node in nodes:
            self.beside[node] = min(ttl, self.beside.get(node, ttl))

    def lasting(self, answers: Iterable[Answer], ttl: int) -> int:
        """Ms for which some majority keeps what it was extended to; 0 without one."""
        kept = sorted(
            min(ttl, self.beside.get(answer.node, ttl))
            for answer in answers
            if answer.heard and extended(answer.reply)
        )
        majority = majority_of(self.nodes)
        return kept[-majority] if len(kept) >= majority else 0

    def hear(self, answer: Answer, now: float, until: float) -> None:
        """One answer to a release; ``until`` is the lease's deadline."""
        node = answer.node
        if not answer.heard:
            if answer.sent:
                self.unheard.add(node)
        elif isinstance(answer.reply, ServerError):
            pass  # surely not done
        elif answer.reply == 1:
            self.freed.add(node)
        elif node in self.unheard and node in self.voted and now < until:
            self.freed.add(node)  # it was there, and what went unheard is why it is no more
        elif node not in self.unheard:
            self.gone.add(node)  # behind one that was not heard it would say nothing

    def open(self) -> list[int]:
        """The nodes that may hold it."""
        return [n for n in range(self.nodes) if n not in self.freed and n not in self.gone]

    def verdict(self) -> bool | None:
        """True: a majority was freed. False: no majority can have been. None: nobody knows."""
        if len(self.freed) >= majority_of(self.nodes):
            return True
        sure = len(self.gone - self.unheard)
        return False if self.nodes - sure < majority_of(self.nodes) else None


def rest_of(lease: Any, now: float) -> GiveBack | None:
    """What nodes may still hold of a lease that is given up; None: the background sees to it.

    Whoever has carried it out adds its nodes to ``given``.
    """
    votes: Votes = lease.votes
    left = votes.open()
    if lease.freed or votes.given.issuperset(left):
        return None
    votes.unheard.update(left)
    until = now + votes.longest / 1000
    return GiveBack(lease.key, lease.pair[1], left, until, lease._generation)


def _give_back(lease: Any, now: float) -> Op[None]:
    rest = rest_of(lease, now)
    if rest is not None:
        yield rest
        lease.votes.given.update(rest.nodes)


def freed(reply: Any) -> bool:
    """Whether the node has freed it."""
    return bool(reply == 1)


def release(lease: Any, retries: int) -> Op[bool]:
    """True: freed by us on a majority. False: it was no longer ours. OutcomeUnknown: nobody knows.

    Every node is told. Those that were not heard are asked again in the background.
    """
    votes: Votes = lease.votes
    token = lease.pair[1]
    failures = 0
    lease.doubt = lease.doubt or UNDER_WAY
    majority, ttl = majority_of(votes.nodes), round(lease.ttl * 1000)
    while True:
        poll = Poll("release", lease.key, (token,), votes.open(), majority, freed, AT_ONCE, ttl)
        try:
            _, answers = yield from heard(poll)
            now = yield Now()
            for answer in answers:
                votes.hear(answer, now, lease.deadline)
        except BaseException:
            votes.unheard |= poll.touched - votes.freed - votes.gone
            lease.doubt = bool(votes.unheard)
            raise
        verdict = votes.verdict()
        failures += 1
        if verdict is not None or failures > retries or now >= lease.deadline:
            break
        yield Backoff(failures, lease.deadline)
    lease.doubt = True
    yield from _give_back(lease, now)
    if verdict is None:
        raise OutcomeUnknown(
            f"{lease.key!r}: {Tally(answers, freed).why()}, so whether a majority was freed by "
            "this release cannot be known; what is left is freed in the background, or ends with "
            "its ttl",
            lease.key,
        )
    lease.over, lease.freed = True, lease.freed or verdict
    lease.doubt = False
    return verdict


# ------------------------------------------------------------------ extend


def extend(lease: Any, ttl: int, retries: int, now: float) -> Op[None]:
    """Replace the ttl on a majority, else LockLost; ``ttl`` in ms.

    Until a majority has done it, the lease counts with the earliest deadline that any node may
    have by then; behind a renewal that may still land, for no longer than that may leave.
    """
    votes: Votes = lease.votes
    majority = majority_of(votes.nodes)
    before = lease.deadline
    reached: set[int] = set()  # over all rounds
    failures = 0
    while True:
        lease.deadline = min(lease.deadline, deadline(now, ttl))
        votes.longest = max(votes.longest, ttl)
        asked = votes.open()
        words, shorter = (lease.pair[1], ttl), min(ttl, round(lease.ttl * 1000))
        poll = Poll("extend", lease.key, words, asked, majority, extended, AT_ONCE, shorter)
        try:
            sent_at, answers = yield from heard(poll)
        finally:
            reached |= poll.touched
        now = yield Now()
        votes.learn(answers)
        tally, verdict = Tally(answers, extended), renewed(answers, majority)
        until = deadline(sent_at, votes.lasting(answers, ttl))
        if verdict and now < until:
            lease.deadline, lease.ttl = until, ttl / 1000
            return
        if verdict is False or now >= lease.deadline:
            lease.over = True
            yield from _give_back(lease, now)
            raise LockLost(
                f"{lease.key!r} is no longer held by this lease: {tally.yes} of {votes.nodes} "
                f"nodes could extend it, and {majority} are a majority",
                lease.key,
            )
        if not reached:
            lease.deadline = before
        failures += 1
        if failures <= retries:
            now = yield Backoff(failures, lease.deadline)
            continue
        if not reached:
            raise _from(tally, TransportError(f"{lease.key!r}: {tally.why()}"))
        raise _from(
            tally,
            OutcomeUnknown(
                f"{lease.key!r}: {tally.why()}, so no majority is known to have extended it; the "
                "lease counts with the earlier deadline",
                lease.key,
            ),
        )


def renewed(answers: Sequence[Answer], majority: int) -> bool | None:
    """What an extension came to: True: a majority. False: it is lost. None: not known yet."""
    tally = Tally(answers, extended)
    if tally.yes >= majority:
        return True
    return False if len(answers) - tally.no < majority else None


# ------------------------------------------------------------------ questions


def locked(key: str | bytes, nodes: int) -> Op[bool]:
    """Whether a majority of nodes has the key; TransportError if too few said so either way."""
    majority = majority_of(nodes)
    _, answers = yield from heard(Poll("locked", key, (), range(nodes), majority, freed))
    tally = Tally(answers, freed)
    if tally.yes >= majority:
        return True
    if tally.no > nodes - majority:
        return False
    if tally.refusal is not None:
        raise _refusal(tally.refusal, key)
    raise _from(tally, TransportError(f"{key!r}: {tally.why()}", sent=True))
