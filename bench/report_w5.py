"""W5's tables. Law: computed from the stored rounds alone."""

from __future__ import annotations

import statistics
from typing import Any

from .figures import calls, median, spread, values
from .tables import notes, table, title
from .w5_contended import RIVALS


def render(name: str, section: dict[str, Any]) -> str:
    """One section."""
    what, _, seconds = section["workload"].partition("@")
    if what == "wakeup":
        return _wakeup(name, section)
    if what == "killed":
        return _killed(name, section, float(seconds))
    return _contended(name, section, float(seconds))


def _contended(name: str, section: dict[str, Any], hold: float) -> str:
    rival = RIVALS[name.split("-")[1]]
    theirs = median(section, rival, "handovers")
    rows = [["", "hand-overs/s", "spread", f"x {rival}", "acquired/s", "CPU us/acquired"]]
    rows[0] += ["commands/hand-over", "of the ideal"]
    rows[0] += ["wait p50 ms", "p99", "longest", "least share", "most"]
    for who in section["contestants"]:
        found = values(section, who, "handovers")
        if not found:
            continue
        middle = statistics.median(found)
        longest = values(section, who, "max")
        rows.append([
            who, f"{middle:,.0f}", f"{spread(found):.0%}",
            f"{middle / theirs:.2f}" if theirs else "",
            _shown(median(section, who, "pairs"), ",.0f"),
            _shown(median(section, who, "cpu"), ".1f", 1e6),
            _shown(median(section, who, "commands"), ".1f"),
            _shown(median(section, who, "share") if hold else None, ".2f"),
            _shown(median(section, who, "p50"), ".2f", 1000),
            _shown(median(section, who, "p99"), ".2f", 1000),
            _shown(max(longest, default=None), ".1f", 1000),
            _shown(median(section, who, "least"), ".2f"),
            _shown(median(section, who, "most"), ".2f"),
        ])  # fmt: skip
    head = title(name, section, f"callers of one key, held {hold * 1000:g} ms")
    return "\n".join([head, table(rows), *_calls(section), notes(section)])


def _shown(value: float | None, how: str, scale: float = 1.0) -> str:
    return "" if value is None else format(value * scale, how)


def _calls(section: dict[str, Any]) -> list[str]:
    """Which commands those were, but for what is rarer than one in a hundred hand-overs."""
    rows = []
    for who in section["contestants"]:
        found = {command: count for command, count in calls(section, who).items() if count >= 0.01}
        if found:
            often = ", ".join(f"{command} {count:.2f}" for command, count in found.items())
            rows.append(f"  {who}: {often}")
    return ["the server's commands per hand-over, those within a script included:", *rows] * bool(
        rows
    )


def _wakeup(name: str, section: dict[str, Any]) -> str:
    rows = [["", "p50 us", "p99 us", "longest us", "PING us", "p50 / PING", "p99 / PING"]]
    rows[0] += ["wake-ups"]
    for who, entry in section["contestants"].items():
        if not entry["rounds"]:
            continue
        longest = max(values(section, who, "max"))
        times = [median(section, who, "p50"), median(section, who, "p99"), longest]
        rows.append([
            who, *(_shown(one, ",.0f", 1e6) for one in [*times, median(section, who, "ping")]),
            _shown(median(section, who, "p50_pings"), ".2f"),
            _shown(median(section, who, "p99_pings"), ".2f"),
            f"{sum(one['pairs'] for one in entry['rounds'])}",
        ])  # fmt: skip
    head = title(name, section, "processes, from one's release to the other's acquire returning")
    return f"{head}\n{table(rows)}\n{notes(section)}"


def _killed(name: str, section: dict[str, Any], ttl: float) -> str:
    rows = [["", "p50 ms", "longest ms", "deaths"]]
    for who, entry in section["contestants"].items():
        if not entry["rounds"]:
            continue
        rows.append([
            who, _shown(median(section, who, "p50"), ".1f", 1000),
            _shown(max(values(section, who, "max")), ".1f", 1000),
            f"{sum(one['pairs'] for one in entry['rounds'])}",
        ])  # fmt: skip
    what = f"processes, from the end of a dead one's lease of {ttl * 1000:g} ms to the other's"
    head = title(name, section, f"{what} acquire returning")
    return f"{head}\n{table(rows)}\n{notes(section)}"
