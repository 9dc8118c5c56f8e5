"""Floor 2, one acquisition: what is wanted, and at every moment what may be ours by now.

Law: whatever leaves an acquire early must leave the lock not held. So the claim says before each
sending what the server may hold for us after it, and its driver gives that back.

Times are seconds on fastlock's clock, ttls on the wire are milliseconds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Generic, Protocol, TypeVar

from ._args import NO_EXPIRY
from ._effects import Call, Op
from ._replies import checked
from ._tokens import Pair

#: Verbs of a first try, which need no spelling out; answered by ``acquired``.
PLAIN = ("acquire", "acquire_unending")


class HeldLease(Protocol):
    """What operations read and write of a lease."""

    key: str | bytes
    ttl: float
    deadline: float
    pair: Pair
    since: Any  # when it began, if its deadline and ttl do not tell; else None
    number: int
    doubt: int  # see _doubt
    over: bool
    freed: bool


L = TypeVar("L", bound=HeldLease)


#: generation, keys, pairs, replies, ttl in ms, deadline -> for each OK a lease, for each nil
#: None; up to any other reply.
Make = Callable[
    [int, Sequence[str | bytes], Sequence[Pair], Sequence[Any], int, float], list["L | None"]
]
#: What each try that took a lock is answered by.
OK = (b"OK",)


class Claim(Generic[L]):
    """One acquisition of one or more locks: what is wanted, and what may be ours by now."""

    __slots__ = (
        "first", "generation", "keys", "make", "pairs", "possible", "renewed", "retries", "ttl",
        "until",
    )  # fmt: skip

    plain: tuple[str, str] = PLAIN  #: verbs of a first try: with a ttl, and without any
    asking = "ask"  #: the verb that recognises an earlier try
    giving_back = "give_back"  #: the verb that gives back what is ``maybe`` ours
    #: The verb that hands the lock over to it, answered by ``handed``; None: it must try itself.
    handing: str | None = "hand_over"
    numbered = False  #: whether its leases have fencing numbers
    #: What is done with a lease that was just got, before its caller has it; None: nothing.
    confirm: Callable[[Any], Op[None]] | None = None

    def __init__(
        self,
        keys: Sequence[str | bytes],
        pairs: Sequence[Pair],
        ttl: int,
        until: float | None,
        retries: int,
        make: Make[L],
        generation: int = 0,
    ) -> None:
        self.generation = generation  # of processes: another one's claim is not ours
        self.keys = keys  # as the caller wrote them
        self.pairs = pairs
        self.ttl = ttl  # ms, or NO_EXPIRY
        self.until = until  # s; None: no deadline
        self.retries = retries
        self.make = make
        self.renewed = False  # whether its leases are to be renewed by themselves
        self.possible = 0  # of the first so many the server may hold some for us
        self.first: float | None = None  # when the oldest try without an answer was sent

    def call(
        self, verb: str, args: tuple[Any, ...], count: int = 1, until: float | None = None
    ) -> Call:
        """How its tries are sent, and the extension of a lock that an earlier one took."""
        return Call(verb, args, count, until)

    @property
    def span(self) -> float:
        """Seconds from a sending to the deadline."""
        return span(self.ttl)

    @property
    def maybe(self) -> Sequence[Pair]:
        """What the server may hold for us, and perhaps what somebody else holds."""
        return self.pairs[: self.possible]

    def leases(self, start: int, replies: Sequence[Any], sent_at: float) -> list[L | None]:
        """What the answers to tries from ``start`` on mean, up to the first unusual one."""
        end = start + len(replies)
        keys, pairs = self.keys[start:end], self.pairs[start:end]
        until = deadline(sent_at, self.ttl)
        return self.make(self.generation, keys, pairs, replies, self.ttl, until)

    def lease(self, index: int, sent_at: float, reply: Any = None) -> L:
        """This one was taken by what was sent then; the reply said so."""
        (lease,) = self.leases(index, OK, sent_at)
        return lease  # type: ignore[return-value]

    def all_leases(self, sent_at: float, reply: Any) -> list[L]:
        """All were taken by what was sent then; the reply said so."""
        return self.leases(0, OK * len(self.pairs), sent_at)  # type: ignore[return-value]

    def checked(self, reply: Any, index: int = 0) -> Any:
        """The reply, unless it is a server error: raised, with the key named."""
        return checked(reply, self.keys[index])

    def last_trace(self, now: float) -> float:
        """Until when the server may still hold what was sent by ``now``."""
        return now + (float("inf") if self.ttl == NO_EXPIRY else self.ttl / 1000)


def deadline(sent_at: float, ttl: int) -> float:
    """When a lease surely still holds until: the ttl counts from before the sending.

    The margin of 1 % + 2 ms for clocks that tick at different speed is the one of the
    Redlock description (https://redis.io/docs/latest/develop/clients/patterns/distributed-locks).
    """
    return sent_at + span(ttl)


def span(ttl: int) -> float:
    """Seconds from the sending to the deadline."""
    return float("inf") if ttl == NO_EXPIRY else ttl / 1000 - margin(ttl)


def margin(ttl: float) -> float:
    """Seconds by which a deadline is earlier than ``ttl`` ms."""
    return ttl / 100_000 + 0.002
