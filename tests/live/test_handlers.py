"""A signal handler may use the client that it has interrupted, fork, or close it."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from _harness import Ways, one_server, sync_only

import fastlock
from fastlock import _event, _listener, _queue, _waiting

pytestmark = pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")


@contextmanager
def alarm(delay: float, handler: Callable[[], Any]) -> Iterator[None]:
    before = signal.signal(signal.SIGALRM, lambda *_: handler())
    signal.setitimer(signal.ITIMER_REAL, delay)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@sync_only
@pytest.mark.parametrize("while_", ["reading", "following", "waiting", "connecting"])
async def test_a_handler_uses_the_client_it_interrupts(fl: Ways, while_: str) -> None:
    key, inner, other = fl.key(), fl.key("inner"), fl.key("other")
    proxy = fl.proxy()
    facade = fl.client(proxy.uri, retry_timeout=60_000)
    client = fl.raw(facade)
    if while_ != "connecting":
        await fl.warm(facade)
    held = None
    leader = None
    if while_ == "waiting":
        fl.admin.set(key, "taken", px=60_000)
    elif while_ == "connecting":
        held = proxy.fault("hold_reply", verb="INFO")
    else:
        held = proxy.fault("hold_reply")
        if while_ == "following":
            leader = fl.spawn(facade.try_acquire(other, ttl=30))
            await fl.happened(held)
    freed: list[bool] = []

    def handler() -> None:
        if held is not None:
            held.go()
        freed.append(client.acquire(inner, 30, 5).release())
        fl.admin.delete(key) if while_ == "waiting" else None

    with alarm(0.1, handler):
        if while_ == "waiting":
            with pytest.raises(fastlock.AcquireTimeout):
                client.acquire(key, 30, timeout=0.0)
            lease = None
            threading.Event().wait(0.2)
        else:
            lease = client.try_acquire(key, 30)
    assert freed == [True]
    if lease is not None:
        assert lease.release() is True
    if leader is not None:
        assert await (await leader).release() is True


WAITING = (_event.__file__, threading.__file__)
LISTENING = (*WAITING, _listener.__file__, _queue.__file__, _waiting.__file__)


@contextmanager
def handler_at(
    step: int,
    run: Callable[[], Any],
    asleep: Callable[[], Any],
    files: tuple[str | None, ...] = WAITING,
) -> Iterator[list[str]]:
    """Run a handler at the ``step``-th point inside this thread's waiting for another.

    Points are where CPython would run a signal's handler: the starts of functions and the
    returns of C functions. ``asleep`` is called when the thread is about to sleep.
    """
    left = step
    where: list[str] = []

    def look(frame: Any, event: str, called: Any) -> None:
        nonlocal left
        if frame.f_code.co_filename not in files:
            return
        sleeps = ("acquire", "wait"), ("poll", "poll")
        if event == "c_call" and (called.__name__, frame.f_code.co_name) in sleeps:
            asleep()
        if event in ("call", "c_return"):
            left -= 1
            if not left:
                sys.setprofile(None)
                where.append(f"{event} {frame.f_code.co_name}:{frame.f_lineno}")
                run()

    before = sys.getprofile()
    sys.setprofile(look)
    try:
        yield where
    finally:
        sys.setprofile(before)


@sync_only
@one_server
async def test_a_handler_at_every_point_of_waiting_for_another_thread_s_connecting(
    fl: Ways,
) -> None:
    proxy, key = fl.proxy(), fl.key()

    async def struck(step: int) -> bool:
        facade = fl.client(proxy.uri, retries=0)
        client = fl.raw(facade)
        held = proxy.fault("hold_reply", verb="INFO")
        answers: list[bool] = []
        connecting = fl.spawn(facade.ping())
        await fl.happened(held)

        def handler() -> None:
            held.go()
            answers.append(client.locked(key))

        async def waiting() -> list[str]:
            with handler_at(step, handler, held.go) as where:
                answers.append(client.locked(key))
            return where

        where = await fl.spawn(waiting())
        await connecting
        client.close()
        assert answers == [False] * (1 + len(where)), where
        return bool(where)

    steps = 1
    while await struck(steps):
        steps += 1
    assert steps > 5


@sync_only
@one_server
@pytest.mark.parametrize("push", [False, True])
async def test_a_handler_at_every_point_of_a_pause_may_close_the_client(
    fl: Ways, push: bool
) -> None:
    """The pause would last a minute, and no answer comes but that the client is closed."""
    key = fl.key()
    files = LISTENING if push else WAITING
    fl.admin.set(key, "taken", px=600_000)

    async def struck(step: int) -> bool:
        client = fl.raw(await fl.warm(fl.client(retry_timeout=60_000, push=push)))
        pausing = threading.Event()

        async def waiting() -> list[str]:
            closed = pytest.raises(fastlock.FastlockError, match="closed")
            with closed, handler_at(step, client.close, pausing.set, files) as where:
                client.acquire(key, 30)
            return where

        waiter = fl.spawn(waiting())
        await fl.until(lambda: pausing.is_set() or waiter.done(), 20)
        client.close()
        return bool(await waiter)

    steps = 1
    while await struck(steps):
        steps += 1
    assert steps > 5
    fl.admin.delete(key)


@sync_only
@pytest.mark.parametrize("moment", ["HELLO", "INFO", "SET"])
@pytest.mark.parametrize("goes_on", [True, False], ids=["returns", "raises"])
async def test_a_handler_that_forks_leaves_the_interrupted_call_to_the_parent(
    fl: Ways, goes_on: bool, moment: str
) -> None:
    """One acquire, two processes in the middle of it: one lease, and it is the parent's."""
    proxy, key = fl.proxy(), fl.key()
    client = fl.raw(fl.client(proxy.uri))
    if moment == "SET":
        client.ping()  # else it is struck in the middle of connecting
    held = proxy.fault("hold_reply", verb=moment)
    reader, writer = os.pipe()
    children: list[int] = []

    class Interrupt(BaseException): ...

    def handler(*_: object) -> None:
        children.append(os.fork())
        if children[0]:
            os.waitpid(children[0], 0)
            held.go()
        elif not goes_on:
            raise Interrupt

    def strike() -> None:
        held.wait()
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, handler)
    striker = threading.Thread(target=strike)
    striker.start()
    try:
        said = "a lease"
        try:
            lease = client.try_acquire(key, 30)
        except BaseException as error:
            said = f"{type(error).__name__}: {error}"
        if children == [0]:
            os.write(writer, said.encode())
            os._exit(0)
    finally:
        if children != [0]:
            signal.signal(signal.SIGUSR1, before)
            striker.join(5)
            os.close(writer)
    with os.fdopen(reader) as child:
        assert child.read().startswith(
            "FastlockError: this process was" if goes_on else "Interrupt"
        )
    assert lease is not None
    assert proxy.verbs() == ["SET"]
    assert proxy.connections == 1
    assert fl.admin.get(key) == lease.token.encode()
    assert lease.release() is True


@sync_only
@pytest.mark.parametrize("together", [False, True], ids=["one", "all"])
async def test_a_handler_that_forks_between_two_tries_leaves_the_lock_to_the_parent(
    fl: Ways, together: bool
) -> None:
    """Both processes wait on with the same token; only one may take it for its own."""
    key = fl.key()
    client = fl.raw(await fl.warm(fl.client(retry_timeout=300)))
    fl.admin.set(key, "taken", px=60_000)
    reader, writer = os.pipe()
    children: list[int] = []

    def handler() -> None:
        children.append(os.fork())
        if children[0]:
            fl.admin.delete(key)

    with alarm(0.2, handler):
        said = "a lease"
        try:
            with client.lock_all([key]) if together else client.lock(key):
                if children[0]:
                    os.close(writer)
                    with os.fdopen(reader) as child:
                        told = child.read()
                    os.waitpid(children[0], 0)
                    assert fl.admin.exists(key)
        except BaseException as error:
            if children[0]:
                raise
            said = f"{type(error).__name__}: {error}"
        if not children[0]:
            os.write(writer, said.encode())
            os._exit(0)
    assert told.startswith("FastlockError: this process was forked in the middle")
    assert not fl.admin.exists(key)
