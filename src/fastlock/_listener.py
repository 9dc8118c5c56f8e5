"""Floor 5, sync: one connection more, while somebody waits, by which the server tells of keys.

Law: one of those who wait leads: it alone connects, writes and reads there, and wakes the others;
when it leaves, another leads. ``_role`` says who, and is taken and left by one operation on a
dict, so that an interrupt leaves nothing locked. An interrupt in the middle of the bookkeeping
ends the connection. A signal's handler that has interrupted the leader is told nothing and looks
by itself; as long as it runs the others are told nothing either. Whatever happens to the
connection, all who wait are woken and try.
"""

from __future__ import annotations

import select
import selectors
import socket
import threading
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from . import _fork
from ._clock import clock
from ._connect import Opened, open_sync
from ._errands import Errands
from ._event import Event
from ._impl import Core
from ._pause import LONGEST_SLEEP
from ._queue import Place, Queue
from ._resp import Push
from ._sockets import Held, close_descriptor, patched_by
from ._watch import (
    LINGER,
    MOST_KEYS,
    RECOVERY,
    Watch,
    changed,
    refused,
    tracking,
    watching,
)
from .config import Config
from .errors import FastlockError, ProtocolError, TransportError

#: Longest a follower sleeps before it looks whether anybody leads, in seconds.
FOLLOWING = 0.25
CHUNK = 65536

_NOWHERE = Place(Queue(), b"", None, lined=False)


class Poke:
    """Wakes who polls: an event whose being set is a byte in a socket.

    Whoever polls says so before a last look at what could have been told.
    """

    def __init__(self) -> None:
        self.needed = False
        self.far, self._near = socket.socketpair()
        self.far.setblocking(False)
        self._near.setblocking(False)
        self.number = self.far.fileno()

    def set(self) -> None:
        if self.needed:
            with suppress(OSError):  # full, which will do as well; or closed
                self._near.send(b"!")

    def take_back(self) -> None:
        with suppress(OSError):
            self.far.recv(CHUNK)

    def close(self) -> None:
        close_descriptor(self.far)
        close_descriptor(self._near)


class _Asked:
    """What was sent, and the replies so far. ``watch`` is None of the first words."""

    __slots__ = ("replies", "sent_at", "want", "watch")

    def __init__(self, watch: Watch | None, want: int) -> None:
        self.watch = watch
        self.want = want
        self.replies: list[Any] = []
        self.sent_at = clock()


class _Wire:
    """The connection. The leader's, but for its end and its poke."""

    def __init__(self, opened: Opened, core: Core, poke: Poke) -> None:
        self.began = clock()
        self.over = False
        self.poke = poke
        self.pending: deque[_Asked] = deque()
        self._keep = opened.keep
        self._sock: Any = opened.sock
        self._number = opened.sock.fileno()
        self._tls = opened.tls
        self._decoder = core.decoder()
        self._out = b""
        self._sock.setblocking(False)
        self._poller: Any = None  # where there is none, a selector each time
        if not patched_by() and hasattr(select, "poll"):
            self._poller = select.poll()
            self._poller.register(self._sock, select.POLLIN)
            self._poller.register(self.poke.far, select.POLLIN)

    def queue(self, watch: Watch | None, data: bytes, count: int) -> None:
        """Send with the next ``flush``."""
        self._out += data
        self.pending.append(_Asked(watch, count))

    def flush(self) -> None:
        """Write what the socket takes."""
        while self._out:
            try:
                self._out = self._out[self._sock.send(self._out) :]
            except BlockingIOError:
                break
            except OSError as error:
                if not _wants(error):
                    raise
                break

    def poll(self, seconds: float) -> bool:
        """Whether something is there to read within that time; less if somebody pokes."""
        if self._poller is None or self._out:
            found = self._select(seconds)
        else:
            found = [number for number, _ in self._poller.poll(seconds * 1000 + 1)]
        if self.poke.number in found:
            self.poke.take_back()
        return self._number in found

    def _select(self, seconds: float) -> list[int]:
        """As ``poll`` does, but that it ends when there is room for what is to be written."""
        with selectors.DefaultSelector() as selector:
            events = selectors.EVENT_READ | (selectors.EVENT_WRITE if self._out else 0)
            selector.register(self._sock, events)
            selector.register(self.poke.far, selectors.EVENT_READ)
            return [key.fd for key, _ in selector.select(seconds)]

    def read(self) -> list[Any]:
        """What has come. OSError at its end."""
        replies: list[Any] = []
        while True:
            try:
                chunk = self._sock.recv(CHUNK)
            except BlockingIOError:
                return replies
            except OSError as error:
                if not _wants(error):
                    raise
                return replies
            if not chunk:
                raise OSError("the server closed the connection")
            replies += self._decoder.feed(chunk)
            if not self._tls and len(chunk) < CHUNK:
                return replies

    def end(self) -> None:
        """Close it. May be repeated."""
        self.over = True
        close_descriptor(self._sock)
        self.poke.close()


def _wants(error: OSError) -> bool:
    """Whether TLS only wants to read or write first."""
    return type(error).__name__ in ("SSLWantReadError", "SSLWantWriteError")


class Listener:
    """One client's. Any thread may call it."""

    def __init__(self, config: Config, core: Core) -> None:
        self._config = config
        self._core = core
        self._closed = False
        self._forget()
        _fork.register(self)

    def _forget(self) -> None:
        self._wire: _Wire | None = None
        self._held: Held | None = None  # of the connecting
        self._role: dict[str, Watch] = {}  # "leader"
        self._fresh: deque[Watch] = deque()  # not yet asked for
        self._watches: dict[Watch, None] = {}  # of all who wait here
        self._polling = False  # the leader waits, and has nothing in hand
        self._refused_by: object = None  # the main connection of the time when it was refused
        self._not_before = 0.0  # when another connection may be tried
        self._used = False  # since the last look of who closes it
        self._lingering = False
        self._over = Event()
        self._errands = Errands("fastlock-listener")

    def fit(self, core: Core) -> None:
        """Before the first connection: threads are green ones now."""
        self._core = core
        self._forget()

    def wait(
        self,
        place: Place,
        keys: Sequence[bytes],
        until: float,
        about: object,
        turn: bytes | None = None,
    ) -> bool:
        """Wait until one of the keys changes, or none is held; at most ``until``, or until told.

        The holders' ttls end the wait too. False: the server does not tell, or not now, so look
        by yourself. ``about`` is the main connection: a refusal counts as long as that lives.
        ``turn`` is a key whose end is waited for first.
        """
        if len(keys) > MOST_KEYS or clock() < self._not_before:
            return False
        if about is not None and self._refused_by is about:
            return False
        watch = Watch(place, keys, threading.get_ident(), turn=turn)
        try:
            self._used = True
            self._watches[watch] = None
            self._fresh.append(watch)
            self._wait(watch, until, about)
        finally:
            try:
                self._leave(watch)
            except BaseException:  # an interrupt: leaving twice does no harm
                self._leave(watch)
                raise
        return not watch.refused

    @property
    def back_in(self) -> float:
        """Seconds after which to come again, having been told that it is not to be had now."""
        left = self._not_before - clock()
        return left if left > 0 else float("inf")

    def _wait(self, watch: Watch, until: float, about: object) -> None:
        generation = _fork.generation
        while not (watch.over or watch.place.told):
            news = watch.place.news = Event()
            left = self._left(watch, until)
            if left <= 0 or generation != _fork.generation:
                return
            leader = self._role.setdefault("leader", watch)
            if leader is watch:
                self._lead(watch, until, about)
            elif leader.who == watch.who:  # this thread's, which a handler has interrupted
                watch.end(refused=True)
            else:
                wire = self._wire
                if wire is not None and not watch.asked:
                    wire.poke.set()
                news.wait(min(left, FOLLOWING))

    def _left(self, watch: Watch, until: float) -> float:
        """Seconds that the watch may go on."""
        if watch.over or watch.place.told or self._closed:
            return 0.0
        return min(until, watch.ends, clock() + LONGEST_SLEEP) - clock()

    def _leave(self, watch: Watch) -> None:
        self._watches.pop(watch, None)
        if self._fresh:
            with suppress(ValueError, IndexError):  # the leader takes it out, or passes over it
                self._fresh.remove(watch)
        watch.place.watched = False
        self._hand_on(watch)

    def _hand_on(self, watch: Watch) -> None:
        """Lead no more, if it did; if nobody does, let another."""
        if self._role.get("leader") is watch:
            del self._role["leader"]
        if "leader" in self._role:
            return
        if self._closed and self._wire is not None:
            self._wire.end()
        for other in self._watches.copy() if self._watches else ():
            if other is not watch and not other.over:
                other.place.wake()
                return

    # -- the leader's

    def _lead(self, watch: Watch, until: float, about: object) -> None:
        """Serve all who wait, until ``watch`` is over; who leaves ``wait`` lets another lead."""
        wire = None
        generation = _fork.generation
        try:
            wire = self._wire or self._open(until)
            if wire is None:
                return
            watch.place.news = wire.poke
            while True:
                wire.poke.needed = True
                self._ask(wire)
                left = self._left(watch, until)
                if left <= 0 or wire.over or generation != _fork.generation:
                    return
                due = float("inf")
                if wire.pending:
                    due = wire.pending[0].sent_at + self._config.socket_timeout
                late = due <= clock()  # perhaps only we are: it may have come
                self._polling = True
                readable = wire.poll(0.0 if late else min(left, due - clock()))
                self._polling = wire.poke.needed = False
                if readable:
                    for reply in wire.read():
                        self._take(wire, reply, about)
                    if watch.over:
                        return
                elif late:
                    raise TransportError("no answer in time")
        except (OSError, TransportError):
            if wire is None or clock() < wire.began + RECOVERY:
                self._not_before = clock() + RECOVERY
            self._lost(wire)
        except BaseException:
            if not self._polling:
                self._lost(wire)
            raise
        finally:
            self._polling = False
            if wire is not None:
                wire.poke.needed = False

    def _open(self, until: float) -> _Wire | None:
        """A new connection; None: there is none to be had now."""
        timeout = min(self._config.connect_timeout, until - clock())
        held = self._held = Held(close_descriptor)
        try:
            if self._closed or timeout <= 0:
                return None
            opened = open_sync(self._config, timeout, held)
        except FastlockError:
            if clock() < until:  # else it was the waiter's time that was short
                self._not_before = clock() + RECOVERY
                self._dismiss(refused=True)
            return None
        finally:
            self._held = None
        poke: Poke | None = None
        try:
            poke = Poke()
            wire = _Wire(opened, self._core, poke)
            wire.queue(None, *tracking(self._core.pack, opened.protocol))
            self._wire = wire
        except BaseException:
            close_descriptor(opened.sock)
            if poke is not None:
                poke.close()
            raise
        if not self._lingering:  # here, where nobody is late for a lock
            self._lingering = self._errands.add(self._close_when_idle)
        return wire

    def _ask(self, wire: _Wire) -> None:
        """Have the server told of what is new."""
        while self._fresh:
            watch = self._fresh.popleft()
            if watch in self._watches and not (watch.over or watch.asked):
                wire.queue(watch, *watching(self._core.pack, watch.keys))
                watch.asked = watch.place.watched = True
        wire.flush()

    def _take(self, wire: _Wire, reply: Any, about: object) -> None:
        if type(reply) is Push:
            keys = changed(reply)
            for watch in self._watches.copy():
                if watch.changed(keys):
                    self._fresh.append(watch)
            return
        if type(reply) is ProtocolError or not wire.pending:
            raise TransportError("the answers are out of step")
        asked = wire.pending[0]
        asked.replies.append(reply)
        if len(asked.replies) < asked.want:
            return
        wire.pending.popleft()
        if asked.watch is None:
            told = not refused(asked.replies)
        else:
            told = asked.watch.answered(asked.replies, clock())
            if not asked.watch.asked:
                self._fresh.append(asked.watch)
        if not told:
            self._refused_by = about
            self._dismiss(refused=True)
            self._end(wire)

    def _lost(self, wire: _Wire | None) -> None:
        """Nothing more is heard from it: everybody looks."""
        if wire is not None:
            self._end(wire)
        self._dismiss()

    def _end(self, wire: _Wire) -> None:
        wire.end()
        if self._wire is wire:
            self._wire = None

    def _dismiss(self, refused: bool = False) -> None:
        for watch in self._watches.copy():
            watch.end(refused)

    # -- its end

    def _close_when_idle(self) -> None:
        """On a thread of its own, which lives as long as the connection."""
        while not self._over.wait(LINGER):
            if self._used or self._watches:
                self._used = False
            elif self._end_unless_used():
                return

    def _end_unless_used(self) -> bool:
        """Whether there is no connection now, nor a thread that will end one."""
        nobody = Watch(_NOWHERE, (), threading.get_ident())
        try:
            if self._role.setdefault("leader", nobody) is not nobody:
                return False
            wire = self._wire
            if wire is not None:
                if self._watches and not self._closed:
                    return False
                self._end(wire)
            self._lingering = False
            return True
        finally:
            self._hand_on(nobody)

    def look(self) -> None:
        """Have everybody who waits try: here they may be told no more."""
        self._dismiss()

    def stop(self) -> None:
        """Let everybody who waits go, and nobody come."""
        self._closed = True
        self._over.set()
        held = self._held
        if held is not None:
            held.halt()
        self._dismiss()

    def close(self) -> None:
        """End it."""
        self.stop()
        self._end_unless_used()
        self._errands.finish(1.0)

    def forked(self) -> None:
        """In a forked child: the connection is the parent's."""
        wire = self._wire
        watches = self._watches
        self._forget()
        if wire is not None:
            wire.end()
        for watch in watches:
            watch.end()
