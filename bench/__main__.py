"""python -m bench: measure, print, draw, keep. Law: see README.md beside this file.

Ends with 1 when the run is void, a contestant of ours failed, or a count (system calls,
instructions, connections) is above what this version promises; with ``--strict`` also when a
target is missed. Ends by itself: what is left when the time is up is left out, and said so.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
import time
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from . import (
    component,
    floor,
    instructions,
    limit,
    machine,
    neighbours,
    plot,
    report,
    servers,
    syscalls,
    verdicts,
    w1_lone,
    w2_threads,
    w3_tasks,
    w4_batches,
    w5_contended,
    w5_wakeup,
    w6_processes,
    w7_shards,
)

RESULTS = Path(__file__).resolve().parent / "results"
PARTS = (
    "w1", "w2", "w3", "w4", "native", "w5", "w6", "neighbours", "w7", "component", "floor",
    "syscalls", "instructions",
)  # fmt: skip
QUICK = ("w1", "w2", "w3", "w4", "w5")
#: Minutes of measuring, whatever is left then; setting up a fresh clone comes on top.
MINUTES = 17.0


def parse(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__.split(":")[0])
    parser.add_argument("parts", nargs="*", metavar="part", help=f"of {', '.join(PARTS)}; all")
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--quick", action="store_true", help="the main figures in two minutes")
    kind.add_argument("--full", action="store_true", help="all contestants and sizes, no hurry")
    parser.add_argument("--rounds", type=int, help="rounds per section (5; quick 2; full 9)")
    parser.add_argument("--minutes", type=float, help=f"begin no section later ({MINUTES:g})")
    parser.add_argument("--server", default="", help="redis, valkey or a program (redis)")
    parser.add_argument("--cores", default="", help="server's and client's core, as 0,1")
    parser.add_argument("--out", type=Path, help="where to keep the results (bench/results/)")
    parser.add_argument("--show", type=Path, metavar="FILE", help="print stored results, no run")
    parser.add_argument("--strict", action="store_true", help="a missed target ends with 1 too")
    args = parser.parse_args(words)
    unknown = set(args.parts) - set(PARTS)
    if unknown:
        parser.error(f"unknown part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    return args


def command_of(args: argparse.Namespace) -> str:
    """How to repeat the run, without this machine's paths."""
    words = list(args.parts)
    words += ["--full"] if args.full else []
    for name in ("rounds", "minutes", "cores"):
        value = getattr(args, name)
        words += [f"--{name}", f"{value:g}" if name == "minutes" else str(value)] if value else []
    words += ["--server", Path(args.server).name] if args.server else []
    target = "make bench-quick" if args.quick else "make bench"
    return f"{target} BENCH_ARGS={shlex.quote(' '.join(words))}" if words else target


def cores_of(text: str) -> tuple[int, int]:
    """The server's and the client's; on a machine with one core, the same."""
    if text:
        first, _, second = text.partition(",")
        return int(first), int(second or first)
    usable = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [0, 1]
    return usable[0], usable[1] if len(usable) > 1 else usable[0]


class Run:
    """One run: what was chosen, and what came of it so far."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.cores = cores_of(args.cores)
        self.full, self.quick = args.full, args.quick
        self.parts = args.parts or (QUICK if args.quick else PARTS)
        self.rounds = args.rounds or (2 if args.quick else 9 if args.full else 5)
        self.minutes = args.minutes or (1e9 if args.full else MINUTES)
        self.began = time.monotonic()
        self.sections: dict[str, Any] = {}
        self.results: dict[str, Any] = {
            "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "command": command_of(args),
            "machine": machine.machine(self.cores),
            "versions": machine.versions(),
            "sections": self.sections,
            "out_of_time": [],
        }

    def elapsed(self) -> float:
        """Seconds since the beginning."""
        return time.monotonic() - self.began

    def step(self, part: str, name: str, run: Callable[..., Any], *arguments: Any) -> Any:
        """One section, if its part was chosen and there is time; else None."""
        if part not in self.parts:
            return None
        if self.elapsed() > 60 * self.minutes:
            self.results["out_of_time"].append(name)
            return None
        print(f"[{self.elapsed():5.0f} s] {name}", file=sys.stderr, flush=True)
        return run(*arguments)

    def section(self, part: str, name: str, run: Callable[..., Any], *arguments: Any) -> None:
        """A section of that name."""
        found = self.step(part, name, run, *arguments)
        if found is not None:
            self.sections[name] = found

    def all_parts(self, kind: str) -> None:
        """What needs most rounds comes first; what the clock can't disturb, last."""
        with servers.running(kind, self.cores[0]) as server:
            where = server, self.cores
            self.ratios(server)
            w7 = self.step("w7", "w7", w7_shards.run, server, kind, self.cores, self.rounds)
            self.sections.update(w7 or {})
            if not self.quick:
                self.section("component", "component", component.run, *where, self.rounds)
            rounds = min(self.rounds, 3)
            for part, measure, arguments in (
                ("floor", floor.run, (*where, rounds)),
                ("syscalls", syscalls.run, (server, self.cores[0])),
                ("instructions", instructions.run, (server, self.cores[0], self.full)),
            ):
                if part in self.parts:
                    self.results[part] = self.step(part, part, measure, *arguments)
        if "native" in self.parts and servers.binary("valkey"):
            with servers.running("valkey", self.cores[0]) as server:
                if server.native:
                    batch = server, self.cores, self.rounds, 1000, w4_batches.NATIVE
                    self.section("native", "w4-1000-native", w4_batches.run, *batch)

    def ratios(self, server: servers.Server) -> None:
        """W1 to W6 and the neighbours."""
        where = server, self.cores
        rounds, quick, full = self.rounds, self.quick, self.full
        names = w1_lone.QUICK if quick else w1_lone.FULL if full else w1_lone.SHORT
        self.section("w1", "w1", w1_lone.run, *where, rounds if quick else 2 * rounds - 1, names)
        if not quick:
            self.section("w1", "w1-together", w1_lone.run_together, *where, 2 * rounds - 1)
        w2 = dict.fromkeys((8, 32), w2_threads.SHORT) if quick else w2_threads.sizes(full)
        self.sections.update(self.step("w2", "w2", w2_threads.run, *where, rounds, w2) or {})
        w3 = {256: w3_tasks.QUICK} if quick else w3_tasks.sizes(full)
        self.sections.update(self.step("w3", "w3", w3_tasks.run, *where, rounds, w3) or {})
        for keys in (1000,) if quick else w4_batches.SIZES:
            self.section("w4", f"w4-{keys}", w4_batches.run, *where, rounds, keys)
        for name, w5 in (("w5", w5_contended.run), ("w5-wakeup", w5_wakeup.run)):
            self.sections.update(self.step("w5", name, w5, *where, rounds, quick) or {})
        self.section("neighbours", "neighbours", neighbours.run, *where, rounds)
        self.sections.update(self.step("w6", "w6", w6_processes.run, *where, rounds) or {})


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Run the chosen parts."""
    limit.home()  # build before anything is measured
    run = Run(args)
    run.all_parts(args.server or ("redis" if servers.binary("redis") else "valkey"))
    run.results["took"] = run.elapsed()
    run.results["verdicts"] = verdicts.judged(run.results)
    run.results["void"] = verdicts.void(run.results)
    return run.results


def main() -> int:
    args = parse(sys.argv[1:])
    if args.show:
        print(report.render(json.loads(args.show.read_text())))
        return 0
    results = measure(args)
    print(report.render(results))
    stamp = results["started"][:19].replace(":", "").replace("-", "")
    out = args.out or RESULTS / f"{stamp}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(results, indent=1) + "\n")
    print(f"kept in {out}")
    for picture in plot.draw_all(results, out.with_suffix("")):
        print(f"drawn in {picture}")
    bad = [f"void: {reason}" for reason in verdicts.void(results)]
    bad += [f"not reached: {line}" for line in verdicts.failed(results, strict=args.strict)]
    for line in bad:
        print(line, file=sys.stderr)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
