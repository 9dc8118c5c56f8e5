"""python -m bench: measure, print, keep. Law: see README.md beside this file.

Ends with 1 when the run is void or a count (system calls, instructions, connections) is
above what this version promises; with ``--strict`` also when a ratio misses.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from . import (
    component,
    instructions,
    limit,
    machine,
    report,
    servers,
    syscalls,
    w1_lone,
    w2_threads,
    w3_tasks,
    w4_batches,
)

RESULTS = Path(__file__).resolve().parent / "results"
PARTS = ("w1", "w2", "w3", "w4", "native", "component", "syscalls", "instructions")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__.split(":")[0])
    parser.add_argument("parts", nargs="*", metavar="part", help=f"of {', '.join(PARTS)}; all")
    parser.add_argument("--full", action="store_true", help="all contestants and sizes")
    parser.add_argument("--rounds", type=int, help="rounds per section (5; W1 9; full 9; W1 15)")
    parser.add_argument("--server", default="", help="redis, valkey or a program (redis)")
    parser.add_argument("--cores", default="", help="server's and client's core, as 0,1")
    parser.add_argument("--out", type=Path, help="where to keep the results (bench/results/)")
    parser.add_argument("--show", type=Path, metavar="FILE", help="print stored results, no run")
    parser.add_argument("--strict", action="store_true", help="a missed ratio ends with 1 too")
    args = parser.parse_args()
    unknown = set(args.parts) - set(PARTS)
    if unknown:
        parser.error(f"unknown part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    return args


def cores_of(text: str) -> tuple[int, int]:
    """The server's and the client's; on a machine with one core, the same."""
    if text:
        first, _, second = text.partition(",")
        return int(first), int(second or first)
    usable = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [0, 1]
    return usable[0], usable[1] if len(usable) > 1 else usable[0]


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Run the chosen parts."""
    cores, full = cores_of(args.cores), args.full
    parts = args.parts or PARTS
    w1_rounds = args.rounds or (15 if full else 9)
    rounds = args.rounds or (9 if full else 5)
    kind = args.server or ("redis" if servers.binary("redis") else "valkey")
    sections: dict[str, Any] = {}
    results: dict[str, Any] = {
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": ["python -m bench", *sys.argv[1:]],
        "machine": machine.machine(cores),
        "versions": machine.versions(),
        "sections": sections,
    }
    limit.home()  # build before anything is measured

    def section(name: str, run: Callable[..., Any], *arguments: Any) -> None:
        say(name)
        sections[name] = run(*arguments)

    with servers.running(kind, cores[0]) as server:
        if "w1" in parts:
            section("w1", w1_lone.run, server, cores, w1_rounds, full)
            section("w1-together", w1_lone.run_together, server, cores, w1_rounds)
        for threads in (8, 32, 64) if full else (32,):
            if "w2" in parts:
                name = f"w2-{threads}"
                section(name, w2_threads.run, server, cores, rounds, full, threads)
        for tasks in (64, 256, 1024) if full else (256,):
            if "w3" in parts:
                section(f"w3-{tasks}", w3_tasks.run, server, cores, rounds, full, tasks)
        for keys in (100, 1000) if full else (1000,):
            if "w4" in parts:
                section(f"w4-{keys}", w4_batches.run, server, cores, rounds, keys)
        if "component" in parts:
            section("component", component.run, server, cores, rounds)
        if "syscalls" in parts:
            say("syscalls")
            results["syscalls"] = syscalls.run(server, cores[0])
        if "instructions" in parts:
            say("instructions")
            results["instructions"] = instructions.run(server, cores[0], full)
    if "native" in parts and servers.binary("valkey"):
        with servers.running("valkey", cores[0]) as server:
            if server.native:
                section("w4-1000-native", w4_batches.run_native, server, cores, rounds, 1000)
    return results


_began = time.monotonic()


def say(name: str) -> None:
    """Progress, for whoever waits."""
    print(f"[{time.monotonic() - _began:5.0f} s] {name}", file=sys.stderr, flush=True)


def main() -> int:
    args = parse()
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
    bad = report.void(results) + report.failed(results, exact_only=not args.strict)
    for line in bad:
        print(f"not reached: {line}", file=sys.stderr)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
