"""Floor 5: connections beside the shared one, for commands that block the one they run on.

Law: one caller at a time on each, so nobody is behind another one's WAIT, and what a WAIT says is
about its caller's own command. A connection on which an answer is missing is ended (RST, and by
the server as soon as that can be asked), and nothing is sent anew before: what it still carries
cannot land later. No lock is taken: whose a connection is, is decided by one operation on a dict,
for a signal's handler may come in anywhere.

There are as many as there were callers at once, and a few are kept for the next. A bound would have
callers wait for the WAITs of others.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

from . import _fork
from ._clock import clock
from ._replies import is_nonsense, out_of_step
from ._topology import Attempt, Link, SyncServer, closed_error, too_late
from .errors import ServerError, TransportError

if TYPE_CHECKING:
    from ._effects import Confirmed

#: Connections kept for the next callers.
KEPT = 4


class Aside:
    """One connection, and whose it is now."""

    __slots__ = ("_user", "link")

    def __init__(self, link: Link, user: object) -> None:
        self.link = link
        self._user: dict[int, object] = {0: user}  # [0]: who uses it; {}: nobody

    def taken_by(self, user: object) -> bool:
        """Take it, if nobody has; whether it is ``user``'s."""
        return self._user.setdefault(0, user) is user

    @property
    def free(self) -> bool:
        return not self._user

    def is_of(self, user: object) -> bool:
        """Whether ``user`` has taken it."""
        return self._user.get(0) is user

    def leave(self) -> None:
        """It is nobody's."""
        self._user.pop(0, None)


class Asides:
    """Those of a sync client. Any thread may call it."""

    def __init__(self, server: SyncServer) -> None:
        self._server = server
        self._closed = False
        self.forked()
        _fork.register(self)

    def forked(self) -> None:
        """In a forked child: they are the parent's, and their Pipes are told as well."""
        self._all: list[Aside] = []
        self._attempts: list[Attempt] = []

    def call(
        self, call: Confirmed, patience: float, before: bytes = b""
    ) -> tuple[float, list[Any]]:
        """Carry it out: the time before sending, and its reply.

        ``patience`` is in seconds, for the answers beyond what WAIT may last. ``before`` is sent in
        front of it: one command whose answer is nobody's.
        """
        me = object()
        generation = _fork.generation
        answered = call.left = False
        try:
            timeout = patience if call.until is None else min(patience, call.until - clock())
            link = self._take(me, timeout).link
            _fork.check(generation)
            if self._server.strays:
                self._server.end_strays(timeout, link)
            sent_at = clock()
            timeout = patience + call.lasts(sent_at) / 1000
            if call.until is not None:
                timeout = min(timeout, call.until - sent_at)
                if timeout <= 0:
                    raise too_late()
            data = before + encoded(call, link, sent_at)
            call.left = True
            try:
                replies = link.heard(link.pipe.call(data, 2 + bool(before), timeout))
            except TransportError as error:
                _fork.check(generation)
                error.sent_at = sent_at
                raise
            reply = understood(call, sent_at, replies[-2:])
            answered = True
            return sent_at, reply
        finally:
            try:
                self._leave(me, answered, call.left)
            except BaseException:  # an interrupt: leaving twice does no harm
                self._leave(me, answered, call.left)
                raise

    def _take(self, me: object, timeout: float) -> Aside:
        """One that nobody uses, the latest first; else a new one."""
        for aside in reversed(self._all.copy()):
            if aside.taken_by(me):
                if not aside.link.pipe.broken:
                    return aside
                self._end(aside)
        attempt = Attempt()
        try:
            self._attempts.append(attempt)
            if self._closed:
                raise closed_error()
            aside = Aside(self._server.spare(timeout, attempt), me)
        finally:
            with suppress(ValueError):
                self._attempts.remove(attempt)
        self._all.append(aside)
        if self._closed:
            raise closed_error()
        return aside

    def _leave(self, me: object, answered: bool, sent: bool) -> None:
        """Keep it for the next if it was answered and few are kept, else end it.

        One that has broken takes those along that nobody uses: they would fail one by one.
        """
        for aside in self._all.copy():
            if not aside.is_of(me):
                continue
            broken = aside.link.pipe.broken
            if answered and not broken and sum(one.free for one in self._all.copy()) < KEPT:
                aside.leave()
                continue
            if not answered and sent:
                self._server.strays.append(aside.link.info)  # before: whoever is next ends it
            self._end(aside)
            if broken:
                for other in self._all.copy():
                    if other.taken_by(me):
                        self._end(other)

    def _end(self, aside: Aside) -> None:
        aside.link.pipe.abort("no answer will be read on it any more")
        with suppress(ValueError):
            self._all.remove(aside)

    def close(self) -> None:
        """End them; callers still waiting get an error, and see to what they have sent."""
        self._closed = True
        for attempt in self._attempts.copy():
            attempt.halt()
        for aside in self._all.copy():
            self._end_of_all(aside)

    def _end_of_all(self, aside: Aside) -> None:
        if not aside.free:
            aside.link.pipe.abort("the client was closed")
            return
        aside.link.pipe.close()
        with suppress(ValueError):
            self._all.remove(aside)


def demoted(sent_at: float) -> TransportError:
    """The server is a master no more, and WAIT ended by that; what it had done may be lost."""
    error = TransportError("the master was demoted while replicas were waited for", sent=True)
    error.sent_at = sent_at
    return error


def encoded(call: Confirmed, link: Link, now: float) -> bytes:
    """The command and its WAIT, for one write."""
    return link.encode(call) + link.commands.wait(call.wanted, call.lasts(now))


def understood(call: Confirmed, sent_at: float, replies: list[Any]) -> list[Any]:
    """The command's reply, in a list; the call is told how many have it.

    TransportError: nonsense.
    """
    reply, confirmed = replies
    if isinstance(confirmed, ServerError) and confirmed.code == "UNBLOCKED":
        raise demoted(sent_at)
    number = type(confirmed) is int and confirmed >= 0
    if is_nonsense(call.verb, reply) or not (number or isinstance(confirmed, ServerError)):
        raise out_of_step(sent_at)
    call.confirmed = confirmed
    return [reply]
