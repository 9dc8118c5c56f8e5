"""Programs that ``live/test_green.py`` and ``topology/test_sentinel.py`` run: fastlock on gevent or
eventlet, really patched.

    python _green.py LIBRARY SCENE URI KEY

Law: patched before anything else is imported, but in the scenes that begin with ``late_``.
A scene prints what the test reads; what goes wrong is an exception.
"""

from __future__ import annotations

import os
import sys
import warnings
from typing import Any

LIBRARY, SCENE, URI, KEY = sys.argv[1:]
TTL = 30  # so long that expiry never does what giving back should

# What the libraries warn of when they are imported, forked with, or patch late.
warnings.filterwarnings("ignore", message="\nEventlet is deprecated")
warnings.filterwarnings("ignore", message="Using fork\\(\\) is a bad idea")
warnings.filterwarnings("ignore", message="Monkey-patching ssl after ssl")


def patch() -> None:
    if LIBRARY == "gevent":
        from gevent import monkey

        monkey.patch_all()
    else:
        import eventlet

        eventlet.monkey_patch()


if not SCENE.startswith("late_"):
    patch()

import greenlet  # noqa: E402

import fastlock  # noqa: E402
from fastlock import _impl  # noqa: E402

if LIBRARY == "gevent":
    import gevent as green
else:
    import eventlet as green


class Kill(BaseException):
    """What strikes a green thread."""


def value_of(thread: Any) -> Any:
    """What it returned; what it raised is raised."""
    return thread.get() if LIBRARY == "gevent" else thread.wait()


def client(uri: str = URI, **options: Any) -> fastlock.Client:
    return fastlock.Client(uri, **options)


def say(*words: object) -> None:
    print(*words, flush=True)


def told() -> str:
    """The next line from the test, waited for so that others run."""
    os.set_blocking(0, False)
    while True:
        try:
            return os.read(0, 100).decode()
        except BlockingIOError:
            green.sleep(0.01)


def outcome(call: Any) -> Any:
    """What came of it, for who joins."""
    try:
        return call()
    except BaseException as error:
        return error


# ------------------------------------------------------------------ scenes


def core() -> None:
    say(fastlock.core, client().core)
    say(_impl.explain())


def exclusion() -> None:
    """Two hundred green threads in turn hold a lock, and give way in its middle."""
    shared = client(retry_timeout=50)
    inside = done = 0

    def work() -> None:
        nonlocal inside, done
        with shared.lock(KEY, ttl=TTL) as lease:
            inside += 1
            assert inside == 1
            green.sleep(0)
            assert lease.valid()
            inside -= 1
            done += 1

    for thread in [green.spawn(work) for _ in range(200)]:
        value_of(thread)
    shared.close()
    say(done)


def many_keys() -> None:
    """Every method, by many at once: each gets its own answers."""
    shared = client()

    def work(number: int) -> None:
        keys = [f"{KEY}:{number}:{turn}" for turn in range(5)]
        for turn in range(5):
            lease = shared.acquire(keys[0], TTL)
            assert shared.try_acquire(keys[0], TTL) is None
            lease.extend(TTL)
            assert shared.locked(keys[0])
            assert lease.release() is True
            leases = shared.try_acquire_many(keys, TTL)
            assert all(leases)
            assert shared.release_many(leases) == [True] * 5
            with shared.lock_all(keys[turn:], TTL):
                assert shared.locked(keys[-1])
            shared.acquire(keys[0], TTL).release(wait=False)

    for thread in [green.spawn(work, number) for number in range(20)]:
        value_of(thread)
    shared.close()
    say("done")


def yielding() -> None:
    """While one green thread waits, this one goes on, and says so."""
    shared = client(retry_timeout=60_000, label="waits")
    thread = green.spawn(outcome, lambda: shared.acquire(KEY, TTL))
    green.sleep(0.1)
    say("others run")
    assert told() == "close\n"
    green.spawn(shared.close)
    result = value_of(thread)
    say(type(result).__name__, result)


def searching() -> None:
    """While one green thread searches for a master, this one goes on, and says so."""
    shared = client()
    thread = green.spawn(outcome, lambda: shared.acquire(KEY, TTL, timeout=20).release())
    green.sleep(0.3)
    say("others run")
    say(value_of(thread))
    shared.close()


def timeout() -> None:
    """A time-out inside an acquire; another green thread calls by the same connection."""
    shared = client(retry_timeout=60_000)
    if KEY.endswith("connecting"):
        pass  # which takes long, and must not take the time meant to strike
    else:
        shared.ping()

    def limited() -> str:
        try:
            with green.Timeout(0.5):
                shared.acquire(KEY, TTL)
        except green.Timeout:
            return "time-out"
        return "acquired"

    def other() -> bool:
        return shared.acquire(f"{KEY}:other", TTL).release()

    threads = [green.spawn(limited), green.spawn(other)]
    say("begun")
    say(value_of(threads[0]))
    say(value_of(threads[1]))
    green.sleep(0.2)  # for what is given back
    say(shared.locked(KEY), shared.locked(f"{KEY}:other"))
    shared.close()


def strike_everywhere() -> None:
    """Struck at each of its waits in turn, an acquire leaves no lock and a sound client."""

    def new() -> None:
        with client() as one:
            one.acquire(KEY, TTL)

    shared = client(retry_timeout=1)
    shared.ping()
    shared.acquire(held := f"{KEY}:held", TTL)
    calls = {
        "try": lambda: shared.try_acquire(KEY, TTL),
        "acquire": lambda: shared.acquire(KEY, TTL),
        "waiting": lambda: shared.acquire(held, TTL, 0.01),
        "many": lambda: shared.try_acquire_many([KEY, KEY + "2"], TTL),
        "all": lambda: shared.lock_all([KEY, KEY + "2"], TTL).__enter__(),
        "with": lambda: shared.lock(KEY, TTL).__enter__(),
        "new": new,
    }
    for name, call in calls.items():
        for _ in range(100):  # on a busy machine the answer may be there at once
            if strikes(1, call):
                break
            shared.force_release(KEY)
            shared.force_release(KEY + "2")
        else:
            raise AssertionError(f"{name} never waits")
        wait = 1
        while wait == 1 or strikes(wait, call):
            for _ in range(400):
                if not shared.locked(KEY) and not shared.locked(KEY + "2"):
                    break
                green.sleep(0.005)
            else:
                raise AssertionError(f"{name}, struck at wait {wait}: a lock was left")
            assert shared.locked(held)
            assert shared.acquire(KEY, TTL, 5).release() is True
            wait += 1
        say(name, "struck")
        shared.force_release(KEY)
        shared.force_release(KEY + "2")
    shared.force_release(held)
    shared.close()


def strikes(wait: int, call: Any) -> bool:
    """Make the ``wait``-th of its waits end with Kill; False: it has fewer."""
    struck = False
    left = wait + 1  # its beginning is a switch to it, too

    def trace(_: str, switch: tuple[Any, Any]) -> None:
        nonlocal left, struck
        if switch[1] is thread:
            left -= 1
            if not left:
                struck = True
                raise Kill  # there, in place of what it waited for

    thread = green.spawn(outcome, call)
    greenlet.settrace(trace)
    try:
        result = value_of(thread)
    finally:
        greenlet.settrace(None)
    assert isinstance(result, Kill) == struck, result
    return struck


def deferred_exit() -> None:
    """The program ends with releases under way."""
    shared = client()

    def work(number: int) -> None:
        for turn in range(20):
            shared.acquire(f"{KEY}:{number}:{turn}", TTL).release(wait=False)

    for thread in [green.spawn(work, number) for number in range(8)]:
        value_of(thread)
    say("done")


def waiting_exit() -> None:
    """The program ends while green threads wait: for a held lock, for its answers."""
    shared = client(retry_timeout=50)
    shared.acquire(KEY, TTL)
    for _ in range(3):
        green.spawn(shared.acquire, KEY, TTL)
    green.sleep(0.05)
    say("done")


def forking() -> None:
    shared = client()
    lease = shared.acquire(KEY, TTL)
    child = os.fork()
    if child == 0:
        try:
            for call in (lease.release, lease.extend):
                assert "parent process" in str(outcome(call))
            assert shared.try_acquire(KEY, TTL) is None
            threads = [green.spawn(shared.acquire, f"{KEY}:{n}", TTL) for n in range(5)]
            assert [value_of(thread).release() for thread in threads] == [True] * 5
        except BaseException as error:
            say("child:", type(error).__name__, error)
            os._exit(1)
        os._exit(0)
    say(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), lease.release())
    shared.close()


# ------------------------------------------------------------------ patched after the import


def late_core() -> None:
    say(fastlock.core)
    before = client()
    patch()
    say(fastlock.core, client().core)
    say(_impl.explain())
    assert before.acquire(KEY, TTL).release() is True
    say(before.core)  # it has connected since
    before.close()


def late_exclusion() -> None:
    global client
    made = client(retry_timeout=50)
    patch()
    client = lambda **_: made  # noqa: E731
    exclusion()


def late_yielding() -> None:
    global client
    made = client(retry_timeout=60_000)
    patch()
    client = lambda **_: made  # noqa: E731
    yielding()


def late_connected() -> None:
    """A client that was at work before the patch says so when it must connect anew."""
    before = client(retries=0)
    before.ping()
    patch()
    say("patched")
    assert told() == "cut\n"
    outcome(before.ping)  # which finds the connection gone
    error = outcome(before.ping)
    say(type(error).__name__, error)
    with client() as after:
        assert after.acquire(KEY, TTL).release() is True
    before.close()


globals()[SCENE]()
