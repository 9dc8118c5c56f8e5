"""What the matrix of cut points has counted in this session; the footer prints it.

Law: an operation counts when its outcome has been judged, a fault when it has happened.
"""

from __future__ import annotations

from collections import Counter

TOTALS: Counter[str] = Counter()


def summary(totals: Counter[str]) -> str:
    """ "1200 operations under 1200 faults, 0 violations, 0 leaks"; "" if there were none."""
    if not totals["operations"]:
        return ""
    parts = ("violations", "leaks")
    return (
        f"{totals['operations']} operations under {totals['faults']} faults, "
        f"{', '.join(f'{totals[name]} {name}' for name in parts)}"
    )
