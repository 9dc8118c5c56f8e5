"""From pottery's Redlock to fastlock: the same code before and after, and while both are in use.

Shows:    what becomes of each argument, on one server and on a majority of three, and that both
          kinds exclude each other: "redlock:" before the key is pottery's own doing.
Run:      pip install 'fastlock[examples]'
          python examples/migrate_pottery.py redis://a:6379 redis://b:6379 redis://c:6379
Server:   FASTLOCK_URL=redis://localhost:6379, unless three are named
Promises: What it prints it has seen on the servers. The differences: docs/migration.md.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable

import redis
from pottery import Redlock

import fastlock

Work = Callable[[], None]


def before(masters: Iterable[redis.Redis], work: Work) -> bool:
    lock = Redlock(key="orders:42", masters=masters, auto_release_time=30)
    if not lock.acquire(timeout=5):
        return False
    try:
        work()
    finally:
        lock.release()  # ReleaseUnlockedLock, also in place of an error of work
    return True


def after(client: fastlock.Client | fastlock.QuorumClient, work: Work) -> bool:
    try:
        lease = client.acquire("redlock:orders:42", ttl=30, timeout=5)
    except fastlock.AcquireTimeout:
        return False
    with lease:  # LockLost at its end, if the lock was lost; an error of work goes first
        work()
    return True


def main(urls: list[str]) -> None:
    masters = {redis.Redis.from_url(url) for url in urls}
    client = fastlock.Client(urls[0]) if len(urls) == 1 else fastlock.QuorumClient(urls)

    def look() -> None:
        other = Redlock(key="orders:42", masters=masters, auto_release_time=30)
        held = sum(master.exists("redlock:orders:42") for master in masters)
        print(f"  held on more than half of {len(urls)}: {held > len(urls) // 2}")
        print(f"  pottery: {other.acquire(blocking=False)}")
        print(f"  fastlock: {client.try_acquire('redlock:orders:42')}")

    with client:
        client.locked("redlock:orders:42")
        print("pottery's Redlock")
        print(f"  done: {before(masters, look)}")
        print("fastlock")
        print(f"  done: {after(client, look)}")
    for master in masters:
        master.close()


if __name__ == "__main__":
    try:
        main(sys.argv[1:] or [os.environ.get("FASTLOCK_URL", "redis://localhost:6379")])
    except fastlock.TransportError as problem:
        sys.exit(f"{problem}\nStart a server, or name one: FASTLOCK_URL=redis://host:6379")
