"""Floor 2, what an operation asks of its driver. sync.py and aio.py carry it out.

Law: a value and no more. An operation yields it and is sent what came of it:

    Call(verb, args, ...)   -> (time before sending, list of replies), or throws
                               TransportError with ``.sent_at`` (seconds) added
    Confirmed(verb, ...)    -> the same; ``.confirmed`` says how many replicas have it
    Backoff(n, until)       -> now, after the n-th failure's pause, at most ``until``
    WaitFor(keys, until)    -> now, when it is our turn and the keys may have become free, at
                               most ``until``; whoever yields it calls its ``leave``
    Now()                   -> now
    Downgrade(verb)         -> now; this connection runs a script for it from here on
    Distrust()              -> now; this connection has ended

Times are seconds on fastlock's clock.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

if TYPE_CHECKING:
    from ._claim import Claim
    from ._handover import Verdict

T = TypeVar("T")
Op = Generator[Any, Any, T]


class Call:
    """Send one verb of ``_commands`` and wait for its ``count`` replies."""

    __slots__ = ("args", "count", "late", "left", "spelled_out", "until", "verb")

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
        self.late = False  # its parts were sent at different times, the first of them as told
        self.left = True  # False while it surely has not left: it waits for a connection


#: Seconds before a caller's deadline by which WAIT ends: for its answer to arrive.
ANSWERING = 0.5


class Confirmed(Call):
    """A Call with one reply, on a connection that nobody else uses, with WAIT right behind it.

    WAIT speaks of what its own connection wrote last: so its answer says something of this command
    only where that one's reply says that it has written. ``confirmed`` is that answer, a number or
    an error.
    """

    __slots__ = ("confirmed", "patience", "wanted")

    confirmed: Any
    wanted: int  # replicas
    patience: int  # ms that WAIT may last

    def lasts(self, now: float) -> int:
        """ms that WAIT may last if it is sent now; never 0, which would be for ever."""
        if self.until is None:
            return self.patience
        return max(1, min(self.patience, int((self.until - ANSWERING - now) * 1000)))


class Backoff:
    """Pause before the next connection, after failure number ``failures`` in a row."""

    __slots__ = ("failures", "until")

    def __init__(self, failures: int, until: float | None) -> None:
        self.failures = failures
        self.until = until


class Standing(Protocol):
    """A waiter's place in the line of its client; see ``_queue``."""

    def got(self, lease: Any) -> None: ...
    def heard(self) -> None: ...
    def leave(self) -> None: ...
    def alarm(self) -> None: ...


class WaitFor:
    """Wait until the keys may have become free; one key's, if ``lined``, each in turn.

    Yielded again and again while one waits. ``place`` is the driver's: it is left, whatever
    ends the waiting, by ``leave()``; ``alarm()`` before that lets the others of the line try, whose
    turn it is not. A lease of the same client may be handed over to ``claim`` meanwhile, if that is
    given: what came of it is the ``verdict``, if anything did. ``turn`` is a key that is there as
    long as others are to have the keys first.
    """

    __slots__ = ("asked", "claim", "keys", "lined", "place", "tried", "turn", "until", "verdict")

    def __init__(
        self,
        keys: Sequence[bytes],
        until: float | None,
        lined: bool = True,
        claim: Claim[Any] | None = None,
    ) -> None:
        self.keys = keys
        self.until = until
        self.lined = lined
        self.claim = claim
        self.verdict: Verdict | None = None
        self.tried = False  # whether it was refused
        self.asked = False  # and by a try that would have found that no lock is there
        self.turn: bytes | None = None  # what ends before it is worth while to look at the keys
        self.place: Standing | None = None

    def got(self, lease: Any) -> None:
        """It was worth waiting."""
        if self.place is not None:
            self.place.got(lease)

    def leave(self) -> None:
        """Stand in line no more. May be repeated."""
        if self.place is not None:
            self.place.leave()

    def alarm(self) -> None:
        """There is trouble that everybody should meet."""
        if self.place is not None:
            self.place.alarm()


class Now:
    """Ask the time."""

    __slots__ = ()


class Downgrade:
    """This user may not use the server's own command for the verb, but a script."""

    __slots__ = ("verb",)

    def __init__(self, verb: str) -> None:
        self.verb = verb


class Distrust:
    """The connection gave an answer that the command cannot have."""

    __slots__ = ()
