"""When other clients want the same lock: what this one knows of them, and how it keeps out of
their way.

Law: no clock and no lock taken; each step is one operation on a dict or of a single waiter, so any
thread may call it, and a signal's handler may come in anywhere. All of it is a guess: whose the
lock is, the server says.

The server wakes all who wait for a key, and one of them gets the lock; with many clients nearly
all of the work is done in vain. So a client that loses such races rests before it asks for the
lock again, for a share of the time that it had to wait the last time: the greater, the more often
it loses. That is proportional back-off (Mellor-Crummey and Scott, "Algorithms for scalable
synchronization on shared-memory multiprocessors", 1991) of clients that know neither how many
they are nor whose turn it is. A lock that is held for no longer than a few round trips is free
again before the server could tell, and is simply tried for a little later.
"""

from __future__ import annotations

#: Seconds for which a client thinks that others want a lock, and for which it remembers how long
#: that took.
LATELY, MEMORY = 0.1, 1.0
#: By how much the share of its last wait for which a client rests grows after a wait in which it
#: lost races, and shrinks after one without; and the most.
MORE, LESS, MOST = 0.15, 0.05, 0.7
#: Seconds. A shorter rest would cost more than it spares; a longer one could be in vain.
SHORTEST, LONGEST = 0.0002, 0.02
#: Who rests does so for so many round trips at least: those who wait need one to be told and one to
#: try.
FIRST = 2
#: Seconds to let others go first who may wait unheard, or so many round trips if one is known.
COURTESY, COURTESY_TRIPS = 0.0005, 4
#: A lock that is held for so many round trips at most is held for a moment; tries at that rate, in
#: parts of the time for which it is held, and how many in a row.
MOMENT, PART, TRIES = 6, 0.7, 30


class _Rival:
    """What is known about one key; times are seconds."""

    __slots__ = ("guessed", "hold", "owed", "share", "trip", "waited", "when")

    def __init__(self) -> None:
        self.when = 0.0  # we last had to wait for it and were to try
        self.share = 0.0  # of ``waited``, to rest
        self.waited = 0.0  # for the lock, on an average of late, rests included
        self.hold = 0.0  # how long we held it of late, with the asking for it; 0: not known
        self.trip = 0.0  # about the shortest time that a try takes
        self.guessed = False  # nobody has been met yet
        self.owed = 0.0  # to let others go first, once


class Rivals:
    """What one client knows. ``known`` is true while that is anything; it stays the same dict."""

    def __init__(self) -> None:
        self.known: dict[bytes, _Rival] = {}  # the latest woken last

    def about(self, key: bytes, now: float) -> bool:
        """Whether other clients have had the lock of late, and perhaps wait for it."""
        return self.late(key, now) is not None

    def late(self, key: bytes, now: float) -> _Rival | None:
        """What is known of them, if it is not too old."""
        self._prune(now)
        rival = self.known.get(key)
        return rival if rival is not None and rival.when > now - LATELY else None

    def woke(self, key: bytes, now: float) -> None:
        """The lock was somebody else's a moment ago."""
        self._prune(now)
        rival = self.known.pop(key, None) or _Rival()  # to be the youngest
        rival.when = now
        rival.guessed = False
        self.known[key] = rival

    def suspect(self, key: bytes, now: float) -> None:
        """Others may want the lock who have not been met."""
        if self.late(key, now) is None:
            rival = self.known.pop(key, None) or _Rival()
            rival.when, rival.guessed = now, True
            rival.owed = max(COURTESY, COURTESY_TRIPS * rival.trip)
            self.known[key] = rival

    def held(self, key: bytes, seconds: float) -> None:
        """We had it for so long."""
        rival = self.known.get(key)
        if rival is not None:
            rival.hold = min(seconds, (rival.hold + seconds) / 2 if rival.hold else seconds)

    def _prune(self, now: float) -> None:
        """The oldest, if it is too old; one comes at a time."""
        try:
            oldest = next(iter(self.known))
        except (StopIteration, RuntimeError):  # none, or another thread changes it
            return
        rival = self.known.get(oldest)
        if rival is not None and rival.when < now - MEMORY:
            self.known.pop(oldest, None)


class Race:
    """One waiter's run for a lock against other clients. Its owner's, but for ``woken``."""

    __slots__ = (
        "_key", "_rivals", "_since", "_tried_at", "_tries", "_waited", "lost", "met", "woken",
    )  # fmt: skip

    def __init__(self, rivals: Rivals, key: bytes) -> None:
        self._rivals = rivals
        self._key = key
        self._since = -1.0  # when it first had nobody of its own client before it
        self._waited = 0.0  # seconds from then to its latest try
        self._tried_at = 0.0
        self._tries = 0  # at a lock that is held for a moment
        self.met = False  # whether anybody else was seen to have the lock meanwhile
        self.woken = False  # to try, for the lock may have become free
        self.lost = 0  # how often that was too late

    def again(self, now: float) -> None:
        """It was refused; if it was woken before that, it has lost."""
        self.met = True
        if self.woken:
            self.woken = False
            self.lost += 1
            rival = self._rivals.known.get(self._key)
            if rival is not None and self._tried_at > 0:
                took = now - self._tried_at
                rival.trip = min(took, rival.trip * 1.1 or took)
        self._tried_at = 0.0

    def pause(self, now: float) -> float:
        """Seconds to let others go first, and to try then; 0: better have the server tell."""
        rival = self._rivals.late(self._key, now)
        rest = 0.0
        if self._since < 0:
            self._since = now
            if rival is not None and rival.share:
                rest = max(FIRST * rival.trip, rival.share * max(rival.waited, rival.hold))
            if rival is not None and rival.owed:
                rest, rival.owed = max(rest, rival.owed), 0.0
            rest = min(rest, LONGEST)
        if rest >= SHORTEST:
            return rest
        if rival is None or not rival.share or not 0 < rival.hold <= MOMENT * rival.trip:
            return 0.0
        if self._tries >= TRIES:
            return 0.0
        self._tries += 1
        self.woken = True
        return PART * rival.hold

    def tries(self, now: float) -> None:
        """It is about to try for the lock."""
        self._tried_at = now
        self._waited = now - self._since if self._since >= 0 else 0.0
        if self.woken and (self.met or not self._tries):
            self._rivals.woke(self._key, now)

    def won(self) -> float:
        """It has the lock by its latest try; when that was."""
        rival = self._rivals.known.get(self._key)
        if rival is not None and rival.guessed and not self.met:
            self._rivals.known.pop(self._key, None)  # there was nobody
        elif rival is not None and self._waited > 0:
            rival.guessed = False
            rival.waited = (rival.waited + self._waited) / 2
            # Somebody else would still have it, if he had had it since we left.
            greedy = not self.met and self._waited < rival.hold
            if self.lost or greedy:
                rival.share = min(MOST, rival.share + MORE)
            else:
                rival.share = max(0.0, rival.share - LESS)
        return self._tried_at

    def given(self) -> None:
        """It needs no try: somebody of its own client hands the lock over."""
        self._waited = self._tried_at = 0.0
