"""``make chaos``: a long run on each kind of server, and what came of it.

    cd tests && python -m chaos [--seconds 600] [--seed N] [--server valkey --server redis]

Exit status: 0 nothing was wrong; 1 something was, and the logs are kept; 2 nothing can be said.
"""

from __future__ import annotations

import argparse
import os
import secrets
import shutil
import sys
import tempfile
from pathlib import Path

import _servers

from chaos import _broken
from chaos._conductor import CALM, Run, play
from chaos._report import report


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m chaos", description=__doc__)
    add = parser.add_argument
    add("--seconds", type=float, default=float(os.environ.get("CHAOS_SECONDS") or 600),
        help="of all runs together (CHAOS_SECONDS, 600)")  # fmt: skip
    add("--seed", type=int, default=int(os.environ.get("CHAOS_SEED") or secrets.randbelow(10**6)),
        help="repeats the faults and the workers' steps (CHAOS_SEED, else a new one)")  # fmt: skip
    add("--server", action="append", help="valkey, redis, or a name of FASTLOCK_TEST_SERVERS")
    add("--broken", choices=sorted(_broken.MISTAKES), default="", help="make this mistake")
    said = parser.parse_args()
    kinds = said.server or list(_servers.NAMED) or [
        kind for kind in ("valkey", "redis") if _servers.binary_of(kind)
    ]  # fmt: skip
    seconds = said.seconds / len(kinds)
    if seconds < CALM + 2:
        parser.error(f"--seconds: {CALM + 2} for each server is the least")
    status = 0
    for kind in kinds:
        folder = Path(tempfile.mkdtemp(prefix="fastlock-chaos-"))
        history, verdict = play(Run(said.seed, seconds, kind, folder, said.broken))
        print(report(history, verdict), flush=True)
        if verdict.violations or verdict.void:
            print(f"logs      {folder}", flush=True)
            status = max(status, 1 if verdict.violations and not verdict.void else 2)
        else:
            shutil.rmtree(folder)
    return status


if __name__ == "__main__":
    sys.exit(main())
