"""Runs contestants against each other. Law: each in a process of its own that lives for the
whole race, connected and warm; slices alternate in one fixed order, round by round.

A contestant's process says "ready", then answers each line on its standard input with one
JSON object: ``s SECONDS`` a slice, ``l SECONDS`` a slice with latencies, ``n PAIRS`` exactly
so many (per caller). All others are blocked in a read meanwhile.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from . import limit
from .figures import Round
from .noise import Quiet
from .servers import Server, more_files, pin

ROOT = Path(__file__).resolve().parent.parent
#: Seconds beyond its slice that a contestant may take; under valgrind starting takes long.
PATIENCE = 120.0


class Failed(Exception):
    """A contestant ended, or did not answer."""


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
    needs: str = ""  # modules; where one is not installed the contestant is left out

    def command(self, workload: str, server: Server, count: int) -> list[str]:
        """How to start it."""
        release = server.native if self.native and server.native else server.script
        if self.program:
            return [limit.program(self.program), str(server.port), release, str(count)]
        words = [sys.executable, "-m", "bench.child", workload, self.python]
        words += [str(server.port), release, str(count)]
        return [*words, "uvloop"] if self.uvloop else words

    def absence(self, server: Server) -> str:
        """Why it does not take part; empty if it does."""
        if self.native and not server.native:
            return "no such command on this server"
        missing = [module for module in self.needs.split(", ") if not importable(module)]
        return f"not installed ({', '.join(missing)})" if missing else ""

    def takes_part(self, server: Server) -> bool:
        """Whether what it needs is there."""
        return not self.absence(server)


@cache
def importable(module: str) -> bool:
    """Whether it imports; looked for by another process. No name: nothing to look for."""
    if not module:
        return True
    command = [sys.executable, "-W", "ignore", "-c", f"import {module}"]
    return subprocess.run(command, stderr=subprocess.DEVNULL, check=False).returncode == 0


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
        first: int = 0,
    ) -> None:
        self.spec = spec

        def prepare() -> None:
            pin(core)
            more_files()

        self.process = subprocess.Popen(
            [*wrapper, *spec.command(workload, server, count)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": "0", "BENCH_FIRST": str(first), **spec.env},
            preexec_fn=prepare,
        )
        try:
            self._line(0.0)  # "ready"
        except Failed:
            self.end()
            raise

    def order(self, mode: str, amount: float, which: int = 0) -> Round:
        """One measurement."""
        self.ask(mode, amount, which)
        return self.answer(0.0 if mode == "n" else amount)

    def ask(self, mode: str, amount: float, which: int = 0) -> None:
        """Begin one measurement."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(f"{mode} {amount} {which or ''}\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            raise Failed(f"{self.spec.name} has ended") from None

    def answer(self, seconds: float) -> Round:
        """What came of it; it was to take so many seconds."""
        found: Round = json.loads(self._line(seconds))
        return found

    def _line(self, seconds: float) -> str:
        assert self.process.stdout is not None
        if not select.select([self.process.stdout], [], [], seconds + PATIENCE)[0]:
            self.process.kill()
            raise Failed(f"no answer within {seconds + PATIENCE:.0f} s")
        line = self.process.stdout.readline().strip()
        if not line:
            raise Failed(f"ended with {self.process.wait(30)}; see above")
        return line

    def end(self) -> None:
        """The end of its input ends it; else a signal does."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with suppress(BrokenPipeError):
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
    timed: bool = False  # every pair by the clock, in every round
    latencies: int = 0  # so many further slices with every pair by the clock
    together: bool = False  # all Python contestants in one process
    processes: int = 1  # of each contestant, all at work at once


@dataclass
class Seat:
    """One contestant's place in a heat."""

    name: str
    children: list[Child]
    which: int = 0

    def order(self, mode: str, seconds: float) -> Round:
        """One slice of all its processes at once."""
        for child in self.children:
            child.ask(mode, seconds, self.which)
        return together([child.answer(seconds) for child in self.children])


def together(rounds: list[Round]) -> Round:
    """What several processes did at the same time, as one round."""
    if len(rounds) == 1:
        return rounds[0]
    total = {what: sum(one[what] for one in rounds) for what in ("pairs", "cpu")}
    return {**total, "seconds": max(one["seconds"] for one in rounds)}


class Heat:
    """The contestants of one section."""

    def __init__(self, specs: Sequence[Spec], plan: Plan, server: Server) -> None:
        self.plan, self.server = plan, server
        self.specs = specs
        self.quiet = Quiet(server)
        self.seats: list[Seat] = []
        self.entries: dict[str, dict[str, Any]] = {}
        self.absent: dict[str, str] = {}

    def open(self) -> None:
        """Start everybody, and let each warm up."""
        present = []
        for spec in self.specs:
            why = spec.absence(self.server)
            if why:
                self.absent[spec.name] = why
            else:
                present.append(spec)
        if self.plan.together and present:
            host = Spec("all", "", python=",".join(spec.python for spec in present))
            child = self.child(host)
            for which, spec in enumerate(present):
                self.enter(Seat(spec.name, [child], which), spec)
            return
        for spec in present:
            before = self.server.connections()
            seat = Seat(spec.name, [])
            self.seats.append(seat)
            try:
                for number in range(self.plan.processes):
                    seat.children.append(self.child(spec, number * self.plan.count))
                self.seats.pop()
                self.enter(seat, spec)
            except Failed as failure:
                self.leave(seat, failure)
            else:
                self.entries[spec.name]["connections"] = self.server.connections() - before

    def child(self, spec: Spec, first: int = 0) -> Child:
        """A process of it, with keys from that number on."""
        plan = self.plan
        where = plan.workload, self.server, plan.count, plan.client_core
        return Child(spec, *where, first=first)

    def enter(self, seat: Seat, spec: Spec) -> None:
        """Let it warm up and take part."""
        self.seats.append(seat)
        self.entries[spec.name] = {"what": spec.what, "rounds": [], "latencies": []}
        seat.order("s", self.plan.seconds / 2)

    def leave(self, seat: Seat, why: Failed) -> None:
        """It failed: it is out of this section, and the table says so."""
        self.absent[seat.name] = f"failed: {why}"
        self.entries.pop(seat.name, None)
        self.seats = [one for one in self.seats if one is not seat]
        for child in seat.children:
            child.process.kill()
            child.end()
        self.server.ask("FLUSHALL")  # what it still held is not the others' trouble

    def round(self, list_: str = "rounds") -> None:
        """A slice of each."""
        mode = "l" if self.plan.timed or list_ == "latencies" else "s"
        for seat in tuple(self.seats):
            try:
                self.entries[seat.name][list_].append(self.slice(seat, mode))
            except Failed as failure:
                self.leave(seat, failure)

    def slice(self, seat: Seat, mode: str) -> Round:
        """One slice, watched."""
        return self.quiet.watch(lambda: seat.order(mode, self.plan.seconds))

    def close(self) -> None:
        """End every process."""
        for child in {id(child): child for seat in self.seats for child in seat.children}.values():
            child.end()

    def section(self) -> dict[str, Any]:
        """One section of the results."""
        plan = self.plan
        return {
            "workload": plan.workload,
            "count": plan.count,
            "processes": plan.processes,
            "server": self.server.title,
            "server_core": plan.server_core,
            "client_core": plan.client_core,
            "seconds": plan.seconds,
            "timed": plan.timed,
            "together": plan.together,
            "others": self.quiet.others(),
            "contestants": self.entries,
            "absent": self.absent,
        }


def race(heats: Sequence[Heat]) -> list[dict[str, Any]]:
    """Measure all of them by turns, round by round over all heats: a section for each."""
    try:
        for heat in heats:
            heat.open()
        for number in range(max(heat.plan.rounds for heat in heats)):
            for heat in heats:
                if number < heat.plan.rounds:
                    heat.round()
        for number in range(max(heat.plan.latencies for heat in heats)):
            for heat in heats:
                if number < heat.plan.latencies:
                    heat.round("latencies")
    finally:
        for heat in heats:
            heat.close()
    return [heat.section() for heat in heats]


def compete(specs: Sequence[Spec], plan: Plan, server: Server) -> dict[str, Any]:
    """One section by itself."""
    return race([Heat(specs, plan, server)])[0]
