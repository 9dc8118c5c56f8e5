"""Celery: tasks of one customer never overlap, in whichever workers they run.

Shows:    a task that takes a lock, and is put off while another one has it, so that no worker
          stands still waiting; a client made before the workers are forked.
Run:      pip install 'fastlock[examples]'
          python examples/celery_task.py
          python examples/celery_task.py send alice alice bob
Server:   FASTLOCK_URL=redis://localhost:6379/0; BROKER_URL, for messages and results, is the same
          unless set; LOCK_TTL=30.
Promises: Tasks of one customer run one after the other, those of others beside them. A task
          whose pool process is killed is delivered again at once, and runs when that one's lock
          has ended, within LOCK_TTL seconds. If the whole worker or its machine dies, Redis as a
          broker delivers it after `visibility_timeout`, and a task that runs for longer than that
          is delivered twice as well. So it may run twice: what it does must allow that. Work does
          not stop by itself when the lock is lost. While the server of the locks is away, tasks
          are put off; one at work then goes on, and may fail at its end. If the broker goes away,
          what becomes of tasks and of the worker is celery's doing; see docs/recipes.md.
"""

from __future__ import annotations

import os
import sys
import time
from typing import Any

from celery import Celery, Task

import fastlock

URL = os.environ.get("FASTLOCK_URL", "redis://localhost:6379/0")
BROKER = os.environ.get("BROKER_URL", URL)
TTL = float(os.environ.get("LOCK_TTL", "30"))

app = Celery("celery_task", broker=BROKER, backend=BROKER)
app.conf.update(
    task_acks_late=True,  # together: what a killed worker had begun is delivered again
    task_reject_on_worker_lost=True,
    worker_prefetch_multiplier=1,
    broker_connection_retry_on_startup=True,
    # In seconds. Longer than any task; a dead machine's tasks wait so long.
    broker_transport_options={"visibility_timeout": 3600},
)
# Connects at its first call: each worker that celery forks has a connection of its own.
locks = fastlock.Client(fastlock.Config.from_env())


@app.task(bind=True, max_retries=None)
def synchronize(self: Task, customer: str, seconds: float = 0.1) -> dict[str, Any]:
    """Bring one customer's data up to date."""
    try:
        lease = locks.try_acquire(f"customer:{customer}", ttl=TTL, auto_renew=True)
    except (fastlock.TransportError, fastlock.OutcomeUnknown) as problem:
        # No lease: what may have arrived is given back by the client, or ends with its ttl.
        raise self.retry(countdown=1, exc=problem) from problem
    if lease is None:
        raise self.retry(countdown=0.5)  # and this worker is free for other customers
    with lease:  # LockLost at its end, if the lock was lost: the task has failed then
        began = time.time()
        time.sleep(seconds)  # the work
        return {"customer": customer, "by": os.getpid(), "began": began, "ended": time.time()}


def send(customers: list[str]) -> None:
    """Send a task for each, all at once, and print what they say."""
    for result in [synchronize.delay(customer) for customer in customers]:
        print(result.get(timeout=60), flush=True)


if __name__ == "__main__":
    try:
        locks.ping()
    except fastlock.FastlockError as problem:
        sys.exit(f"{problem}\nStart a server, or name one: FASTLOCK_URL=redis://host:6379")
    if sys.argv[1:2] == ["send"]:
        send(sys.argv[2:] or ["alice", "alice", "bob"])
    else:
        app.worker_main(["worker", "--concurrency", "4", "--loglevel", "INFO", *sys.argv[1:]])
