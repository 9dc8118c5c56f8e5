"""Results as plain text. Law: computed from the stored rounds alone, so that a stored file
prints the same tables as the run that made it.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from typing import Any

from . import component, w1_lone, w2_threads, w3_tasks, w4_batches
from .runner import median, value_of
from .targets import TARGETS, TOLERANCE, YARDSTICKS, Results

#: Cores that others may use before a section is called noisy.
QUIET = 0.10

_COMPARED = {
    "w1": (w1_lone.RIVAL, w1_lone.LIMIT),
    "w2": (w2_threads.RIVAL, w2_threads.LIMIT),
    "w3": (w3_tasks.RIVAL, w3_tasks.LIMIT),
    "w4": (w4_batches.RIVAL, w4_batches.LIMIT),
}
_UNIT = {"w1": "caller", "w2": "threads", "w3": "tasks", "w4": "keys per batch"}


def render(results: Results) -> str:
    """Everything: machine, tables, exact counts, yardsticks, targets."""
    parts = [_head(results)]
    parts += [_section(name, section) for name, section in results["sections"].items()]
    parts += [_syscalls(results), _instructions(results), _yardsticks(results), _targets(results)]
    return "\n\n".join(part for part in parts if part) + "\n"


def void(results: Results) -> list[str]:
    """Why the run does not count; empty if it does."""
    reasons = []
    for ratio, wanted in YARDSTICKS:
        value = ratio.value(results)
        if value is not None and abs(value / wanted - 1) > TOLERANCE:
            reasons.append(f"{ratio} is {value:.3g}, not {wanted:g} within {TOLERANCE:.0%}")
    return reasons


def failed(results: Results, exact_only: bool) -> list[str]:
    """Targets that this version must reach and did not."""
    missed = []
    for target in TARGETS:
        value = target.of.value(results)
        judged = target.now is not None and (target.exact or not exact_only)
        if judged and value is not None and not target.met(value, target.now or 0.0):
            missed.append(f"{target.of}: {value:.4g}, wanted {target.sign} {target.now:g}")
    return missed


def _head(results: Results) -> str:
    lines = [f"{name:10} {value}" for name, value in results["machine"].items()]
    versions = ", ".join(f"{name} {value}" for name, value in results["versions"].items())
    lines += [f"{'versions':10} {versions}", f"{'command':10} {' '.join(results['command'])}"]
    lines += [f"{'started':10} {results['started']}"]
    return "\n".join(lines)


def table(rows: Iterable[list[str]]) -> str:
    """The first column to the left, the others to the right."""
    listed = list(rows)
    widths = [max(map(len, column)) for column in zip(*listed, strict=True)]
    lines = []
    for row in listed:
        first, *others = (cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        lines.append("  ".join([first.strip().ljust(widths[0]), *others]))
    return "\n".join(line.rstrip() for line in lines)


def _section(name: str, section: dict[str, Any]) -> str:
    workload = section["workload"]
    rival, limit = _COMPARED[workload]
    if name.endswith("native"):
        rival, limit = w4_batches.NATIVE_RIVAL, w4_batches.NATIVE_LIMIT
    elif name == "component":
        rival, limit = component.RIVAL, ""
    contestants = section["contestants"]
    with_latency = any(entry["latencies"] for entry in contestants.values())
    compared = [one for one in (rival, limit) if one in contestants]
    head = ["", "pairs/s", "spread", "CPU us/pair"]
    head += [f"x {one}" for one in compared] + [f"CPU/{one}" for one in compared]
    head += ["p50 us", "p99 us"] if with_latency else []
    head += [] if section["together"] else ["conns"]
    rows = [head]
    for who, entry in contestants.items():
        rates = sorted(value_of(one, "pairs") for one in entry["rounds"])
        pairs, cpu = median(section, who, "pairs"), median(section, who, "cpu")
        assert pairs is not None
        assert cpu is not None
        spread = (rates[-1] - rates[0]) / pairs
        row = [who, f"{pairs:,.0f}", f"{spread:.0%}", f"{cpu * 1e6:.2f}"]
        row += [f"{pairs / (median(section, one, 'pairs') or 1):.2f}" for one in compared]
        row += [f"{cpu / (median(section, one, 'cpu') or 1):.3f}" for one in compared]
        if with_latency:
            row += [_late(entry, "p50"), _late(entry, "p99")]
        row += [] if section["together"] else [str(entry["connections"])]
        rows.append(row)
    rounds = max(len(entry["rounds"]) for entry in contestants.values())
    where = (
        f"server {section['server']} on core {section['server_core']}, "
        f"client on core {section['client_core']}"
    )
    how = f"{rounds} rounds of {section['seconds']} s"
    how += ", all in one process" if section["together"] else ", a process each"
    title = f"{name}: {section['count']} {_UNIT[workload]}; {where}; {how}"
    noise = f"others used {section['others']:.2f} cores meanwhile"
    if section["others"] > QUIET:
        noise += ": NOISY, do not quote"
    return f"{title}\n{table(rows)}\n({noise})"


def _late(entry: dict[str, Any], which: str) -> str:
    values = [one[which] for one in entry["latencies"] if which in one]
    return f"{statistics.median(values) * 1e6:.0f}" if values else ""


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
    rows = [["", "instructions"]] + [[who, f"{number:,.0f}"] for who, number in found.items()]
    return f"user instructions per pair of a lone caller (callgrind)\n{table(rows)}"


def _yardsticks(results: Results) -> str:
    rows = [["yardstick", "measured", "known"]]
    for ratio, wanted in YARDSTICKS:
        value = ratio.value(results)
        if value is not None:
            rows.append([str(ratio), f"{value:.3f}", f"{wanted:g}"])
    if len(rows) == 1:
        return ""
    reasons = void(results)
    verdict = "\n".join(f"VOID: {reason}" for reason in reasons)
    return table(rows) + "\n" + (verdict or "the yardsticks hold: the ratios count")


def _targets(results: Results) -> str:
    rows = [["target", "measured", "now", "", "aim", ""]]
    for target in TARGETS:
        value = target.of.value(results)
        if value is None:
            continue
        row = [str(target.of), f"{value:.3f}" if value < 100 else f"{value:,.0f}"]
        for wanted in (target.now, target.aim):
            if wanted is None:
                row += ["", ""]
            else:
                verdict = "yes" if target.met(value, wanted) else "NO"
                row += [f"{target.sign} {wanted:g}", verdict]
        rows.append(row)
    return table(rows) if len(rows) > 1 else ""
