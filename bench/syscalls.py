"""System calls per pair and per batch, exactly. Law: the difference of two runs of different
length under ``strace -c -f``, so that start and end cancel out.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

from .runner import Child, Spec
from .servers import Server
from .specs import named

SENDS = {"sendto", "sendmsg", "sendmmsg", "write", "writev"}
RECEIVES = {"recvfrom", "recvmsg", "recvmmsg", "read", "readv"}

#: Contestant names, workload, keys, and the two lengths (pairs, or batches).
PAIRS = ("c-hiredis fastlock fastlock-pure fastlock-aio redis-py+hiredis", "w1", 1, 200, 1200)
BATCHES = ("c-pipeline fastlock fastlock-pure", "w4", 1000, 5, 45)


def run(server: Server, core: int) -> dict[str, Any] | None:
    """Calls per pair (W1) and per 1,000 keys acquired and released (W4); None without strace."""
    if shutil.which("strace") is None:
        return None
    result: dict[str, Any] = {}
    for names, workload, count, short, long in (PAIRS, BATCHES):
        result[workload] = {
            spec.name: per_pair(spec, workload, server, count, core, short, long)
            for spec in named(names)
            if spec.takes_part(server)
        }
    return result


def per_pair(
    spec: Spec, workload: str, server: Server, count: int, core: int, short: int, long: int
) -> dict[str, float]:
    """``sends``, ``receives`` and ``all`` per pair or batch."""
    less, more = (counted(spec, workload, server, count, core, n) for n in (short, long))
    each = {name: (more[name] - less.get(name, 0)) / (long - short) for name in more}
    return {
        "sends": sum(number for name, number in each.items() if name in SENDS),
        "receives": sum(number for name, number in each.items() if name in RECEIVES),
        "all": sum(each.values()),
    }


def counted(
    spec: Spec, workload: str, server: Server, count: int, core: int, amount: int
) -> dict[str, int]:
    """Every system call of one run, by name."""
    with tempfile.NamedTemporaryFile(prefix="fastlock-bench-") as out:
        wrapper = ["strace", "-c", "-f", "-U", "name,calls", "-o", out.name]
        child = Child(spec, workload, server, count, core, wrapper)
        child.order("n", amount)
        child.end()
        lines = Path(out.name).read_text().splitlines()
    rows = [line.split() for line in lines]
    return {
        row[0]: int(row[1])
        for row in rows
        if len(row) == 2 and row[1].isdigit() and row[0] != "total"
    }
