"""From python-redis-lock to fastlock: the same code before and after, and while both are in use.

Shows:    what becomes of each argument, and that both kinds exclude each other: "lock:" before
          the name is python-redis-lock's own doing, and has to be written out.
Run:      pip install 'fastlock[examples]'
          python examples/migrate_python_redis_lock.py
Server:   FASTLOCK_URL=redis://localhost:6379
Promises: What it prints it has seen on the server. The differences: docs/migration.md.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

import redis
import redis_lock

import fastlock

Work = Callable[[], None]


def before(server: redis.Redis, work: Work) -> bool:
    lock = redis_lock.Lock(server, "orders:42", expire=30, auto_renewal=True)
    if not lock.acquire(timeout=5):
        return False
    try:
        work()
    finally:
        lock.release()  # NotAcquired, also in place of an error of work
    return True


def after(client: fastlock.Client, work: Work) -> bool:
    try:
        lease = client.acquire("lock:orders:42", ttl=30, timeout=5, auto_renew=True)
    except fastlock.AcquireTimeout:
        return False
    with lease:  # LockLost at its end, if the lock was lost; an error of work goes first
        work()
    return True


def main(server: redis.Redis, client: fastlock.Client) -> None:
    def look() -> None:
        other = redis_lock.Lock(server, "orders:42", expire=30)
        print(f"  held for {server.ttl('lock:orders:42')} s")
        print(f"  python-redis-lock: {other.acquire(blocking=False)}")
        print(f"  fastlock: {client.try_acquire('lock:orders:42')}")

    print("python-redis-lock")
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
