"""The floor: what the server's own load generator, redis-benchmark, gets out of the server.

Law: no client stands between; so what is slower than this is the client's, and what is as
slow as this is the server's and the machine's. Medians of several short runs.
"""

from __future__ import annotations

import csv
import os
import shutil
import statistics
import subprocess
from typing import Any

from .servers import Server, pin

#: Connections, commands in flight on each, requests of one run, whether on the server's core.
SHAPES = {
    "1 connection, same core": (1, 1, 5_000, True),
    "32 connections": (32, 1, 15_000, False),
    "1 connection, 100 in flight": (1, 100, 60_000, False),
}


def run(server: Server, cores: tuple[int, int], rounds: int) -> dict[str, Any] | None:
    """Commands per second by shape and command, each round; None without redis-benchmark."""
    program = shutil.which("redis-benchmark") or shutil.which("valkey-benchmark")
    if program is None:
        return None
    commands = {
        "PING": ["PING"],
        "SET PX": ["SET", "bench:floor:0000", "t" * 32, "PX", "30000"],
        "EVALSHA, not ours": ["EVALSHA", server.script, "1", "bench:floor:0000", "another"],
    }
    found: dict[str, Any] = {}
    for _ in range(rounds):
        for shape, numbers_ in SHAPES.items():
            *numbers, same_core = numbers_
            core = cores[0] if same_core else cores[1]
            for name, words in commands.items():
                rate = measure(program, server, core, numbers, words)
                found.setdefault(shape, {}).setdefault(name, []).append(rate)
    return found


def measure(program: str, server: Server, core: int, numbers: list[int], words: list[str]) -> float:
    """Commands per second of one run."""
    connections, depth, requests = map(str, numbers)
    options = ["-p", str(server.port), "-c", connections, "-P", depth, "-n", requests, "--csv"]
    done = subprocess.run(
        [program, *options, *words],
        capture_output=True,
        text=True,
        check=True,
        preexec_fn=lambda: pin(core),
        env={**os.environ, "LC_ALL": "C"},
    )
    rows = [row for row in csv.reader(done.stdout.splitlines()) if len(row) > 1]
    return float(rows[-1][1])


def medians(found: dict[str, Any]) -> dict[str, dict[str, float]]:
    """By shape and command."""
    return {
        shape: {name: statistics.median(rates) for name, rates in rows.items()}
        for shape, rows in found.items()
    }
