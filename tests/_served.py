"""The application that ``live/test_prefork.py`` runs under gunicorn and celery.

Law: all of it is made in the master, before any worker is forked: a client that
has connected, and a lease that stays the master's. ``FL_URI``, ``FL_KEY`` and ``FL_CORE`` say
with what.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterable
from typing import Any

from _harness import client_class

import fastlock

URI, KEY = os.environ["FL_URI"], os.environ["FL_KEY"]
TTL = 60
client: Any = client_class("sync", os.environ["FL_CORE"])(URI, client_name=f"served-{KEY}")
lease = client.acquire(KEY, TTL)
MASTER = os.getpid()


def report() -> dict[str, Any]:
    """What a worker has of its master's, and that it can take locks of its own."""
    try:
        lease.release()
        told = "released"
    except fastlock.LockError as error:
        told = str(error)
    with client.lock(f"{KEY}:work", TTL):
        pass
    client.acquire(f"{KEY}:{os.getpid()}:{threading.get_ident()}", TTL).release(wait=False)
    return {
        "worker": os.getpid(),
        "child": os.getpid() != MASTER,
        "told": told,
        "valid": lease.valid(),
        "masters": client.try_acquire(KEY, TTL) is None,
    }


def wsgi(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
    """gunicorn's application."""
    body = json.dumps(report()).encode()
    start("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
    return [body]


if "FL_CELERY" in os.environ:
    from celery import Celery

    app = Celery("served", broker=os.environ["FL_CELERY"], backend=os.environ["FL_CELERY"])
    app.conf.update(broker_connection_retry_on_startup=True, worker_send_task_events=False)
    app.task(report, name="report")
