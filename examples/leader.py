"""A leader among workers: one of them does what must be done once, the others stand by.

Shows:    leadership as a lock that renews itself, with a fencing number for each term; a leader
          that steps down as soon as it has lost it.
Run:      python examples/leader.py    (in several terminals; end one with Ctrl-C or kill -9)
Server:   FASTLOCK_URL=redis://localhost:6379; LOCK_TTL=10 can be set, too.
Promises: A leader that is told to end is followed at once, one that is killed within LOCK_TTL
          seconds. One that was stopped for longer steps down when it goes on. Without the server
          nobody leads; when it is back, one of them does. Each term has a higher number than all
          before, while the server keeps its data: who is given it can refuse an earlier leader.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from types import FrameType

import fastlock

TTL = float(os.environ.get("LOCK_TTL", "10"))
#: Seconds between two rounds of the leader's work.
PERIOD = 0.2


def say(words: str) -> None:
    print(f"{os.getpid()} {words}", flush=True)


def lead(lease: fastlock.Lease) -> None:
    """Do the leader's work until the lease is lost."""
    while not lease.lost.wait(PERIOD):
        # One round. What it writes to should be given lease.fence, and refuse lower ones: a
        # process can be stopped between any look at the lease and the write (docs/fencing.md).
        say(f"works {lease.fence}")


def run(client: fastlock.Client) -> None:
    """Stand by, lead, step down, stand by."""
    term = client.lock(
        "leader", ttl=TTL, fence=True, auto_renew=True, max_hold=None, if_lost="ignore"
    )
    while True:
        say("stands by")
        try:
            with term as lease:
                say(f"leads {lease.fence}")
                lead(lease)
                say(f"steps down {lease.fence}: {lease.lost.reason}")
        except (fastlock.TransportError, fastlock.ServerError, fastlock.OutcomeUnknown) as problem:
            say(f"has no server: {problem}")  # it may come back; whoever led has stepped down
            time.sleep(PERIOD)


def end(number: int, frame: FrameType | None) -> None:
    """SIGTERM: leave the blocks, so that the lock is free at once."""
    raise SystemExit(0)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)
    try:
        with fastlock.Client(fastlock.Config.from_env()) as locks:
            locks.ping()  # a first start without a server is a mistake
            run(locks)
    except fastlock.TransportError as problem:
        sys.exit(f"{problem}\nStart a server, or name one: FASTLOCK_URL=redis://host:6379")
