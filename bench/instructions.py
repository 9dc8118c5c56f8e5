"""User instructions per pair, of a lone caller and in a batch, repeatable to a fraction of a
percent. Law: the difference of two runs of different length under callgrind, so that start
and end cancel out; placement and neighbours do not matter.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from .runner import Child, Spec
from .servers import Server
from .specs import named

SHORT = "c-sockets c-hiredis c-hiredis-format fastlock fastlock-pure redis-py+hiredis"
#: With metrics=False; the same names without the end count and time what they do.
UNMETERED = "-unmetered"
SHORT += " fastlock-unmetered fastlock-pure-unmetered"
FULL = SHORT + " fastlock-with drop-in fastlock-aio fastlock-uvloop redis-py redis-aio"
BATCHES = "c-pipeline fastlock fastlock-pure redis-py-raw"
#: Enough for CPython to have specialised its bytecode before the shorter run ends.
LESS, MORE = 300, 1300
#: The same for batches of so many keys.
KEYS, LESS_BATCHES, MORE_BATCHES = 1000, 3, 8


def run(server: Server, core: int, full: bool) -> dict[str, dict[str, float]] | None:
    """By workload and contestant, per pair; None without valgrind.

    ``metrics``: what a pair takes with them, in relation to the same without.
    """
    if shutil.which("valgrind") is None:
        return None
    lone = [spec for spec in named(FULL if full else SHORT) if spec.takes_part(server)]
    many = [spec for spec in named(BATCHES) if spec.takes_part(server)]
    alone = {spec.name: per_pair(spec, "w1", server, 1, core, LESS, MORE) for spec in lone}
    return {
        "w1": alone,
        "metrics": {
            name.removesuffix(UNMETERED): alone[name.removesuffix(UNMETERED)] / count
            for name, count in alone.items()
            if name.endswith(UNMETERED)
        },
        "w4": {
            spec.name: per_pair(spec, "w4", server, KEYS, core, LESS_BATCHES, MORE_BATCHES) / KEYS
            for spec in many
        },
    }


def per_pair(
    spec: Spec, workload: str, server: Server, count: int, core: int, short: int, long: int
) -> float:
    """Instructions in user space, per pair or batch."""
    with tempfile.TemporaryDirectory(prefix="fastlock-bench-") as folder:
        less, more = (
            counted(spec, workload, server, count, core, n, Path(folder)) for n in (short, long)
        )
    return (more - less) / (long - short)


def counted(
    spec: Spec, workload: str, server: Server, count: int, core: int, amount: int, folder: Path
) -> int:
    """All instructions of one run; the profile stays in ``folder``."""
    out = folder / f"callgrind.{spec.name}.{amount}"
    wrapper = ["valgrind", "-q", "--tool=callgrind", f"--callgrind-out-file={out}"]
    child = Child(spec, workload, server, count, core, wrapper)
    try:
        child.order("n", amount)
    finally:
        child.end()
    with out.open() as lines:
        for line in lines:
            name, _, value = line.partition(":")
            if name in ("summary", "totals"):
                return int(value.split()[0])
    raise RuntimeError(f"callgrind left no total in {out}")
