"""What all tables have in common: columns, the line above, the lines below.

Law: text from stored rounds alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from .verdicts import QUIET


def table(rows: Iterable[Sequence[str]]) -> str:
    """The first column to the left, the others to the right."""
    listed = list(rows)
    widths = [max(map(len, column)) for column in zip(*listed, strict=True)]
    lines = []
    for row in listed:
        first, *others = (cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        lines.append("  ".join([first.strip().ljust(widths[0]), *others]))
    return "\n".join(line.rstrip() for line in lines)


def title(name: str, section: dict[str, Any], unit: str) -> str:
    """What was measured, where, how often."""
    several = section.get("processes", 1)
    rounds = max((len(one["rounds"]) for one in section["contestants"].values()), default=0)
    how = f"{rounds} rounds of {section['seconds']} s"
    how += ", all in one process" if section["together"] else ", a process each"
    if several > 1:
        how += f", {several} processes of each at once"
    return (
        f"{name}: {section['count']} {unit}; server {section['server']} on core "
        f"{section['server_core']}, client on core {section['client_core']}; {how}"
    )


def notes(section: dict[str, Any]) -> str:
    """How noisy it was, and who is missing."""
    noise = f"(others used {section['others']:.2f} cores meanwhile"
    noise += ": NOISY, do not quote)" if section["others"] > QUIET else ")"
    absent = [f"{name}: {why}" for name, why in section["absent"].items()]
    return "\n".join([noise, *absent])
