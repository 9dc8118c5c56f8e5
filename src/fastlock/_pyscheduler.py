"""The thread of the Python heartbeat, and what it keeps: sends what is due, moves deadlines.

Law: what ``_scheduler.pyx`` does, where the compiled core is absent or TLS owns the connection.
Its thread is one of Python's: whoever keeps the GIL stops it.

Times are seconds on the leases' clock, which runs on during suspend; sleeps do not, so nobody
sleeps longer than NAP while anything is to be done. A signal handler may call anything here
while it interrupts anything here: the mutex is re-entrant, bells are rung by a queue.
"""

from __future__ import annotations

import heapq
import math
import threading
from collections import deque
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any

from . import _logs
from ._pytime import clock
from .errors import ServerError, TransportError

__all__ = ["Scheduler"]


BATCH = 1000  # most that leaves in one write: others' commands come in between
COARSEST = 0.25  # s: what is due within such a step leaves together
LONGEST_RETRY = 1.0  # s between two tries
LEAST_PATIENCE = 1.0  # s that an answer may always take
NAP = 1.0  # s: how late the end of a suspend may be noticed
IDLE = 5.0  # s that the thread outlives the last entry

NEVER = math.inf
REFUSED, TROUBLE, EXPIRED = "refused", "trouble", "expired"


def _aligned(when: float, period: float) -> float:
    """Not later than ``when``, and the same for all that are due at about that time."""
    step = min(math.ldexp(1.0, math.frexp(period / 8)[1] - 1), COARSEST)
    return math.floor(when / step) * step


class Entry:
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
        self.due = NEVER
        self.deadline = self.said = self.until = 0.0

    def first_due(self, now: float) -> float:
        left = max(self.deadline - now, 0.0)
        return _aligned(now + min(self.period, left / 3), self.period)

    def retry_due(self, now: float) -> float:
        return _aligned(now + min(self.period / 8, LONGEST_RETRY), self.period)


class Heap:
    """(when, number, entry), earliest first; what has become untrue is dropped in passing."""

    def __init__(self) -> None:
        self._items: list[tuple[float, int, Entry]] = []

    def put(self, when: float, entry: Entry, true: int) -> None:
        """``true``: how many of the items may be."""
        if len(self._items) > 2 * true + 64:
            self._items = [item for item in self._items if not item[2].removed]
            heapq.heapify(self._items)
        heapq.heappush(self._items, (when, entry.number, entry))

    def first(self) -> tuple[float, int, Entry] | None:
        return self._items[0] if self._items else None

    def pop(self) -> None:
        heapq.heappop(self._items)


class Scheduler:
    """The entries of a Heartbeat in the order of time, its news, its thread."""

    def __init__(self, patience: float) -> None:
        self._patience = float(patience)
        self._stopped = False
        self._numbers = 0
        self._reset()

    def _reset(self) -> None:
        self._mutex = threading.RLock()
        self._bell: SimpleQueue[None] = SimpleQueue()  # wakes the thread
        self._told: SimpleQueue[None] = SimpleQueue()  # wakes who waits for news
        self._entries: dict[int, Entry] = {}
        self._due = Heap()
        self._ends = Heap()
        self._news: deque[Entry] = deque()
        self._pipe: Any = None  # None: none, or it has ended
        self._asking: bool | None = None  # True: for a Pipe; False: that has been told
        self._renewed = 0
        self._wakes = 0.0  # when the thread looks again by itself
        self._thread: threading.Thread | None = None

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

    def _plan(self, entry: Entry, due: float) -> None:
        if entry.removed or entry.ended:
            return
        entry.due = NEVER if entry.paused or entry.flying else due
        if entry.due < NEVER:
            self._due.put(entry.due, entry, len(self._entries))
            if entry.due < self._wakes:
                self._bell.put(None)

    def _tell(self, entry: Entry, news: str) -> None:
        entry.news = news
        if not entry.listed:
            entry.listed = True
            self._news.append(entry)
        self._told.put(None)

    def _finish(self, entry: Entry, news: str) -> None:
        """It has ended; it stays until its owner removes it."""
        entry.ended, entry.due = True, NEVER
        self._tell(entry, news)

    def _remove(self, entry: Entry) -> None:
        with self._mutex:
            entry.removed, entry.due = True, NEVER
            self._entries.pop(entry.number, None)

    # -- ends, for who waits for news

    def _look_for_ends(self) -> float:
        """When the next may come."""
        now = clock()
        while True:
            with self._mutex:
                first = self._ends.first()
                if first is None:
                    return NEVER
                when, _, entry = first
                if when > now:
                    return when
                self._ends.pop()
                if entry.removed or entry.ended:
                    continue
                if entry.deadline > now:  # it has moved since
                    self._ends.put(entry.deadline, entry, len(self._entries))
                else:
                    self._finish(entry, EXPIRED)

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
                heard = listen(self._bell, pause)
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

    def _take_off(self, now: float) -> list[Entry]:
        """Everything that is due, up to BATCH."""
        batch: list[Entry] = []
        while len(batch) < BATCH and self._due_before(now):
            entry = self._due._items[0][2]
            self._due.pop()
            entry.due = NEVER
            if now >= entry.deadline or now >= entry.until:
                continue
            if entry.deadline > now + entry.span:  # it would be shortened
                self._plan(entry, entry.deadline - entry.span)
                continue
            entry.flying = True
            entry.expected = entry.usual
            batch.append(entry)
        return batch

    def _exchange(self, batch: list[Entry], now: float) -> None:
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
            _logs.failed("internal", "a heartbeat could not be sent")
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

    def _land(self, entry: Entry, answered: bool, reply: Any, sent_at: float, now: float) -> None:
        """What the answer means."""
        entry.flying = False
        if entry.removed or entry.ended:
            return
        if answered and type(reply) is type(entry.expected) and reply == entry.expected:
            if now < entry.deadline:
                entry.deadline = sent_at + entry.span
                entry.said = sent_at
                entry.unsure = False
                self._renewed += 1
                self._plan(entry, _aligned(sent_at + entry.period, entry.period))
            return
        if answered and type(reply) is not ServerError:
            self._finish(entry, REFUSED)
            return
        entry.unsure = True
        self._plan(entry, entry.retry_due(now))
        if answered:
            entry.answer = reply
            self._tell(entry, TROUBLE)


def listen(bell: SimpleQueue[None], seconds: float) -> bool:
    """Until the bell rings (True), ``seconds`` at most."""
    try:
        bell.get(timeout=max(seconds, 0.0))
    except Empty:
        return False
    with suppress(Empty):  # it may have been rung more than once
        while True:
            bell.get_nowait()
    return True
