"""A forked child owns nothing of its parent's; a handler may use the client it interrupted."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from typing import Any

import pytest
from _harness import Ways, async_only, one_server, sync_only

import fastlock
from fastlock import _event, _fork


def in_child(body: Callable[[], Any]) -> None:
    """Run ``body`` in a forked child; fail with what it failed with."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            body()
        except BaseException:
            os.write(writer, traceback.format_exc()[-3000:].encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as said:
        failure = said.read()
    os.waitpid(child, 0)
    assert not failure, failure


@pytest.fixture(autouse=True, scope="module")
def _resource_tracker() -> None:
    """multiprocessing keeps a pipe to it; not for the leak check to count."""
    resource_tracker.ensure_running()


def connections(fl: Ways, name: str) -> list[str]:
    return [one["id"] for one in fl.admin.client_list() if one["name"] == name]


# ------------------------------------------------------------------ forks

pytestmark = pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")


@sync_only
async def test_a_child_leaves_its_parent_s_lease_and_connection_alone(fl: Ways) -> None:
    key, own, name = fl.key(), fl.key("own"), f"fork-{fl.key()}"
    client = fl.raw(fl.client(client_name=name))
    lease = client.acquire(key, 30)
    (parent,) = connections(fl, name)

    def child() -> None:
        for call in (lease.release, lease.extend, lambda: client.release_many([lease])):
            with pytest.raises(fastlock.LockError, match="parent process") as caught:
                call()
            assert caught.value.key == key
        assert client.try_acquire(key) is None
        mine = client.acquire(own, 30)
        assert mine.token.partition("-")[0] != lease.token.partition("-")[0]
        assert mine.release() is True
        client.close()

    in_child(child)
    assert connections(fl, name) == [parent]
    assert lease.valid()
    assert fl.admin.get(key) == lease.token.encode()
    lease.extend(20)
    assert lease.release() is True
    assert connections(fl, name) == [parent]


@sync_only
async def test_a_child_that_ends_inside_a_with_block_frees_nothing(fl: Ways) -> None:
    key = fl.key()
    client = fl.raw(fl.client())
    with client.lock(key, ttl=30) as lease:

        def child() -> None:
            with pytest.raises(fastlock.LockError, match="parent process"):
                lease.__exit__(None, None, None)

        in_child(child)
        assert fl.admin.get(key) == lease.token.encode()
    assert fl.admin.exists(key) == 0


@sync_only
async def test_a_token_handed_to_the_child_lets_it_adopt(fl: Ways) -> None:
    key = fl.key()
    client = fl.raw(fl.client())
    lease = client.acquire(key, 30)

    def child() -> None:
        assert client.adopt(key, lease.token).release() is True

    in_child(child)
    assert lease.release() is False


@sync_only
async def test_forking_while_other_threads_are_inside_calls(fl: Ways) -> None:
    client = fl.raw(await fl.warm(fl.client()))
    stop = threading.Event()
    wrong: list[BaseException] = []

    def work(key: str) -> None:
        try:
            while not stop.is_set():
                assert client.try_acquire(key, 30).release() is True
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(fl.key(),)) for _ in range(4)]
    for thread in threads:
        thread.start()
    own = fl.key("own")

    def child() -> None:
        for _ in range(20):
            assert client.acquire(own, 30, 5).release() is True
        client.close()

    for _ in range(5):
        in_child(child)
    stop.set()
    for thread in threads:
        thread.join()
    assert wrong == []


@sync_only
async def test_one_that_cannot_forget_keeps_nobody_else_from_it(fl: Ways) -> None:
    """Clients are told in no certain order: some come before the one that fails, some after."""

    class Stubborn:
        def forked(self) -> None:
            raise LookupError("it cannot forget")

    stubborn = [Stubborn() for _ in range(10)]
    clients = [fl.raw(fl.client()) for _ in range(4)]
    leases = [client.acquire(fl.key(), 30) for client in clients]
    for one in stubborn:
        _fork.register(one)
    shown: list[BaseException | None] = []

    def child() -> None:
        assert [type(error) for error in shown] == [LookupError]
        for client, lease in zip(clients, leases, strict=True):
            assert client._server.ready() is None
            with pytest.raises(fastlock.LockError, match="parent process"):
                lease.release()

    before, sys.unraisablehook = sys.unraisablehook, lambda what: shown.append(what.exc_value)
    try:
        in_child(child)
    finally:
        sys.unraisablehook = before
        for one in stubborn:
            _fork._registered.discard(one)
    assert shown == []
    assert [lease.release() for lease in leases] == [True] * 4


def _worker(uri: str, core: str, key: str, counter: str) -> None:
    import _harness
    import redis

    client = _harness.client_class("sync", core)(uri, retry_timeout=2)
    with redis.Redis.from_url(uri) as admin:
        for _ in range(10):
            with client.lock(key, ttl=20):
                admin.set(counter, int(admin.get(counter) or 0) + 1)
    client.close()


@sync_only
@pytest.mark.parametrize("method", ["fork", "spawn"])
async def test_processes_exclude_each_other(fl: Ways, method: str) -> None:
    key, counter = fl.key(), fl.key("counter")
    context = multiprocessing.get_context(method)
    workers = [
        context.Process(target=_worker, args=(fl.server.uri, fl.core, key, counter))
        for _ in range(3)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    assert int(fl.admin.get(counter)) == 30
    fl.admin.delete(counter)


@async_only
async def test_an_asyncio_child_leaves_everything_alone(fl: Ways) -> None:
    key, own, name = fl.key(), fl.key("own"), f"fork-{fl.key()}"
    client = fl.client(client_name=name)
    lease = await client.acquire(key, 30)
    (parent,) = connections(fl, name)

    def child() -> None:
        with pytest.raises(fastlock.LockError, match="parent process"):
            lease.release().send(None)

        async def fresh() -> None:
            assert await client.try_acquire(key) is None
            assert await (await client.acquire(own, 30)).release() is True
            await client.close()

        asyncio.run(fresh())

    in_child(child)
    assert connections(fl, name) == [parent]
    await lease.extend(20)
    assert await lease.release() is True
    assert connections(fl, name) == [parent]


# ------------------------------------------------------------------ signal handlers


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


@contextmanager
def handler_at(step: int, run: Callable[[], Any], asleep: Callable[[], Any]) -> Iterator[list[str]]:
    """Run a handler at the ``step``-th point inside this thread's waiting for another.

    Points are where CPython would run a signal's handler: the starts of functions and the
    returns of C functions. ``asleep`` is called when the thread is about to sleep.
    """
    left = step
    where: list[str] = []

    def look(frame: Any, event: str, called: Any) -> None:
        nonlocal left
        if frame.f_code.co_filename not in WAITING:
            return
        if event == "c_call" and called.__name__ == "acquire" and frame.f_code.co_name == "wait":
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
async def test_a_handler_at_every_point_of_a_pause_may_close_the_client(fl: Ways) -> None:
    """The pause would last a minute, and no answer comes but that the client is closed."""
    key = fl.key()
    fl.admin.set(key, "taken", px=600_000)

    async def struck(step: int) -> bool:
        client = fl.raw(await fl.warm(fl.client(retry_timeout=60_000)))
        pausing = threading.Event()

        async def waiting() -> list[str]:
            closed = pytest.raises(fastlock.FastlockError, match="closed")
            with closed, handler_at(step, client.close, pausing.set) as where:
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
@pytest.mark.parametrize("goes_on", [True, False], ids=["returns", "raises"])
async def test_a_handler_that_forks_leaves_the_interrupted_call_to_the_parent(
    fl: Ways, goes_on: bool
) -> None:
    """One acquire, two processes in the middle of it: one lease, and it is the parent's."""
    proxy, key = fl.proxy(), fl.key()
    client = fl.raw(await fl.warm(fl.client(proxy.uri)))
    held = proxy.fault("hold_reply")
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
    assert fl.admin.get(key) == lease.token.encode()
    assert lease.release() is True
