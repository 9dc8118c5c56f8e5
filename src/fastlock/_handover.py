"""A lock that goes from one lease of a client to the first who waits: what both sides say.

Law: no I/O; no lock is taken and nothing blocks. Who takes a waiter out of its waiting, and who
speaks first about what came of it, are each decided by one operation on one dict: another thread,
or a signal's handler, may come in between any two. What is said is said before anybody is woken.

A waiter holds out an ``Offer``: give me the lock, under this token. It is taken by one
``Giving``, or closed by the waiter, whichever comes first. From then on both sides have one word
each, and the first word counts: the giver's verdict, or the waiter's GONE. So exactly one of them
sees to a token that the server may hold for nobody: the waiter, if it was told; else the giver.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple, Protocol
from weakref import ref

#: Verdicts. The lock is the waiter's, since a command sent at ``sent_at``.
GIVEN: Final = "given"
#: It may be: a command sent at ``sent_at`` or later may have been carried out unheard.
ASK: Final = "ask"
#: It is the waiter's under the giver's own token; nothing was sent.
KEPT: Final = "kept"
#: Verdicts by which the waiter surely has it.
HANDED: Final = (GIVEN, KEPT)
#: It is not, nor will it be: go on trying.
NOT: Final = "not"
#: The giver's word did not come in time; what it leaves it will give back.
SILENT: Final = "silent"
#: The waiter's word: it has left.
GONE: Final = "gone"

#: Seconds that who waits for a lease of its own client trusts in a hand-over, before the server
#: is asked to tell of other ends.
PATIENCE = 0.2
#: In a line of so many at most, everybody looks so often anyway, and need not be woken to become
#: the first of it.
SHORT = 32
#: How long a line holds back when others are to have their turn: so many round trips, but for no
#: shorter and no longer than this (seconds). Who is woken by the server tries within two.
TRIPS = 4
SHORTEST_PAUSE = 0.001
LONGEST_PAUSE = 0.05
#: Until so many times the length of its turn have passed, it lets those try first who have waited
#: for longer.
TURNS = 16


class Verdict(NamedTuple):
    """What came of a hand-over; compared by identity."""

    kind: str
    sent_at: float = 0.0  # before the command was sent; of KEPT: the new lease's deadline
    reply: Any = None  # of KEPT: the pair


SILENCE = Verdict(SILENT)
_GONE = Verdict(GONE)


class Run(NamedTuple):
    """How often in a row a lock was handed on in one client, and since when."""

    times: int
    began: float


class Turn(NamedTuple):
    """A turn of a client's line that has ended."""

    ended: float
    length: float  # seconds
    pause: float  # the longest that others need to try once they are woken

    def rest(self, now: float) -> float:
        """Seconds to hold back before a try: the longer ago, the fewer.

        The server wakes all who wait in an order of its own. If that alone decided, the same few
        would have the lock by turns.
        """
        since = now - self.ended
        if since < 2 * self.pause:
            return 2 * self.pause - since
        return self.pause * max(0.0, 1 - since / (TURNS * self.length))


class Waiter(Protocol):
    """A place in line, as far as a giver needs it."""

    offer: Offer | None
    run: Run | None

    def tell(self) -> None: ...


class Offer:
    """One waiter's readiness to be given the lock, while it waits once. ``claim`` is its own."""

    __slots__ = ("_giver", "_said", "claim")

    def __init__(self, claim: Any) -> None:
        self.claim = claim
        self._giver: dict[int, object] = {}  # [0]: who has taken it; None: the waiter closed it
        self._said: dict[int, Verdict] = {}  # [0]: the first word

    def taken_by(self, giver: object) -> bool:
        """Take the waiter out of its waiting. Whether that is ``giver``'s doing, also before."""
        return self._giver.setdefault(0, giver) is giver

    def is_of(self, giver: object) -> bool:
        """Whether ``giver`` has taken it."""
        return self._giver.get(0, self) is giver

    @property
    def taken(self) -> bool:
        """Whether a giver has taken it."""
        return self._giver.get(0) is not None

    def close(self) -> bool:
        """The waiter goes on by itself: whether it may, for nobody has taken this, nor will."""
        return self._giver.setdefault(0, None) is None

    def say(self, verdict: Verdict) -> bool:
        """Whether this is the first word; it stays so if it is repeated."""
        return self._said.setdefault(0, verdict) is verdict

    @property
    def verdict(self) -> Verdict | None:
        return self._said.get(0)

    def give_up(self) -> Verdict:
        """The waiter waits no longer for the giver's word."""
        verdict = None if self.say(_GONE) else self.verdict
        return verdict or SILENCE

    def leave(self) -> None:
        """The waiter is not there any more. What it was given is for its claim to give back."""
        if self.close() or self.say(_GONE):
            return
        if self.verdict is not None:
            settle(self.claim, self.verdict)


def settle(claim: Any, verdict: Verdict) -> None:
    """Have a claim say what the server may hold for it by this verdict. May be repeated."""
    if verdict.kind is KEPT:
        claim.pairs = [verdict.reply]
    if verdict.kind in (GIVEN, ASK, KEPT):
        claim.possible = 1


class Giving:
    """The giver's side of one hand-over.

    Whatever ends it, ``end`` is called, which may be repeated.
    """

    __slots__ = ("_ended", "_kept", "_said", "claim", "offer", "place", "run", "sent_at")

    def __init__(self) -> None:
        self.place: Waiter | None = None
        self.offer: Offer | None = None
        self.claim: Any = None
        self.run: Run | None = None
        self.sent_at: float | None = None  # when a command may first have left
        self._kept: Any = None  # the giver's lease, if it is over for that the token goes on
        self._said: Verdict | None = None
        self._ended = False  # the waiter was told, and there is nothing to be given back

    def take(self, place: Waiter) -> bool:
        """Take that waiter out of its waiting, if it stands there and waits."""
        offer = place.offer
        if offer is None:
            return False
        self.place, self.offer, self.claim = place, offer, offer.claim  # before: see ``end``
        return offer.taken_by(self)

    def given(self, sent_at: float, reply: Any) -> None:
        """The lock is the waiter's."""
        self._tell(Verdict(GIVEN, sent_at, reply))

    def kept(self, lease: Any, now: float, busy: Any) -> bool:
        """Let the token of ``lease`` be the waiter's from now on, if it may be; whether it is.

        Then a command that names the token would concern the waiter's lease: there may be none
        under way, nor come. So the lease ends first, and then it is looked whether anybody is about
        to send one; whoever is says so first, and looks then whether the lease has ended. ``busy``
        is true while leases are released or extended together.
        """
        claim = self.claim
        if claim.numbered or claim.renewed or lease._turn is not None or hasattr(lease, "number"):
            return False
        if not claim.ttl / 2000 <= lease.deadline - now <= claim.span:
            return False  # the server would keep the lock for much shorter or longer than asked
        self._kept = lease
        lease.over = lease.freed = True
        if not (lease.doubt or lease._turn is not None or busy):
            self._tell(Verdict(KEPT, lease.deadline, lease.pair))
        self._ended = self._has_kept()
        return self._ended

    def _has_kept(self) -> bool:
        """Whether the waiter was told; else the lease goes on."""
        said, offer = self._said, self.offer
        if said is not None and said.kind is KEPT and offer is not None and offer.say(said):
            return True
        lease, self._kept, self._said = self._kept, None, None
        if lease is not None:
            lease.over = lease.freed = False
        return False

    def unheard(self, sent_at: float) -> None:
        """It may be, since a command sent then, or later."""
        self._tell(Verdict(ASK, sent_at))

    def refused(self) -> None:
        """It is not, nor will it be."""
        self._tell(Verdict(NOT))

    def _tell(self, verdict: Verdict) -> None:
        if self._said is None:
            self._said = verdict
        self._pass_on()

    def _pass_on(self) -> None:
        assert self.place is not None
        assert self.offer is not None
        assert self._said is not None
        self.place.run = self.run
        self.offer.say(self._said)
        self.place.tell()

    @property
    def done(self) -> bool:
        """Whether the waiter was told that it has the lock, or may have."""
        return self._said is not None and self._said.kind is not NOT

    def end(self, client: Any, now: float) -> None:
        """Nothing more comes of it. What a waiter may have that had left before is given back."""
        if self._ended or self.offer is None or not self.offer.is_of(self):
            return
        if self._kept is not None:
            self._has_kept()
        if self._said is None:  # interrupted
            self._said = Verdict(NOT) if self.sent_at is None else Verdict(ASK, self.sent_at)
        self._pass_on()
        if self._said.kind in (GIVEN, ASK) and not self.offer.say(self._said):
            claim = self.claim
            client._give_back_pairs([claim.pairs[0]], claim.last_trace(now), claim.generation)


class Held(ref[Any]):
    """A lease that its client's line got, for as long as somebody has it."""

    __slots__ = ("key", "run", "since")

    key: bytes
    run: Run | None
    since: float  # when it was tried for; 0.0: it was handed over
