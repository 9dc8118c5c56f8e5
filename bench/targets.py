"""What a run is measured against. Law: every target is a ratio inside one run, or a count.

A yardstick is a ratio between two contestants that are not ours: if it is off, the machine
or the bench is, and the run is void. ``now`` is what this version must reach, ``aim`` what
the next ones must; a target without ``now`` is only shown.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .runner import median

Results = dict[str, Any]


@dataclass(frozen=True)
class Ratio:
    """``what`` of ``ours`` divided by ``what`` of ``other``, in one section."""

    section: str
    what: str  # "pairs" per second, or "cpu" per pair
    ours: str
    other: str

    def value(self, results: Results) -> float | None:
        section = results["sections"].get(self.section)
        if section is None:
            return None
        mine = median(section, self.ours, self.what)
        theirs = median(section, self.other, self.what)
        return mine / theirs if mine is not None and theirs else None

    def __str__(self) -> str:
        what = "pairs/s" if self.what == "pairs" else "CPU"
        return f"{self.section}: {what} of {self.ours} / {self.other}"


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
    """``sign`` is "<=" or ">=". ``exact``: no noise, so missing it fails the run."""

    of: Ratio | Count
    sign: str
    now: float | None
    aim: float | None
    exact: bool = False

    def met(self, value: float, wanted: float) -> bool:
        return value <= wanted if self.sign == "<=" else value >= wanted


#: Measured once on the machine these figures were planned on; within 20 % elsewhere too.
YARDSTICKS = [
    (Ratio("w1", "cpu", "c-hiredis", "redis-py+hiredis"), 0.16),
    (Ratio("w2-32", "pairs", "c-threads", "redis-py+hiredis"), 8.0),
]
TOLERANCE = 0.20


def _syscalls(workload: str, name: str, kind: str, text: str) -> Count:
    return Count(("syscalls", workload, name, kind), text)


def _connections(section: str, name: str) -> Count:
    path = ("sections", section, "contestants", name, "connections")
    return Count(path, f"{section}: connections of {name}")


TARGETS = [
    Target(Ratio("w1", "cpu", "fastlock", "c-hiredis"), "<=", 1.4, None),
    Target(Ratio("w1", "cpu", "fastlock", "redis-py+hiredis"), "<=", 0.25, 0.20),
    Target(Ratio("w1-together", "cpu", "fastlock", "redis-py+hiredis"), "<=", 0.25, 0.20),
    Target(Ratio("w1", "pairs", "fastlock", "c-hiredis"), ">=", None, 0.80),
    Target(Ratio("w1", "cpu", "fastlock-pure", "redis-py"), "<=", None, 0.35),
    Target(Ratio("w2-8", "pairs", "fastlock", "redis-py+hiredis"), ">=", None, 5),
    Target(Ratio("w2-32", "pairs", "fastlock", "redis-py+hiredis"), ">=", 5, 8),
    Target(Ratio("w2-64", "pairs", "fastlock", "redis-py+hiredis"), ">=", None, 9),
    Target(Ratio("w2-8", "pairs", "fastlock", "c-threads"), ">=", None, 0.75),
    Target(Ratio("w2-32", "pairs", "fastlock", "c-threads"), ">=", None, 1.0),
    Target(Ratio("w2-64", "pairs", "fastlock", "c-threads"), ">=", None, 1.1),
    Target(Ratio("w2-32", "pairs", "fastlock-pure", "redis-py+hiredis"), ">=", None, 3),
    Target(Ratio("w3-64", "pairs", "fastlock-aio", "redis-aio"), ">=", None, 9),
    Target(Ratio("w3-256", "pairs", "fastlock-aio", "redis-aio"), ">=", 8, 15),
    Target(Ratio("w3-1024", "pairs", "fastlock-aio", "redis-aio"), ">=", None, 25),
    Target(Ratio("w3-256", "pairs", "fastlock-uvloop", "redis-aio-uvloop"), ">=", None, 15),
    Target(Ratio("w3-256", "pairs", "fastlock-aio-pure", "redis-aio"), ">=", None, 10),
    Target(Ratio("w3-256", "pairs", "fastlock-aio", "machinery"), ">=", None, 0.25),
    Target(Ratio("w4-1000", "pairs", "fastlock", "redis-py-raw"), ">=", None, 4),
    Target(Ratio("w4-1000", "pairs", "fastlock", "c-pipeline"), ">=", None, 0.85),
    Target(Ratio("w4-1000-native", "pairs", "fastlock", "fastlock-script"), ">=", None, 1.6),
    Target(
        Ratio("component", "cpu", "fastlock-component", "pip-services4+hiredis"), "<=", 0.33, 0.25,
    ),
    Target(
        Ratio("component", "cpu", "fastlock-component-pure", "pip-services4"), "<=", None, 0.33,
    ),
    Target(_connections("w2-32", "fastlock"), "<=", 1, 1, exact=True),
    Target(_connections("w3-256", "fastlock-aio"), "<=", 1, 1, exact=True),
    Target(
        _syscalls("w1", "fastlock", "all", "system calls per pair, fastlock"),
        "<=", 4.1, 4.1, exact=True,
    ),
    Target(
        _syscalls("w1", "fastlock-pure", "all", "system calls per pair, fastlock-pure"),
        "<=", 4.1, 4.1, exact=True,
    ),
    Target(
        _syscalls("w4", "fastlock", "all", "system calls per 1,000 keys taken and freed, fastlock"),
        "<=", 30, 30, exact=True,
    ),
    Target(
        Count(("instructions", "fastlock"), "user instructions per pair, fastlock"),
        "<=", 20_000, 25_000, exact=True,
    ),
    Target(
        Count(("instructions", "fastlock-pure"), "user instructions per pair, fastlock-pure"),
        "<=", 130_000, 60_000, exact=True,
    ),
]  # fmt: skip
