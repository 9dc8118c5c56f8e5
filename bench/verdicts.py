"""What a run's figures mean: does it count, what was reached, what failed.

Law: computed from the stored rounds alone. A run whose yardsticks are off does not count,
and it is said why as far as the figures tell; a target that was not measured is never
counted as reached.
"""

from __future__ import annotations

from typing import Any

from .figures import median
from .targets import (
    KNOWN_SERVER,
    KNOWN_WITH,
    TARGETS,
    TOLERANCE,
    YARDSTICKS,
    Results,
    Target,
    Yardstick,
)

#: Cores that others may use before a section is called noisy.
QUIET = 0.10


def void(results: Results) -> list[str]:
    """Why the run does not count; empty if it does."""
    reasons = []
    for yardstick in YARDSTICKS:
        value = yardstick.of.value(results)
        if value is not None and abs(value / yardstick.known - 1) > TOLERANCE:
            reasons.append(
                f"{yardstick.of} is {value:.3g}, known is {yardstick.known:g} within "
                f"{TOLERANCE:.0%}"
            )
    return reasons


def why(results: Results) -> list[str]:
    """What may have moved the yardsticks that are off: which side, the noise, the versions."""
    lines = []
    for yardstick in YARDSTICKS:
        value = yardstick.of.value(results)
        if value is not None and abs(value / yardstick.known - 1) > TOLERANCE:
            lines += _moved(yardstick, results)
    if not lines:
        return []
    versions = results["versions"]
    different = [
        f"{name} {versions.get(name, 'missing')} (then {known})"
        for name, known in KNOWN_WITH.items()
        if versions.get(name) != known
    ]
    servers = {section["server"] for section in results["sections"].values()}
    if KNOWN_SERVER not in servers:
        different.append(f"{', '.join(sorted(servers))} (then {KNOWN_SERVER})")
    if different:
        lines.append(f"other versions than when they were found: {'; '.join(different)}")
    return lines


def _moved(yardstick: Yardstick, results: Results) -> list[str]:
    ratio = yardstick.of
    section = results["sections"][ratio.section]
    sides = []
    for name, known in zip((ratio.ours, ratio.other), yardstick.sides, strict=True):
        here = median(section, name, ratio.what) or 0.0
        slower = here / known if ratio.what == "cpu" else known / here if here else 0.0
        if ratio.what == "cpu":
            figures = f"{here * 1e6:.1f} us per pair (then {known * 1e6:.1f})"
        else:
            figures = f"{here:,.0f} pairs/s (then {known:,.0f})"
        sides.append((slower, f"{name} {figures}: {slower:.2f} x the time"))
    lines = [f"{ratio.section}: {'; '.join(text for _, text in sides)}"]
    furthest = max(range(2), key=lambda i: max(sides[i][0], 1 / (sides[i][0] or 1)))
    lines.append(f"{ratio.section}: {(ratio.ours, ratio.other)[furthest]} moved most")
    if section["others"] > QUIET:
        lines.append(f"{ratio.section}: others used {section['others']:.2f} cores meanwhile")
    return lines


def failed(results: Results, strict: bool) -> list[str]:
    """What must not be: contestants of ours that failed, counts above what is promised; with
    ``strict`` every target that was measured and not reached too."""
    missed = []
    for name, section in results["sections"].items():
        for who, reason in section["absent"].items():
            if who.startswith("fastlock") and reason.startswith("failed"):
                missed.append(f"{name}: {who} {reason}")
    for target in TARGETS:
        value = target.of.value(results)
        wanted = target.must if strict and target.held is None else target.held
        if value is not None and wanted is not None and not target.met(value, wanted):
            missed.append(f"{target.of}: {value:.4g}, wanted {target.sign} {wanted:g}")
    return missed


def judged(results: Results) -> list[dict[str, Any]]:
    """Every target with what was measured; None for what was not."""
    return [_judged(target, target.of.value(results)) for target in TARGETS]


def _judged(target: Target, value: float | None) -> dict[str, Any]:
    def reached(wanted: float | None) -> bool | None:
        return None if value is None or wanted is None else target.met(value, wanted)

    return {
        "target": str(target.of),
        "measured": value,
        "sign": target.sign,
        "must": target.must,
        "reached": reached(target.must),
        "stretch": target.stretch,
        "stretch_reached": reached(target.stretch),
    }
