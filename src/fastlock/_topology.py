"""Floor 5: which connection serves a key, and who makes it when it is gone.

Law: one shared connection per client. One caller connects, the others wait for its
outcome; before a new connection carries anything, the server has ended the old one,
so that nothing it still had under way can land later.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

from . import _commands, _fork
from ._clock import clock
from ._commands import Commands, ServerInfo
from ._connect import open_sync
from ._event import Event
from ._impl import Core, PipeLike, StraightLike
from ._replies import is_demoted, is_transient, not_ready
from ._resp import Reentered
from ._sockets import Held, close_descriptor, patched_by
from ._watch import held_for, refused
from .config import Config
from .errors import FastlockError, ServerError, TransportError

if TYPE_CHECKING:
    from ._effects import Call

Replies = TypeVar("Replies", bound=Sequence[Any])


@dataclass(slots=True)
class Link:
    """One connection, the dialect spoken on it, and what is known of the server."""

    pipe: Any  # PipeLike or AsyncPipe
    commands: Commands
    info: ServerInfo
    keep: object  # what of redis-py must live as long as the connection
    way: StraightLike | None = None  # the client's over it, once it has gone it
    mute: bool = False  # the user may not ask how long a lock is held
    named: bool = False  # by Sentinel, which may name another one by now

    def encode(self, call: Call) -> bytes:
        """The call's bytes in this connection's dialect."""
        commands = self.commands.spelled_out() if call.spelled_out else self.commands
        data: bytes = getattr(commands, call.verb)(*call.args)
        return data

    def heard(self, replies: Replies) -> Replies:
        """The replies; a server that Sentinel has named and that is no master now is left.

        What it refused may be asked of the next one.
        """
        if self.named:
            for reply in replies:
                if is_demoted(reply):
                    reply.passing = True
                    self.pipe.abort("the server is no master any more")
        return replies

    def held_for(self, replies: list[Any]) -> float:
        """Seconds until the last of the locks ends, by the answers to ``asking``; inf: unknown."""
        if refused(replies):
            self.mute = True
            return float("inf")
        return held_for(replies) or 0.0

    def downgrade(self, verb: str) -> None:
        """A script from now on, instead of the server's own command for this verb."""
        self.commands = self.commands.without(verb)
        self.way = None
        self.info = replace(self.info, release_command=self.commands.release_command)


def connection_to_kill(old: ServerInfo | None, new: ServerInfo) -> int | None:
    """The number of our ``old`` connection, if this is the very same run of the server.

    Connection numbers start anew with the server: without the run id as proof the
    number could be a stranger's.
    """
    same_run = old is not None and old.run_id and old.run_id == new.run_id
    return old.connection_id if old is not None and same_run else None


def copy_of(error: FastlockError) -> FastlockError:
    """The same error for another caller, whose traceback is its own."""
    twin = copy.copy(error)
    twin.__cause__ = error.__cause__
    return twin


def closed_error() -> FastlockError:
    """What every call on a closed client raises."""
    return FastlockError("the client is closed; make a new one")


def too_late() -> TransportError:
    """Nothing was sent: by then its caller waits no more."""
    return TransportError("the caller's time was over before it could be sent")


class Attempt:
    """One try at connecting: its owner's thread, and its outcome for those who wait."""

    def __init__(self) -> None:
        self.owner = threading.get_ident()
        self.done = Event()
        self.failure: FastlockError | None = None
        self.held = Held(close_descriptor)
        self.pipe: PipeLike | None = None

    def halt(self) -> None:
        """Wake its owner out of whatever wait, but a look-up of the server's name."""
        self.held.halt()
        if self.pipe is not None:
            self.pipe.close()


class SyncServer:
    """The one server of a sync client. Any thread may call it."""

    def __init__(
        self,
        config: Config,
        core: Core,
        on_connect: Callable[[bool], None],
        on_patched: Callable[[], Core],
    ) -> None:
        self._config = config
        self._core = core
        self._on_connect = on_connect
        self._on_patched = on_patched
        self._closed = False
        self._green = patched_by()
        self._forget()
        _fork.register(self)

    def _forget(self) -> None:
        self._mutex = threading.RLock()  # a signal handler may interrupt its holder
        self._link: Link | None = None
        self._attempt: Attempt | None = None
        self._last: ServerInfo | None = None  # of the latest connection, broken or not
        self.strays: list[ServerInfo] = []  # spare connections that may still carry something

    def ready(self) -> Link | None:
        """The working connection, if there is one."""
        link = self._link
        return None if link is None or link.pipe.broken else link

    def serving(self, _keys: object) -> Link | None:
        """As ``ready``: it serves all keys."""
        return self.ready()

    def link(self, timeout: float) -> Link:
        """The working connection; makes one if needed, in at most ``timeout`` seconds.

        Raises TransportError (not sent), ServerError (refused by the server, as for a
        wrong password), ProtocolError, FastlockError when closed; Reentered in a signal
        handler that has interrupted the connecting.
        """
        link = self._link
        if link is not None and not link.pipe.broken:
            return link
        attempt = Attempt()
        try:
            with self._mutex:
                link = self._link
                if link is not None and not link.pipe.broken:
                    return link
                if self._closed:
                    raise closed_error()
                other = self._attempt
                if other is None:
                    self._attempt = attempt
            if other is None:
                return self._connect(attempt, timeout)
        finally:
            try:
                self._finish(attempt)
            except BaseException:  # an interrupt: others must not wait for ever
                self._finish(attempt)
                raise
        if other.owner == attempt.owner:
            raise Reentered("called from inside the client's own connecting")
        if not other.done.wait(timeout):
            raise TransportError(f"no answer in time: still connecting to {self._config.address}")
        if other.failure is not None:
            raise copy_of(other.failure)
        return self.link(timeout)

    def _connect(self, attempt: Attempt, timeout: float) -> Link:
        try:
            link = self._open(timeout, self._last, attempt)
            try:
                with self._mutex:
                    if self._closed:
                        raise closed_error()
                    again = self._last is not None
                    self._link, self._last = link, link.info
            except BaseException:
                link.pipe.close()
                raise
            self._on_connect(again)
            return link
        except FastlockError as error:
            if self._closed:  # which has ended the connecting
                attempt.failure = closed_error()
                raise closed_error() from None
            attempt.failure = error
            raise
        except BaseException:
            attempt.failure = TransportError("the thread that was connecting was interrupted")
            raise

    def _finish(self, attempt: Attempt) -> None:
        with self._mutex:
            if self._attempt is attempt:
                self._attempt = None
        attempt.done.set()

    def spare(self, timeout: float, attempt: Attempt | None = None) -> Link:
        """A connection beside the shared one, for a caller that must not wait for it.

        The caller closes it, and if it left something unanswered there, adds its ``info``
        to ``strays``. By the ``attempt`` others may end the connecting.
        """
        return self._open(timeout, None, attempt or Attempt())

    def succeed(self, other: SyncServer) -> None:
        """Take the place of a closed one: what it left behind is ended first."""
        self._last, self.strays = other._last, other.strays

    def end_strays(self, timeout: float, link: Link | None = None) -> None:
        """Have the server end what callers left behind; asked over ``link``, or the shared one.

        Each stays listed until that is done: who finds none has none of his own either.
        """
        link = link or self.link(timeout)
        for stray in self.strays.copy():
            old = connection_to_kill(stray, link.info)
            if old is not None:
                try:
                    link.pipe.call(_commands.kill_connection(self._core.pack, old), 1, timeout)
                except TransportError as error:  # the caller's own command was not sent
                    raise TransportError(str(error)) from None
            with suppress(ValueError):  # another thread's work
                self.strays.remove(stray)

    def _open(self, timeout: float, last: ServerInfo | None, attempt: Attempt) -> Link:
        if patched_by() != self._green:
            if self._last is not None:
                raise FastlockError(
                    f"{patched_by()} has patched the sockets since this client connected, which "
                    "therefore would not yield: patch first, and make a new client"
                )
            self._core, self._green = self._on_patched(), patched_by()
        until = clock() + min(timeout, self._config.connect_timeout)
        try:
            opened = open_sync(self._config, until - clock(), attempt.held)
        except ServerError as error:
            raise not_ready(error) if is_transient(error) else error from None
        make = self._core.tls_pipe if opened.tls else self._core.pipe
        pipe: PipeLike = make(opened.sock)
        _fork.register(pipe)  # ``opened.keep`` has told the child until here
        attempt.pipe = pipe
        if attempt.held.halted:
            pipe.close()
        try:
            pack = self._core.pack
            data, count = _commands.greeting(pack)
            replies = pipe.call(data, count, until - clock())
            commands, info = _commands.dialect(self._core, replies, opened.protocol)
            old = connection_to_kill(last, info)
            if old is not None:
                pipe.call(_commands.kill_connection(pack, old), 1, until - clock())
        except BaseException as error:
            pipe.abort("could not be set up")
            if isinstance(error, TransportError):
                raise TransportError(f"{self._config.address}: {error}") from None
            raise
        named = self._config.sentinels is not None
        return Link(pipe, commands, info, opened.keep, named=named)

    def close(self) -> None:
        """Close the connection; callers still waiting get an error, also those who connect."""
        with self._mutex:
            self._closed = True
            link, self._link = self._link, None
            attempt = self._attempt
        if link is not None:
            link.pipe.close()
        if attempt is not None:
            attempt.failure = closed_error()
            attempt.halt()
            attempt.done.set()

    def forked(self) -> None:
        """In a forked child: the connection is the parent's, and its Pipe is told as well."""
        self._forget()
