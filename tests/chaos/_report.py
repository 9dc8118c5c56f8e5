"""A run in a dozen lines: what was done, what was broken, what was wrong.

Law: every number is counted from the logs; none is what was planned.
"""

from __future__ import annotations

from collections import Counter

from chaos._checker import Verdict
from chaos._history import History

#: No more violations are shown.
MANY = 20


def report(history: History, verdict: Verdict) -> str:
    """As text for people."""
    leases = history.leases.values()
    had = [lease for lease in leases if lease.got is not None]
    others = [lease.refused or "unanswered" for lease in leases if lease.got is None]
    refused = Counter(why.split()[0] for why in others)
    answers = Counter(what for lease in had for _, _, what in lease.released)
    excused, checked = verdict.excused, verdict.checked
    faults = history.faults + Counter(fork=history.forks)
    fair = [lease for lease in leases if lease.fair]
    fair_had = sum(lease.got is not None for lease in fair)
    fenced = sum(lease.fence is not None for lease in had)
    wrong = Counter(violation.rule for violation in verdict.violations)
    spans = f"{checked['exclusion']} spans of validity, {wrong['exclusion']} overlaps"
    asked = f"{checked['server']} times about a valid lease, {wrong['server']} differences"
    lost = f"{checked['loss']} leases, {wrong['loss']} before their deadline"
    lines = [
        f"chaos     {history.seconds:.0f} s on {history.server}, seed {history.seed}",
        f"processes {len(history.last) - 1}: {len(history.killed)} killed, {history.forks} forked",
        f"tries     {len(leases)}: {len(had)} acquired ({_counted(refused)})",
        f"fair      {len(fair)} of them: {fair_had} acquired",
        f"releases  {_counted(answers)}",
        f"handed    {_counted(history.handed)}",
        f"faults    {sum(faults.values())}: {_counted(faults)}",
        f"losses    {len(history.losses)} of the server's data; what they excuse stands in ()",
        f"exclusion {spans} ({excused['exclusion']})",
        f"asked     {asked} ({excused['server']})",
        f"freed     {checked['release']} times, {wrong['release']} untrue ({excused['release']})",
        f"fencing   {fenced} numbers, {checked['fencing']} comparisons, {wrong['fencing']} wrong",
        f"lost      {lost} ({excused['loss']})",
        f"told      {_told(verdict)}",
        f"left      {_left(history, verdict)}",
    ]
    shown = verdict.violations[:MANY]
    lines += [f"WRONG     {violation}" for violation in shown]
    if len(verdict.violations) > MANY:
        lines.append(f"WRONG     ... {len(verdict.violations) - MANY} more")
    if verdict.void:
        lines.append(f"VOID      {verdict.void}: keys ended at another time than leases")
    lines.append(
        f"result    {len(leases)} operations, {sum(faults.values())} faults, "
        f"{len(verdict.violations)} violations, {wrong['leak']} leaks"
    )
    return "\n".join(lines)


def _told(verdict: Verdict) -> str:
    if not verdict.told:
        return "nobody had to be"
    after = sorted(seconds for seconds, _ in verdict.told)
    spare = min(allowed - seconds for seconds, allowed in verdict.told)
    return (
        f"{len(after)} renewing holders: median {after[len(after) // 2]:.3f} s after, at most "
        f"{after[-1]:.3f} s; nearest to what is allowed {spare:.3f} s"
    )


def _left(history: History, verdict: Verdict) -> str:
    keys = ", ".join(f"{len(keys)} keys ({when})" for when, keys in history.left.items())
    excused = verdict.excused["leak"]
    return (
        f"{keys}, {len(history.connections)} connections; {excused} of the keys were of killed "
        "processes or unknown"
    )


def _counted(counter: Counter[str]) -> str:
    return ", ".join(f"{name} {number}" for name, number in sorted(counter.items())) or "none"
