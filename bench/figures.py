"""From stored rounds to figures: medians, ratios, and whether a curve holds.

Law: pure arithmetic on the rounds of one result file; a median over all of its rounds,
never the best one. What was not measured is None, never zero.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

Round = dict[str, Any]
Section = dict[str, Any]

#: A rate may fall this far below the best one with fewer callers.
KEPT = 0.9
#: p99 may be so many times p50, up to this many callers.
TAIL, TAIL_UP_TO = 5.0, 64
#: Percentages of all pairs at which latencies are kept for drawing; common.h has them too.
QUANTILES = (*range(100), 99.5, 99.9, 99.99, 100)


def at(ordered: Sequence[float], percent: float) -> float:
    """The value below which so many percent of them lie."""
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


def latency_figures(latencies: list[float], quantiles: bool = False) -> dict[str, Any]:
    """``p50``, ``p99``, ``max``, in seconds; with ``quantiles`` those of QUANTILES too."""
    latencies.sort()
    if not latencies:
        return {}
    found: dict[str, Any] = {"p50": at(latencies, 50), "p99": at(latencies, 99)}
    found["max"] = latencies[-1]
    if quantiles:
        found["quantiles"] = [at(latencies, percent) for percent in QUANTILES]
    return found


def value_of(one: Round, what: str) -> float | None:
    """Of one round.

    ``pairs`` and ``handovers``: per second; ``cpu`` and ``server``, whose it is: seconds per
    pair; ``commands``: of the
    server, per hand-over; ``share``: of the hand-overs that the time held leaves room for;
    ``p50_pings`` and ``p99_pings``: in round trips of a PING; anything else as it stands there.
    """
    if what == "pairs":
        return one["pairs"] / one["seconds"]
    if what == "cpu":
        return one["cpu"] / one["pairs"]
    if what in ("p50_pings", "p99_pings"):
        return one[what[:3]] / one["ping"] if one.get("ping") else None
    if what not in one and what != "share":
        return None
    if what == "server":
        return one["server"] / one["pairs"] if one["pairs"] else None
    if what == "handovers":
        return one["handovers"] / one["seconds"]
    if what == "commands":
        return one["commands"] / one["handovers"] if one["handovers"] else None
    if what == "share":
        ideal = one["pairs"] / one["held"] if one.get("held") else None
        return None if ideal is None else one["handovers"] / one["seconds"] / ideal
    return one[what]


def values(section: Section, name: str, what: str) -> list[float]:
    """Of every round of a contestant; empty if it did not take part."""
    entry = section["contestants"].get(name)
    found = [value_of(one, what) for one in entry["rounds"]] if entry else []
    return [value for value in found if value is not None]


def calls(section: Section, name: str) -> dict[str, float]:
    """The server's commands by name, per hand-over: each the median over all rounds."""
    entry = section["contestants"].get(name)
    rounds = [one for one in entry["rounds"] if one.get("handovers")] if entry else []
    known = sorted({command for one in rounds for command in one.get("calls", ())})
    return {
        command: statistics.median(
            one["calls"].get(command, 0) / one["handovers"] for one in rounds
        )
        for command in known
    }


def median(section: Section, name: str, what: str) -> float | None:
    """A contestant's median over all rounds; None if it did not take part."""
    found = values(section, name, what)
    return statistics.median(found) if found else None


def spread(found: Sequence[float]) -> float:
    """From the worst to the best round, in relation to the median."""
    middle = statistics.median(found)
    return (max(found) - min(found)) / middle if middle else 0.0


# -- curves: the same contestant with 1, 2, 4, ... callers


def curve(sections: dict[str, Section], workload: str, name: str) -> list[dict[str, Any]]:
    """A contestant's way through all sizes, smallest first.

    Each with ``count``, ``rate`` (pairs/s), ``kept`` (of the best rate with fewer callers;
    None for the first), ``p50``, ``p99`` (seconds) and ``tail`` (p99 / p50).
    """
    points = []
    best = 0.0
    sizes = [one for title, one in sections.items() if title.startswith(f"{workload}-")]
    for section in sorted(sizes, key=lambda one: int(one["count"])):
        rate = median(section, name, "pairs")
        if section["workload"] != workload or section.get("processes", 1) > 1 or rate is None:
            continue
        p50, p99 = (median(section, name, what) for what in ("p50", "p99"))
        points.append({
            "count": section["count"],
            "rate": rate,
            "kept": rate / best if best else None,
            "p50": p50,
            "p99": p99,
            "tail": p99 / p50 if p50 and p99 else None,
        })  # fmt: skip
        best = max(best, rate)
    return points


def keeps(point: dict[str, Any]) -> bool | None:
    """Whether more callers cost no rate here; None where nothing can be said."""
    return None if point["kept"] is None else bool(point["kept"] >= KEPT)


def short_tail(point: dict[str, Any]) -> bool | None:
    """Whether the slowest percent is near the rest; None above TAIL_UP_TO callers."""
    if point["tail"] is None or point["count"] > TAIL_UP_TO:
        return None
    return bool(point["tail"] <= TAIL)


def least_kept(points: Sequence[dict[str, Any]]) -> float | None:
    """The deepest fall of a curve, as a share of the best rate with fewer callers."""
    found = [one["kept"] for one in points if one["kept"] is not None]
    return min(found) if found else None


def longest_tail(points: Sequence[dict[str, Any]]) -> float | None:
    """The greatest p99 / p50 up to TAIL_UP_TO callers."""
    found = [one["tail"] for one in points if one["tail"] is not None]
    small = [one["tail"] for one in points if short_tail(one) is not None]
    return max(small) if found and small else None
