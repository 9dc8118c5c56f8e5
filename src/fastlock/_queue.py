"""Who of one client waits for which key: a line for each, first come first served.

Law: only the first of a line talks to the server. No lock is taken, nothing here blocks, and
each step is one operation on a dict or a deque: a signal's handler may come in anywhere, and
whoever is interrupted in the middle leaves a second time. For threads and for tasks alike: a
waiter brings the event that wakes it.

A place that leaves wakes the next, whatever made it leave. A line that is missing from ``lines``
for a moment, because its last waiter left when another came, is a line all the same.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from . import _fork
from ._handover import (
    LONGEST_PAUSE,
    PATIENCE,
    SHORT,
    SHORTEST_PAUSE,
    TRIPS,
    Giving,
    Held,
    Offer,
    Run,
    Turn,
)
from ._metrics import MeterLike
from ._rivals import Race, Rivals

_FOR_EVER = float("inf")
#: Seconds from a release's sending within which the next acquire comes at once.
AT_ONCE = 0.005


class News(Protocol):
    """What wakes a waiter: an event that is set once."""

    def set(self) -> None: ...


class Place:
    """Where one waiter stands. Its owner alone joins, waits and leaves; anybody may wake it.

    ``who`` is the owner's thread, None for a task. A signal's handler that waits for the key for
    which the thread that it interrupted waits already stands at that one's place, in front of it.
    """

    __slots__ = (
        "_front", "_line", "_queue", "_race", "_thread_and_key", "behind", "calm", "key", "lined",
        "news", "offer", "run", "since", "told", "trusted", "turn", "vain", "wakes_at", "watched",
        "who",
    )  # fmt: skip

    def __init__(self, queue: Queue, key: bytes, who: int | None, lined: bool) -> None:
        self.key = key
        self.who = who
        self.lined = lined  # False: it waits beside the lines
        self.news: News | None = None  # replaced by the owner before each look at what is told
        self.since = 0.0  # when it began to wait
        self.told = False  # it is to try now; the owner takes it back
        self.watched = False  # the server tells when the key changes
        self.offer: Offer | None = None  # to be given the lock, while it waits
        self.run: Run | None = None  # of the lock that it was given, or told of
        self.turn: Turn | None = None  # of its line, the latest: others go first
        self.wakes_at = 0.0  # when it looks again by itself
        self.calm = -1.0  # until when it has the lock, having left
        self.trusted: Held | None = None  # whom it has waited for in patience
        self._race: Race | None = None  # made when it is to talk to the server
        self.vain = 0  # how often in a row it has said that nobody holds it
        self.behind: Place | None = None  # of the interrupted owner, whose turn is this one's
        self._queue = queue
        self._line: deque[Place] | None = None
        self._front: Place | None = None  # of a handler that has interrupted the owner
        self._thread_and_key = (who, key)

    @property
    def first(self) -> bool:
        """Whether it is its turn to talk to the server."""
        if self.behind is not None:
            return self.behind.first
        line = self._line
        try:
            return line is None or line[0] is self
        except IndexError:
            return True

    @property
    def race(self) -> Race:
        """Its run against other clients."""
        race = self._race
        if race is None:
            race = self._race = Race(self._queue.rivals, self.key)
        return race

    @property
    def heads(self) -> bool:
        """Whether it stands in a line already, and is the first of it."""
        line = self._line
        return line is not None and bool(line) and line[0] is self

    def join(self) -> None:
        """Stand in line, once."""
        queue = self._queue
        if self.lined:
            queue.quiet = False  # each time: a look around may have come between the steps below
        if self in queue.waiting:
            return
        if queue.meter is not None:
            self.since = queue.meter.now()
        queue.waiting[self] = None
        if not self.lined:
            return
        if self.who is not None:
            self.behind = queue.threads.get(self._thread_and_key)
            queue.threads[self._thread_and_key] = self
            if self.behind is not None:
                self.behind._front = self
                return
        self._line = queue.lines.get(self.key)
        if self._line is None:
            self._line = queue.lines.setdefault(self.key, deque())
        self._line.append(self)
        if queue.lines.get(self.key) is not self._line:  # its last one left at this moment
            queue.lines.setdefault(self.key, self._line)
        queue.quiet = False

    def got(self, lease: Any) -> None:
        """The owner has the lock, by this lease: its client knows who holds it."""
        queue = self._queue
        tried_at = 0.0 if self._race is None else self._race.won()
        if not queue.hands_over:
            return
        self.calm = lease.deadline
        held = Held(lease, queue.gone)
        held.key, held.run, held.since = self.key, self.run, tried_at
        queue.held[self.key] = held
        queue.quiet = False

    def heard(self) -> None:
        """What came of the offer is with the owner's claim now."""
        self.offer = None
        if self._race is not None:
            self._race.given()

    def leave(self) -> None:
        """Stand nowhere, and let the next one go on. May be repeated."""
        queue = self._queue
        if self.offer is not None:
            self.offer.leave()
        known = queue.waiting.pop(self, self) is None
        if known and queue.meter is not None:
            queue.meter.waited(self.since)
        behind, line = self.behind, self._line
        if line is None and behind is None and self.lined:
            line = queue.lines.get(self.key)  # interrupted between making and keeping it
        if self.who is not None and queue.threads.get(self._thread_and_key) is self:
            if behind is None:
                queue.threads.pop(self._thread_and_key, None)
            else:
                queue.threads[self._thread_and_key] = behind
        if behind is not None:
            behind._front = None
        if line is not None:
            _take_out(line, self)
            queue._tidy(self.key, line, self.calm, self.turn)

    def patience(self) -> float:
        """For how many seconds it may sleep in line without being told that it is the first."""
        line = self._line
        short = self.offer is not None and line is not None and len(line) <= SHORT
        return PATIENCE if short and self._queue.hands_over else _FOR_EVER

    def alarm(self) -> None:
        """The owner's connection failed: let all of the line see for themselves."""
        line = self._queue.lines.get(self.key) if self.lined else None
        if line:
            for place in _all_of(line):
                place.tell()

    def wake(self) -> None:
        """Have the owner look again."""
        place: Place | None = self
        while place is not None:
            if place.news is not None:
                place.news.set()
            place = place._front

    def tell(self) -> None:
        """Have the owner try now."""
        place: Place | None = self
        while place is not None:
            place.told = True
            place = place._front
        self.wake()


class Queue:
    """One client's lines. ``lines`` is true while there are any; it stays the same dict.

    After ``limit`` hand-overs in a row, or ``seconds`` after the first of them, the lock is freed
    and others are let go first. ``held`` knows the leases that lines got.
    """

    def __init__(
        self, limit: int = 0, seconds: float = 0.0, meter: MeterLike | None = None
    ) -> None:
        self.meter = meter  # is told how long each has waited
        self._limit = limit
        self._seconds = seconds
        self._trip = 0.0  # seconds: about the longest round trip of late
        self.left = b""  # the key of the latest lease that was released
        self.left_at = 0.0  # and when; of any thread, and no more than a hint
        self._row = _FOR_EVER  # since when it has been asked for anew at once, each time
        self.held: dict[bytes, Held] = {}
        self.gone = _forgetting(self.held)
        self.lines: dict[bytes, deque[Place]] = {}
        self.waiting: dict[Place, None] = {}  # everybody, those beside the lines too
        self.threads: dict[tuple[int | None, bytes], Place] = {}  # the latest of each
        self.rivals = Rivals()
        self.quiet = True  # while no line is there, no lease to be handed over, and no rival

    def in_turn(self, key: bytes, now: float) -> bool:
        """Whether others of this client wait for the key or hold it, or other clients may wait.

        Who comes back at once to a lock that others are woken for would have it before them.
        """
        if key in self.lines or self.holder(key) is not None or self.rivals.about(key, now):
            self._row = _FOR_EVER
            return True
        return self._calm_down()

    def comes_back(self, key: bytes, now: float) -> bool:
        """Whether this client has left the lock just now, and so each time for a turn's length.

        Then others may wait unheard: it is back before those who are woken have asked.
        """
        if key != self.left or now - self.left_at > AT_ONCE or not self._seconds:
            self._row = _FOR_EVER
            return False
        # From its first release: before that it may have waited, or made the connection.
        self._row = min(self._row, self.left_at)
        if now - self._row < self._seconds:
            return False
        self._row = now
        return True

    def lets_others_first(self, key: bytes, now: float) -> bool:
        """Whether who comes now must wait in turn: ``in_turn``, or it ``comes_back``."""
        if not self.quiet and self.in_turn(key, now):
            return True
        if not self.comes_back(key, now):
            return False
        self.suspect(key, now)
        return True

    def suspect(self, key: bytes, now: float) -> None:
        """Others may wait: let them go first once."""
        self.rivals.suspect(key, now)
        self.quiet = False

    def _calm_down(self) -> bool:
        """Be quiet again, if that is so; False. Who comes meanwhile says otherwise after this.

        Interrupted twice in a row it may be quiet though somebody waits: until the next one joins,
        who waits has only the server's word and its own timers.
        """
        if not (self.lines or self.held or self.rivals.known):
            try:
                self.quiet = True
            finally:
                if self.lines or self.held or self.rivals.known:  # came between the two
                    self.quiet = False
        return False

    @property
    def hands_over(self) -> bool:
        """Whether leases go on to who waits."""
        return self._limit > 0

    def first(self, key: bytes) -> Place | None:
        """Whose turn it is, if anybody waits for the key."""
        line = self.lines.get(key)
        try:
            return line[0] if line else None
        except IndexError:  # it left at this moment
            return None

    def gives(self, lease: Any, now: float, giving: Giving) -> bool:
        """Whether ``lease`` goes to the first who waits, whom ``giving`` has taken then.

        Not after so many hand-overs that others must have their turn.
        """
        place = self.first(lease.pair[0])
        while place is not None and place._front is not None:
            place = place._front
        if place is None or not self._limit:
            return False
        if lease.doubt or lease.over or lease._generation != _fork.generation:
            return False
        if not now < lease.deadline < _FOR_EVER:
            return False
        held = self.held.get(lease.pair[0])
        run = None if held is None or held() is not lease else held.run
        if self._over(run, now):
            place.turn = self._turn(run, now)  # already now: the server may be faster than we
            return False
        giving.run = _next(run, now)
        return giving.take(place)

    def freed(self, key: bytes, now: float) -> None:
        """A lease of this client has ended: no pause is to go on, if nothing else ends it."""
        self.left, self.left_at = key, now
        held = self.held.get(key)
        lease = None if held is None else held()
        if lease is not None and not lease.over:  # another one's
            held = None
        elif held is not None:
            self.held.pop(key, None)
            if held.since:
                self.rivals.held(key, now - held.since)
        place = self.first(key)
        if place is None:
            return
        run = None if held is None else held.run
        if self._over(run, now):
            place.turn = self._turn(run, now)
        elif held is not None:
            place.run = _next(run, now)
        if not place.watched:
            place.tell()

    def holder(self, key: bytes) -> Held | None:
        """The lease of this client that holds the lock, if one is known to."""
        held = self.held.get(key)
        lease = None if held is None else held()
        return held if self._limit and lease is not None and lease._lasts() else None

    def _over(self, run: Run | None, now: float) -> bool:
        """Whether others must have their turn."""
        if run is None or not self._limit:
            return False
        return run.times >= self._limit or now - run.began >= self._seconds

    def _turn(self, run: Run | None, now: float) -> Turn:
        pause = max(SHORTEST_PAUSE, min(TRIPS * self._trip, LONGEST_PAUSE))
        return Turn(now, 0.001 if run is None else max(0.001, now - run.began), pause)

    def took(self, seconds: float) -> None:
        """A release with a waiter took so long."""
        self._trip = max(seconds, 0.9 * self._trip)

    def freed_all(self, pairs: Iterable[tuple[bytes, bytes]], now: float) -> None:
        """``freed`` of each; (key, token)."""
        if self.lines or self.held:
            for key, _ in pairs:
                self.freed(key, now)

    def wake_all(self) -> None:
        """Have everybody look again."""
        for place in self.waiting.copy():
            if place.news is not None:
                place.news.set()

    def forget(self) -> None:
        """Those who wait are not of this process, or loop: nobody waits."""
        self.held.clear()
        self.lines.clear()
        self.waiting.clear()
        self.threads.clear()
        self.rivals.known.clear()

    def _tidy(self, key: bytes, line: deque[Place], calm: float, turn: Turn | None) -> None:
        """Wake the first of a line that one has left; without any, drop it.

        Not one that looks again before ``calm``, until when it waits for a hand-over anyway.
        """
        while True:
            try:
                first = line[0]
            except IndexError:
                first = None
            if first is not None:
                if calm < 0 and first.turn is None:
                    first.turn = turn
                if first.wakes_at > calm:
                    first.wake()
                return
            other = self.lines.pop(key, None)
            if not other:
                return
            line = self.lines.setdefault(key, other)  # somebody came meanwhile
            self.quiet = False


def _all_of(line: deque[Place]) -> list[Place]:
    """Its places, at one moment."""
    while True:
        try:
            return list(line)
        except RuntimeError:  # without a GIL: somebody came or left meanwhile
            continue


def _take_out(line: deque[Place], place: Place) -> None:
    """If it stands there."""
    while True:
        try:
            line.remove(place)
        except IndexError:  # without a GIL: somebody came or left meanwhile
            continue
        except ValueError:
            pass
        return


def _next(run: Run | None, now: float) -> Run:
    return Run(1, now) if run is None else Run(run.times + 1, run.began)


def _forgetting(held: dict[bytes, Held]) -> Callable[[Any], None]:
    """Takes out of ``held`` what nobody has any more: called with its weak reference."""

    def gone(lease: Any) -> None:
        key: bytes = lease.key
        if held.get(key) is lease:
            held.pop(key, None)

    return gone
