"""Pairs a second by threads, with and without the GIL: bench.free_threaded PYTHON [SECONDS ROUNDS]

Law: ``PYTHON`` (of ``.venv-ft``) and this Python take turns, slice by slice, on one server and
with one client each on the compiled core; nothing is pinned, for threads shall have every core.
Medians over all rounds. Not part of ``make bench``, which needs no second Python.
"""

from __future__ import annotations

import json
import os
import select
import statistics
import subprocess
import sys
from pathlib import Path

from .servers import Server, running

ROOT = Path(__file__).resolve().parent.parent
THREADS = (1, 2, 4, 8, 16)
LOOK = (
    "import sys, fastlock\n"
    "gil = getattr(sys, '_is_gil_enabled', lambda: True)()\n"
    "print(sys.version.split()[0], fastlock.core, gil)"
)
PATIENCE = 60.0


class Side:
    """A Python's process with so many threads."""

    def __init__(self, python: str, server: Server, threads: int) -> None:
        words = [python, "-m", "bench.child", "w2", "fastlock", str(server.port), server.script]
        self.process = subprocess.Popen(
            [*words, str(threads)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            cwd=ROOT, env={**os.environ, "FASTLOCK_CORE": "cython"},
        )  # fmt: skip
        self._line()  # "ready"

    def slice(self, seconds: float) -> float:
        """Pairs per second."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"s {seconds}\n")
        self.process.stdin.flush()
        found = json.loads(self._line(seconds))
        return float(found["pairs"] / found["seconds"])

    def _line(self, seconds: float = 0.0) -> str:
        assert self.process.stdout is not None
        if not select.select([self.process.stdout], [], [], seconds + PATIENCE)[0]:
            raise SystemExit("bench: no answer")
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"bench: ended with {self.process.wait(30)}; see above")
        return line

    def end(self) -> None:
        """The end of its input ends it."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(30)


def main(without: str, seconds: float = 1.0, rounds: int = 7) -> None:
    """Print the table."""
    cores = sorted(os.sched_getaffinity(0))
    pythons = {"with": sys.executable, "without": without}
    told = [
        subprocess.run(
            [python, "-c", LOOK], capture_output=True, text=True, check=True, cwd=ROOT
        ).stdout.split()
        for python in pythons.values()
    ]
    if [gil for _, _, gil in told] != ["True", "False"]:
        raise SystemExit(f"bench: it takes a Python with the GIL and one without, not {told}")
    rates: dict[tuple[str, int], list[float]] = {}
    with running("valkey", cores[0]) as server:
        os.sched_setaffinity(server.pid, cores)
        sides = {
            (name, threads): Side(python, server, threads)
            for threads in THREADS
            for name, python in pythons.items()
        }
        try:
            for turn in range(rounds + 1):
                for key, side in sides.items():
                    rate = side.slice(seconds if turn else seconds / 4)
                    if turn:  # the first is for warming up
                        rates.setdefault(key, []).append(rate)
        finally:
            for side in sides.values():
                side.end()
        title = server.title
    print(f"{title}, CPython {told[0][0]} and {told[1][0]}t, {len(cores)} cores, {rounds} rounds")
    print("threads  with the GIL  without  ratio  without, of its own 1")
    for threads in THREADS:
        gil, ft = (rates[name, threads] for name in pythons)
        ratio = statistics.median(b / a for a, b in zip(gil, ft, strict=True))
        own = statistics.median(ft) / statistics.median(rates["without", 1])
        print(
            f"{threads:7}  {statistics.median(gil):12,.0f}  {statistics.median(ft):7,.0f}"
            f"  {ratio:5.2f}  {own:.2f}   (rounds {min(ft):,.0f} to {max(ft):,.0f})"
        )


if __name__ == "__main__":
    if not 2 <= len(sys.argv) <= 4:
        raise SystemExit(__doc__)
    main(sys.argv[1], *map(float, sys.argv[2:3]), *map(int, sys.argv[3:4]))
