"""Results as plain text. Law: computed from the stored rounds alone, so that a stored file
prints the same tables as the run that made it.
"""

from __future__ import annotations

import statistics
from typing import Any

from . import component, floor, report_w5, report_w7, w1_lone, w2_threads, w3_tasks, w4_batches
from .figures import curve, keeps, median, short_tail, spread, values
from .tables import notes, table, title
from .targets import FEWEST, YARDSTICKS, Results
from .verdicts import judged, void, why

_COMPARED = {
    "w1": (w1_lone.RIVAL, w1_lone.LIMIT),
    "w2": (w2_threads.RIVAL, w2_threads.LIMIT),
    "w3": (w3_tasks.RIVAL, w3_tasks.LIMIT),
    "w4": (w4_batches.RIVAL, w4_batches.LIMIT),
}
_UNIT = {"w1": "caller", "w2": "threads", "w3": "tasks", "w4": "keys per batch"}
#: Contestants whose way through all sizes is shown, by workload.
CURVES = {
    "w2": ("fastlock", "fastlock-pure"),
    "w3": ("fastlock-aio", "fastlock-aio-pure", "fastlock-uvloop", "fastlock-uvloop-pure"),
}


def render(results: Results) -> str:
    """Everything: machine, tables, curves, exact counts, yardsticks, targets."""
    sections = results["sections"]
    parts = [_head(results)]
    for name, section in sections.items():
        if name.startswith("w5"):
            parts.append(report_w5.render(name, section))
        elif name.startswith("w7"):
            continue  # all of them together
        elif name == "neighbours":
            parts.append(_neighbours(name, section))
        else:
            parts.append(_section(name, section))
    parts.append(report_w7.render(sections))
    parts += [_curve(sections, workload, who) for workload in CURVES for who in CURVES[workload]]
    parts += [_floor(results), _syscalls(results), _instructions(results)]
    parts += [_left_out(results), _yardsticks(results), _targets(results)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _head(results: Results) -> str:
    lines = [f"{name:10} {value}" for name, value in results["machine"].items()]
    versions = ", ".join(f"{name} {value}" for name, value in results["versions"].items())
    lines += [f"{'versions':10} {versions}", f"{'command':10} {results['command']}"]
    lines += [f"{'started':10} {results['started']}"]
    if "took" in results:
        lines += [f"{'took':10} {results['took']:.0f} s"]
    return "\n".join(lines)


def _section(name: str, section: dict[str, Any]) -> str:
    workload = section["workload"]
    rival, limit = _COMPARED[workload]
    if name.endswith("native"):
        rival, limit = w4_batches.NATIVE_RIVAL, w4_batches.NATIVE_LIMIT
    elif name == "component":
        rival, limit = component.RIVAL, ""
    contestants = section["contestants"]
    with_latency = any(
        one["latencies"] or any("p50" in round_ for round_ in one["rounds"])
        for one in contestants.values()
    )
    compared = [one for one in (rival, limit) if one in contestants]
    head = ["", "pairs/s", "spread", "CPU us/pair"]
    head += [f"x {one}" for one in compared] + [f"CPU/{one}" for one in compared]
    head += ["p50 us", "p99 us"] if with_latency else []
    head += [] if section["together"] else ["conns"]
    rows = [head]
    for who, entry in contestants.items():
        pairs, cpu = median(section, who, "pairs"), median(section, who, "cpu")
        if pairs is None or cpu is None:
            continue
        row = [who, f"{pairs:,.0f}", f"{spread(values(section, who, 'pairs')):.0%}"]
        row += [f"{cpu * 1e6:.2f}"]
        row += [f"{pairs / (median(section, one, 'pairs') or 1):.2f}" for one in compared]
        row += [f"{cpu / (median(section, one, 'cpu') or 1):.3f}" for one in compared]
        if with_latency:
            row += [_late(entry, "p50"), _late(entry, "p99")]
        row += [] if section["together"] else [str(entry.get("connections", ""))]
        rows.append(row)
    return f"{title(name, section, _UNIT[workload])}\n{table(rows)}\n{notes(section)}"


def _late(entry: dict[str, Any], which: str) -> str:
    rounds = [*entry["latencies"], *entry["rounds"]]
    found = [one[which] for one in rounds if which in one]
    return f"{statistics.median(found) * 1e6:.0f}" if found else ""


def _neighbours(name: str, section: dict[str, Any]) -> str:
    rows = [["neighbour's pairs", "p50 alone ms", "p99 alone", "p50 beside", "p99 beside"]]
    rows[0] += ["max beside", "batch s", "memory grown MB"]
    for who, entry in section["contestants"].items():
        shown = [median(section, who, what) for what in ("quiet_p50", "quiet_p99", "p50", "p99")]
        worst = max((one["max"] for one in entry["rounds"] if "max" in one), default=None)
        batch = median(section, who, "seconds")
        grown = max((one["grown"] for one in entry["rounds"]), default=0)
        rows.append([
            who, *("-" if one is None else f"{one * 1000:.2f}" for one in [*shown, worst]),
            "-" if batch is None else f"{batch:.2f}", f"{grown / 1e6:.0f}",
        ])  # fmt: skip
    head = title(name, section, "keys in one call, beside a caller of single pairs")
    return f"{head}\n{table(rows)}\n{notes(section)}"


def _verdict(holds: bool | None) -> str:
    return "" if holds is None else "yes" if holds else "NO"


def _curve(sections: dict[str, Any], workload: str, who: str) -> str:
    points = curve(sections, workload, who)
    if len(points) < FEWEST:
        return ""
    rows = [[_UNIT[workload], "pairs/s", "of best before", ">= 0.9", "p50 us", "p99 us"]]
    rows[0] += ["p99/p50", "<= 5"]
    for one in points:
        late = [f"{one[what] * 1e6:.0f}" if one[what] else "" for what in ("p50", "p99")]
        rows.append([
            str(one["count"]), f"{one['rate']:,.0f}",
            "" if one["kept"] is None else f"{one['kept']:.2f}", _verdict(keeps(one)), *late,
            "" if one["tail"] is None else f"{one['tail']:.1f}", _verdict(short_tail(one)),
        ])  # fmt: skip
    return f"curve of {who}\n{table(rows)}"


def _floor(results: Results) -> str:
    found = results.get("floor")
    if not found:
        return "floor: not measured (needs redis-benchmark)" if "floor" in results else ""
    shown = floor.medians(found)
    names = list(next(iter(shown.values())))
    rows = [["", *names]]
    rows += [[shape, *(f"{row[name]:,.0f}" for name in names)] for shape, row in shown.items()]
    return f"floor: commands/s that redis-benchmark gets out of the server\n{table(rows)}"


def _syscalls(results: Results) -> str:
    found = results.get("syscalls")
    if not found:
        return "system calls: not measured (needs strace)" if "syscalls" in results else ""
    parts = []
    titles = {"w1": "system calls per pair", "w4": "system calls per 1,000 keys taken and freed"}
    for workload, entries in found.items():
        rows = [["", "sends", "receives", "all"]]
        for who, calls in entries.items():
            rows.append([who, *(f"{calls[kind]:.2f}" for kind in ("sends", "receives", "all"))])
        parts.append(f"{titles[workload]} (strace)\n{table(rows)}")
    return "\n\n".join(parts)


def _instructions(results: Results) -> str:
    found = results.get("instructions")
    if not found:
        missing = "user instructions: not measured (needs valgrind)"
        return missing if "instructions" in results else ""
    titles = {
        "w1": "of a lone caller",
        "metrics": "of a lone caller, with metrics in relation to without",
        "w4": "in a batch of 1,000 keys",
    }
    parts = []
    for workload, entries in found.items():
        form = "{:.4f}" if workload == "metrics" else "{:,.0f}"
        rows = [["", "instructions"], *([who, form.format(n)] for who, n in entries.items())]
        title = f"user instructions per pair {titles[workload]} (callgrind)"
        parts.append(f"{title}\n{table(rows)}")
    return "\n\n".join(parts)


def _left_out(results: Results) -> str:
    skipped = results.get("out_of_time", [])
    return f"left out, for the time was up: {', '.join(skipped)}" if skipped else ""


def _yardsticks(results: Results) -> str:
    rows = [["yardstick", "measured", "known"]]
    for yardstick in YARDSTICKS:
        value = yardstick.of.value(results)
        if value is not None:
            rows.append([str(yardstick.of), f"{value:.3f}", f"{yardstick.known:g}"])
    if len(rows) == 1:
        return ""
    reasons = [f"VOID: {reason}" for reason in void(results)]
    reasons += [f"  why: {reason}" for reason in why(results)]
    return table(rows) + "\n" + ("\n".join(reasons) or "the yardsticks hold: the ratios count")


def _targets(results: Results) -> str:
    rows = [["target", "measured", "must reach", "", "stretch", ""]]
    unmeasured = []
    for one in judged(results):
        value = one["measured"]
        if value is None:
            unmeasured.append(one["target"])
            continue
        row = [one["target"], f"{value:.3f}" if value < 100 else f"{value:,.0f}"]
        for wanted, reached in (("must", "reached"), ("stretch", "stretch_reached")):
            limit = one[wanted]
            row += ["" if limit is None else f"{one['sign']} {limit:g}", _verdict(one[reached])]
        rows.append(row)
    if len(rows) == 1:
        return ""
    text = table(rows)
    if void(results):
        text = "(of a run that is VOID: shown, not claimed)\n" + text
    if unmeasured:
        text += f"\nnot measured in this run: {len(unmeasured)} more targets"
    return text
