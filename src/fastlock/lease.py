"""What a lease and a lock spec know without asking anybody: shared by sync and asyncio.

Law: no I/O. A lease's own words about itself come from its deadline and the clock.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any, Literal, TypeVar
from weakref import WeakValueDictionary

from . import _args, _fork
from ._claim import span
from ._clock import clock
from ._logs import WARNING, tell
from ._metrics import HOLD, LOST, RELEASED
from ._renewal import Renewal, Terms
from ._tokens import Pair
from .config import Config
from .errors import ConfigError, FastlockError, LockError, LockLost, OutcomeUnknown

L = TypeVar("L", bound="BaseLease")

#: Instead of when it began, of a lease that was counted as lost.
COUNTED = float("nan")


class _Counting:
    """Lets one thread at a time see, and say, whether a lease was counted as lost."""

    def __init__(self) -> None:
        self.forked()
        _fork.register(self)

    def forked(self) -> None:
        """In a forked child: whoever held it is not here to leave it."""
        self.mutex = threading.RLock()  # a signal's handler may come into the middle


_counting = _Counting()


class BaseLease:
    """A lock that was ours when this was made, and until when it surely is.

    Attributes:
        key: the key as the caller wrote it (without the prefix).
        ttl: the time to live last asked for, in seconds.
        deadline: until when the lock surely holds, in seconds on fastlock's clock
            (CLOCK_BOOTTIME, which runs on during suspend); see ``remaining()``.
        fence: the fencing number, if it was acquired with ``fence=True``; see ``fastlock.fencing``.
        lost (Lost): whether it was lost, true or false, and to wait for.
    """

    __slots__ = (
        "__weakref__",
        "_client",
        "_deadline",
        "_generation",
        "_turn",
        "doubt",
        "freed",
        "key",
        "number",
        "over",
        "pair",
        "since",
        "ttl",
    )

    _client: Any
    _generation: int  # of processes: in another one the lease is not ours
    _turn: Any  # lets one extension at a time through; its Renewal, or made when first needed
    key: str | bytes
    pair: Pair  # wire key, token
    ttl: float
    since: Any  # when it began, if its deadline and ttl do not tell (else None); or COUNTED
    _deadline: float  # unless it is renewed: then its Renewal knows
    number: int  # for fencing; not set where none was asked for
    doubt: int  # whether a release may have been carried out without our knowing: see _doubt
    over: bool  # the server has said that it is not ours (any more)
    freed: bool  # by a release of ours

    def __init__(self) -> None:
        raise TypeError("a lease is made by acquiring a lock; see also adopt()")

    @property
    def token(self) -> str:
        """The secret that proves possession; hand it to ``adopt`` elsewhere, never log it."""
        return self.pair[1].decode("utf-8", "surrogateescape")

    @property
    def fence(self) -> int | None:
        """Higher than that of every earlier lease of this key; None without ``fence=True``."""
        return getattr(self, "number", None)

    def remaining(self) -> float:
        """Seconds until the deadline; 0.0 when the lease is over."""
        return max(0.0, self.deadline - clock()) if self.valid() else 0.0

    def valid(self) -> bool:
        """Whether the lock surely is ours at this instant. No I/O.

        Not while a release of it may have been carried out unheard: under way, or after
        one that ended as OutcomeUnknown.
        """
        return not self.doubt and self._lasts()

    def _lasts(self) -> bool:
        """Whether nothing but a release of ours can have ended it by now."""
        if self.over or self._generation != _fork.generation:
            return False
        if self._turn is None:
            return clock() < self._deadline
        return clock() < self.deadline and not self._told()

    @property
    def deadline(self) -> float:
        if self._turn is None:
            return self._deadline
        renewal = self._renewal
        return self._deadline if renewal is None else renewal.beat.deadline

    @deadline.setter
    def deadline(self, deadline: float) -> None:
        renewal = self._renewal
        if renewal is None:
            self._deadline = deadline
        else:
            renewal.beat.deadline = deadline

    @property
    def state(self) -> Literal["held", "unknown", "lost", "released"]:
        """What is known of the lock, without asking.

        "unknown": its deadline has not passed, but the latest renewal has failed or is overdue,
        or a release of it may have been carried out unheard. Else it is "held" until then.
        """
        if self._is_lost():
            return "lost"
        if self.freed:
            return "released"
        renewal = self._watched()
        unsure = self.doubt or (renewal is not None and renewal.beat.unsure)
        return "unknown" if unsure else "held"

    # -- for the client's figures

    def began(self) -> float:
        """When it was got, in seconds on fastlock's clock; not a number once it was lost."""
        since: float | None = self.since
        return self._deadline - span(round(self.ttl * 1000)) if since is None else since

    def _remember(self) -> None:
        """Before its deadline moves by hand: when it began."""
        if self.since is None:
            with _counting.mutex:
                if self.since is None:  # not counted meanwhile
                    self.since = self.began()

    def _ended(self, ours: bool) -> bool:
        """A release has ended so: count it."""
        if ours:
            self._client._meter.count(RELEASED)
            self._client._meter.time(HOLD, clock() - self.began())
        elif not self.freed:
            self._count_lost()
        return ours

    def _count_lost(self) -> None:
        """Once, whichever threads find it out."""
        with _counting.mutex:
            if self.since is COUNTED:
                return
            self.since = COUNTED
        self._client._meter.count(LOST)

    # -- being renewed

    @property
    def _renewal(self) -> Renewal | None:
        turn = self._turn
        return turn if isinstance(turn, Renewal) else None

    def _watched(self) -> Any:
        """Its renewal while that goes on."""
        renewal = self._renewal
        return None if renewal is None or renewal.done else renewal

    def _told(self) -> bool:
        """Whether its holder was told that it is lost: from then on it is."""
        renewal = self._renewal
        return renewal is not None and renewal.reason is not None

    def _is_lost(self) -> bool:
        return self._told() or not (self.freed or self._lasts())

    def _why_lost(self) -> str:
        renewal = self._renewal
        if renewal is not None:
            ended = renewal.left or self.over  # before the reason, which precedes them
            if renewal.reason is not None:
                return renewal.reason
            if not ended:  # it is about to be told
                return renewal.why_expired()
        return "it expired, was deleted or taken over"

    def _let_go(self) -> None:
        """Before it is released: renew it no more. In a forked child nobody does."""
        renewal = self._renewal
        if renewal is not None and self._generation == _fork.generation:
            renewal.end()

    def _unheard(self, error: BaseException, milliseconds: int) -> None:
        """An extension ended so: if it may still be carried out, renewals must know."""
        renewal = self._renewal
        known = isinstance(error, FastlockError) and not isinstance(error, OutcomeUnknown)
        if renewal is not None and not known:
            renewal.unheard(milliseconds)

    def _lost_before(self) -> None:
        """The answer to a deferred release: it was no longer ours."""
        self.freed = False
        self._count_lost()
        tell(
            WARNING, "lost", "%r was no longer held when its deferred release arrived", self.key,
            key=self.key, reason="it had ended before its deferred release arrived",
        )  # fmt: skip
        renewal = self._renewal
        if renewal is not None:
            renewal.lose_late(self)

    def _check_process(self) -> None:
        if self._generation != _fork.generation:
            raise LockError(
                f"{self.key!r} is held by the parent process; a forked child owns none of its "
                "parent's leases (the parent may hand its token on to adopt())",
                self.key,
            )

    def __repr__(self) -> str:
        state = "over" if self.over else f"{self.remaining():.3f} s left"
        return f"<{type(self).__name__} {self.key!r} {state}>"

    def _waits(self, deferred: bool) -> bool:
        """Whether a release is waited for: also where deferring would hide an expiry."""
        return not (deferred and self.valid())

    def __reduce__(self) -> Any:
        raise TypeError(
            "a lease cannot be pickled or copied; hand its key and token to client.adopt()"
        )


def until_of(timeout: float | None) -> float | None:
    """When ``timeout`` seconds from now are over, on fastlock's clock; None never."""
    patience = _args.wait(timeout)
    return None if patience is None else clock() + patience


def usual_of(client: Any, ttl: float) -> tuple[float, int, float]:
    """What a try needs of a ttl, for ``Client._usual``: itself, in ms, and until its deadline."""
    milliseconds = _args.milliseconds(ttl)
    client._usual = usual = (ttl, milliseconds, span(milliseconds))
    return usual


Entry = tuple[Any, Sequence[Any]]


class Entries:
    """Who is inside the ``with`` blocks of one spec, and with what: (who, held) each.

    Usually one at a time: a second one enters only where the first one's lease has ended.
    """

    def __init__(self, name: str | bytes) -> None:
        self._name = name
        self._inside: list[Entry] = []

    def check(self, who: Any) -> None:
        """Refuse to wait for oneself: locks are not re-entrant."""
        for entered, held in list(self._inside):
            if entered == who and all(lease.valid() for lease in held):
                raise LockError(
                    f"{self._name!r} is already held through this lock by the same thread or "
                    "task, and locks are not re-entrant",
                    self._name,
                )

    def add(self, who: Any, held: Sequence[Any]) -> Entry:
        entry = (who, held)
        self._inside.append(entry)
        return entry

    def leaving(self, who: Any) -> Entry:
        """The latest entry of ``who``; the oldest of all where somebody else leaves for it."""
        inside = list(self._inside)
        for entry in reversed(inside):
            if entry[0] == who:
                return entry
        if not inside:
            raise RuntimeError(f"leaving a block of {self._name!r} that was not entered")
        return inside[0]

    def drop(self, entry: Entry | None) -> None:
        if entry is not None:
            with suppress(ValueError):  # whoever left for it was faster
                self._inside.remove(entry)


class BaseLock:
    """A spec: which lock, for how long, how patiently. Cheap and reusable.

    Attributes:
        key: as the caller wrote it.
        ttl: seconds.
        timeout: seconds; None for ever.
        deferred: whether a release of its leases is sent and not waited for.
        fence: whether its leases get fencing numbers.
        fair: whether it is waited for in a queue at the server.
        renews: the arguments about renewal, {} without it.
        replicas: the arguments about replicas, {} without them.
        if_lost: what leaving a block does when the lock was lost.
    """

    def __init__(
        self,
        client: Any,
        key: str | bytes,
        ttl: float,
        timeout: float | None,
        release: str,
        fence: bool,
        fair: bool,
        replicas: tuple[int | None, float],
        terms: Terms | None,
        if_lost: str,
    ) -> None:
        wanted, _ = _args.replicas(*replicas, _args.milliseconds(ttl), fair)
        _args.wait(timeout)
        _args.wire_key(key, b"")
        if release not in ("wait", "deferred"):
            raise ConfigError("release", f'{release!r} is neither "wait" nor "deferred"')
        self.if_lost: str = policy(if_lost)
        self.renews: dict[str, Any] = {} if terms is None else terms.options()
        named = {"min_replicas": wanted, "replica_timeout": replicas[1]}
        self.replicas: dict[str, Any] = named if wanted else {}
        self.deferred: bool = release == "deferred"
        self.fence: bool = fence is not False and _args.flag("fence", fence)
        self.fair: bool = fair is not False and _args.flag("fair", fair)
        # What its acquires are asked for: a call without options goes straight.
        self._options = {**self.renews, **self.replicas, **({"fence": True} if fence else {})}
        self._waiting = {**self._options, **({"fair": True} if fair else {})}
        self.key = key
        self.ttl = ttl
        self.timeout = timeout
        self._client = client
        self._held: list[Any] = []  # at most one: the lease of acquire() and release()
        self._entries = Entries(key)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.key!r} ttl={self.ttl} timeout={self.timeout}>"

    def __reduce__(self) -> Any:
        public = self._client.config.public()
        release = "deferred" if self.deferred else "wait"
        options = {"release": release, "if_lost": self.if_lost, **self._waiting}
        return _unpickle, (self._client._kind, public, self.key, self.ttl, self.timeout, options)

    def _wait_of(self, blocking: bool, timeout: float) -> float | None:
        """threading.Lock's two arguments as one timeout."""
        if not blocking:
            if timeout != -1:
                raise ValueError("can't specify a timeout for a non-blocking call")
            return 0.0
        return None if timeout == -1 else timeout

    def _hand_out(self) -> tuple[list[Any], Any]:
        """The lease of acquire(), for one release(), and where to put it back if that fails.

        RuntimeError as of an unlocked Lock.
        """
        held = self._held
        try:
            return held, held.pop()
        except IndexError:
            raise RuntimeError(
                f"release of {self.key!r}, which this lock has not acquired"
            ) from None


def check_colour(wrapped: Any, wanted_async: bool) -> None:
    """A decorator of the wrong colour would block a loop, never wait, or guard nothing."""
    forms = (wrapped, getattr(wrapped, "__call__", None))  # noqa: B004  a callable object's own
    if any(inspect.isgeneratorfunction(f) or inspect.isasyncgenfunction(f) for f in forms):
        raise TypeError(
            f"{wrapped!r} is a generator, whose body runs after the call; use `with` inside it"
        )
    is_async = any(inspect.iscoroutinefunction(form) for form in forms)
    if is_async and not wanted_async:
        raise TypeError(
            f"{wrapped!r} is a coroutine function; decorate it with a lock of fastlock.aio.Client"
        )
    if wanted_async and not is_async:
        raise TypeError(
            f"{wrapped!r} is not a coroutine function; decorate it with a lock of fastlock.Client"
        )


def own_leases(client: Any, leases: Iterable[L | None]) -> list[L | None]:
    """Leases to release together, None among them; ConfigError for another client's."""
    try:
        listed = list(leases)
    except TypeError:
        raise ConfigError("leases", f"{leases!r} is not a list of leases") from None
    place = client._loops.foreign(client, _fork.generation, listed)
    if place >= 0:
        foreign = listed[place]
        if not isinstance(foreign, BaseLease) or foreign._client is not client:
            raise ConfigError("leases", f"{foreign!r} is not a lease of this client, nor None")
        foreign._check_process()
    return listed


def let_go(leases: Iterable[BaseLease | None]) -> None:
    """Before they are released: renew them no more."""
    for lease in leases:
        if lease is not None:
            lease._let_go()


def not_told(leases: list[L | None]) -> list[L | None]:
    """None in place of those whose holder was told that they are lost."""
    return [None if lease is None or lease._told() else lease for lease in leases]


def lost_at_exit(lease: BaseLease) -> LockLost:
    """What leaving a ``with`` raises when the lock had ended before."""
    return LockLost(
        f"{lease.key!r} was lost before its block ended: {lease._why_lost()} (ttl {lease.ttl} s)",
        lease.key,
    )


def policy(if_lost: str) -> str:
    """What to do at the end of a block whose lock was lost, checked."""
    if if_lost not in ("raise", "warn", "ignore"):
        raise ConfigError("if_lost", f'{if_lost!r} is neither "raise", "warn" nor "ignore"')
    return if_lost


def left(lease: BaseLease, freed: bool, if_lost: str) -> None:
    """A block was left in order: what to do about a lock that had been lost."""
    if (freed or lease.freed) and not lease._told():
        return
    if if_lost == "raise":
        raise lost_at_exit(lease)
    if if_lost == "warn":
        lost = lost_at_exit(lease)
        tell(WARNING, "lost_at_exit", "%s", lost, key=lease.key, reason=lease._why_lost())


def add_note(error: BaseException, failure: Exception) -> None:
    """The body's own exception goes on; what went wrong at release is told beside it."""
    if hasattr(error, "add_note"):  # Python 3.11
        error.add_note(f"and the lock was not released in order: {failure}")
    else:
        tell(WARNING, "not_released", "the lock was not released in order: %s", failure,
             key=getattr(failure, "key", None), error=type(failure).__name__)  # fmt: skip


# -- clients by where they lead, for unpickled specs

_clients: WeakValueDictionary[Any, Any] = WeakValueDictionary()


def remember(client: Any) -> None:
    """Let specs that are unpickled in this process bind to ``client``."""
    where = _where(client._kind, client.config)
    known = _clients.get(where)
    if known is None or known.closed:
        _clients[where] = client


def _where(kind: Any, config: Config) -> tuple[Any, ...]:
    return kind, config.address, config.prefix, config.username


def _unpickle(
    kind: Any,
    public: dict[str, Any],
    key: str | bytes,
    ttl: float,
    timeout: float | None,
    options: dict[str, Any],
) -> Any:
    """Bind to a client of the same server: one that lives here, or the environment's, or new."""
    config = Config(**public)
    where = _where(kind, config)
    client = _clients.get(where)
    if client is None or client.closed:
        environment = Config.from_env()
        client = kind(environment if _where(kind, environment) == where else config)
        _clients[where] = client
    return client.lock(key, ttl=ttl, timeout=timeout, **options)
