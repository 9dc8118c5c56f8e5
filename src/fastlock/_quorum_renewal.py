"""Floor 1, renewing leases on a majority of nodes by themselves.

Law: that of ``_renewal.py``, whose ``Renewal`` is told and asked as by any keeper. One daemon
thread per client, only while there are leases to renew, with connections that no event loop
owns. A lease is extended on all nodes before any is waited for; a majority counts.
"""

from __future__ import annotations

import threading
from typing import Any
from weakref import WeakSet

from . import _fork, _leaving
from ._clock import clock
from ._commands import extended
from ._errands import Errands
from ._event import Event
from ._logs import failed
from ._ops_quorum import renewed
from ._quorum_nodes import Nodes
from ._quorum_polls import AT_ONCE, Lacking, Poll, heard, majority_of
from ._renewal import IDLE, REFUSED, UNANSWERED, Renewal
from ._topology import closed_error
from .errors import FastlockError

#: Part of a period after which a renewal without a majority is tried again.
SOON = 10
#: What is due within this part of a period leaves with what is due now.
TOGETHER = 8


class Beat:
    """When a lease is renewed next, and until when it counts; the face of a core's Beat."""

    def __init__(self, keeper: QuorumKeeper, until: float, period: float) -> None:
        self.deadline = until
        self.unsure = False  # the latest renewal had no majority
        self.due = clock() + period
        self.paused = False
        self.removed = False
        self.idle = Event()  # while none is under way
        self.idle.set()
        self._keeper = keeper

    def pause(self, timeout: float) -> bool:
        """Send nothing until it is resumed; whether nothing is under way, in at most so long."""
        self.paused = True
        return self.removed or self._keeper.runs_here() or self.idle.wait(timeout)

    def remove(self) -> None:
        """Renew it no more."""
        self.removed = True


class QuorumKeeper:
    """One client's. ``nodes`` are its own to ask in any thread."""

    def __init__(self, nodes: Nodes, count: int) -> None:
        self._nodes = nodes
        self._majority = majority_of(count)
        self._closing = Event()
        self.used = False
        self._forget()
        _fork.register(self)
        _leaving.last(self)

    def _forget(self) -> None:
        self.mutex = threading.RLock()
        self.callbacks = Errands("fastlock-on-lost")
        self._renewals: WeakSet[Renewal] = WeakSet()
        self._thread: threading.Thread | None = None
        self.renewed = 0  # how many renewals had a majority in time; its thread counts
        self._news = Event()  # made anew by the thread before it looks

    def forked(self) -> None:
        """In a forked child: its parent's leases are none of its own."""
        self._forget()

    # -- for renewals

    def add(self, renewal: Renewal, until: float) -> None:
        """Renew from now on."""
        with self.mutex:
            if self._closing.is_set():
                raise closed_error()
            self.used = True
            renewal.beat = Beat(self, until, renewal.timing()[0])  # type: ignore[assignment]
            self._renewals.add(renewal)
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="fastlock-keeper", daemon=True)
                thread.start()
                self._thread = thread
        self._nodes.prepare()
        self._news.set()

    def resume(self, renewal: Renewal) -> None:
        """Go on after a pause, perhaps with another ttl."""
        beat: Any = renewal.beat
        beat.due = clock() + renewal.timing()[0]
        beat.paused = beat.unsure = False
        self._news.set()

    def runs_here(self) -> bool:
        """Whether this is the thread that renews."""
        return self._thread is threading.current_thread()

    # -- the thread

    def _run(self) -> None:
        idle_since = clock()
        while not self._closing.is_set():
            news = self._news = Event()
            now = clock()
            with self.mutex:
                known = [renewal for renewal in self._renewals if not renewal.done]
                if known:
                    idle_since = now
                elif now - idle_since >= IDLE:
                    self._thread = None
                    return
            try:
                self._renew([r for r in known if self._due(r, now)])
                self._expire(known)
            except Exception:  # about some leases: those that last are tried again
                failed("internal", "a renewal's outcome could not be told")
                news.wait(1.0)
            pause = min((self._next(r) - clock() for r in known if not r.done), default=IDLE)
            known = []
            news.wait(max(0.001, min(pause, IDLE)))
        self._thread = None

    def _due(self, renewal: Renewal, now: float) -> bool:
        beat: Any = renewal.beat
        period = renewal.timing()[0]
        return (
            not beat.paused
            and beat.due <= now + period / TOGETHER
            and now < min(beat.deadline, renewal.until)
        )

    def _next(self, renewal: Renewal) -> float:
        """When it has to be looked at again."""
        beat: Any = renewal.beat
        last: float = beat.deadline
        return last if beat.paused or beat.due >= renewal.until else min(beat.due, last)

    def _renew(self, due: list[Renewal]) -> None:
        for renewal in due:
            if self._closing.is_set():
                return
            self._renew_one(renewal)

    def _renew_one(self, renewal: Renewal) -> None:
        beat: Any = renewal.beat
        beat.idle = idle = Event()
        try:
            if beat.paused or beat.removed:  # a moment ago
                return
            lease = renewal._lease()
            if lease is None:
                return
            period, span = renewal.timing()
            sent_at, answers = self._ask(lease, renewal._ms)
            now = clock()
            verdict = renewed(answers, self._majority)
            if verdict is False:
                renewal.lose(REFUSED)
            elif verdict and now < sent_at + span:
                beat.deadline = max(beat.deadline, sent_at + span)
                beat.due, beat.unsure = sent_at + period, False
                self.renewed += 1
            else:
                beat.due, beat.unsure = now + period / SOON, True
        except FastlockError:  # closed, or two nodes turned out to be one server
            beat.due, beat.unsure = clock() + renewal.timing()[0] / SOON, True
        finally:
            idle.set()

    def _ask(self, lease: Any, ms: int) -> Any:
        words, asked = (lease.pair[1], ms), lease.votes.open()
        op = heard(Poll("extend", lease.key, words, asked, self._majority, extended, AT_ONCE))
        answer: Any = None
        try:
            while True:
                effect = op.send(answer)
                if isinstance(effect, Lacking):
                    self._nodes.downgrade(effect)
                    answer = clock()
                else:
                    answer = self._nodes.poll(effect)
        except StopIteration as end:
            return end.value

    def _expire(self, known: list[Renewal]) -> None:
        now = clock()
        for renewal in known:
            if not renewal.done and now >= renewal.beat.deadline:
                renewal.lose(UNANSWERED)

    # -- the end

    def stop(self) -> None:
        """Renew nothing any more; returns at once."""
        self._closing.set()
        self._news.set()

    def ended(self) -> bool:
        """Whether its thread has ended, after ``stop``."""
        return self._thread is None

    def join(self, timeout: float) -> None:
        """Wait until its thread has ended, after ``stop``."""
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout)
        self.callbacks.finish(timeout)

    def end(self, timeout: float) -> None:
        """The process ends."""
        self.stop()
        self.join(timeout)
