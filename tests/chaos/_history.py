"""The events of a run -> its leases, when each was valid, and what had been done to the server.

A lease's own words: ``valid()`` was true when it was looked at; and a deadline, up to which it
would have said so again. A frozen or killed process does not look, but what it promised stands.
So a lease is taken as valid from the moment it was had

    to its deadline, or
    to the call of its release or of an extension, if that came earlier, or
    to the last look that found it valid, where the next one did not although the deadline had
    not passed, or where it is renewed: it may have been told in between.

Every end is one at which it surely was still valid by its own words: an overlap of two such
spans is never the measurement's fault.

Law: pure; fastlock is not imported. What the documentation promises is written here again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from chaos._log import Event
from chaos._plan import LOSSES

INFINITY = float("inf")


def span_of(ttl: float) -> float:
    """Seconds from the sending of what set a ttl to the lease's deadline: 1 % and 2 ms less."""
    return ttl * 0.99 - 0.002


class Span(NamedTuple):
    """A lease was valid from ``start`` to ``end``."""

    start: float
    end: float
    proof: float  #: when that was sent to the server which it last counted on
    ttl: float
    lease: Lease


class Doubt(NamedTuple):
    """The server's word, through the lease, that it was lost, and what it believed before."""

    t: float
    what: str
    deadline: float
    proof: float


class Asked(NamedTuple):
    """What the server had of a lease's key between two times."""

    t: float
    until: float
    valid: bool  #: the lease's own word before
    deadline: float
    mine: bool
    pttl: int
    proof: float


@dataclass(eq=False)
class Lease:
    """One that was acquired, or tried for."""

    id: str
    process: str
    key: str
    called: float
    how: str
    renew: bool
    ttl: float
    fair: bool
    got: float | None = None
    valid_at_first: bool = False
    fence: int | None = None
    refused: str | None = None  #: why it was not acquired
    spans: list[Span] = field(default_factory=list)
    proof: float = 0.0  #: see Span
    deadline: float = 0.0  #: as last seen
    told: float | None = None
    told_twice: bool = False
    gone: float | None = None  #: when it was first seen not to be valid
    gone_deadline: float = 0.0
    released: list[tuple[float, float, str]] = field(default_factory=list)  # called, answered, what
    calls: list[float] = field(default_factory=list)  #: of its releases
    doubts: list[Doubt] = field(default_factory=list)
    asked: list[Asked] = field(default_factory=list)
    still: list[float] = field(default_factory=list)  #: the server had it after all
    back: list[float] = field(default_factory=list)  #: valid again, and nothing had been done
    ahead: list[float] = field(default_factory=list)  #: counted on more than any answer can grant
    later: tuple[float, float] | None = None  #: seen on the server at, let go of at; if it stayed
    # while reading
    _start: float | None = None
    _seen: float = 0.0
    _horizon: float = 0.0
    _over: bool = False

    @property
    def sent(self) -> float:
        """When the try left that took it."""
        return self.spans[0].proof if self.spans else self.called

    def _open(self, t: float, deadline: float, ttl: float) -> None:
        if self._start is None:
            self._start = t
        self._seen, self._horizon = t, max(t, deadline)
        self.deadline, self.ttl = deadline, ttl
        self.proof = deadline - span_of(ttl)
        if self.proof > t and not self.renew:
            self.ahead.append(t)

    def _close(self, end: float) -> None:
        if self._start is not None and end > self._start:
            self.spans.append(Span(self._start, end, self.proof, self.ttl, self))
        self._start = None

    # -- one method for each event

    def on_got(self, event: Event) -> None:
        self.got, self.fence = event["t"], event["fence"]
        self.valid_at_first = event["valid"]
        if event["valid"]:
            self._open(event["t"], event["deadline"], event["ttl"])

    def on_not(self, event: Event) -> None:
        self.refused = event["why"]

    def on_held(self, event: Event) -> None:
        if self._start is None and (self._over or self.told is not None):
            self.back.append(event["t"])
        self._open(event["t"], event["deadline"], self.ttl)

    def on_gone(self, event: Event) -> None:
        self._seen = max(self._seen, event["seen"])
        ran_out = not self.renew and event["deadline"] <= event["t"]
        self._close(event["deadline"] if ran_out else self._seen)
        self._over = True
        if self.gone is None:
            self.gone, self.gone_deadline = event["t"], event["deadline"]

    def on_told(self, event: Event) -> None:
        self.told_twice = self.told is not None
        self.told = event["t"]
        self._doubt(event["t"], "was told lost", event["deadline"])
        self._close(self._seen)

    def on_extend(self, event: Event) -> None:
        self._close(self._seen if self.renew else min(self._horizon, event["t"]))

    def on_extended(self, event: Event) -> None:
        if event["valid"]:
            self._over = False
            self._open(event["t"], event["deadline"], event["ttl"])

    def on_unextended(self, event: Event) -> None:
        if event["why"] == "lost":
            self._doubt(event["t"], "was lost to an extension", self.deadline)

    def on_release(self, event: Event) -> None:
        self._close(self._seen if self.renew else min(self._horizon, event["t"]))
        self.calls.append(event["t"])

    def on_released(self, event: Event) -> None:
        answer = event["answer"]
        uncertain = any(what not in ("true", "false") for _, _, what in self.released)
        self.released.append((self.calls[-1], event["t"], answer))
        if answer in ("false", "lost") and not uncertain:
            self._doubt(event["t"], f"was released: {answer}", self.deadline)

    def on_looked(self, event: Event) -> None:
        if event["still"]:
            self.still.append(event["t"])

    def on_later(self, event: Event) -> None:
        self.later = (event["t"], event["since"]) if event["there"] else None

    def on_asked(self, event: Event) -> None:
        deadline, valid = event["deadline"], event["valid"]
        self.asked.append(
            Asked(
                event["t"], event["until"], valid, deadline, event["mine"], event["pttl"],
                deadline - span_of(self.ttl),
            )
        )  # fmt: skip

    def on_child(self, event: Event) -> None:
        """Of a process forked from its holder: the history judges that."""

    def _doubt(self, t: float, what: str, deadline: float) -> None:
        self.doubts.append(Doubt(t, what, deadline, deadline - span_of(self.ttl)))

    def end(self) -> None:
        """Nothing more is known of it: what it promised last stands."""
        self._close(self._horizon)


class Loss(NamedTuple):
    """The server has lost its data at some moment between two times."""

    kind: str
    before: float
    after: float


@dataclass
class History:
    """All of a run. Times are seconds on the clock of leases."""

    leases: dict[str, Lease] = field(default_factory=dict)
    losses: list[Loss] = field(default_factory=list)
    troubles: list[tuple[str, float, float]] = field(default_factory=list)  # of the server
    frozen: dict[str, list[tuple[float, float]]] = field(default_factory=dict)  # by process
    last: dict[str, float] = field(default_factory=dict)  # a process's last line
    ended: set[str] = field(default_factory=set)  # processes that left in order
    killed: set[str] = field(default_factory=set)
    faults: Counter[str] = field(default_factory=Counter)
    complaints: list[str] = field(default_factory=list)
    inherited: list[str] = field(default_factory=list)  # a child held its parent's lease
    forks: int = 0
    handed: Counter[str] = field(default_factory=Counter)  # what came of hand-overs
    left: dict[str, list[str]] = field(default_factory=dict)  # "once", "last" -> keys
    connections: list[str] = field(default_factory=list)
    steps: list[tuple[float, float]] = field(default_factory=list)  # of the clock: when, by
    server: str = ""
    seed: int = 0
    seconds: float = 0.0
    calm: float = INFINITY  # no fault begins later


def history_of(events: Iterable[Event]) -> History:
    """What happened, from the events of all processes in the order of their times."""
    history = History()
    for event in events:
        history.last[event["p"]] = event["t"]
        if "id" in event:
            _of_a_lease(history, event)
        else:
            _of_a_process(history, event)
    for lease in history.leases.values():
        lease.end()
    return history


def _of_a_lease(history: History, event: Event) -> None:
    kind, name = event["e"], event["id"]
    if kind == "try":
        history.leases[name] = Lease(
            name, event["p"], event["key"], event["t"], event["how"], event["renew"], event["ttl"],
            event["fair"],
        )  # fmt: skip
        return
    if kind == "child" and (event["valid"] or event["release"] != "LockError"):
        history.inherited.append(
            f"{name}: in a fork valid() was {event['valid']}, release() {event['release']}"
        )
    getattr(history.leases[name], f"on_{kind}")(event)


def _of_a_process(history: History, event: Event) -> None:
    kind, t = event["e"], event["t"]
    if kind == "fault":
        _fault(history, event)
    elif kind == "complaint":
        history.complaints.append(f"{event['p']}: {event['what']}")
    elif kind == "end":
        history.ended.add(event["p"])
        if event["left"]:
            history.complaints.append(f"{event['p']} left behind: {event['left']}")
    elif kind == "reaped":
        history.forks += 1
        if event["status"]:
            history.complaints.append(f"{event['p']}: a fork ended with status {event['status']}")
    elif kind == "handed":
        history.handed[event["kind"]] += 1
    elif kind == "cut":
        history.faults["cancel"] += 1
    elif kind == "step":
        history.steps.append((t, event["by"]))
    elif kind == "left":
        history.left[event["at"]] = event["keys"]
        history.connections += event["connections"]
    elif kind == "run":
        history.server, history.seed = event["server"], event["seed"]
        history.seconds = event["seconds"]
    elif kind == "calm":
        history.calm = t


def _fault(history: History, event: Event) -> None:
    kind, t, until = event["kind"], event["t"], event["until"]
    history.faults[kind] += 1
    if event["target"] != "server":
        if kind == "freeze":
            history.frozen.setdefault(event["target"], []).append((t, until))
        if kind == "kill":
            history.killed.add(event["target"])
        return
    history.troubles.append((kind, t, until))
    if kind in LOSSES:
        history.losses.append(Loss(kind, t, until))
