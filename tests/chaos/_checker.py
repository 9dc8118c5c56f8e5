"""Judges a history: each way in which a lock can have been wrong is a rule with a name.

    exclusion   no two leases of one key valid at the same time by their own words
    server      while a lease is valid the server has it, and for at least as long
    fencing     numbers of one key rise in the order in which its leases were had
    release     what a release said is true: freed, or no longer ours before it
    loss        no lease is lost before its deadline, unless the server lost its data
    back        a lease that was lost, or had run out, is never valid again by itself
    told        a renewing holder learns of a loss within ttl/3 + 1 s, and of an end without answer
    fork        a child owns none of its parent's leases
    leak        at the end no key is left, no connection, no thread, no socket
    complaint   nothing happens that no caller should meet

Where the server lost its data, a lease from before may overlap another, or be lost early, up to
its deadline; and a release of it whose answer was lost finds nothing there, as if it had freed the
lock. That is counted apart (``excused``). Fencing and telling must hold there.

Law: pure; whatever a rule cannot decide it does not excuse in silence, but counts.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

from chaos._history import INFINITY, History, Lease, Loss, Span, span_of

#: Seconds. The server rounds times to live to whole ms.
ROUNDING = 0.002
#: Seconds beyond ttl/3, and beyond the deadline, until a renewing holder is told.
TELL = 1.0
#: Seconds for a connection to be made again after it was cut, with the pauses before that.
RECONNECT = 0.5
#: Seconds until what was left early, or released without waiting, is given back.
GIVE_BACK = 2.5
#: What stands behind a lock's key in the name of its queue, and of what belongs to that.
BESIDE = ":fastlock.queue"
#: Faults that cut connections, or may, since clients give silent ones up.
CUTTING = ("wipe", "restart", "crash", "clients", "pause", "stall")


class Violation(NamedTuple):
    rule: str
    what: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.what}"


@dataclass
class Verdict:
    violations: list[Violation] = field(default_factory=list)
    excused: Counter[str] = field(default_factory=Counter)  # by rule, inside windows of loss
    checked: Counter[str] = field(default_factory=Counter)  # by rule, how much was looked at
    told: list[tuple[float, float]] = field(default_factory=list)  # seconds after, and allowed
    void: str = ""  # why nothing can be said

    def wrong(self, rule: str, what: str) -> None:
        self.violations.append(Violation(rule, what))


def check(history: History) -> Verdict:
    """The verdict on a run."""
    verdict = Verdict()
    if history.steps:
        t, by = history.steps[0]
        verdict.void = f"the machine's clock was stepped by {by:.3f} s at {t:.3f}"
    by_key: defaultdict[str, list[Lease]] = defaultdict(list)
    for lease in history.leases.values():
        if lease.got is not None:
            by_key[lease.key].append(lease)
    for leases in by_key.values():
        _exclusion(history, verdict, leases)
        _fencing(history, verdict, leases)
        _freed_what_was_gone(history, verdict, leases)
    for lease in history.leases.values():
        _server(history, verdict, lease)
        _loss(history, verdict, lease)
        _one_lease(history, verdict, lease)
        if lease.renew:
            _told(history, verdict, lease)
    _process(history, verdict)
    _leaks(history, verdict)
    return verdict


def excuse(
    history: History, proof: float, begin: float, end: float, ttl: float = INFINITY
) -> Loss | None:
    """The loss for which a lease counted on since ``proof`` may be wrong from begin to end."""
    for loss in history.losses:
        if proof <= loss.after and begin >= loss.before and end <= loss.after + ttl:
            return loss
    return None


# ------------------------------------------------------------------ of each key


def overlaps(leases: Iterable[Lease]) -> Iterator[tuple[Span, Span]]:
    """Pairs of spans of different leases that share some time, the earlier one first."""
    spans = sorted((span for lease in leases for span in lease.spans), key=lambda s: s.start)
    open_ones: list[Span] = []
    for span in spans:
        open_ones = [other for other in open_ones if other.end > span.start]
        for other in open_ones:
            if other.lease is not span.lease:
                yield other, span
        open_ones.append(span)


def _exclusion(history: History, verdict: Verdict, leases: list[Lease]) -> None:
    verdict.checked["exclusion"] += sum(len(lease.spans) for lease in leases)
    for pair in overlaps(leases):
        a, b = sorted(pair, key=lambda span: span.proof)  # the older one is the one to be excused
        begin, end = max(a.start, b.start), min(a.end, b.end)
        if excuse(history, a.proof, begin, end, a.ttl):
            verdict.excused["exclusion"] += 1
            continue
        verdict.wrong(
            "exclusion",
            f"{a.lease.key}: {a.lease.id} ({a.start:.6f} to {a.end:.6f}) and {b.lease.id} "
            f"({b.start:.6f} to {b.end:.6f}) were valid together for {end - begin:.6f} s",
        )


def _fencing(history: History, verdict: Verdict, leases: list[Lease]) -> None:
    fenced = [lease for lease in leases if lease.fence is not None]
    numbers = Counter(lease.fence for lease in fenced)
    for number, times in numbers.items():
        if times > 1:
            verdict.wrong("fencing", f"{fenced[0].key}: {number} was given {times} times")
    # Who asked after another one had its answer comes later, whatever happened to the server.
    by_call = sorted(fenced, key=lambda lease: lease.called)
    by_got = sorted(fenced, key=lambda lease: lease.got or 0.0)
    place, highest = 0, None
    for lease in by_call:
        while (by_got[place].got or INFINITY) <= lease.called:
            if highest is None or (by_got[place].fence or 0) > (highest.fence or 0):
                highest = by_got[place]
            place += 1
        if highest is not None:
            verdict.checked["fencing"] += 1
            _rising(verdict, highest, lease)
    # Who got a valid lease while another one was tried for came first, if nothing was lost.
    valid = [lease for lease in by_got if lease.valid_at_first]
    for before, after in pairwise(valid):
        assert before.got is not None
        assert after.got is not None
        losses = (loss for loss in history.losses if loss.before <= after.got)
        lost = any(loss.after >= before.sent for loss in losses)
        if before.got > after.called and not lost:
            verdict.checked["fencing"] += 1
            _rising(verdict, before, after)


def _rising(verdict: Verdict, before: Lease, after: Lease) -> None:
    if not (before.fence or 0) < (after.fence or 0):
        verdict.wrong(
            "fencing",
            f"{before.key}: {before.id} had {before.fence}, and {after.id} after it {after.fence}",
        )


def _freed_what_was_gone(history: History, verdict: Verdict, leases: list[Lease]) -> None:
    """A release is told to have freed, though somebody else had had the lock since."""
    by_called = sorted(leases, key=lambda lease: lease.called)
    for lease in leases:
        since: float | None = None  # when the first one was called whose outcome is not known
        for called, answered, answer in lease.released:
            if answer not in ("true", "false"):
                since = called if since is None else since
            if answer != "true":
                continue
            if since is not None:
                called = since  # that one may have freed it
            verdict.checked["release"] += 1
            for other in by_called:
                if other.called > called:
                    break
                after = other.called > (lease.got or 0.0) or (
                    other.fence is not None
                    and lease.fence is not None
                    and other.fence > lease.fence
                )
                if other is lease or not after or (other.got or INFINITY) > called:
                    continue
                if excuse(history, lease.proof, called, answered, lease.ttl):
                    verdict.excused["release"] += 1
                else:
                    verdict.wrong(
                        "release",
                        f"{lease.key}: {lease.id} said at {answered:.6f} that it had freed the "
                        f"lock, which {other.id} had got at {other.got:.6f}",
                    )
                break


# ------------------------------------------------------------------ of each lease


def _server(history: History, verdict: Verdict, lease: Lease) -> None:
    for asked in lease.asked:
        if not asked.valid or asked.deadline <= asked.until:
            continue
        verdict.checked["server"] += 1
        if not asked.mine:
            if excuse(history, asked.proof, asked.until, asked.until, lease.ttl):
                verdict.excused["server"] += 1
            else:
                verdict.wrong(
                    "server",
                    f"{lease.key}: {lease.id} was valid until {asked.deadline:.6f}, but at "
                    f"{asked.until:.6f} the server had it no more",
                )
        elif asked.pttl < 0 or asked.deadline > asked.until + asked.pttl / 1000 + ROUNDING:
            verdict.wrong(
                "server",
                f"{lease.key}: {lease.id} counted on the lock until {asked.deadline:.6f}, but at "
                f"{asked.until:.6f} the server kept it for another {asked.pttl} ms",
            )


def _loss(history: History, verdict: Verdict, lease: Lease) -> None:
    for doubt in lease.doubts:
        verdict.checked["loss"] += 1
        if doubt.t >= doubt.deadline - ROUNDING:
            continue
        if excuse(history, doubt.proof, doubt.t, doubt.t, lease.ttl):
            verdict.excused["loss"] += 1
        else:
            verdict.wrong(
                "loss",
                f"{lease.key}: {lease.id} {doubt.what} at {doubt.t:.6f}, "
                f"{doubt.deadline - doubt.t:.6f} s before its deadline",
            )


def _one_lease(history: History, verdict: Verdict, lease: Lease) -> None:
    for t in lease.still:
        verdict.wrong(
            "release", f"{lease.key}: the server had {lease.id} at {t:.6f}, after its release"
        )
    for t in lease.back:
        verdict.wrong("back", f"{lease.key}: {lease.id} was valid again at {t:.6f}")
    for t in lease.ahead:
        verdict.wrong(
            "server",
            f"{lease.key}: {lease.id} counted its ttl at {t:.6f} from later than its answer",
        )
    if lease.later is not None:
        t, since = lease.later
        late = t - since - _hindered(history, lease.process, since, t)
        if late > GIVE_BACK:
            verdict.wrong(
                "leak",
                f"{lease.key}: the server had {lease.id} {t - since:.3f} s after it was let go of",
            )
    if lease.told_twice:
        verdict.wrong("told", f"{lease.key}: {lease.id} was told more than once that it was lost")
    if lease.key.startswith("chaos:long:") and lease.refused == "taken":
        verdict.wrong("release", f"{lease.key}: {lease.id} was refused what nobody else had")


# ------------------------------------------------------------------ being told


def _told(history: History, verdict: Verdict, lease: Lease) -> None:
    for loss in history.losses:
        held = any(
            span.start < loss.before and span.end > loss.after and span.proof < loss.before
            for span in lease.spans
        )
        if held:
            _told_in_time(history, verdict, lease, loss.after, lease.ttl / 3 + TELL, loss.kind)
            return
    if lease.gone is not None and lease.gone_deadline <= lease.gone:
        _told_in_time(history, verdict, lease, lease.gone_deadline, TELL, "its deadline")


def _told_in_time(
    history: History, verdict: Verdict, lease: Lease, since: float, allowed: float, why: str
) -> None:
    limit = since + allowed
    for _ in range(4):  # what delays may be delayed
        limit = since + allowed + _hindered(history, lease.process, since, limit)
    let_go = min(lease.calls, default=INFINITY)
    if (lease.told is None or lease.told > limit) and (
        let_go <= limit or history.last[lease.process] <= limit
    ):
        return  # released before, or its process came to its end
    verdict.checked["told"] += 1
    if lease.told is not None:
        verdict.told.append((lease.told - since, limit - since))
    if lease.told is None or lease.told > limit:
        late = "never" if lease.told is None else f"after {lease.told - since:.3f} s"
        verdict.wrong(
            "told",
            f"{lease.key}: {lease.id} (ttl {lease.ttl} s) was told {late} that it was lost by "
            f"{why} at {since:.6f}; {limit - since:.3f} s were allowed",
        )


def _hindered(history: History, process: str, begin: float, end: float) -> float:
    """Seconds in which no answer could come, or nobody could hear it."""
    hindrances = [*history.frozen.get(process, ())]
    for kind, t, until in history.troubles:
        if t > begin or until > begin:  # the loss itself ends at ``begin``
            hindrances.append((t, until + (RECONNECT if kind in CUTTING else 0.0)))
    total, covered = 0.0, begin
    for t, until in sorted(hindrances):
        t, until = max(t, covered), min(until, end)
        if until > t:
            total += until - t
            covered = until
    return total


# ------------------------------------------------------------------ of processes, of all


def _process(history: History, verdict: Verdict) -> None:
    for what in history.complaints:
        verdict.wrong("complaint", what)
    for what in history.inherited:
        verdict.wrong("fork", what)
    verdict.checked["fork"] += history.forks
    for process in history.last:
        known = history.ended | history.killed | {"conductor"}
        if process not in known and process.split("-fork-")[0] not in history.killed:
            verdict.wrong("complaint", f"{process} has not ended in order")


def _leaks(history: History, verdict: Verdict) -> None:
    for connection in history.connections:
        verdict.wrong("leak", f"the connection from {connection} was left")
    by_key: defaultdict[str, list[Lease]] = defaultdict(list)
    for lease in history.leases.values():
        by_key[lease.key].append(lease)
    for when, keys in history.left.items():
        for key in keys:
            verdict.checked["leak"] += 1
            lock, place, _ = key.partition(BESIDE)
            if any(_may_be_left(history, lease, when, bool(place)) for lease in by_key[lock]):
                verdict.excused["leak"] += 1
            else:
                verdict.wrong("leak", f"{key} was left at the end ({when})")
    verdict.checked["leak"] += len(by_key)


def _may_be_left(history: History, lease: Lease, when: str, place: bool) -> bool:
    """Whether its holder could not let go of it, or was told that nobody knows.

    ``place``: not the lock is meant, but who waits for it.
    """
    longest = span_of(lease.ttl)
    if when == "last" and (place or not lease.key.startswith("chaos:long:")):
        return False  # whatever it was, it has run out
    if place and not lease.fair:
        return False
    if lease.process not in history.ended:
        return True
    if lease.refused is not None:
        return lease.refused == "unknown"
    answers = [answer for _, _, answer in lease.released]
    ended = lease.deadline + longest < history.last.get("conductor", INFINITY)
    return not ended and (not answers or answers[-1] not in ("true", "false", "sent", "left"))
