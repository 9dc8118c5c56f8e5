"""Who keeps a lock while the GIL is kept: seen from another process, all the time.

Law: the holder is a process of its own, and this one asks the server. A rival renews as
users of redis-py do, from a thread of Python's; the same test shows what becomes of that.
"""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from _harness import CORES, Ways, clock, one_server, sync_only

TTL = 2.0
KEPT = 10.0  # s for which the GIL is kept

#: Whatever waits for the GIL loses its lock; where there is none, nobody does.
GIL = getattr(sys, "_is_gil_enabled", lambda: True)()

HOLDER = """
import asyncio, ctypes, re, sys, threading, time
import fastlock, fastlock.aio
from fastlock import _impl

core = _impl.load({core!r})
class Client(fastlock.Client): _core = core
class AsyncClient(fastlock.aio.Client): _core = core
terms = dict(ttl={ttl}, auto_renew=True, if_lost="ignore", on_lost=lambda lease: None)

def keep_the_gil():
    # In one call of C, which for the last time is as long as it has to be.
    if {how!r} == "sleep":
        ctypes.PyDLL(None).sleep(int({kept}))  # PyDLL: it is not released meanwhile
        return
    size, took = 18, 0.0  # a regular expression that tries all ways to fail
    while took < {kept} / 4:
        size += 1
        started = time.monotonic()
        re.match("(a+)+$", "a" * size + "b")
        took = time.monotonic() - started
    re.match("(a+)+$", "a" * (size + 2) + "b")

def tell(*words):
    print(*words, flush=True)
    sys.stdin.readline()

def rival():
    import redis
    client = redis.Redis.from_url({uri!r})
    lock = client.lock({key!r}, timeout={ttl}, thread_local=False)
    lock.acquire()
    over = threading.Event()
    def renew():
        while not over.wait({ttl} / 3):
            try:
                lock.reacquire()
            except redis.exceptions.LockError:
                return
    thread = threading.Thread(target=renew)
    thread.start()
    tell("held")
    keep_the_gil()
    tell("back")
    over.set()
    thread.join()
    client.close()

def sync():
    client = Client({uri!r})
    with client.lock({key!r}, **terms) as lease:
        tell("held")
        keep_the_gil()
        tell("back", lease.state, lease.valid())
    client.close()

def led():
    # Others are in the middle of a call, and one of them reads for all: their answers come
    # when nobody can run Python any more.
    client = Client({uri!r})
    with client.lock({key!r}, **terms) as lease:
        tell("held")
        asked = [threading.Thread(target=client.locked, args=("another",)) for _ in range(3)]
        for thread in asked: thread.start()
        while client._server.ready().pipe.owed < 3: time.sleep(0.001)
        keep_the_gil()
        tell("back", lease.state, lease.valid())
        for thread in asked: thread.join()
    client.close()

async def tasks():
    async with AsyncClient({uri!r}) as client:
        async with client.lock({key!r}, **terms) as lease:
            await asyncio.sleep({ttl})
            tell("held")
            keep_the_gil()
            tell("back", lease.state, lease.valid())

asyncio.run(tasks()) if {who!r} == "tasks" else globals()[{who!r}]()
"""


@contextmanager
def holding(fl: Ways, **what: Any) -> Iterator[Any]:
    """The holder's process: it holds the lock, and waits for a line to go on."""
    options = {"core": fl.core, "ttl": TTL, "kept": KEPT, "how": "sleep", **what}
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER.format(**options)], stdin=pipe, stdout=pipe, text=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.communicate()


async def watch(fl: Ways, key: str, process: Any) -> tuple[bool, str]:
    """Let it go on: whether the lock was its all the time, and what it says afterwards."""
    token = fl.admin.get(key)
    assert token
    said: list[str] = []
    listener = threading.Thread(target=lambda: said.append(process.stdout.readline().strip()))
    process.stdin.write("\n")
    process.stdin.flush()
    started, held = clock(), True
    listener.start()
    while not said:
        held &= fl.admin.get(key) == token
        await fl.sleep(0.02)
    listener.join()
    assert clock() - started >= KEPT - 0.5
    process.stdin.write("\n")
    process.stdin.flush()
    assert process.wait(30) == 0
    return held, said[0]


def wanted(keeps: bool) -> tuple[bool, str]:
    return (True, "back held True") if keeps else (False, "back lost False")


@one_server
@pytest.mark.slow
async def test_the_compiled_core_renews_without_the_gil(fl: Ways) -> None:
    key = fl.key()
    who = "sync" if fl.sync else "tasks"
    with holding(fl, who=who, uri=fl.server.uri, key=key) as process:
        assert await watch(fl, key, process) == wanted(fl.core == "cython" or not GIL)


@one_server
@sync_only
@pytest.mark.slow
async def test_also_while_a_regular_expression_goes_astray(fl: Ways) -> None:
    key = fl.key()
    with holding(fl, who="sync", how="regex", uri=fl.server.uri, key=key) as process:
        assert await watch(fl, key, process) == wanted(fl.core == "cython" or not GIL)


@one_server
@sync_only
@pytest.mark.slow
async def test_also_while_another_thread_reads_for_all(fl: Ways) -> None:
    proxy, key = fl.proxy(), fl.key()
    planned = proxy.fault("delay_reply", verb="EXISTS", seconds=0.4)
    with holding(fl, who="led", uri=proxy.uri, key=key) as process:
        assert await watch(fl, key, process) == wanted(fl.core == "cython" or not GIL)
        await fl.happened(planned)


@one_server
@sync_only
@pytest.mark.slow
@pytest.mark.parametrize("core", CORES[:1], indirect=True)
@pytest.mark.parametrize("how", ["sleep", "regex"])
async def test_a_thread_of_python_s_does_not(fl: Ways, how: str) -> None:
    key = fl.key()
    with holding(fl, who="rival", how=how, uri=fl.server.uri, key=key) as process:
        assert await watch(fl, key, process) == (not GIL, "back")
