"""The Python core's heartbeat: repeats what has to be said in time.

Law: the same names, arguments, results and errors as ``_heartbeat.pyx``; it knows bytes,
usual replies, periods and deadlines, and no lock words. Its thread is one of Python's: whoever
keeps the GIL stops it, and that is the one difference. It also serves the compiled core on
TLS, where Python's ``ssl`` owns the connection.
"""

from __future__ import annotations

import threading
from time import monotonic, sleep
from typing import Any

from ._pyscheduler import NAP, NEVER, TROUBLE, Entry, Scheduler, listen
from ._pytime import clock

__all__ = ["Beat", "Heartbeat"]

MOST_USUAL = 16  # bytes of a usual reply


class Heartbeat(Scheduler):
    """Says everything in time, over one Pipe: what is due together leaves in one write.

    An entry is bytes (one command), its usual reply, a period, a span, a deadline. It is
    sent every ``period``; each usual reply moves the deadline to ``span`` after the sending.
    A reply that is an error, or none, is tried again until the deadline; any other reply,
    or the deadline, ends it. Its thread starts with the first entry and reads for itself.

    Args:
        patience: seconds without an answer after which a connection is given up; for
            entries of a shorter period that one, but at least 1 second.
    """

    def __reduce__(self) -> Any:
        raise TypeError("a Heartbeat cannot be pickled or copied")

    @property
    def count(self) -> int:
        """How many entries there are."""
        return len(self._entries)

    @property
    def renewed(self) -> int:
        """How often the usual reply has come in time."""
        return self._renewed

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
            entry = Entry(self._numbers, data, usual, period, span)
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
            listen(self._told, pause)
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
                    found.append((entry.number, news, answer if news is TROUBLE else None))


class Beat:
    """One entry of a Heartbeat; the entry ends with it."""

    __slots__ = ("_entry", "_heart")
    _heart: Heartbeat
    _entry: Entry

    def __init__(self) -> None:
        raise TypeError("a Beat is made by Heartbeat.add()")

    def __del__(self) -> None:
        if hasattr(self, "_entry"):  # maybe in a thread that its starter waits for: no mutex
            entry = self._entry
            entry.removed, entry.due = True, NEVER
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
            entry.due = NEVER
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


def _check(data: Any, usual: Any, period: float, span: float) -> None:
    if type(data) is not bytes:
        raise TypeError("a Heartbeat sends bytes")
    if not (len(usual) <= MOST_USUAL if type(usual) is bytes else type(usual) is int):
        raise TypeError("a usual reply is an integer or at most 16 bytes")
    if not (0 < period < NEVER and 0 < span < NEVER):
        raise ValueError("a period and a span are seconds above 0")
