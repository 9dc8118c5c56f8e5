"""Runs contestants against each other. Law: each in a process of its own that lives for the
whole section, connected and warm; slices alternate in one fixed order, round by round.

A contestant's process says "ready", then answers each line on its standard input with one
JSON object: ``s SECONDS`` a slice, ``l SECONDS`` a slice with latencies, ``n PAIRS`` exactly
so many (per caller). All others are blocked in a read meanwhile.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import limit
from .servers import Server, pin

ROOT = Path(__file__).resolve().parent.parent

Round = dict[str, float]


@dataclass(frozen=True)
class Spec:
    """One contestant. ``program``: a C limit's name, else ``python``: a name of child.py."""

    name: str
    what: str  # for the reader of the table
    program: str = ""
    python: str = ""
    uvloop: bool = False
    native: bool = False  # a C limit that releases by the server's own command
    env: dict[str, str] = field(default_factory=dict, hash=False)
    needs: str = ""  # a module; where it is not installed the contestant is left out

    def command(self, workload: str, server: Server, count: int) -> list[str]:
        """How to start it."""
        release = server.native if self.native and server.native else server.script
        if self.program:
            return [limit.program(self.program), str(server.port), release, str(count)]
        words = [sys.executable, "-m", "bench.child", workload, self.python]
        words += [str(server.port), release, str(count)]
        return [*words, "uvloop"] if self.uvloop else words

    def takes_part(self, server: Server) -> bool:
        """Whether what it needs is there; a module is looked for by another process."""
        if self.native and not server.native:
            return False
        if not self.needs:
            return True
        command = [sys.executable, "-c", f"import {self.needs}"]
        run = subprocess.run(command, stderr=subprocess.DEVNULL, check=False)
        return run.returncode == 0


class Child:
    """One contestant's process."""

    def __init__(
        self,
        spec: Spec,
        workload: str,
        server: Server,
        count: int,
        core: int,
        wrapper: Sequence[str] = (),
    ) -> None:
        self.spec = spec
        self.process = subprocess.Popen(
            [*wrapper, *spec.command(workload, server, count)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": "0", **spec.env},
            preexec_fn=lambda: pin(core),
        )
        self._line()  # "ready"

    def order(self, mode: str, amount: float, which: int = 0) -> Round:
        """One measurement."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{mode} {amount} {which or ''}\n")
        self.process.stdin.flush()
        answer: Round = json.loads(self._line())
        return answer

    def _line(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline().strip()
        if not line:
            self.process.wait(10)
            raise RuntimeError(f"{self.spec.name} ended with {self.process.returncode}; see above")
        return line

    def end(self) -> None:
        """The end of its input ends it; else a signal does."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()


@dataclass
class Plan:
    """How to measure: ``count`` is of threads, tasks or keys, ``seconds`` of one slice."""

    workload: str
    count: int
    server_core: int
    client_core: int
    rounds: int
    seconds: float
    latencies: bool = False
    together: bool = False  # all Python contestants in one process


def compete(specs: Sequence[Spec], plan: Plan, server: Server) -> dict[str, Any]:
    """Measure all of them by turns; one section of the results."""
    quiet = Quiet(server)
    entries: dict[str, dict[str, Any]] = {}
    seats: list[tuple[str, Child, int]] = []
    children: list[Child] = []
    where = plan.workload, server, plan.count, plan.client_core
    try:
        present = [spec for spec in specs if spec.takes_part(server)]
        if plan.together:
            names = ",".join(spec.python for spec in present)
            hosts = [Spec("all", "", python=names)]
        else:
            hosts = present
        for host in hosts:
            before = server.connections()
            child = Child(host, *where)
            children.append(child)
            inside = present if plan.together else [host]
            for which, spec in enumerate(inside):
                child.order("s", plan.seconds / 2, which)  # warm-up
                seats.append((spec.name, child, which))
                entries[spec.name] = {"what": spec.what, "rounds": [], "latencies": []}
            if not plan.together:
                entries[host.name]["connections"] = server.connections() - before
        for _ in range(plan.rounds):
            for name, child, which in seats:
                entries[name]["rounds"].append(quiet.watch(child, plan.seconds, which))
        if plan.latencies:
            for _ in range(3):
                for name, child, which in seats:
                    entries[name]["latencies"].append(child.order("l", plan.seconds, which))
    finally:
        for child in children:
            child.end()
    return {
        "workload": plan.workload,
        "count": plan.count,
        "server": server.title,
        "server_core": plan.server_core,
        "client_core": plan.client_core,
        "seconds": plan.seconds,
        "together": plan.together,
        "others": quiet.others(),
        "contestants": entries,
    }


class Quiet:
    """How many cores somebody else used while we measured: noise, in other words."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.seconds = 0.0
        self.alien = 0.0

    def watch(self, child: Child, seconds: float, which: int) -> Round:
        """One slice, watched."""
        began, busy, server = time.monotonic(), busy_seconds(), self.server.cpu()
        answer = child.order("s", seconds, which)
        ours = answer["cpu"] + self.server.cpu() - server
        self.seconds += time.monotonic() - began
        self.alien += busy_seconds() - busy - ours
        return answer

    def others(self) -> float:
        """In cores, on average."""
        return max(0.0, self.alien / self.seconds) if self.seconds else 0.0


def busy_seconds() -> float:
    """CPU seconds of the whole machine that were not idle, stolen ones included."""
    try:
        fields = Path("/proc/stat").read_text().splitlines()[0].split()[1:9]
    except OSError:
        return 0.0
    user, nice, system, _idle, _wait, irq, soft, steal = map(int, fields)
    return (user + nice + system + irq + soft + steal) / os.sysconf("SC_CLK_TCK")


def value_of(one: Round, what: str) -> float:
    """Of one round: ``pairs`` per second, or ``cpu`` seconds per pair."""
    return one["pairs"] / one["seconds"] if what == "pairs" else one["cpu"] / one["pairs"]


def median(section: dict[str, Any], name: str, what: str) -> float | None:
    """A contestant's median over all rounds; None if it did not take part."""
    entry = section["contestants"].get(name)
    if entry is None or not entry["rounds"]:
        return None
    return statistics.median(value_of(one, what) for one in entry["rounds"])
