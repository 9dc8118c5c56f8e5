"""The Python core's heartbeat: repeats what has to be said in time.

Law: the same names, arguments, results and errors as ``_heartbeat.pyx``; it knows bytes,
usual replies, periods and deadlines, and no lock words. Its thread is one of Python's: whoever
keeps the GIL stops it, and that is the one difference. It also serves the compiled core on
TLS, where Python's ``ssl`` owns the connection.

Times are seconds on the leases' clock, which runs on during suspend; sleeps do not, so nobody
sleeps longer than NAP while anything is to be done. A signal handler may call anything here
while it interrupts anything here: the mutex is re-entrant, bells are rung by a queue.
"""

from __future__ import annotations

import heapq
import logging
import math
import threading
from collections import deque
from contextlib import suppress
from queue import Empty, SimpleQueue
from time import monotonic, sleep
from typing import Any

from ._pycore import clock
from .errors import ServerError, TransportError

__all__ = ["Beat", "Heartbeat"]

_log = logging.getLogger("fastlock")

BATCH = 1000  # most that leaves in one write: others' commands come in between
COARSEST = 0.25  # s: what is due within such a step leaves together
LONGEST_RETRY = 1.0  # s between two tries
LEAST_PATIENCE = 1.0  # s that an answer may always take
NAP = 1.0  # s: how late the end of a suspend may be noticed
IDLE = 5.0  # s that the thread outlives the last entry
MOST_USUAL = 16  # bytes of a usual reply

_NEVER = math.inf
_REFUSED, _TROUBLE, _EXPIRED = "refused", "trouble", "expired"


def _aligned(when: float, period: float) -> float:
    """Not later than ``when``, and the same for all that are due at about that time."""
    step = min(math.ldexp(1.0, math.frexp(period / 8)[1] - 1), COARSEST)
    return math.floor(when / step) * step


class _Entry:
    """What is to be said again and again, until ``deadline``. Changes under the mutex."""

    __slots__ = (
        "answer", "data", "deadline", "due", "ended", "expected", "flying", "listed", "news",
        "number", "paused", "period", "removed", "said", "span", "unsure", "until", "usual",
    )  # fmt: skip

    def __init__(self, number: int, data: bytes, usual: Any, period: float, span: float) -> None:
        self.number = number
        self.data = data
        self.usual = usual
        self.expected = usual  # of what is under way
        self.period = period
        self.span = span  # from sending to the deadline that a usual reply gives
        self.paused = self.flying = self.unsure = self.removed = self.ended = False
        self.listed = False
        self.news: str | None = None
        self.answer: Any = None
        self.due = _NEVER
        self.deadline = self.said = self.until = 0.0

    def first_due(self, now: float) -> float:
        left = max(self.deadline - now, 0.0)
        return _aligned(now + min(self.period, left / 3), self.period)

    def retry_due(self, now: float) -> float:
        return _aligned(now + min(self.period / 8, LONGEST_RETRY), self.period)


class _Heap:
    """(when, number, entry), earliest first; what has become untrue is dropped in passing."""

    def __init__(self) -> None:
        self._items: list[tuple[float, int, _Entry]] = []

    def put(self, when: float, entry: _Entry, true: int) -> None:
        """``true``: how many of the items may be."""
        if len(self._items) > 2 * true + 64:
            self._items = [item for item in self._items if not item[2].removed]
            heapq.heapify(self._items)
        heapq.heappush(self._items, (when, entry.number, entry))

    def first(self) -> tuple[float, int, _Entry] | None:
        return self._items[0] if self._items else None

    def pop(self) -> None:
        heapq.heappop(self._items)


class Heartbeat:
    """Says everything in time, over one Pipe: what is due together leaves in one write.

    An entry is bytes (one command), its usual reply, a period, a span, a deadline. It is
    sent every ``period``; each usual reply moves the deadline to ``span`` after the sending.
    A reply that is an error, or none, is tried again until the deadline; any other reply,
    or the deadline, ends it. Its thread starts with the first entry and reads for itself.

    Args:
        patience: seconds without an answer after which a connection is given up; for
            entries of a shorter period that one, but at least 1 second.
    """

    def __init__(self, patience: float) -> None:
        self._patience = float(patience)
        self._stopped = False
        self._numbers = 0
        self._reset()

    def _reset(self) -> None:
        self._mutex = threading.RLock()
        self._bell: SimpleQueue[None] = SimpleQueue()  # wakes the thread
        self._told: SimpleQueue[None] = SimpleQueue()  # wakes who waits for news
        self._entries: dict[int, _Entry] = {}
        self._due = _Heap()
        self._ends = _Heap()
        self._news: deque[_Entry] = deque()
        self._pipe: Any = None  # None: none, or it has ended
        self._asking: bool | None = None  # True: for a Pipe; False: that has been told
        self._wakes = 0.0  # when the thread looks again by itself
        self._thread: threading.Thread | None = None

    def __reduce__(self) -> Any:
        raise TypeError("a Heartbeat cannot be pickled or copied")

    @property
    def count(self) -> int:
        """How many entries there are."""
        return len(self._entries)

    def add(
        self,
        data: bytes,
        usual: bytes | int,
        period: float,
        span: float,
        deadline: float,
        until: float,
    ) -> Beat:
        """Say ``data`` from now on; nothing is sent after ``until``. Its Beat."""
        _check(data, usual, period, span)
        with self._mutex:
            if self._stopped:
                raise RuntimeError("the heartbeat has been stopped, or cannot start a thread")
            self._numbers += 1
            entry = _Entry(self._numbers, data, usual, period, span)
            beat = _blank(Beat)
            beat._heart, beat._entry = self, entry
            entry.deadline = deadline
            entry.said = deadline - span
            entry.until = until
            self._entries[entry.number] = entry
            self._ends.put(deadline, entry, self.count)
            self._plan(entry, entry.first_due(clock()))
            self._start()
        self._told.put(None)
        return beat

    def attach(self, pipe: Any) -> None:
        """Send over this Pipe from now on, and what has failed at once."""
        with self._mutex:
            self._pipe = pipe
            self._asking = None
            now = clock()
            for entry in list(self._entries.values()):
                if entry.unsure and entry.due > now:
                    self._plan(entry, now)
        self._bell.put(None)

    def wait(self, timeout: float) -> list[tuple[int, str, Any]]:
        """What has happened, waiting at most ``timeout`` seconds: (number, what, reply) each.

        "refused" (the reply was not the usual one), "expired" (the deadline has passed):
        the entry of that number has ended. "trouble": the reply was an error, and it goes
        on. "broken", of number 0: a Pipe is needed. Empty when time is over, or stopped.
        """
        end = monotonic() + timeout
        found: list[tuple[int, str, Any]] = []
        while not self._stopped:
            next_end = self._look_for_ends()
            if self._asking:
                self._asking = False
                found.append((0, "broken", None))
            self._collect(found)
            pause = end - monotonic()
            if found or pause <= 0:
                break
            if self._entries:
                pause = min(pause, NAP, next_end - clock())
            _sleep(self._told, pause)
        return found

    def stop(self) -> None:
        """Say nothing more, ever; whoever waits for news goes on at once."""
        self._stopped = True
        self._bell.put(None)
        self._told.put(None)

    def join(self) -> None:
        """Wait until the thread has ended, after ``stop``: soon, or when the Pipe is closed."""
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(1.0)

    def forked(self) -> None:
        """In a forked child: the entries are the parent's, and so is the thread."""
        for entry in self._entries.values():
            entry.removed, entry.flying = True, False
        self._reset()

    def _collect(self, found: list[tuple[int, str, Any]]) -> None:
        while True:
            try:
                entry = self._news.popleft()
            except IndexError:
                return
            with self._mutex:
                entry.listed = False
                news, entry.news = entry.news, None
                answer, entry.answer = entry.answer, None
                if news is not None and not entry.removed:
                    found.append((entry.number, news, answer if news is _TROUBLE else None))

    # -- bookkeeping: the mutex is held

    def _start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="fastlock-heartbeat")
            self._thread.daemon = True
            try:
                self._thread.start()
            except RuntimeError:
                self._thread = None
                self._entries.popitem()
                raise

    def _plan(self, entry: _Entry, due: float) -> None:
        if entry.removed or entry.ended:
            return
        entry.due = _NEVER if entry.paused or entry.flying else due
        if entry.due < _NEVER:
            self._due.put(entry.due, entry, self.count)
            if entry.due < self._wakes:
                self._bell.put(None)

    def _tell(self, entry: _Entry, news: str) -> None:
        entry.news = news
        if not entry.listed:
            entry.listed = True
            self._news.append(entry)
        self._told.put(None)

    def _finish(self, entry: _Entry, news: str) -> None:
        """It has ended; it stays until its owner removes it."""
        entry.ended, entry.due = True, _NEVER
        self._tell(entry, news)

    def _remove(self, entry: _Entry) -> None:
        with self._mutex:
            entry.removed, entry.due = True, _NEVER
            self._entries.pop(entry.number, None)

    # -- ends, for who waits for news

    def _look_for_ends(self) -> float:
        """When the next may come."""
        now = clock()
        while True:
            with self._mutex:
                first = self._ends.first()
                if first is None:
                    return _NEVER
                when, _, entry = first
                if when > now:
                    return when
                self._ends.pop()
                if entry.removed or entry.ended:
                    continue
                if entry.deadline > now:  # it has moved since
                    self._ends.put(entry.deadline, entry, self.count)
                else:
                    self._finish(entry, _EXPIRED)

    # -- the thread

    def _run(self) -> None:
        while not self._stopped:
            now = clock()
            with self._mutex:
                if self._pipe is not None and self._due_before(now):
                    batch = self._take_off(now)
                    pause = None
                else:
                    batch = []
                    pause = self._until_next(now)
                    self._wakes = now + pause
            if batch:
                self._exchange(batch, now)
            elif pause is not None:
                heard = _sleep(self._bell, pause)
                with self._mutex:
                    self._wakes = 0.0
                    if not heard and not self._entries:
                        self._thread = None
                        return

    def _due_before(self, now: float) -> bool:
        while (first := self._due.first()) is not None and first[0] <= now:
            if first[2].due == first[0]:
                return True
            self._due.pop()  # it has been planned anew
        return False

    def _until_next(self, now: float) -> float:
        """How long to sleep; asks for a Pipe where one is missing."""
        if self._due_before(now):
            if self._asking is None:
                self._asking = True
                self._told.put(None)
            return NAP
        first = self._due.first()
        if first is not None:
            return min(first[0] - now, NAP)
        return IDLE

    def _take_off(self, now: float) -> list[_Entry]:
        """Everything that is due, up to BATCH."""
        batch: list[_Entry] = []
        while len(batch) < BATCH and self._due_before(now):
            entry = self._due._items[0][2]
            self._due.pop()
            entry.due = _NEVER
            if now >= entry.deadline or now >= entry.until:
                continue
            if entry.deadline > now + entry.span:  # it would be shortened
                self._plan(entry, entry.deadline - entry.span)
                continue
            entry.flying = True
            entry.expected = entry.usual
            batch.append(entry)
        return batch

    def _exchange(self, batch: list[_Entry], now: float) -> None:
        shortest = min(entry.period for entry in batch)
        patience = min(self._patience, max(shortest, LEAST_PATIENCE))
        data = b"".join([entry.data for entry in batch])
        pipe, failed = self._pipe, False
        replies: Any = ()
        sent_at = clock()
        try:
            if pipe is not None:
                replies = pipe.call(data, len(batch), patience)
        except TransportError as error:
            replies, failed = error.replies, True
            if error.timed_out and not self._stopped:
                pipe.abort("no answer in time")
        except Exception:
            failed = True
            _log.exception("a heartbeat could not be sent")
        now = clock()
        with self._mutex:
            for place, entry in enumerate(batch):
                answered = place < len(replies)
                self._land(entry, answered, replies[place] if answered else None, sent_at, now)
            if failed and self._pipe is pipe:
                self._pipe = None
                if self._asking is None:
                    self._asking = True
                    self._told.put(None)

    def _land(self, entry: _Entry, answered: bool, reply: Any, sent_at: float, now: float) -> None:
        """What the answer means."""
        entry.flying = False
        if entry.removed or entry.ended:
            return
        if answered and type(reply) is type(entry.expected) and reply == entry.expected:
            if now < entry.deadline:
                entry.deadline = sent_at + entry.span
                entry.said = sent_at
                entry.unsure = False
                self._plan(entry, _aligned(sent_at + entry.period, entry.period))
            return
        if answered and type(reply) is not ServerError:
            self._finish(entry, _REFUSED)
            return
        entry.unsure = True
        self._plan(entry, entry.retry_due(now))
        if answered:
            entry.answer = reply
            self._tell(entry, _TROUBLE)


class Beat:
    """One entry of a Heartbeat; the entry ends with it."""

    __slots__ = ("_entry", "_heart")
    _heart: Heartbeat
    _entry: _Entry

    def __init__(self) -> None:
        raise TypeError("a Beat is made by Heartbeat.add()")

    def __del__(self) -> None:
        if hasattr(self, "_entry"):  # maybe in a thread that its starter waits for: no mutex
            entry = self._entry
            entry.removed, entry.due = True, _NEVER
            self._heart._entries.pop(entry.number, None)

    def __reduce__(self) -> Any:
        raise TypeError("a Beat cannot be pickled or copied")

    @property
    def number(self) -> int:
        """By which ``Heartbeat.wait`` names it."""
        return self._entry.number

    @property
    def deadline(self) -> float:
        """Until when it surely was said in time, in seconds."""
        return self._entry.deadline

    @deadline.setter
    def deadline(self, deadline: float) -> None:
        heart, entry = self._heart, self._entry
        with heart._mutex:
            entry.deadline = deadline
            if not entry.removed and not entry.ended:
                heart._ends.put(deadline, entry, heart.count)
        heart._told.put(None)

    @property
    def unsure(self) -> bool:
        """Whether the latest try has failed, or an answer is long overdue."""
        entry = self._entry
        return entry.unsure or clock() > entry.said + 1.5 * entry.period

    def pause(self, timeout: float) -> bool:
        """Send nothing from now on; whether nothing is under way, after ``timeout`` at most."""
        heart, entry = self._heart, self._entry
        with heart._mutex:
            entry.paused = True
            entry.due = _NEVER
        end = monotonic() + timeout
        while entry.flying and not heart._stopped:
            if monotonic() >= end:
                return False
            sleep(min(0.002, timeout))
        return True

    def resume(self, data: bytes, usual: bytes | int, period: float, span: float) -> None:
        """Go on after ``pause``, with other words: those that moved the deadline meanwhile.

        A longer span than before counts only for what surely comes after all that was
        said before: where that is unanswered, the deadline is moved back.
        """
        _check(data, usual, period, span)
        heart, entry = self._heart, self._entry
        with heart._mutex:
            self.recode(data, usual)
            if entry.unsure and span > entry.span:
                entry.deadline -= span - entry.span
                if not entry.removed and not entry.ended:
                    heart._ends.put(entry.deadline, entry, heart.count)
            entry.period = period
            entry.span = span
            entry.said = max(entry.said, entry.deadline - span)
            entry.paused = False
            heart._plan(entry, entry.first_due(clock()))
        heart._told.put(None)
        heart._bell.put(None)

    def recode(self, data: bytes, usual: bytes | int) -> None:
        """Say it in other words from now on."""
        _check(data, usual, 1.0, 1.0)
        with self._heart._mutex:
            self._entry.data, self._entry.usual = data, usual

    def remove(self) -> None:
        """Say it no more; what is under way is no news any more."""
        self._heart._remove(self._entry)


def _blank(kind: type[Beat]) -> Beat:
    return object.__new__(kind)


def _sleep(bell: SimpleQueue[None], seconds: float) -> bool:
    """Until the bell rings (True), ``seconds`` at most."""
    try:
        bell.get(timeout=max(seconds, 0.0))
    except Empty:
        return False
    with suppress(Empty):  # it may have been rung more than once
        while True:
            bell.get_nowait()
    return True


def _check(data: Any, usual: Any, period: float, span: float) -> None:
    if type(data) is not bytes:
        raise TypeError("a Heartbeat sends bytes")
    if not (len(usual) <= MOST_USUAL if type(usual) is bytes else type(usual) is int):
        raise TypeError("a usual reply is an integer or at most 16 bytes")
    if not (0 < period < _NEVER and 0 < span < _NEVER):
        raise ValueError("a period and a span are seconds above 0")
