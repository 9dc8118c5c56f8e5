"""A pool of asyncio workers: jobs from a queue, one at a time for each customer.

Shows:    many tasks over one connection, a lock per customer, and how the pool ends.
Run:      python examples/worker_pool.py FOLDER alice alice bob    (as often at once as you like)
Server:   FASTLOCK_URL=redis://localhost:6379; LOCK_TTL=30 and WORK=0.05, the seconds that a job
          takes, can be set, too.
Promises: No booking is lost, also when several pools work in one folder, unless a pool is stopped
          between its last look at the lease and its write: against that only a fencing number
          helps (fenced_table.py). A pool that is killed leaves every account whole. SIGTERM and
          Ctrl-C end it in order: what has begun is finished, nothing else is begun, and no lock
          is left. A job whose lock is lost is cut short, and done again. When the server goes
          away, the pool ends with code 1; what was not booked is not done. A customer with more
          jobs than there are workers keeps all of them waiting; where that matters, `try_acquire`
          and put the job back, as celery_task.py does. Names are trusted.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import fastlock

TTL = float(os.environ.get("LOCK_TTL", "30"))
WORK = float(os.environ.get("WORK", "0.05"))
WORKERS = 8


def read(account: Path) -> int:
    return int(account.read_text()) if account.exists() else 0


def write(account: Path, balance: int) -> None:
    beside = account.with_name(f".{account.name}.{os.getpid()}")
    beside.write_text(str(balance))
    os.replace(beside, account)  # all of it or none, also if this process is killed


async def book(account: Path, lease: fastlock.aio.Lease) -> bool:
    """One more for this customer: two at once would both write the same number."""
    balance = read(account)
    await asyncio.sleep(WORK)
    if not lease.valid():  # as after a pause of the process; asks nobody
        return False
    write(account, balance + 1)
    return True


class Pool:
    """Books for customers, until all is done or ``stop`` is called."""

    def __init__(self, locks: fastlock.aio.Client, folder: Path) -> None:
        self.locks, self.folder = locks, folder
        self.jobs: asyncio.Queue[str] = asyncio.Queue()
        self.done, self.stopping = 0, False
        self.tasks: list[asyncio.Task[None]] = []
        self.busy: set[asyncio.Task[None] | None] = set()  # those that hold a lock

    async def run(self) -> None:
        self.tasks = [asyncio.create_task(self.work()) for _ in range(WORKERS)]
        all_done = asyncio.create_task(self.jobs.join())
        all_done.add_done_callback(lambda _: self.stop())
        for end in await asyncio.gather(*self.tasks, return_exceptions=True):
            if isinstance(end, Exception):  # a CancelledError, which is none, is ours
                raise end
        all_done.cancel()

    async def work(self) -> None:
        me = asyncio.current_task()
        while not self.stopping:
            customer = await self.jobs.get()
            booked = False
            try:
                async with self.locks.lock(
                    f"customer:{customer}", ttl=TTL, auto_renew=True, cancel_on_lost=True
                ) as lease:
                    self.busy.add(me)
                    booked = await book(self.folder / customer, lease)
            except fastlock.LockLost:
                pass  # cut short, unless it had been booked
            finally:
                self.done += booked
                if not booked:  # it is a job still
                    self.jobs.put_nowait(customer)
                self.busy.discard(me)
                self.jobs.task_done()

    def stop(self) -> None:
        """Who waits, for a job or a lock, leaves off; who is at work ends what it has begun."""
        self.stopping = True
        for task in set(self.tasks) - self.busy:
            task.cancel()


async def main(folder: str, *customers: str) -> None:
    async with fastlock.aio.Client(fastlock.Config.from_env()) as locks:
        await locks.ping()
        pool = Pool(locks, Path(folder))
        for customer in customers:
            pool.jobs.put_nowait(customer)
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, pool.stop)
        print(f"{len(customers)} jobs", flush=True)
        await pool.run()
        print(f"{pool.done} done, {pool.jobs.qsize()} left", flush=True)


if __name__ == "__main__":
    try:
        asyncio.run(main(*sys.argv[1:] or (".", "alice", "alice", "bob")))
    except (fastlock.TransportError, fastlock.OutcomeUnknown) as problem:
        sys.exit(f"{problem}\nStart a server, or name one: FASTLOCK_URL=redis://host:6379")
