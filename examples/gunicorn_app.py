"""gunicorn: worker processes, forked from one application, that count in one file.

Shows:    a client made before gunicorn forks its workers (--preload), and a lock around what
          all of them read and write.
Run:      pip install 'fastlock[examples]'
          python examples/gunicorn_app.py
          curl -X POST http://localhost:8000/
Server:   FASTLOCK_URL=redis://localhost:6379; PORT=8000, LOCK_TTL=5, PATIENCE=10 and
          COUNTER=visits.txt can be set, too.
Promises: No visit is lost, unless a worker is stopped between its last look at the lease and its
          write: against that only a fencing number helps (fenced_table.py). A worker that is
          killed while it counts keeps the others waiting for LOCK_TTL seconds at most, and the
          file is whole. Who has waited PATIENCE seconds in vain, or whose lock was lost before
          the write, gets 503 and Retry-After. While the server is away a visit gets 500, and is
          not counted, unless that had been done when the server went.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import fastlock

TTL = float(os.environ.get("LOCK_TTL", "5"))
# Less than gunicorn's --timeout, which kills a worker that waits longer.
PATIENCE = float(os.environ.get("PATIENCE", "10"))
HERE = Path(__file__).parent
COUNTER = Path(os.environ.get("COUNTER", "visits.txt"))

# Made in the master. A worker owns nothing of it but the settings: it connects for itself.
client = fastlock.Client(fastlock.Config.from_env())


def count(seconds: float) -> int:
    """One visit more. Two workers in here at once would both write the same number."""
    # "ignore": a lock that is lost behind the write has done its work.
    with client.lock(
        "visits", ttl=TTL, timeout=PATIENCE, auto_renew=True, if_lost="ignore"
    ) as lease:
        visits = int(COUNTER.read_text()) if COUNTER.exists() else 0
        time.sleep(seconds)
        if not lease.valid():  # as after a pause of the process; asks nobody
            raise fastlock.LockLost("the lock was lost; nothing was counted", "visits")
        beside = COUNTER.with_name(f"{COUNTER.name}.{os.getpid()}")
        beside.write_text(str(visits + 1))
        os.replace(beside, COUNTER)  # all of it or none, also if this process is killed
    return visits + 1


def application(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
    seconds = float(parse_qs(environ["QUERY_STRING"]).get("seconds", ["0"])[0])
    try:
        status, body = "200 OK", f"visit {count(seconds)}, counted by worker {os.getpid()}\n"
    except (fastlock.AcquireTimeout, fastlock.LockLost):  # not counted: it may be tried again
        status, body = "503 Service Unavailable", "somebody counts, or has cut in\n"
    except fastlock.FastlockError:  # counted, if it comes from the end of the lock
        status, body = "500 Internal Server Error", "no locks; it may have been counted\n"
    headers = [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))]
    start(status, [*headers, ("Retry-After", "1")] if status.startswith("503") else headers)
    return [body.encode()]


if __name__ == "__main__":
    try:
        client.ping()
    except fastlock.FastlockError as problem:
        sys.exit(f"{problem}\nStart a server, or name one: FASTLOCK_URL=redis://host:6379")
    bind = f"127.0.0.1:{os.environ.get('PORT', '8000')}"
    words = ["--preload", "--workers", "4", "--bind", bind, "--pythonpath", str(HERE)]
    command = [sys.executable, "-m", "gunicorn", *words, *sys.argv[1:], "gunicorn_app:application"]
    os.execv(sys.executable, command)
