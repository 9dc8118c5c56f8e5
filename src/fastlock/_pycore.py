"""The Python core, for wherever the compiled one is absent: codec and Pipe.

Law: the same names, arguments, results and errors as ``_core.pyx``; it knows
RESP, sockets and time, and no lock words. Its Pipe also serves the compiled core
on TLS, where Python's ``ssl`` owns the connection (with the compiled Decoder).
"""

from __future__ import annotations

from contextlib import suppress
from time import monotonic
from typing import Any

from ._pycodec import Decoder
from ._pydivide import Division, slot
from ._pyleases import Leases
from ._pymux import ABANDONED, DONE, FAILED, NEW, SLICE, WAITING, Mux, Place
from ._pypack import Numbered, pack, prepare
from ._pytime import clock
from ._sockets import close_descriptor
from .errors import TransportError

__all__ = [
    "Decoder", "Division", "Leases", "Numbered", "Pipe", "Ticket", "clock", "name", "pack",
    "prepare", "slot",
]  # fmt: skip

name = "python"


class Pipe(Mux):
    """One shared, pipelined connection for many threads: leader and followers; see ``Mux``.

    Owns the socket from construction on. Any thread may call any method; a signal
    handler that interrupts the Pipe's own code gets ``Reentered``. An exception that
    interrupts a leader or the bookkeeping ends the connection, for bytes may have
    been lost; everybody is then told whether theirs had been sent.
    """

    # -- for callers

    @property
    def broken(self) -> bool:
        """Whether the Pipe has ended; it never works again."""
        return self._reason is not None

    @property
    def owed(self) -> int:
        """How many calls have not been answered yet, abandoned ones included."""
        return len(self._places)

    @property
    def settled(self) -> int:
        """The number of the latest deferred command that is answered; 0 if none is."""
        return self._settled

    def call(self, data: bytes, count: int, timeout: float) -> list[Any]:
        """Send ``data`` (whole commands) and return their ``count`` replies, in order.

        Without data and with count 0 it waits until all that came before is answered.
        Blocks at most ``timeout`` seconds. Raises TransportError: ``sent`` says
        whether the server may have seen a byte, ``replies`` what had arrived of the
        answer, ``timed_out`` that only the time ran out and the Pipe goes on; what
        still comes of the answer is then dropped.
        """
        place = Place(count)
        try:
            if (
                not self._leader
                and timeout >= SLICE
                and self._plain
                and self._go_alone(place, data)
            ):
                if place.gone:
                    return place.replies
                timeout -= SLICE
            deadline = monotonic() + timeout
            if place.state == NEW:
                self._enter(place, data)
            while place.state == WAITING:
                remaining = deadline - monotonic()
                if remaining <= 0:
                    break
                self._wait(place, remaining)
        finally:
            if not place.gone:
                try:
                    self._leave(place)
                except BaseException:  # an interrupt: leaving twice does no harm
                    self._leave(place)
                    raise
        if place.state == DONE:
            return place.replies
        raise self._unanswered(place)

    def ticket(self) -> Ticket:
        """For a call of which the sending and the waiting are two steps."""
        return Ticket(self)

    def post(self, data: bytes, count: int) -> None:
        """Send ``data`` without waiting; its ``count`` replies are dropped when they come.

        Raises TransportError when the Pipe has ended.
        """
        place = Place(count)
        self._send_off(place, data)

    def defer(self, data: bytes, usual: int) -> int:
        """Send one command without waiting; the command's number, counted from 1.

        The answer is forgotten if it is the integer ``usual``, else kept for ``odd()``.
        Raises TransportError when the Pipe has ended.
        """
        place = Place(1)
        place.usual = usual
        self._send_off(place, data)
        return place.number

    def odd(self) -> list[tuple[int, Any]]:
        """Take the unusual answers to deferred commands: (number, reply) each, oldest first."""
        found = []
        with suppress(IndexError):
            while True:
                found.append(self._odd.popleft())
        return found

    def abort(self, reason: str) -> None:
        """End the connection at once, by RST where TCP allows; callers get ``reason``."""
        self._end(reason)

    def close(self) -> None:
        """End the connection; callers still waiting get a TransportError."""
        self._end("the client was closed", reset=False)

    def forked(self) -> None:
        """In a forked child: drop the descriptor and all state, touch nothing shared."""
        for place in (*self._inside, *self._places):  # of a call that a handler forked in
            place.state = FAILED
        self._reset()
        self._reason = "the connection belongs to the parent process"
        close_descriptor(self._sock)

    def _unanswered(self, place: Place) -> TransportError:
        """The error of a call that has left without its answer."""
        timed_out = place.state == ABANDONED
        error = TransportError(
            "no answer in time" if timed_out else str(self._reason),
            sent=timed_out or self._may_be_out(place),  # abandoned bytes leave later
        )
        error.replies, error.timed_out = list(place.replies), timed_out
        return error

    def _send_off(self, place: Place, data: bytes) -> None:
        """Queue and write, and do not wait for the answer."""
        try:
            self._enter(place, data)
            if self._plain or self._take_lead(place):
                self._flush()
        finally:
            try:
                self._leave(place)
            except BaseException:  # as in call()
                self._leave(place)
                raise


class Ticket:
    """One call in two steps: what several connections are to do at the same time is sent to all
    of them first, by one thread.

    Belongs to that thread. Whoever has sent it and does not wait for it calls ``leave``.
    """

    __slots__ = ("_pipe", "_place")

    def __init__(self, pipe: Pipe) -> None:
        self._pipe = pipe
        self._place: Place | None = None

    def __reduce__(self) -> Any:
        raise TypeError("a Ticket cannot be pickled or copied")

    def send(self, data: bytes, count: int) -> None:
        """Send ``data`` (whole commands), which has ``count`` replies, and do not wait; once.

        Raises TransportError when the Pipe has ended: nothing was sent; Reentered as ``Pipe.call``.
        """
        if self._place is not None:
            raise RuntimeError("it is sent already")
        place = Place(count)
        place.away = True
        try:
            self._place = place  # whatever interrupts from here on, ``leave`` knows it
            self._pipe._submit(place, data)
        except TransportError:
            self._place = None
            raise

    def wait(self, timeout: float) -> list[Any]:
        """The replies to what was sent, in order; blocks and raises as ``Pipe.call``."""
        pipe, place = self._pipe, self._place
        if place is None:
            raise RuntimeError("nothing is under way")
        deadline = monotonic() + timeout
        place.away = False
        try:
            while place.state == WAITING:
                remaining = deadline - monotonic()
                if remaining <= 0:
                    break
                pipe._wait(place, remaining)
        finally:
            try:
                self.leave()
            except BaseException:  # as in call()
                self.leave()
                raise
        if place.state == DONE:
            return place.replies
        raise pipe._unanswered(place)

    def leave(self) -> None:
        """Wait no more, if anything is under way; what comes of it is dropped."""
        place = self._place
        if place is not None:
            self._pipe._leave(place)
            self._place = None
