"""Examples as users start them: ``python examples/X.py``, on a server of the test's own.

Law: an example is a program here. What it promises is seen from outside: by what it says, by
HTTP, by the files it writes, and by the keys at the server.
"""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from _program import Program, program
from _servers import Server

import fastlock

EXAMPLES = Path(__file__).parents[2] / "examples"
#: What pip installs with the extra "examples": example -> the package it needs.
NEEDS = {
    "celery_task": "celery",
    "django_app": "django",
    "fastapi_app": "fastapi",
    "gunicorn_app": "gunicorn",
    "migrate_pottery": "pottery",
    "migrate_python_redis_lock": "redis_lock",
}


def needs(name: str) -> None:
    """Skip where the extra was not installed; the environment of ``make test`` has it."""
    package = NEEDS.get(name)
    if package is not None and find_spec(package) is None:
        pytest.skip(f"{package} is not installed: pip install 'fastlock[examples]'")


@contextmanager
def example(name: str, uri: str, *words: str, **variables: str) -> Iterator[Program]:
    """``python examples/NAME.py WORDS``."""
    needs(name)
    warnings = ("-W", "ignore") if name == "celery_task" else ()  # they are not ours
    path = str(EXAMPLES / f"{name}.py")
    with program(*warnings, path, *words, FASTLOCK_URL=uri, **variables) as process:
        yield process


def said(process: Program, word: str) -> list[str]:
    """Its next line with that word in it, as words; what comes before goes by."""
    while True:
        line = process.said()
        assert not line.startswith("it ended"), line
        if word in line.split():
            return line.split()


def until(true: Callable[[], Any], timeout: float = 20) -> Any:
    """What ``true()`` gives, once it is true."""
    end = time.monotonic() + timeout
    while not (value := true()):
        assert time.monotonic() < end, f"not true within {timeout} s"
        time.sleep(0.02)
    return value


def holder(server: Server, key: str) -> int | None:
    """The id of the process that holds the lock, as its label says."""
    with fastlock.Client(server.uri) as client:
        label = client.holder(key)
    return None if label is None else int(label.rpartition(":")[2])


class Answer(NamedTuple):
    """One answer by HTTP."""

    status: int
    headers: Any
    body: str

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def post(port: int, path: str = "/", method: str = "POST") -> Answer:
    """One request."""
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", method=method)
    try:
        with urllib.request.urlopen(request, timeout=30) as got:
            return Answer(got.status, got.headers, got.read().decode())
    except urllib.error.HTTPError as refused:
        with refused:
            return Answer(refused.code, refused.headers, refused.read().decode())


def listening(port: int, process: Program) -> None:
    """Until it answers at all."""
    end = time.monotonic() + 30
    while True:
        try:
            post(port, "/nothing-is-here")
            return
        except OSError:
            assert process.process.poll() is None, process.ended()
            assert time.monotonic() < end, "it does not listen"
            time.sleep(0.05)
