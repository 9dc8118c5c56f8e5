"""Floor 1, renewing leases by themselves: who keeps them, and who is told when one is lost.

Law: the heartbeat of the core sends and waits; here is what it has to say for a lease, what an
answer means, and nothing that a held lease's user waits for. The keeper's thread never blocks
but in the heartbeat: connecting and callbacks have threads of their own.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakValueDictionary, ref

from . import _args, _fork, _leaving
from ._claim import span
from ._clock import clock
from ._commands import Commands
from ._errands import Errands
from ._event import Event
from ._logs import INFO, WARNING, failed, tell
from ._pause import backoff_pause
from ._replies import is_transient
from ._tokens import Pair
from ._topology import closed_error
from .errors import ConfigError, FastlockError, ServerError

if TYPE_CHECKING:
    from ._impl import BeatLike, Core
    from ._topology import Link, SyncServer
    from .config import Config

#: Seconds after which a lease is renewed no more, unless the caller says otherwise.
MAX_HOLD = 3600.0
#: Seconds that the keeper's thread outlives the last lease.
IDLE = 5.0
#: Longest pause between two tries to connect, in seconds: a short ttl does not wait longer.
LONGEST_PAUSE = 0.5

#: Why a lease was lost.
REFUSED = "the server had it no more: it was deleted, taken over or had expired there"
UNANSWERED = "no renewal was answered before its deadline"


class Terms(NamedTuple):
    """How a lease is to be renewed."""

    max_hold: float | None  #: seconds; None: for ever
    on_lost: Callable[[Any], Any] | None  #: called with the lease
    cancel_on_lost: bool = False  #: asyncio: cancel the task that acquired it

    def options(self) -> dict[str, Any]:
        """As arguments of an acquire."""
        named = {"auto_renew": True, "max_hold": self.max_hold, "on_lost": self.on_lost}
        return {**named, "cancel_on_lost": True} if self.cancel_on_lost else named


def terms_of(
    auto_renew: bool,
    max_hold: float | None,
    on_lost: Callable[[Any], Any] | None,
    cancel_on_lost: bool = False,
    asynchronous: bool = False,
) -> Terms | None:
    """The arguments about renewal, checked; None without it."""
    usual = auto_renew is False and cancel_on_lost is False and on_lost is None
    if usual and max_hold is MAX_HOLD:  # most locks are made so, each in the hot path
        return None
    for name, flag in (("auto_renew", auto_renew), ("cancel_on_lost", cancel_on_lost)):
        if not isinstance(flag, bool):
            raise ConfigError(name, f"{flag!r} is neither True nor False")
    _args.hold(max_hold)
    if on_lost is not None:
        if not callable(on_lost):
            raise ConfigError("on_lost", f"{on_lost!r} cannot be called; it gets the lease")
        if not asynchronous and inspect.iscoroutinefunction(on_lost):
            raise ConfigError(
                "on_lost", f"{on_lost!r} is a coroutine function, which fastlock.aio.Client runs"
            )
    if auto_renew:
        return Terms(max_hold, on_lost, cancel_on_lost)
    given = {"on_lost": on_lost is not None, "cancel_on_lost": cancel_on_lost,
             "max_hold": max_hold != MAX_HOLD}  # fmt: skip
    for name, is_given in given.items():
        if is_given:
            raise ConfigError(name, "nobody watches the lease; add auto_renew=True")
    return None


class Renewal:
    """One lease's renewal; also its turn: who extends it by hand has its gate, and pauses it.

    Ends with the lease object: what nobody can release is not renewed.
    """

    __slots__ = (
        "__weakref__", "_keeper", "_lease", "_ms", "_shortest", "beat", "done", "ended", "gate",
        "left", "pair", "reason", "spelled_out", "terms", "until",
    )  # fmt: skip

    beat: BeatLike
    pair: Pair
    until: float  # when max_hold ends

    def __init__(self, keeper: Keeper, lease: Any, terms: Terms) -> None:
        self._keeper = keeper
        self._lease = ref(lease)
        self._ms = round(lease.ttl * 1000)
        self._shortest = round(_args.LONGEST * 1000)  # ms
        self.gate = threading.RLock()
        self.terms = terms
        self.pair = lease.pair
        self.spelled_out = False  # in the script's words
        self.done = False  # it is renewed no more
        self.left = False  # its holder has let go of it
        self.reason: str | None = None  # why it was lost; None: it was not
        self.ended = Event()
        acquired_at = lease.deadline - span(self._ms)
        self.until = acquired_at + (float("inf") if terms.max_hold is None else terms.max_hold)
        try:
            keeper.add(self, lease.deadline)
            lease._check_process()  # behind it: a signal handler may have forked before or within
            lease._turn = self
        except BaseException:  # whoever looks at the traceback keeps this alive
            self._finish()
            raise

    # -- for the keeper

    def timing(self) -> tuple[float, float]:
        """Period and span, in seconds: every third of the ttl."""
        ms = min(self._ms, self._shortest)
        return ms / 3000, span(ms)

    def words(self, commands: Commands) -> tuple[bytes, bytes | int]:
        """What to send, and the usual reply to it."""
        return commands.renew(*self.pair, self._ms), commands.renewed

    def lose(self, reason: str) -> None:
        """It is lost: tell whom it concerns. Any thread."""
        lease = self._lease()
        if reason is not REFUSED:
            reason = self.why_expired()
        if lease is None or not self._finish(reason):
            return
        if reason is REFUSED:
            lease.over = True
        self._tell(lease, reason)

    def why_expired(self) -> str:
        """Why its deadline could pass."""
        if clock() < self.until:
            return UNANSWERED
        return f"it had been held for max_hold ({self.terms.max_hold} s), and was renewed no more"

    def lose_late(self, lease: Any) -> None:
        """It turned out that it was lost before the release that nobody waited for."""
        with self._keeper.mutex:
            if self.reason is not None:  # a lock is lost once
                return
            self.reason = REFUSED
        self._tell(lease, REFUSED)

    def _tell(self, lease: Any, reason: str) -> None:
        lease._count_lost()
        level = WARNING if self.terms.on_lost is None else INFO
        tell(level, "lost", "%r was lost: %s", lease.key, reason, key=lease.key, reason=reason)
        self._announce(lease)

    def _announce(self, lease: Any) -> None:
        self.ended.set()
        on_lost = self.terms.on_lost
        if on_lost is not None:
            self._keeper.callbacks.add(partial(run_callback, on_lost, lease))

    # -- for the lease

    def end(self) -> None:
        """Its holder lets go of it."""
        self.left = True
        self._finish()
        self.ended.set()

    def _finish(self, reason: str | None = None) -> bool:
        """Whether it was not done before; once more after an interrupt does no harm.

        Who sees that it is done sees the ``reason`` for which it was lost, too.
        """
        with self._keeper.mutex:
            first = not self.done
            if first:
                self.reason = reason
            self.done = True
        beat: BeatLike | None = getattr(self, "beat", None)
        if beat is not None:
            beat.remove()
        return first

    def pause(self) -> None:
        """Send nothing until ``resume``; when this returns nothing is under way."""
        while not self.beat.pause(0.05):  # in slices, lest a signal's handler waits
            pass

    def unheard(self, milliseconds: int) -> None:
        """An extension to so much went unanswered, and may land whenever its connection lets it.

        A renewal over another connection cannot know that it has: from now on each counts for
        no longer than what that may leave.
        """
        self._shortest = min(self._shortest, milliseconds)

    def resume(self) -> None:
        """Go on with the ttl that the lease has now."""
        lease = self._lease()
        if lease is None or self.done:
            return
        if lease.over:  # as the server has said meanwhile
            self.lose(REFUSED)
            return
        self._ms = round(lease.ttl * 1000)
        self._keeper.resume(self)


def run_callback(on_lost: Callable[[Any], Any], lease: Any) -> Any:
    """Its exceptions are logged."""
    try:
        return on_lost(lease)
    except Exception:
        failed("on_lost_failed", "on_lost of %r failed", lease.key, key=lease.key)
        return None


class Keeper:
    """One client's: renews its leases over the connection that ``server`` gives."""

    def __init__(self, server: SyncServer, core: Core, config: Config) -> None:
        self._server = server
        self._patience = config.socket_timeout
        self._heart = (core.tls_heartbeat if config.ssl else core.heartbeat)(self._patience)
        self._scripts = Commands(core)  # which every server knows
        self._commands = self._scripts
        self._sample = b""  # tells whether other commands say it in other words
        self._closing = Event()
        self.used = False
        self._forget()
        _fork.register(self)
        _leaving.last(self)

    def _forget(self) -> None:
        self.mutex = threading.RLock()
        self._renewals: WeakValueDictionary[int, Renewal] = WeakValueDictionary()
        self._link: Link | None = None
        self._thread: threading.Thread | None = None
        self._connecting = False
        self._connections = Errands("fastlock-reconnect")
        self.callbacks = Errands("fastlock-on-lost")

    def forked(self) -> None:
        """In a forked child: its parent's leases are none of its own."""
        self._heart.forked()
        self._forget()

    @property
    def renewed(self) -> int:
        """How many renewals were answered in time."""
        return self._heart.renewed

    # -- for renewals

    def add(self, renewal: Renewal, deadline: float) -> None:
        """Renew from now on."""
        with self.mutex:
            renewal.beat = self._entry(renewal, deadline)

    def _entry(self, renewal: Renewal, deadline: float) -> BeatLike:
        """One more in the heartbeat."""
        with self.mutex:
            if self._closing.is_set():
                raise closed_error()
            self.used = True
            link = self._server.ready()
            if link is not None and link is not self._link:
                self._attach(link)
            words, timing = self._words(renewal), renewal.timing()
            beat = self._heart.add(*words, *timing, deadline, renewal.until)
            self._renewals[beat.number] = renewal
            self._start()
        if link is None:
            self.connect()
        return beat

    def resume(self, renewal: Renewal) -> None:
        """Go on after a pause, perhaps with another ttl."""
        with self.mutex:
            renewal.beat.resume(*self._words(renewal), *renewal.timing())

    def _words(self, renewal: Renewal) -> tuple[bytes, bytes | int]:
        return renewal.words(self._scripts if renewal.spelled_out else self._commands)

    # -- the connection

    def connect(self) -> None:
        """Have a connection made, where there is none, and renew over it."""
        with self.mutex:
            if self._connecting or self._closing.is_set():
                return
            self._connecting = True
        self._connections.add(self._connect)

    def _connect(self) -> None:
        failures = 0
        while True:
            with self.mutex:
                if self._closing.is_set() or not self._heart.count:
                    self._connecting = False
                    return
            try:
                link = self._server.link(self._patience)
            except Exception as error:
                if not isinstance(error, FastlockError):
                    failed("internal", "connecting for renewals failed")
                self._unreached()
                failures += 1
                tell(INFO, "retry", "no connection for renewals (failure %d): %s", failures, error,
                     failures=failures, error=type(error).__name__)  # fmt: skip
                self._closing.wait(min(backoff_pause(failures), LONGEST_PAUSE))
                continue
            with self.mutex:
                self._connecting = False
                self._attach(link)
            return

    def _unreached(self) -> None:
        """There was no connection to be had."""

    def _attach(self, link: Link) -> None:
        """Mutex held."""
        self._link = link
        sample = link.commands.renew(b"key", b"token", 1)
        if sample != self._sample:  # another server than before
            self._sample, self._commands = sample, link.commands
            for renewal in list(self._renewals.values()):
                renewal.beat.recode(*self._words(renewal))
        self._heart.attach(link.pipe)

    # -- the thread

    def _start(self) -> None:
        """Mutex held."""
        if self._thread is None:
            thread = threading.Thread(target=self._run, name="fastlock-keeper", daemon=True)
            thread.start()
            self._thread = thread

    def _run(self) -> None:
        while True:
            news = self._heart.wait(IDLE)
            for number, what, said in news:
                try:
                    self._hear(number, what, said)
                except Exception:  # about one lease: the others go on
                    failed("internal", "a renewal's outcome could not be told")
            if not news:
                with self.mutex:
                    if self._closing.is_set() or not self._heart.count:
                        self._thread = None
                        return

    def _hear(self, number: int, what: str, said: Any) -> None:
        if not number:
            self.connect()
            return
        renewal = self._renewals.get(number)
        if renewal is None:
            return
        if what == "trouble":
            self._mind(renewal, said)
        else:
            renewal.lose(REFUSED if what == "refused" else UNANSWERED)

    def _mind(self, renewal: Renewal, error: ServerError) -> None:
        """The server refused: say it in other words next time, unless it was "not now".

        SET needs memory, which EXPIRE in a script does not; a user may be forbidden either.
        """
        link = self._link
        if link is not None:
            link.heard([error])
        if error.code == "WRONGTYPE":
            renewal.lose(REFUSED)
        elif not is_transient(error):
            with self.mutex:
                renewal.spelled_out = not renewal.spelled_out
                renewal.beat.recode(*self._words(renewal))

    # -- the end

    def stop(self) -> None:
        """Renew nothing any more; returns at once."""
        self._closing.set()
        self._heart.stop()

    def ended(self) -> bool:
        """Whether the keeper's thread has ended, after ``stop``."""
        return self._thread is None

    def join(self, timeout: float) -> None:
        """Wait until its threads have ended, after ``stop`` and the closing of the connection."""
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout)
        self._connections.finish(timeout)
        self._heart.join()

    def end(self, timeout: float) -> None:
        """The process ends: no thread of C's own must run on while it is taken apart."""
        self.stop()
        self.join(timeout)
