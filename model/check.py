#!/usr/bin/env python3
"""Searches the model of the protocol completely, and each known mistake in it until it is found.

    model/check.py                  everything, in two minutes; exit code 1 if anything is off
    model/check.py --list           what there is
    model/check.py NAME...          some of it
    model/check.py --trace NAME...  and, of a mistake, the shortest story that shows it

Law: nothing but the standard library, spin and a C compiler. The right protocol must break no
law, leave nobody stuck and reach every goal that the model names; a mistake must be found, and
by the law that it is said to break. A search that was not completed proves nothing and fails.
"""

from __future__ import annotations

import argparse
import re
import resource
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
MODEL = HERE / "lock.pml"
LAWS = ("exclusive", "truthful", "nothing", "stuck")
#: Steps. A search that goes deeper is not complete and fails.
DEPTH = 4_000_000
#: MB; a search that needs more fails too. The largest needs a quarter of it.
MEMORY = 4_000


@dataclass(frozen=True)
class Case:
    """One search: what is switched on, and which law it must break (None: none)."""

    name: str
    defines: str
    breaks: str | None = None


RIGHT = (
    Case("one-caller", ""),
    Case("shorter", "SHORTER"),
    Case("two-callers", "TWO"),
    Case("no-kill", "NO_KILL"),
    Case("hand-over", "HANDOVER"),
)
WRONG = (
    Case("release-without-compare", "WRONG_RELEASE_WITHOUT_COMPARE", "truthful"),
    Case(
        "release-without-compare-two-hold",
        "WRONG_RELEASE_WITHOUT_COMPARE ONLY_EXCLUSIVE",
        "exclusive",
    ),
    Case("deadline-after-reply", "WRONG_DEADLINE_AFTER_REPLY", "exclusive"),
    Case("no-margin", "WRONG_NO_MARGIN", "exclusive"),
    Case("retry-with-new-token", "WRONG_NEW_TOKEN", "nothing"),
    Case("retry-by-plain-set", "WRONG_RETRY_BY_PLAIN_SET", "nothing"),
    Case("recognised-from-retry", "WRONG_RECOGNISED_FROM_RETRY", "exclusive"),
    Case("false-in-time", "WRONG_FALSE_IN_TIME", "truthful"),
    Case("true-too-late", "WRONG_TRUE_TOO_LATE", "truthful"),
    Case("false-too-late", "WRONG_FALSE_TOO_LATE", "truthful"),
    Case("valid-while-releasing", "WRONG_VALID_WHILE_RELEASING", "exclusive"),
    Case("extend-without-compare", "WRONG_EXTEND_WITHOUT_COMPARE", "exclusive"),
    Case("later-deadline", "SHORTER WRONG_LATER_DEADLINE", "exclusive"),
    Case("no-giving-back", "WRONG_NO_GIVING_BACK", "nothing"),
    Case("certain-without-kill", "NO_KILL WRONG_CERTAIN", "nothing"),
    Case("forgets-older-try", "NO_KILL WRONG_FORGETS_OLDER", "exclusive"),
    Case("shorter-without-kill", "NO_KILL SHORTER", "exclusive"),
    Case("swap-without-compare", "HANDOVER CALM WRONG_SWAP_WITHOUT_COMPARE", "truthful"),
    Case(
        "swap-without-compare-two-hold",
        "HANDOVER CALM WRONG_SWAP_WITHOUT_COMPARE ONLY_EXCLUSIVE",
        "exclusive",
    ),
    Case("no-word-to-the-waiter", "HANDOVER CALM WRONG_NO_WORD", "stuck"),
    Case("gives-back-early", "HANDOVER CALM WRONG_GIVES_BACK_EARLY", "nothing"),
    Case("counts-from-the-word", "HANDOVER CALM WRONG_COUNTS_FROM_THE_WORD", "exclusive"),
)


class CannotCheck(Exception):
    """A program is missing, or the model is not understood by it."""


@dataclass
class Search:
    """What came of one: the law that was broken first, and what was never reached."""

    states: int = 0
    complete: bool = False
    broke: str | None = None
    goals: set[str] = field(default_factory=set)
    unreached: set[str] = field(default_factory=set)
    story: list[str] = field(default_factory=list)


def run(folder: Path, *command: object) -> str:
    """All that it prints, whatever its exit code."""
    done = subprocess.run(
        [str(word) for word in command],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    return done.stdout


def search(case: Case, model: Path = MODEL) -> Search:
    """Build the case's own search program and run it to its end."""
    spin, compiler = shutil.which("spin"), shutil.which("gcc") or shutil.which("cc")
    if spin is None or compiler is None:
        raise CannotCheck(
            f"{'spin' if spin is None else 'a C compiler'} is missing; Debian and Ubuntu: "
            "apt-get install spin gcc; elsewhere: https://spinroot.com"
        )
    defines = [f"-D{name}" for name in case.defines.split()]
    # Of a mistake the shortest story is wanted: breadth first. Of the right protocol every
    # statement must be seen for itself: -o3 merges none.
    right = case.breaks is None
    with tempfile.TemporaryDirectory(prefix="fastlock-model-") as scratch:
        folder = Path(scratch)
        said = run(folder, spin, *(["-o3"] if right else []), *defines, "-a", model)
        if not (folder / "pan.c").exists():
            raise CannotCheck(f"{case.name}: spin does not understand the model:\n{said}")
        said = run(
            folder, compiler, "-w", "-O1" if right else "-O0", "-o", "pan", "pan.c",
            "-DSAFETY", "-DNOREDUCE", "-DVECTORSZ=1024", f"-DMEMLIM={MEMORY}",
            *([] if right else ["-DBFS"]),
        )  # fmt: skip
        if not (folder / "pan").exists():
            raise CannotCheck(f"{case.name}: {compiler} does not compile spin's program:\n{said}")
        said = run(folder, "./pan", *([f"-m{DEPTH}", "-w23"] if right else ["-w20"]))
        found = understood(said, run(folder, "./pan", "-d"))
        if found.broke is not None:
            trail = next(folder.glob("*.trail"), None)
            if trail is not None:
                told = run(folder, spin, *defines, "-k", trail.name, "-T", model)
                found.story = [
                    line.strip()
                    for line in told.splitlines()
                    if re.match(r"\s*(\d: |server: |-- a|=> |too late|lost for|somebody)", line)
                ]
        return found


def understood(said: str, table: str) -> Search:
    """What the search program says, and its table of statements by process."""
    found = Search()
    number = re.search(r"^\s*(\d+) states, stored", said, re.MULTILINE)
    if number is None:
        raise CannotCheck(f"the search program says nothing that is understood:\n{said}")
    found.states = int(number[1])
    finding = re.search(r"^pan:1: (.*?)(?: \(at depth \d+\))?$", said, re.MULTILINE)
    if finding is not None:
        law = finding[1].removeprefix("assertion violated ").strip("() ")
        found.broke = "stuck" if law == "invalid end state" else law
    found.complete = "errors: 0" in said and not re.search(
        r"max search depth too small|MEMLIM|out of memory|not completed|truncated", said
    )
    goals = goals_of(table)
    found.goals = set(goals.values())
    process = ""
    for line in said.splitlines():
        if line.startswith("unreached in "):
            process = line.split()[-1]
        elif entry := re.match(r'\s.*, state (\d+), "', line):
            place = process, entry[1]
            found.unreached |= {goals[place]} if place in goals else set()
    return found


def goals_of(table: str) -> dict[tuple[str, str], str]:
    """Process and state -> the goal that is reached there, by the table of all statements."""
    goals: dict[tuple[str, str], str] = {}
    branches: Counter[tuple[str, str]] = Counter()
    process = ""
    for line in table.splitlines():
        if line.startswith("proctype "):
            process = line.split()[1]
        elif entry := re.match(r"\s*state +(\d+) .*? => (.*)$", line):
            place = process, entry[1]
            branches[place] += 1
            goal = re.search(r"=> (.+?)\\n", entry[2])
            if goal is not None:
                goals[place] = goal[1]
    for place, name in goals.items():
        if branches[place] > 1:  # spin tells what was reached by state, not by branch
            raise CannotCheck(f"the goal {name!r} has no state of its own; put it behind a guard")
    return goals


def faults(case: Case, found: Search) -> list[str]:
    """What is wrong with what came of it."""
    if case.breaks is not None:
        if found.broke is None:
            return [f"the mistake was not found; it breaks the law {case.breaks!r}"]
        if found.broke != case.breaks:
            return [f"found by {found.broke!r} and not, as it must be, by {case.breaks!r}"]
        return []
    if found.broke is not None:
        return [f"breaks {found.broke!r}"]
    wrong = [] if found.complete else ["the search was not completed"]
    if not found.goals:
        wrong.append("the model names no goal")
    return wrong + [f"never reached: {goal}" for goal in sorted(found.unreached)]


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="only these; see --list")
    parser.add_argument("--list", action="store_true", help="name all and end")
    parser.add_argument("--trace", action="store_true", help="tell how each mistake shows")
    chosen = parser.parse_args(arguments)
    cases = {case.name: case for case in (*RIGHT, *WRONG)}
    if chosen.list:
        for case in cases.values():
            print(f"{case.name:33}{case.breaks or 'right':11}{case.defines}".rstrip())
        return 0
    for name in chosen.names:
        if name not in cases:
            parser.error(f"{name}: no such case; model/check.py --list names them")
    broken = 0
    try:
        for name in chosen.names or cases:
            case = cases[name]
            found = search(case)
            wrong = faults(case, found)
            broken += bool(wrong)
            what = f"found by {found.broke!r}" if found.broke else f"{len(found.goals)} goals"
            print(
                f"{'FAILED' if wrong else 'ok':7}{name:33}{found.states:>9,} states  {what}",
                flush=True,
            )
            for line in wrong + (found.story if chosen.trace or (wrong and found.story) else []):
                print(f"       {line}")
    except CannotCheck as error:
        print(f"model/check.py: {error}", file=sys.stderr)
        return 1
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(f"{broken} failed; {used.ru_utime + used.ru_stime:.0f} s of CPU time")
    return int(broken > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
