"""Floor 1, renewing leases on a majority of nodes by themselves.

Law: that of ``_renewal.py``, whose ``Renewal`` is told and asked as by any keeper. One daemon
thread per client, only while there are leases to renew, with connections that no event loop
owns. All leases that are due are extended on all nodes before any answer is waited for, and none
is waited for longer than the shortest lease allows; a majority counts.
"""

from __future__ import annotations

import threading
from typing import Any
from weakref import WeakSet

from . import _fork, _leaving
from ._clock import clock
from ._effects import Op
from ._errands import Errands
from ._event import Event
from ._logs import failed
from ._ops_quorum import Votes, renewed
from ._quorum_links import PART
from ._quorum_nodes import Nodes
from ._quorum_polls import AT_ONCE, Answer, Lacking, Poll, heard, majority_of
from ._renewal import IDLE, REFUSED, UNANSWERED, Renewal
from ._replies import extended
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


class _Try:
    """One renewal of one lease, under way until ``end``. Its lease stays alive meanwhile."""

    __slots__ = (
        "_idle", "_op", "answers", "lease", "ms", "period", "poll", "renewal", "sent_at", "span",
        "touched",
    )  # fmt: skip

    def __init__(self, renewal: Renewal, majority: int) -> None:
        beat: Any = renewal.beat
        self._idle = beat.idle = Event()  # before the pause is looked at
        self.renewal = renewal
        self.lease: Any = renewal._lease()
        self.ms = renewal._ms
        self.period, self.span = renewal.timing()
        self.poll: Any = None  # to be asked next
        self.sent_at = 0.0
        self.answers: list[Answer] | None = None  # in the end
        self.touched: set[int] = set()
        if self.lease is None or beat.paused or beat.removed:  # a moment ago
            return
        asked = self.lease.votes.open()
        poll = Poll(
            "extend", self.lease.key, (self.lease.pair[1], self.ms), asked, majority, extended,
            AT_ONCE, self.ms, self.touched,
        )  # fmt: skip
        self._op: Op[tuple[float, list[Answer]]] = heard(poll)
        self.poll = self._op.send(None)

    def hear(self, told: Any, nodes: Nodes) -> None:
        """What came of ``poll``."""
        try:
            effect = self._op.send(told)
            while isinstance(effect, Lacking):
                nodes.downgrade(effect)
                effect = self._op.send(clock())
            self.poll = effect
        except StopIteration as end:
            self.poll = None
            self.sent_at, self.answers = end.value

    @property
    def unheard(self) -> set[int]:
        """The nodes that may still carry it out."""
        if self.answers is None:
            return self.touched
        return {answer.node for answer in self.answers if answer.sent and not answer.heard}

    def end(self) -> None:
        """Nothing of it is waited for."""
        self._idle.set()


class QuorumKeeper:
    """One client's. ``nodes`` are its own to ask in any thread.

    ``beside``: extensions by hand have other connections, so a renewal may land behind them.
    """

    def __init__(self, nodes: Nodes, count: int, *, beside: bool = False) -> None:
        self._nodes = nodes
        self._beside = beside
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
            if self._thread is None or not self._thread.is_alive():
                # Told before it starts: after an interrupt it may run, or never.
                self._thread = threading.Thread(
                    target=self._run, name="fastlock-keeper", daemon=True
                )
                self._thread.start()
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
            now = clock()
            with self.mutex:
                if not self.runs_here():  # an interrupt had hidden it: there is another one
                    return
                news = self._news = Event()
                known = [renewal for renewal in self._renewals if not renewal.done]
                if known:
                    idle_since = now
                elif now - idle_since >= IDLE:
                    self._thread = None
                    return
            try:
                self._look_after(known)
            except Exception:  # about some leases: those that last are tried again
                failed("internal", "a renewal's outcome could not be told")
                news.wait(1.0)
            pause = min((self._next(r) - clock() for r in known if not r.done), default=IDLE)
            known = []
            news.wait(max(0.001, min(pause, IDLE)))
        if self.runs_here():
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

    def _look_after(self, known: list[Renewal]) -> None:
        self._expire(known)
        now = clock()
        due = [renewal for renewal in known if self._due(renewal, now)]
        if due:
            # A third of the shortest ttl is its period: what is due meanwhile is sent in time.
            period = min((r.timing()[0] for r in known if not r.done), default=0.0)
            self._renew(due, 3 * period / PART)
            self._expire(known)

    def _renew(self, due: list[Renewal], patience: float) -> None:
        tries: list[_Try] = []
        try:
            tries.extend(_Try(renewal, self._majority) for renewal in due)
            while not self._closing.is_set():
                asking = [one for one in tries if one.poll is not None]
                if not asking:
                    break
                told = self._nodes.poll_all([one.poll for one in asking], patience)
                for one, answers in zip(asking, told, strict=True):
                    one.hear(answers, self._nodes)
        except FastlockError:  # closed, or two nodes turned out to be one server
            pass
        finally:
            for one in tries:
                try:
                    self._judge(one)
                except Exception:  # the others go on
                    failed("internal", "a renewal's outcome could not be told")
                finally:
                    one.end()

    def _judge(self, one: _Try) -> None:
        renewal, lease = one.renewal, one.lease
        beat: Any = renewal.beat
        if lease is None:
            return
        votes: Votes = lease.votes
        if self._beside and one.unheard:
            votes.may_land(one.unheard, one.ms)
            renewal.unheard(one.ms)  # lest such a vote ends before the next one
        verdict = None
        if one.answers is not None:
            votes.learn(one.answers)
            verdict = renewed(one.answers, self._majority)
        now = clock()
        if verdict is False:
            renewal.lose(REFUSED)
        elif now >= beat.deadline:  # whoever looked has seen that it was over
            renewal.lose(UNANSWERED)
        elif verdict and now < one.sent_at + one.span:
            beat.deadline = max(beat.deadline, one.sent_at + one.span)
            beat.due, beat.unsure = one.sent_at + one.period, False
            self.renewed += 1
        elif one.answers is not None or one.poll is not None:
            beat.due, beat.unsure = now + one.period / SOON, True

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
        thread = self._thread
        return thread is None or not thread.is_alive()

    def join(self, timeout: float) -> None:
        """Wait until its thread has ended, after ``stop``."""
        thread = self._thread
        if thread is not None and thread.is_alive() and not self.runs_here():
            thread.join(timeout)
        self.callbacks.finish(timeout)

    def end(self, timeout: float) -> None:
        """The process ends."""
        self.stop()
        self.join(timeout)
