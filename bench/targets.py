"""What a run is measured against. Law: every target is a ratio inside one run, a figure of one
contestant that no rival can give, or a count.

A yardstick is a ratio between two contestants that are not ours: if it is off, the machine
or the bench is, and the run is void. ``must`` is what has to be reached before the work is
done, ``stretch`` what the physics would allow; ``held`` is what this version promises of an
exact count: above it the run fails.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .figures import KEPT, TAIL, curve, least_kept, longest_tail, median, values
from .variants import VARIANTS
from .w5_contended import RIVALS
from .w7_shards import BATCH_OVER, CLUSTER, KINDS, PLAIN, growth

Results = dict[str, Any]

#: Sizes that make a curve.
FEWEST = 4
NAMES = {"pairs": "pairs/s", "cpu": "CPU", "handovers": "hand-overs/s"}


@dataclass(frozen=True)
class Ratio:
    """``what`` of ``ours`` divided by ``what`` of ``other``, in one section, or in two that took
    turns.
    """

    section: str
    what: str  # see figures.value_of
    ours: str
    other: str
    others: str = ""  # the other one's section, if it is another

    def value(self, results: Results) -> float | None:
        sections = results["sections"]
        section, others = sections.get(self.section), sections.get(self.others or self.section)
        if section is None or others is None:
            return None
        mine = median(section, self.ours, self.what)
        theirs = median(others, self.other, self.what)
        return mine / theirs if mine is not None and theirs else None

    def __str__(self) -> str:
        where = f" in {self.others}" if self.others else ""
        return f"{self.section}: {NAMES[self.what]} of {self.ours} / {self.other}{where}"


@dataclass(frozen=True)
class Figure:
    """``what`` of one contestant, times ``scale``; with ``worst`` the greatest of all rounds."""

    section: str
    what: str
    ours: str
    text: str
    scale: float = 1.0
    worst: bool = False

    def value(self, results: Results) -> float | None:
        section = results["sections"].get(self.section)
        found = values(section, self.ours, self.what) if section else []
        if not section or not found:
            return None
        middle = max(found) if self.worst else median(section, self.ours, self.what)
        return None if middle is None else middle * self.scale

    def __str__(self) -> str:
        return f"{self.section}: {self.text} of {self.ours}"


@dataclass(frozen=True)
class Curve:
    """The worst point of a contestant's way through all sizes; of a few sizes it says nothing."""

    workload: str
    ours: str
    text: str
    worst: Callable[[list[dict[str, Any]]], float | None]

    def value(self, results: Results) -> float | None:
        points = curve(results["sections"], self.workload, self.ours)
        return self.worst(points) if len(points) >= FEWEST else None

    def __str__(self) -> str:
        return f"{self.workload} curve: {self.text} of {self.ours}"


@dataclass(frozen=True)
class Flat:
    """The greatest CPU per pair over more than one master, in relation to that over one."""

    caller: str  # see w7_shards.KINDS
    ours: str

    def value(self, results: Results) -> float | None:
        found = growth(results["sections"], self.caller, self.ours)
        return max(found.values(), default=None)

    def __str__(self) -> str:
        return f"w7-{self.caller}: most CPU per pair over 2 to 8 masters / over 1, of {self.ours}"


@dataclass(frozen=True)
class Count:
    """A number found at this path of the results."""

    path: tuple[str, ...]
    text: str

    def value(self, results: Results) -> float | None:
        found: Any = results
        for step in self.path:
            found = found.get(step) if isinstance(found, dict) else None
        return None if found is None else float(found)

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Target:
    """``sign`` is "<=" or ">="."""

    of: Ratio | Figure | Curve | Flat | Count
    sign: str
    must: float | None
    stretch: float | None
    held: float | None = None  # no noise in it, so missing it fails the run

    def met(self, value: float, wanted: float) -> bool:
        return value <= wanted if self.sign == "<=" else value >= wanted


@dataclass(frozen=True)
class Yardstick:
    """A ratio between contestants that are not ours, as it is on the machine that all targets
    were planned on, and what each side was there: (what it is called, its figure)."""

    of: Ratio
    known: float
    sides: tuple[float, float]  # of ours and of other: pairs/s, or CPU seconds per pair


YARDSTICKS = [
    Yardstick(Ratio("w1", "cpu", "c-hiredis", "redis-py+hiredis"), 0.16, (22.0e-6, 140e-6)),
    Yardstick(Ratio("w2-32", "pairs", "c-threads", "redis-py+hiredis"), 8.0, (47_900, 6_000)),
]
TOLERANCE = 0.20
#: With these they were found: a different one is a reason for a yardstick to be off.
KNOWN_WITH = {"python": "3.11.7", "redis": "8.1.0", "hiredis": "3.5.0"}
KNOWN_SERVER = "redis 7.0.15"


def _syscalls(workload: str, name: str, kind: str, text: str) -> Count:
    return Count(("syscalls", workload, name, kind), text)


def _instructions(workload: str, name: str, text: str) -> Count:
    return Count(("instructions", workload, name), text)


def _metered(name: str) -> list[Target]:
    """What counting and timing may cost."""
    count = _instructions("metrics", name, f"instructions of {name} with metrics, to those without")
    return [Target(count, "<=", 1.03, None, held=1.03)]


def _connections(section: str, name: str) -> Count:
    path = ("sections", section, "contestants", name, "connections")
    return Count(path, f"{section}: connections of {name}")


def _curve(workload: str, name: str) -> list[Target]:
    kept = Curve(workload, name, "least share of the best rate with fewer callers", least_kept)
    tail = Curve(workload, name, "greatest p99 / p50 up to 64 callers", longest_tail)
    return [Target(kept, ">=", KEPT, None), Target(tail, "<=", TAIL, None)]


def _beside(name: str) -> list[Target]:
    late = Figure("neighbours", "p99", name, "neighbour's p99 in ms", 1000)
    return [Target(late, "<=", 10, None)]


def _contended() -> list[Target]:
    return [
        Target(Ratio(f"w5-{kind}", "handovers", variant.names(kind)[0], RIVALS[kind]), ">=", *both)
        for variant in VARIANTS
        for kind, both in variant.kinds.items()
        if both is not None
    ]


def _woken(name: str) -> list[Target]:
    """From another process's release to having the lock, and from the end of a dead one's lease."""
    pings = {"p50_pings": ("p50", 3), "p99_pings": ("p99", 10)}
    found = [
        Target(Figure("w5-wakeup", what, name, f"{text} of a wake-up, in PINGs"), "<=", most, None)
        for what, (text, most) in pings.items()
    ]
    if name.endswith("after-redis-py"):
        return found  # whoever is killed releases nothing
    return found + [
        Target(
            Figure(section, "max", name, "longest wait beyond a dead one's ttl, ms", 1000, True),
            "<=", 50, None,
        )
        for section in ("w5-killed", "w5-killed-200k")
    ]  # fmt: skip


def _over_masters() -> list[Target]:
    flat = [
        Target(Flat(caller, who), "<=", 1.15, None)
        for caller in KINDS
        for who in CLUSTER[caller].split()
        if who.startswith("fastlock")
    ]
    return flat + [
        Target(
            Ratio("w7-batch-plain", "cpu", plain, who, f"w7-batch-{BATCH_OVER}"), ">=", 0.8, None
        )
        for plain, who in zip(PLAIN["batch"].split(), CLUSTER["batch"].split(), strict=True)
    ]


#: One line for each of the targets; the sections are described in README.md.
TARGETS = [
    # a lone caller
    Target(Ratio("w1", "pairs", "fastlock", "c-hiredis"), ">=", 0.80, 0.95),
    Target(Ratio("w1", "cpu", "fastlock", "redis-py+hiredis"), "<=", 0.20, 0.15),
    Target(Ratio("w1-together", "cpu", "fastlock", "redis-py+hiredis"), "<=", 0.20, 0.15),
    Target(
        _instructions("w1", "fastlock", "user instructions per pair, fastlock"),
        "<=", 25_000, 12_000, held=15_000,
    ),
    Target(
        _instructions("w1", "fastlock-pure", "user instructions per pair, fastlock-pure"),
        "<=", 60_000, 35_000, held=60_000,
    ),
    *_metered("fastlock"),
    *_metered("fastlock-pure"),
    Target(
        _syscalls("w1", "fastlock", "all", "system calls per pair, fastlock"),
        "<=", 4.1, None, held=4.1,
    ),
    Target(
        _syscalls("w1", "fastlock-pure", "all", "system calls per pair, fastlock-pure"),
        "<=", 4.1, None, held=4.1,
    ),
    Target(Ratio("w1", "pairs", "fastlock-deferred", "c-hiredis"), ">=", 1.4, 1.8),
    Target(Ratio("w1", "pairs", "fastlock-deferred", "c-deferred"), ">=", 0.75, 0.95),
    # threads
    Target(Ratio("w2-8", "pairs", "fastlock", "redis-py+hiredis"), ">=", 5, 8),
    Target(Ratio("w2-32", "pairs", "fastlock", "redis-py+hiredis"), ">=", 8, 12),
    Target(Ratio("w2-64", "pairs", "fastlock", "redis-py+hiredis"), ">=", 9, 15),
    Target(Ratio("w2-8", "pairs", "fastlock", "c-threads"), ">=", 0.75, 1.1),
    Target(Ratio("w2-32", "pairs", "fastlock", "c-threads"), ">=", 1.0, 1.5),
    Target(Ratio("w2-64", "pairs", "fastlock", "c-threads"), ">=", 1.1, 1.7),
    *_curve("w2", "fastlock"),
    *_curve("w2", "fastlock-pure"),
    # tasks
    Target(Ratio("w3-64", "pairs", "fastlock-aio", "redis-aio"), ">=", 9, 14),
    Target(Ratio("w3-256", "pairs", "fastlock-aio", "redis-aio"), ">=", 15, 25),
    Target(Ratio("w3-1024", "pairs", "fastlock-aio", "redis-aio"), ">=", 25, 45),
    Target(Ratio("w3-64", "pairs", "fastlock-uvloop", "redis-aio-uvloop"), ">=", 9, 14),
    Target(Ratio("w3-256", "pairs", "fastlock-uvloop", "redis-aio-uvloop"), ">=", 15, 25),
    Target(Ratio("w3-1024", "pairs", "fastlock-uvloop", "redis-aio-uvloop"), ">=", 25, 45),
    Target(Ratio("w3-256", "pairs", "fastlock-aio", "machinery"), ">=", 0.25, 0.45),
    # batches
    Target(Ratio("w4-1000", "pairs", "fastlock", "redis-py-raw"), ">=", 4, 6),
    Target(Ratio("w4-1000", "pairs", "fastlock", "c-pipeline"), ">=", 0.85, 1.2),
    Target(Figure("w4-1000", "cpu", "fastlock", "CPU us per pair", 1e6), "<=", 1.0, 0.5),
    Target(Ratio("w4-1000-native", "pairs", "fastlock", "fastlock-script"), ">=", 1.6, 2.2),
    Target(
        _syscalls("w4", "fastlock", "all", "system calls per 1,000 keys taken and freed, fastlock"),
        "<=", 30, None, held=30,
    ),
    # one key wanted by eight
    *_contended(),
    Target(
        Figure("w5-processes-1ms", "share", "fastlock", "share of the ideal"), ">=", 0.75, 0.9,
    ),
    # one process woken by another
    *_woken("fastlock"),
    *_woken("fastlock-pure"),
    *_woken("fastlock-aio"),
    *_woken("fastlock-aio-pure"),
    *_woken("fastlock-after-redis-py"),
    *_woken("fastlock-aio-after-redis-py"),
    # one client over several masters, and a batch over three
    *_over_masters(),
    # neighbours
    *_beside("fastlock"),
    *_beside("fastlock-pure"),
    *_beside("fastlock-aio"),
    *_beside("fastlock-aio-pure"),
    # the Python core
    Target(Ratio("w1", "cpu", "fastlock-pure", "redis-py"), "<=", 0.35, 0.25),
    Target(Ratio("w2-32", "pairs", "fastlock-pure", "redis-py+hiredis"), ">=", 3, 5),
    Target(Ratio("w3-256", "pairs", "fastlock-aio-pure", "redis-aio"), ">=", 10, 15),
    # the framework's component
    Target(
        Ratio("component", "cpu", "fastlock-component", "pip-services4+hiredis"), "<=", 0.25, None,
    ),
    Target(
        Ratio("component", "cpu", "fastlock-component-pure", "pip-services4"), "<=", 0.33, None,
    ),
    # connections of a process: one, and one more while somebody waits
    Target(_connections("w2-32", "fastlock"), "<=", 1, None, held=1),
    Target(_connections("w3-256", "fastlock-aio"), "<=", 1, None, held=1),
    Target(_connections("w5-threads", "fastlock"), "<=", 2, None, held=2),
    Target(_connections("w5-tasks", "fastlock-aio"), "<=", 2, None, held=2),
]  # fmt: skip
