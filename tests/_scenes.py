"""Programs that ``live/test_signals.py`` and ``live/test_exits.py`` run.

    python _scenes.py SCENE CORE URI KEY [MORE ...]

Law: a scene says what its test reads, a line at a time; what goes wrong is an exception.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import signal
import sys
import threading
import time
from typing import Any

from _harness import client_class

SCENE, CORE, URI, KEY, *MORE = sys.argv[1:]
TTL = 30
#: So patient that nothing but what the test does ends a wait.
PATIENT = {"retry_timeout": 60_000, "socket_timeout": 60, "connect_timeout": 60}


def say(*words: object) -> None:
    os.write(1, " ".join(map(str, words)).encode() + b"\n")


def told() -> str:
    return sys.stdin.readline().rstrip("\n")


def client(api: str = "sync", **options: Any) -> Any:
    return client_class(api, CORE)(URI, **options)


def ignored(call: Any) -> None:
    try:
        call()
    except Exception as error:
        say(type(error).__name__)


# ------------------------------------------------------------------ signals


def main_waits() -> None:
    """The main thread waits; handlers say when they run. MORE: for what, and what they do."""
    wait, effect = MORE
    shared = client(**PATIENT)

    def handler(number: int, _: object) -> None:
        say("handler", time.monotonic())
        if effect == "raises":
            raise SystemExit(3) if number == signal.SIGTERM else KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, handler)
    if "connecting" not in wait:
        shared.ping()
    if wait in ("following", "another's connecting"):
        other = threading.Thread(target=shared.try_acquire, args=(f"{KEY}:other", TTL), daemon=True)
        other.start()
        assert told() == "it leads"
    say("waits")
    try:
        lease = shared.acquire(KEY, TTL)
    except KeyboardInterrupt:
        say("KeyboardInterrupt")
        assert told() == "go on"
    else:
        say("acquired")
        assert lease.release() is True
    if wait in ("following", "another's connecting"):
        other.join()
        shared.force_release(f"{KEY}:other")
    shared.close()


def task_waits() -> None:
    """Ctrl-C ends ``asyncio.run`` while a task waits; SIGTERM runs the loop's handler."""
    wait = MORE[0]

    async def main() -> None:
        shared = client("async", **PATIENT)
        if wait != "connecting":
            await shared.ping()
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, lambda: say("handler", time.monotonic()))
        say("waits")
        try:
            if wait == "block":
                async with shared.lock(KEY, TTL):
                    say("held")
                    await asyncio.sleep(60)
            else:
                await shared.acquire(KEY, TTL)
        finally:
            say("left")
            await shared.close()

    try:
        asyncio.run(main())
    except KeyboardInterrupt:
        say("KeyboardInterrupt")


# ------------------------------------------------------------------ ends


def holding() -> None:
    """The program ends with locks held; one of them is given back by its own exit function."""
    shared = client()
    early = shared.acquire(f"{KEY}:early", TTL)
    atexit.register(lambda: say("released", early.release()))
    shared.acquire(KEY, TTL)
    say("done")


def inside() -> None:
    """sys.exit inside a block frees its lock."""
    with client().lock(KEY, TTL):
        sys.exit(5)


def daemons() -> None:
    """Daemon threads wait in acquire when the program ends: in a pause, and for answers."""
    shared, own = client(**PATIENT), client(**PATIENT)
    shared.ping()
    own.ping()
    for who in (shared, shared, shared, own):
        thread = threading.Thread(target=ignored, args=(lambda w=who: w.acquire(KEY, TTL),))
        thread.daemon = True
        thread.start()
    for number in range(20):
        own.acquire(f"{KEY}:{number}", TTL).release(wait=False)
    say("waiting")
    assert told() == "end"


def leading_daemon() -> None:
    """A daemon thread reads for all when the program ends with releases under way."""
    shared = client(**PATIENT)
    leases = [shared.acquire(f"{KEY}:{number}", TTL) for number in range(20)]
    thread = threading.Thread(target=ignored, args=(lambda: shared.try_acquire(KEY, TTL),))
    thread.daemon = True
    thread.start()
    say("waiting")
    assert told() == "it leads"
    for lease in leases:
        lease.release(wait=False)
    say("sent")
    assert told() == "end"


def mute() -> None:
    """The server says nothing any more when the program ends with releases under way."""
    shared = client(**PATIENT)
    leases = [shared.acquire(f"{KEY}:{number}", TTL) for number in range(20)]
    say("held")
    assert told() == "it is mute"
    for lease in leases:
        lease.release(wait=False)
    say("sent")


def loop_closed() -> None:
    """The event loop is closed with a lock held; another loop goes on with it."""
    shared = client("async")
    kept: list[Any] = []

    async def hold() -> None:
        kept.append(await shared.acquire(KEY, TTL))

    async def free() -> None:
        say(await kept[0].release())
        kept.append(await shared.acquire(KEY, TTL))

    asyncio.run(hold())
    asyncio.run(free())
    say("done")


def loop_closed_waiting() -> None:
    """A loop is stopped and closed while tasks wait; nobody cancels them."""
    shared = client("async", **PATIENT)
    loop = asyncio.new_event_loop()
    loop.run_until_complete(shared.ping())
    tasks = [loop.create_task(shared.acquire(KEY, TTL)) for _ in range(3)]
    loop.run_until_complete(asyncio.sleep(0.05))
    say("waiting")
    assert told() == "end"
    for task in tasks:
        task._log_destroy_pending = False  # asyncio's own complaint about who does this
    loop.close()
    say("done")


def another_loop() -> None:
    """A loop is closed while tasks wait in line; those of another are not behind them."""
    shared = client("async", **PATIENT)
    loop = asyncio.new_event_loop()
    loop.run_until_complete(shared.ping())
    tasks = [loop.create_task(shared.acquire(KEY, TTL)) for _ in range(3)]
    loop.run_until_complete(asyncio.sleep(0.1))
    for task in tasks:
        task._log_destroy_pending = False  # as above
    loop.close()
    say(len(shared._queue.lines[KEY.encode()]), "wait")
    assert told() == "it is free"

    async def later() -> None:
        lease = await shared.acquire(KEY, TTL, 30)
        say(await lease.release())
        await shared.close()

    asyncio.run(later())


globals()[SCENE]()
