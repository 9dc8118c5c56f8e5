"""User instructions per pair of a lone caller, repeatable to a fraction of a percent. Law: the
difference of two runs of different length under callgrind, so that start and end cancel out.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from .runner import Child, Spec
from .servers import Server
from .specs import named

SHORT = "c-sockets c-hiredis c-hiredis-format fastlock fastlock-pure redis-py+hiredis"
FULL = SHORT + " fastlock-with drop-in fastlock-aio fastlock-uvloop redis-py redis-aio"
#: Enough for CPython to have specialised its bytecode before the shorter run ends.
LESS, MORE = 300, 1300


def run(server: Server, core: int, full: bool) -> dict[str, float] | None:
    """By contestant; None without valgrind."""
    if shutil.which("valgrind") is None:
        return None
    return {
        spec.name: per_pair(spec, server, core)
        for spec in named(FULL if full else SHORT)
        if spec.takes_part(server)
    }


def per_pair(spec: Spec, server: Server, core: int) -> float:
    """Instructions in user space."""
    with tempfile.TemporaryDirectory(prefix="fastlock-bench-") as folder:
        less, more = (counted(spec, server, core, n, Path(folder)) for n in (LESS, MORE))
    return (more - less) / (MORE - LESS)


def counted(spec: Spec, server: Server, core: int, pairs: int, folder: Path) -> int:
    """All instructions of one run; the profile stays in ``folder``."""
    out = folder / f"callgrind.{spec.name}.{pairs}"
    wrapper = ["valgrind", "-q", "--tool=callgrind", f"--callgrind-out-file={out}"]
    child = Child(spec, "w1", server, 1, core, wrapper)
    child.order("n", pairs)
    child.end()
    with out.open() as lines:
        for line in lines:
            name, _, value = line.partition(":")
            if name in ("summary", "totals"):
                return int(value.split()[0])
    raise RuntimeError(f"callgrind left no total in {out}")
