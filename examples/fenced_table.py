"""An SQL table that refuses who has lost its lock: fencing numbers, with sqlite3.

Shows:    a holder that is stopped for longer than its ttl, does not know that its lock has ended,
          and writes; another one has written meanwhile.
Run:      python examples/fenced_table.py
Server:   FASTLOCK_URL=redis://localhost:6379; DATABASE=orders.db names the file.
Promises: A row that was written under one lease cannot be written under an earlier one, whatever
          has become of its holder. No lock can promise that: the statement that writes does.
          While the server is away nobody gets a lease, and an error ends the program; who has
          one may go on to write, for the table refuses without it.
"""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys

import fastlock

DATABASE = os.environ.get("DATABASE", "orders.db")
KEY, TTL = "order:42", 0.5
# NOT NULL: nothing compares with NULL, so one write without a number would refuse all later ones.
SCHEMA = """
    CREATE TABLE IF NOT EXISTS orders (id TEXT PRIMARY KEY, status TEXT, fence BIGINT NOT NULL)
"""
# One statement, so nobody comes in between; <=, so that a holder may write several times.
WRITE = """
    INSERT INTO orders (id, status, fence) VALUES (:id, :status, :fence)
    ON CONFLICT (id) DO UPDATE SET status = :status, fence = :fence WHERE fence <= :fence
"""


def write(order: str, status: str, fence: int) -> None:
    """StaleFence if a later holder of the order's lock has written."""
    db = sqlite3.connect(DATABASE)
    try:
        with db:
            changed = db.execute(WRITE, {"id": order, "status": status, "fence": fence}).rowcount
    finally:
        db.close()
    if not changed:
        raise fastlock.StaleFence(f"{order}: a later holder has written; {fence} is too low", order)


def holder(locks: fastlock.Client) -> None:
    """A process of its own: takes the lock, and writes when it is let."""
    lease = locks.acquire(KEY, ttl=TTL, fence=True)
    assert lease.fence is not None  # it was asked for
    print(f"holder   {lease.fence} has the lock", flush=True)
    sys.stdin.readline()
    try:
        write("42", "cancelled", lease.fence)
        print("holder   wrote: cancelled", flush=True)
    except fastlock.StaleFence as refused:
        print(f"holder   refused: {refused}", flush=True)


def scene(locks: fastlock.Client) -> None:
    words = [sys.executable, __file__, "holder"]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdin is not None
        assert other.stdout is not None
        print(other.stdout.readline().decode(), end="")
        other.send_signal(signal.SIGSTOP)  # as a swapped-out process, or a paused machine
        try:
            with locks.lock(KEY, ttl=TTL, fence=True) as lease:  # once that ttl is over
                assert lease.fence is not None
                write("42", "paid", lease.fence)
                write("42", "shipped", lease.fence)
                print(f"we       {lease.fence} wrote: paid, shipped")
        finally:
            other.send_signal(signal.SIGCONT)
        print(other.communicate(b"write\n")[0].decode(), end="")
    with sqlite3.connect(DATABASE) as db:
        print(f"table    {db.execute('SELECT id, status, fence FROM orders').fetchall()}")
    db.close()


if __name__ == "__main__":
    with sqlite3.connect(DATABASE) as table:
        table.execute(SCHEMA)
    table.close()
    try:
        with fastlock.Client(fastlock.Config.from_env()) as client:
            client.ping()
            holder(client) if sys.argv[1:] == ["holder"] else scene(client)
    except fastlock.TransportError as problem:
        sys.exit(f"{problem}\nStart a server, or name one: FASTLOCK_URL=redis://host:6379")
