"""Floor 3: the words by which a server is asked to tell when keys change, and what it says.

Law: as of ``_commands.py``: pure functions, no I/O. All of it are hints: whose the lock is, a try
finds out.

The connection that listens is the one that asks, in RESP3, so that answers and pushes come in one
order. What arms a key is a read of it (PTTL behind CLIENT CACHING YES), and that read tells whether
anybody holds the lock: if so, whatever ends that lock comes later and is pushed; if not, it is
time to try. So no change can fall between arming and looking.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ._queue import Place
from ._replies import is_transient
from .errors import ServerError, TransportError

#: More keys at once are not watched: each costs two commands every time.
MOST_KEYS = 100
#: Seconds that a lock may outlast the time that its server has told: whole milliseconds, clocks.
SLACK = 0.002
#: Seconds without another connection after one that failed, or ended as soon.
RECOVERY = 1.0
#: Seconds that a connection is kept for the next who waits.
LINGER = 2.0
#: So many times in a row a lock that is said to be free is tried for at once. After that, as
#: where questions go to a replica that lags, only when it changes, or after these seconds.
MOST_VAIN = 3
VAIN = 0.1
#: Seconds after which a waiter tries again in any case: a connection may die unheard.
PROBE = 10.0
#: What a node of a cluster says to keys that it does not serve, or not now.
_ELSEWHERE = frozenset({"MOVED", "ASK", "CLUSTERDOWN"})
_MISSING = -2
_UNENDING = -1


def tracking(pack: Callable[..., bytes], protocol: int) -> tuple[bytes, int]:
    """The first words on a connection that listens, and the number of replies."""
    data = pack(b"CLIENT", b"TRACKING", b"ON", b"OPTIN")
    return (data, 1) if protocol == 3 else (pack(b"HELLO", 3) + data, 2)


def watching(pack: Callable[..., bytes], keys: Sequence[bytes]) -> tuple[bytes, int]:
    """Tell when one of these changes, once; and how long each is held, if it is."""
    yes = pack(b"CLIENT", b"CACHING", b"YES")
    return b"".join([yes + pack(b"PTTL", key) for key in keys]), 2 * len(keys)


def asking(pack: Callable[..., bytes], keys: Sequence[bytes]) -> tuple[bytes, int]:
    """How long each is held, of a server that does not tell; of the first of very many."""
    keys = keys[:MOST_KEYS]
    return b"".join([pack(b"PTTL", key) for key in keys]), len(keys)


def refused(replies: Sequence[Any]) -> bool:
    """Whether this user, or server, does not tell. TransportError: not now, or not here."""
    errors = [reply for reply in replies if isinstance(reply, ServerError)]
    if any(is_transient(error) or error.code in _ELSEWHERE for error in errors):
        raise TransportError("the server is not ready")
    return bool(errors)


def held_for(times: Sequence[Any]) -> float | None:
    """Seconds until the last of the locks ends by itself; None if there is none.

    TransportError for what is no answer to PTTL.
    """
    if any(type(time) is not int or time < _MISSING for time in times):
        raise TransportError("the server gave an answer that the command cannot have")
    held = [time for time in times if time != _MISSING]
    if not held:
        return None
    return float("inf") if _UNENDING in held else max(held) / 1000 + SLACK


def worth(place: Place, held: float) -> float:
    """How long to pause at most for a lock that is held so long, in seconds; 0: try now.

    One that is said to be free again and again is no reason to hurry.
    """
    place.vain = 0 if held else place.vain + 1
    return held if place.vain <= MOST_VAIN else float("inf")


def changed(push: Sequence[Any]) -> Sequence[bytes] | None:
    """The keys that a push is about; None: all."""
    if len(push) != 2 or push[0] != b"invalidate":
        return ()
    keys = push[1]
    return [key for key in keys if type(key) is bytes] if isinstance(keys, list) else None


class Watch:
    """One waiter's: it waits for a change of any of its keys. ``who``: its thread.

    Where there is a ``turn``, for the end of that key first: only then are the others asked for.
    """

    __slots__ = ("_later", "about", "asked", "ends", "keys", "over", "place", "refused", "who")

    def __init__(
        self,
        place: Place,
        keys: Sequence[bytes],
        who: int | None = None,
        about: object = None,
        turn: bytes | None = None,
    ) -> None:
        self.place = place
        self.keys = keys if turn is None else (turn,)
        self._later = None if turn is None else keys
        self.who = who
        self.about = about  # the main connection
        self.asked = False  # whether the server was told
        self.over = False  # it is time to try
        self.refused = False  # it is not told here, now
        self.ends = float("inf")  # when the holders' ttls end

    def changed(self, keys: Sequence[bytes] | None) -> bool:
        """These have changed, or all: have the owner try, if that is about it.

        True: ask once more instead. Who was woken before and came too late has rivals; a question
        costs less than a try in vain and the question after that. Every other time, for a single
        key, it is to try all the same: who only asks comes too late again.
        """
        if self.over or not self.asked:
            return False
        if keys is not None and set(keys).isdisjoint(self.keys):
            return False
        if self._later is not None and self.ends == float("inf"):
            return False  # of before we asked: the answer is still to come, and says how it is
        if self._in_turn():
            return True
        race = self.place.race
        race.woken = True
        self.place.vain = 0  # if it is free now, that is news
        if race.lost % 2 or (race.lost and not self.place.lined):
            self.asked = False
            return True
        self.end()
        return False

    def _in_turn(self) -> bool:
        """Whether it was its turn that it waited for: it is to ask for the keys now."""
        if self._later is None:
            return False
        self.keys, self._later = self._later, None
        self.asked, self.ends = False, float("inf")
        return True

    def end(self, refused: bool = False) -> None:
        """Have the waiter go on: to try, or to look by itself."""
        self.refused = refused
        self.over = True
        self.place.wake()

    def answered(self, replies: Sequence[Any], now: float) -> bool:
        """What came of asking; False: refused. TransportError as of ``held_for``, ``refused``.

        It is to ask once more if it is not ``asked`` any longer.
        """
        if any(isinstance(reply, ServerError) and reply.code in _ELSEWHERE for reply in replies):
            self.ends = now + VAIN  # another node has it by now: only this one looks by itself
            self.place.wake()
            return True
        if refused(replies):
            return False
        held = held_for(replies[1::2])
        if held is None and self._in_turn():
            return True
        place = self.place
        place.vain = place.vain + 1 if held is None else 0
        place.race.met = place.race.met or held is not None
        if 0 < place.vain <= MOST_VAIN:
            self.end()
        else:
            self.ends = now + (VAIN if held is None else min(held, PROBE))
            place.wake()
        return True
