"""Floor 4, asyncio: one shared, pipelined connection for many tasks.

Law: the codec of the chosen core, the loop's own transport; it knows no lock words.
The commands of one loop tick leave in one write, the replies of one read resolve
together, and no command costs a task or a timer. Where each command finds the connection idle,
it does not wait for the tick's end.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar

from ._impl import DecoderLike
from ._resp import MAX_ANSWER, TOO_MUCH, Push
from ._sockets import point_at_nothing, reset_on_close
from .errors import ProtocolError, TransportError

R = TypeVar("R")


class _Many:
    """The place of a call that wants another number of replies than one."""

    __slots__ = ("future", "replies", "want")

    def __init__(self, future: asyncio.Future[list[Any]], want: int) -> None:
        self.future = future
        self.want = want
        self.replies: list[Any] = []


#: One caller's place in the order of answers: of one reply, simply who waits for it.
_Place = asyncio.Future[Any] | _Many


class AsyncPipe(asyncio.Protocol):
    """Belongs to the loop it was made in; every method runs there."""

    def __init__(self, decoder: DecoderLike, socket_timeout: float) -> None:
        self.loop = asyncio.get_running_loop()
        self._future = self.loop.create_future
        self._decoder = decoder
        self._held = 0  # what the replies to the oldest place have cost so far
        self.patience = socket_timeout  # seconds that an answer may take
        self._transport: Any = None
        self._places: deque[_Place] = deque()  # unanswered, oldest first
        self._answered = 0  # how many left the line of places
        self._out: list[bytes] = []  # of the places that were not sent yet
        self._lone = False  # whether the latest write was of one command, to an idle connection
        self._flights: deque[tuple[int, float]] = deque()  # of each write: places until then, when
        self._watchdog: asyncio.TimerHandle | None = None
        self._reason: str | None = None
        self._gone = self.loop.create_future()
        self.keep: object = None  # what has to live as long
        self.pushed: Callable[[Push], None] | None = None  # gets what answers nobody
        self.ended: Callable[[], None] | None = None  # called once, when it is broken

    def attach(self, transport: Any) -> None:
        """Take over a connected transport."""
        self._transport = transport
        transport.set_protocol(self)
        if not transport.is_reading():
            transport.resume_reading()

    # -- for callers

    @property
    def broken(self) -> bool:
        """Whether the Pipe has ended; it never works again."""
        return self._reason is not None

    @property
    def owed(self) -> int:
        """How many calls have not been answered yet, abandoned ones included."""
        return len(self._places)

    def one(self, data: bytes) -> asyncio.Future[Any]:
        """Send one command; the future gives its reply.

        It fails with TransportError, as ``Pipe.call`` does. Cancelling it, or not
        waiting for it, abandons the answer; the command is sent all the same.
        """
        if self._reason is not None:
            raise TransportError(self._reason)
        future = self._future()
        if self._lone and not self._places and not self._out:
            self._send_lone(data, future)
            return future
        if not self._out:
            self._lone = False
            self.loop.call_soon(self._flush)
        self._out.append(data)
        self._places.append(future)
        return future

    def _send_lone(self, data: bytes, future: asyncio.Future[Any]) -> None:
        try:
            self._out.append(data)
            self._places.append(future)
            self._flush()
        except BaseException:  # an interrupt: no command without its place, nor the other way round
            if self._places:
                self.loop.call_soon(self._flush)
            else:
                self._out.clear()
            raise

    def call(self, data: bytes, count: int) -> asyncio.Future[list[Any]]:
        """As ``one``, of ``count`` replies in order to ``data``, which is whole commands."""
        future = self.one(data)
        self._places[-1] = _Many(future, count)
        return future

    def post(self, data: bytes, count: int) -> None:
        """Send ``data`` at once; its ``count`` replies are dropped when they come.

        Works while the loop is not running, as when a coroutine is closed after it.
        """
        self.call(data, count).cancel()
        self._flush()

    def defer(self, data: bytes) -> asyncio.Future[Any]:
        """As ``one``, but sent at once and not with the loop's tick."""
        answer = self.one(data)
        self._flush()
        return answer

    def abort(self, reason: str) -> None:
        """End the connection at once, by RST where TCP allows; callers get ``reason``."""
        self._fail(reason)
        sock = self._transport.get_extra_info("socket")
        if sock is not None:
            reset_on_close(sock)
        self._transport.abort()

    async def close(self) -> None:
        """Flush, then end the connection; callers still waiting get a TransportError."""
        self._flush()
        self._fail("the client was closed")
        self._transport.close()
        try:
            await asyncio.wait([self._gone], timeout=self.patience)
        finally:
            if not self._gone.done():
                self.abort("the client was closed")

    def dismiss(self, reason: str) -> None:
        """Callers get ``reason``; the Pipe goes on, and drops their answers when they come."""
        for place in self._places:
            future = _future_of(place)
            if not future.done():
                future.set_exception(TransportError(reason, sent=True))

    def abandon(self, reason: str) -> None:
        """Let go of the descriptor without the loop, which is the parent's or closed."""
        self._reason = reason
        self._places.clear()
        sock = self._transport.get_extra_info("socket")
        if sock is not None:
            point_at_nothing(sock)  # the transport keeps the number

    # -- the loop's side

    def _flush(self) -> None:
        out = self._out
        if out and self._reason is None:
            data = out[0] if len(out) == 1 else b"".join(out)
            try:
                self._lone = len(out) == 1 and len(self._places) == 1
                out.clear()
                now = self.loop.time()
                self._flights.append((self._answered + len(self._places), now))
                if self._watchdog is None:
                    self._watchdog = self.loop.call_at(now + self.patience, self._watch)
                self._transport.write(data)
            except BaseException:  # an interrupt: nobody knows what has left
                self.abort("interrupted while sending")
                raise

    def data_received(self, data: bytes) -> None:
        """Each answer belongs to the oldest unanswered command."""
        places = self._places
        answered = 0
        spent = self._decoder.spent
        for reply in self._decoder.feed(data if type(data) is bytes else bytes(data)):
            kind = type(reply)
            if kind is Push:
                if self.pushed is not None:
                    self.pushed(reply)
                continue
            if kind is ProtocolError or not places:
                self._answered += answered
                self.abort(
                    str(reply) if kind is ProtocolError
                    else "the server answered what nobody had asked"
                )  # fmt: skip
                return
            place: Any = places[0]
            if type(place) is _Many:
                place.replies.append(reply)
                if len(place.replies) < place.want:
                    continue
                reply = place.replies
                place = place.future
            places.popleft()
            answered += 1
            if not place.done():
                place.set_result(reply)
        self._answered += answered
        while self._flights and self._flights[0][0] <= self._answered:
            self._flights.popleft()
        if answered:
            self._held = 0
        else:
            self._held += self._decoder.spent - spent
            if self._held > MAX_ANSWER:
                self.abort(TOO_MUCH)

    def eof_received(self) -> None:
        self.abort("the server closed the connection")

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(f"the connection failed: {exc}" if exc else "the server closed the connection")
        self._transport.close()  # CPython 3.10 leaves a TLS transport open behind a lost socket
        if not self._gone.done():
            self._gone.set_result(None)

    def _watch(self) -> None:
        """One timer for all: was the oldest unanswered call sent too long ago?"""
        self._watchdog = None
        if not self._flights:
            return
        due = self._flights[0][1] + self.patience
        if due <= self.loop.time():
            self.abort(f"no answer for {self.patience} s")
        else:
            self._watchdog = self.loop.call_at(due, self._watch)

    def _fail(self, reason: str) -> None:
        if self._reason is None:
            self._reason = reason
        if self._watchdog is not None:
            self._watchdog.cancel()
            self._watchdog = None
        self._out.clear()
        places, self._places = self._places, deque()
        flown = self._flights[-1][0] - self._answered if self._flights else 0
        self._flights.clear()
        for number, place in enumerate(places):
            future = _future_of(place)
            if not future.done():
                error = TransportError(self._reason, sent=number < flown)
                error.replies = place.replies if isinstance(place, _Many) else []
                future.set_exception(error)
        ended, self.ended = self.ended, None
        if ended is not None:
            ended()


async def within(answer: asyncio.Future[R], seconds: float) -> R:
    """The answer, or TransportError after so long; it is abandoned then, and the Pipe goes on."""
    expiry = answer.get_loop().call_later(seconds, _expire, answer)
    try:
        return await answer
    finally:
        expiry.cancel()


def _expire(answer: asyncio.Future[Any]) -> None:
    if not answer.done():
        error = TransportError("no answer in time", sent=True)
        error.timed_out = True
        answer.set_exception(error)


def _future_of(place: _Place) -> asyncio.Future[Any]:
    return place.future if isinstance(place, _Many) else place
