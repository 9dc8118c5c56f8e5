"""From redis-py's Lock to fastlock: the same code before and after, and while both are in use.

Shows:    what becomes of each argument, and that both kinds exclude each other on one key, so
          that a service can be moved one process at a time.
Run:      python examples/migrate_redis_py.py
Server:   FASTLOCK_URL=redis://localhost:6379
Promises: What it prints it has seen on the server. The differences: docs/migration.md.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

import redis

import fastlock

Work = Callable[[], None]


def before(server: redis.Redis, work: Work) -> bool:
    lock = server.lock("orders:42", timeout=30, blocking_timeout=5)
    if not lock.acquire():
        return False
    try:
        work()
    finally:
        lock.release()  # LockNotOwnedError, also in place of an error of work
    return True


def after(client: fastlock.Client, work: Work) -> bool:
    try:
        lease = client.acquire("orders:42", ttl=30, timeout=5)
    except fastlock.AcquireTimeout:
        return False
    with lease:  # LockLost at its end, if the lock was lost; an error of work goes first
        work()
    return True


def main(server: redis.Redis, client: fastlock.Client) -> None:
    def look() -> None:
        ttl = server.ttl("orders:42")
        print(f"  held for {ttl} s; redis-py: {server.lock('orders:42').acquire(blocking=False)}")
        print(f"  fastlock: {client.try_acquire('orders:42')}")

    print("redis-py's Lock")
    print(f"  done: {before(server, look)}")
    print("fastlock")
    print(f"  done: {after(client, look)}")


if __name__ == "__main__":
    url = os.environ.get("FASTLOCK_URL", "redis://localhost:6379")
    try:
        with redis.Redis.from_url(url) as old, fastlock.Client(fastlock.Config.from_env()) as new:
            new.ping()
            main(old, new)
    except fastlock.TransportError as problem:
        sys.exit(f"{problem}\nStart a server, or name one: FASTLOCK_URL=redis://host:6379")
