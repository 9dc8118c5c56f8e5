"""Servers that fork their workers: gunicorn and celery themselves, and multiprocessing.

Law: the master has connected and holds a lease before it forks. Workers own nothing of it,
take locks of their own over connections of their own, and the master's lease outlives them.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time
import urllib.request
from multiprocessing import resource_tracker
from typing import Any

import pytest
from _harness import Ways, client_class, needs, one_server, sync_only
from _program import Program, program
from _servers import Server, free_port

import fastlock

pytestmark = [
    pytest.mark.slow,
    sync_only,
    one_server,
    pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning"),
]


@pytest.fixture(autouse=True, scope="module")
def _resource_tracker() -> None:
    """multiprocessing keeps a pipe to it; not for the leak check to count."""
    resource_tracker.ensure_running()


def fine(said: dict[str, Any]) -> None:
    """A worker's report."""
    assert said["child"] is True
    assert "parent process" in said["told"]
    assert said["valid"] is False
    assert said["masters"] is True


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    with open(f"/proc/{pid}/stat") as stat:  # a zombie whose parent is gone counts as dead
        return stat.read().rpartition(")")[2].split()[0] != "Z"


# ------------------------------------------------------------------ gunicorn


def ask(port: int) -> dict[str, Any]:
    """One request; repeated while no worker accepts."""
    end = time.monotonic() + 30
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=20) as answer:
                said: dict[str, Any] = json.load(answer)
                return said
        except OSError:
            assert time.monotonic() < end
            time.sleep(0.1)


@pytest.mark.parametrize("worker", ["sync", "gthread"])
async def test_gunicorn_with_the_application_loaded_before_it_forks(fl: Ways, worker: str) -> None:
    needs("gunicorn")
    key, port = fl.key(), free_port()
    words = (
        "-m", "gunicorn", "--preload", "--workers", "2", "--threads", "2", "--worker-class", worker,
        "--bind", f"127.0.0.1:{port}", "--no-control-socket", "_served:wsgi",
    )  # fmt: skip
    with program(*words, FL_URI=fl.server.uri, FL_KEY=key, FL_CORE=fl.core) as process:
        said = ask(port)
        token = fl.admin.get(key)
        workers = set()
        for _ in range(12):
            fine(said)
            workers.add(said["worker"])
            said = ask(port)
        os.kill(said["worker"], signal.SIGKILL)  # and the master forks another one
        killed = said["worker"]
        await fl.until(lambda: ask(port)["worker"] != killed, 30)
        for _ in range(6):
            fine(ask(port))
        assert fl.admin.get(key) == token  # the master's, after all
        last = ask(port)["worker"]
        os.kill(process.pid, signal.SIGKILL)  # workers see that their master has gone, and end
        await fl.until(lambda: not alive(last), 30)
    assert fl.admin.get(key) == token
    fl.admin.delete(key)
    await fl.until(lambda: fl.admin.keys(f"{key}*") == [], 10)


# ------------------------------------------------------------------ celery


ASK = """
import json, sys
from celery import Celery
app = Celery("asks", broker=sys.argv[1], backend=sys.argv[1])
for result in [app.send_task("report") for _ in range(10)]:
    print(json.dumps(result.get(timeout=60)), flush=True)
"""


async def test_celery_s_worker_with_the_application_loaded_before_it_forks(
    fl: Ways, own_server: Server
) -> None:
    needs("celery")
    key, broker = fl.key(), f"{own_server.uri}/0"
    words = (
        "-W", "ignore", "-m", "celery", "--app", "_served", "worker", "--pool", "prefork",
        "--concurrency", "2", "--loglevel", "ERROR", "--without-gossip", "--without-mingle",
        "--without-heartbeat",
    )  # fmt: skip
    variables = {"FL_URI": fl.server.uri, "FL_KEY": key, "FL_CORE": fl.core, "FL_CELERY": broker}
    with program(*words, **variables) as worker:
        with program("-W", "ignore", "-c", ASK, broker) as asks:
            for _ in range(10):
                fine(json.loads(asks.said()))
            assert asks.ended()[0] == 0
        token = fl.admin.get(key)
        assert token is not None
        worker.signal(signal.SIGTERM)  # a warm shutdown
        assert worker.ended()[0] == 0
    assert fl.admin.get(key) == token
    fl.admin.delete(key)
    # What workers had deferred was answered for before they ended.
    assert fl.admin.keys(f"{key}*") == []


# ------------------------------------------------------------------ multiprocessing


def _work(uri: str, core: str, key: str, inherited: Any, say: Any) -> None:
    """Of a child, forked or started anew: what it can do, and releases at its very end."""
    client = client_class("sync", core)(uri) if inherited is None else inherited[0]
    told = ""
    if inherited is not None:
        try:
            inherited[1].release()
        except fastlock.LockError as error:
            told = str(error)
    say.send((client.try_acquire(key) is None, told))
    say.close()
    for number in range(50):
        client.acquire(f"{key}:{os.getpid()}:{number}", 60).release(wait=False)


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
async def test_children_of_multiprocessing(fl: Ways, method: str) -> None:
    """A forked child has its parent's client and lease; the others make their own client."""
    key = fl.key()
    client = fl.raw(fl.client())
    lease = client.acquire(key, 60)
    context: Any = multiprocessing.get_context(method)
    children = []
    for _ in range(2):
        hears, says = context.Pipe(duplex=False)
        inherited = (client, lease) if method == "fork" else None
        child = context.Process(target=_work, args=(fl.server.uri, fl.core, key, inherited, says))
        child.start()
        says.close()
        children.append((child, hears))
    for child, hears in children:
        assert hears.poll(60)
        held, told = hears.recv()
        hears.close()
        assert held is True
        assert ("parent process" in told) == (method == "fork")
        child.join(60)
        assert child.exitcode == 0
        child.close()
    if method == "forkserver":
        multiprocessing.forkserver._forkserver._stop()  # type: ignore[attr-defined]
    assert fl.admin.keys(f"{key}:*") == []  # answered for before they ended
    assert lease.valid()
    assert lease.release() is True


ORPHAN = """
import os, signal, sys
from _harness import client_class
uri, core, key = sys.argv[1:]
client = client_class("sync", core)(uri, retry_timeout=50)
lease = client.acquire(key, 2)
hears, says = os.pipe()
if os.fork() == 0:
    os.write(says, b"x")
    taken = client.acquire(key, 60)
    os.write(1, b"taken %d\\n" % os.getppid())
    assert taken.release() is True
    os.write(1, b"freed\\n")
    client.close()
    os._exit(0)
os.read(hears, 1)
print(os.getpid(), flush=True)
signal.pause()
"""


async def test_a_child_outlives_its_parent(fl: Ways) -> None:
    """It waits for its parent's lock when that is killed: the ttl frees it, and nothing hangs."""
    key = fl.key()
    with program("-c", ORPHAN, fl.server.uri, fl.core, key) as process:
        parent = int(process.said())
        assert fl.admin.exists(key) == 1
        os.kill(parent, signal.SIGKILL)
        word, above = _line(process).split()
        assert word == "taken"
        assert int(above) != parent
        assert _line(process) == "freed"
    assert fl.admin.exists(key) == 0


def _line(process: Program) -> str:
    line = process.said()
    assert not line.startswith("it ended"), line
    return line
