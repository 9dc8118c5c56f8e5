"""Many callers, one socket: what of the Python Pipe queues, leads, writes and reads.

Law: what ``_mux.pyx`` does, where the compiled core is absent or TLS owns the connection; it
knows RESP, sockets and time. Any of it may be interrupted anywhere.
"""

from __future__ import annotations

import selectors
import socket
import ssl
import struct
import sys
import threading
from collections import deque
from time import monotonic
from typing import Any

from ._pycodec import Decoder
from ._resp import MAX_ANSWER, MAX_LINE, NO_ANSWER, TOO_MUCH, Push, Reentered
from ._sockets import close_descriptor, patched_by, reset_on_close
from .errors import ProtocolError, TransportError

__all__ = ["Mux"]

#: Longest a leader sits in one receive, in seconds: bounds how late it notices
#: that the Pipe was ended by somebody else, or that bytes wait for a full buffer.
SLICE = 0.05
#: Longest a follower sleeps before it looks whether anybody leads, in seconds.
PATIENCE = 0.25
#: While the leader reads, a caller writes at once what has queued if at most so many commands
#: are unanswered, or if what has queued is at least one part in so many of them; less than
#: that leaves together with the leader's next write.
FLUSH_FEW = 4
FLUSH_PART = 2
CHUNK = 65536

_DONTWAIT = getattr(socket, "MSG_DONTWAIT", 0)  # an enumeration's name is slow to look up

_ORDINARY = frozenset({bytes, int, type(None)})  # types of replies that are only replies

NEW, WAITING, DONE, FAILED, ABANDONED = range(5)


_NONE: list[Any] = []  # stays empty


class Place:
    """One caller's place in the order of answers. Fields change under the mutex.

    Most callers lead and never sleep, so the gate is made for the first that must. What
    every call sets has no default in the class, which CPython would look up at every store.
    """

    usual: int | None = None  # a deferred command's usual answer; None: any other place
    number = 0  # of a deferred command, from 1
    entering = False  # its owner is in the middle of queueing it
    told = False  # the gate was opened and its owner has not yet looked
    away = False  # its owner does not wait yet, so it neither leads nor is woken
    gate: threading.Lock | None = None  # closed while its owner sleeps

    def __init__(self, want: int) -> None:
        self.want = want
        self.replies = _NONE  # a list of its own for the first that is not the only one
        self.begin = 0  # stream offset of the first byte
        self.state = NEW
        self.gone = False  # it was answered and has left, all in one go

    def wake(self) -> None:
        if self.gate is not None and not self.told:
            self.told = True
            self.gate.release()


class Mux:
    """The queue of a Pipe, its places in the order of answers, its leader and its writer.

    A caller queues its bytes and its place. If nobody reads, it becomes the leader:
    it writes what is queued, reads, and hands every reply to the owner of the oldest
    unanswered place, until its own is complete; then the next waiting caller leads.
    A lone caller therefore does its own I/O: one send and one receive.
    """

    def __init__(self, sock: socket.socket, decoder: Any = None) -> None:
        self._sock = sock
        self._decoder = Decoder() if decoder is None else decoder
        self._reset()
        # The kernel's receive timeout costs no extra system call, and the kernel lets
        # one thread write while another reads. ssl and green sockets offer neither:
        # they are polled, and the leader alone touches them.
        self._plain = type(sock) is socket.socket and not patched_by() and sys.platform != "win32"
        sock.setblocking(self._plain)
        if self._plain:
            slice_ = struct.pack("@ll", 0, int(SLICE * 1e6))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, slice_)

    def _reset(self) -> None:
        self._mutex = threading.RLock()
        self._busy = 0  # ident of the thread whose bookkeeping is half done
        self._leader = 0  # ident of the only thread that reads
        self._writer = 0  # ident of the only thread that writes
        self._inside: set[Place] = set()  # calls under way but for a lone one, which leads
        self._places: deque[Place] = deque()  # unanswered, oldest first
        self._answered: deque[Place] = deque()  # answered, and not yet woken
        self._one_by_one = getattr(sys, "_is_gil_enabled", lambda: True)()
        self._out: list[bytes] = []  # queued, not yet taken by a writer
        self._wire: bytes | memoryview = b""  # taken, being written
        self._polling = False  # the leader waits, and has read nothing
        self._read_first = False  # TLS writes nothing more before it has read something
        self._queued = 0  # stream offsets, in bytes
        self._written = 0
        self._deferred = 0  # numbers given out
        self._settled = 0  # the highest one that is answered
        self._odd: deque[tuple[int, Any]] = deque()  # unusual answers to deferred commands
        self._held = 0  # the leader's: what the replies to the oldest place have cost so far
        self._reason: str | None = None  # why the Pipe ended; None while it works

    # -- bookkeeping

    def _end(self, reason: str, reset: bool = True) -> None:
        with self._mutex:
            self._fail(reason)
            self._close_if_unused(reset)

    def _enter(self, place: Place, data: bytes) -> None:
        if type(data) is not bytes:
            raise TypeError("a Pipe sends bytes")
        me = threading.get_ident()
        with self._mutex:
            if me in (self._busy, self._leader, self._writer):
                raise Reentered("called from inside the connection's own code")
            if self._reason is not None:
                raise TransportError(self._reason)
            self._busy = me
            place.entering = True
            place.begin = self._queued
            place.state = WAITING
            place.replies = []
            self._inside.add(place)
            if place.usual is not None:
                self._deferred += 1
                place.number = self._deferred
            if place.want or self._places:
                self._queued += len(data)
                self._out.append(data)
                self._places.append(place)
            else:
                place.state = DONE
            self._busy = 0
            place.entering = False

    def _leave(self, place: Place) -> None:
        me = threading.get_ident()
        if place.state == NEW and not place.entering:
            return  # refused at the door; what is half done there is somebody else's
        with self._mutex:
            if self._busy == me and (place.entering or self._leader == me):
                self._fail("a caller was interrupted in the middle of its bookkeeping")
            if place.state == WAITING:
                place.state = ABANDONED
            if self._leader == me:
                self._leader = 0
            if not self._leader and self._places:
                self._wake_last()
            self._inside.discard(place)
            self._wake_next()
            self._close_if_unused(reset=True)

    def _wake_last(self) -> None:
        """Mutex held. Wake who is answered last: it will lead longest."""
        while True:
            try:
                for other in reversed(self._places):
                    if other.state == WAITING and not other.away:
                        other.wake()
                        return
                return
            except RuntimeError:  # a signal's handler has had an answer meanwhile
                continue

    def _wake_next(self) -> None:
        """Mutex held. Wake one whose answer is in, who will wake the next on leaving.

        All at once would queue for the GIL, and each of them look every 5 ms whether it is
        free. Without a GIL all are woken.
        """
        while self._answered:
            place = self._answered.popleft()
            if place in self._inside and not place.away:
                place.wake()
                if self._one_by_one:
                    return

    def _may_be_out(self, place: Place) -> bool:
        """Whether a byte of the command may have left; one that is being written may."""
        # Of what TLS has taken, records may be out though it says that none is.
        being_written = len(self._wire) if self._writer or not self._plain else 0
        return place.begin < self._written + being_written

    def _fail(self, reason: str) -> None:
        """Mutex held. End the Pipe: every unanswered place fails."""
        self._busy = 0
        if self._reason is None:
            self._reason = reason
        for place in self._everybody():
            if place.state == WAITING:
                place.state = FAILED
                place.wake()
        self._one_by_one = False
        self._wake_next()
        self._places.clear()
        self._out.clear()

    def _everybody(self) -> tuple[Place, ...]:
        """Mutex held. One may have left ``_places`` and not been told; a lone one is only there."""
        while True:
            try:
                return (*self._inside, *self._places)
            except RuntimeError:  # without the GIL a lone caller may leave at this very moment
                continue

    def _close_if_unused(self, reset: bool) -> None:
        """Mutex held."""
        if self._reason is not None and not self._inside and not self._leader:
            if reset:
                reset_on_close(self._sock)
            close_descriptor(self._sock)

    def _submit(self, place: Place, data: bytes) -> None:
        """Queue it and write what can be written; its owner waits later."""
        self._enter(place, data)
        if self._plain:
            self._flush()
        elif self._take_lead(place):
            try:
                self._flush()
            finally:
                self._step_down()

    def _step_down(self) -> None:
        """Lead no more, and stay."""
        with self._mutex:
            if self._leader == threading.get_ident():
                self._leader = 0
            if not self._leader and self._places:
                self._wake_last()

    def _take_lead(self, place: Place) -> bool:
        """Whether this thread is the leader now; if another is, ``place`` has a gate."""
        with self._mutex:
            if place.state != WAITING:
                return False
            if self._leader:
                if place.gate is None:
                    gate = threading.Lock()
                    gate.acquire()
                    place.gate = gate
                return False
            self._leader = threading.get_ident()
            return True

    # -- waiting, writing, reading

    def _go_alone(self, place: Place, data: bytes) -> bool:
        """While nobody else is here: queueing, leading, writing, reading, leaving in one go.

        Whatever else comes is left to the others, as the state of ``place`` says. False: the
        connection is not idle, and nothing was done.
        """
        if place.want != 1 or type(data) is not bytes:
            return False
        size = len(data)
        places = self._places
        me = threading.get_ident()
        try:
            with self._mutex:
                if self._leader or self._writer or self._busy:
                    return False
                self._leader = self._writer = me  # before the rest is looked at: no handler may
                if places or self._out or self._wire or self._reason is not None:
                    self._leader = self._writer = 0
                    return False
                place.state = WAITING
                place.begin = self._queued
                self._queued += size
                places.append(place)
            wrote = self._sock.send(data, _DONTWAIT)
            self._written += wrote
            if wrote != size:
                self._wire = memoryview(data)[wrote:]
            self._writer = 0
            if not self._wire and not self._out:
                chunk = self._sock.recv(CHUNK)
                if not chunk:
                    self._end("the server closed the connection")
                replies = self._decoder.feed(chunk)
                if len(replies) == 1 and type(replies[0]) in _ORDINARY and places:
                    # Others may come meanwhile, behind this place, and find a leader; or the
                    # Pipe is ended, and its places are gone.
                    place.replies = replies
                    place.state = DONE
                    try:  # noqa: SIM105 - contextlib.suppress costs as much as receiving
                        places.popleft()
                    except IndexError:
                        pass
                    self._leader = 0
                    place.gone = not places and self._reason is None
                    return True
                place.replies = []
                self._deliver(replies, self._decoder.spent)
        except BlockingIOError:
            if self._writer == me:
                self._wire = data
                self._writer = 0
        except OSError as error:
            self._writer = 0
            self._end(f"the connection failed: {error}")
        except BaseException:
            if self._writer == me:
                self._writer = 0
                self._written = self._queued  # how much left is not known: all may have
            if self._leader == me:
                self._end("a caller was interrupted while it wrote and read for all")
            raise
        if place.replies is _NONE:
            place.replies = []
        self._inside.add(place)
        self._leader = 0
        return True

    def _wait(self, place: Place, remaining: float) -> None:
        """Lead if nobody does, else sleep until woken."""
        if self._take_lead(place):
            self._lead(place, monotonic() + remaining)
            return
        if self._plain and (
            len(self._places) <= FLUSH_FEW or len(self._out) * FLUSH_PART >= len(self._places)
        ):
            self._flush()
        # Not longer: whoever was woken to lead may be running a signal handler.
        patience = min(remaining, PATIENCE)
        if place.state == WAITING and place.gate and place.gate.acquire(timeout=patience):
            place.told = False

    def _lead(self, place: Place, deadline: float) -> None:
        """Leader only. Read for everybody until ``place`` is answered."""
        try:
            while place.state == WAITING:
                wait = min(SLICE, deadline - monotonic())
                if wait <= 0:
                    return
                if not self._flush():
                    if not self._ready(wait, or_writable=not self._read_first):
                        continue
                    wait = 0.0  # what came may be TLS's own, and then it is time to write
                chunk = self._receive(wait)
                if chunk is None:
                    continue
                if not chunk:
                    self._end("the server closed the connection")
                    return
                spent = self._decoder.spent
                self._deliver(self._decoder.feed(chunk), spent)
        except OSError as error:
            self._end(f"the connection failed: {error}")
        except BaseException:
            if not self._polling:
                self._end("a caller was interrupted while it read for all")
            raise
        finally:
            self._polling = False

    def _flush(self) -> bool:
        """Write what is queued, without blocking. False: the socket's buffer is full."""
        try:
            while self._out or self._wire:
                with self._mutex:
                    if self._writer or self._reason is not None:
                        return True
                    self._writer = threading.get_ident()
                    if not self._wire:
                        self._wire = b"".join(self._out)
                        self._out.clear()
                wire = self._wire
                wrote = self._send(wire)
                self._written += wrote
                self._wire = b"" if wrote == len(wire) else memoryview(wire)[wrote:]
                self._writer = 0
                if not wrote:
                    return False
            return True
        except OSError as error:
            self._writer = 0
            self._end(f"the connection failed: {error}")
            return True
        except BaseException:
            if self._writer == threading.get_ident():
                self._writer = 0
                self._written = self._queued  # how much left is not known: all may have
                self._end("a caller was interrupted while it wrote for all")
            raise

    def _send(self, data: bytes | memoryview) -> int:
        if self._plain:
            try:
                return self._sock.send(data, _DONTWAIT)
            except BlockingIOError:
                return 0
        self._read_first = False
        try:
            return self._sock.send(data)
        except ssl.SSLWantReadError:  # in the middle of a renegotiation
            self._read_first = True
        except (BlockingIOError, ssl.SSLWantWriteError):
            pass
        return 0

    def _receive(self, wait: float) -> bytes | None:
        """What the socket has, b"" at its end, None if nothing came within ``wait`` seconds."""
        if self._plain and wait < SLICE and not self._ready(wait):
            return None
        for _ in range(2):
            try:
                return self._sock.recv(CHUNK)
            except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                if self._plain or not self._ready(wait):
                    return None
        return None

    def _ready(self, wait: float, or_writable: bool = False) -> bool:
        """Whether there is something to read (or room to write) within ``wait`` seconds.

        Where a green thread's time-out strikes; nothing is lost with it.
        """
        with selectors.DefaultSelector() as selector:
            events = selectors.EVENT_READ | (selectors.EVENT_WRITE if or_writable else 0)
            selector.register(self._sock, events)
            self._polling = True
            found = selector.select(wait)
            self._polling = False
        return any(mask & selectors.EVENT_READ for _, mask in found)

    def _deliver(self, replies: list[Any], spent: int) -> None:
        """Leader only. Each answer belongs to the oldest unanswered command.

        ``spent`` is what the decoder had spent before them.
        """
        places = self._places
        with self._mutex:
            self._busy = threading.get_ident()
            oldest = places[0] if places else None
            for reply in replies:
                if type(reply) is Push:
                    continue
                if type(reply) is ProtocolError:
                    self._fail(str(reply))
                    break
                if not places:
                    self._fail("the server answered what nobody had asked")
                    break
                places[0].replies.append(reply)
                while places and len(places[0].replies) == places[0].want:
                    place = places.popleft()
                    if place.number:
                        self._settled = place.number
                        if type(reply) is not int or reply != place.usual:
                            if type(reply) is list or (
                                type(reply) is bytes and len(reply) > MAX_LINE
                            ):
                                self._fail(NO_ANSWER)
                            else:
                                self._odd.append((place.number, reply))
                    if place.state == WAITING:
                        place.state = DONE
                        self._answered.append(place)
            if not places or places[0] is not oldest:
                self._held = 0
            else:
                self._held += self._decoder.spent - spent
                if self._held > MAX_ANSWER:
                    self._fail(TOO_MUCH)
            self._busy = 0
            self._wake_next()
