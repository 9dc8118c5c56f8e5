"""Whatever leaves an acquire early leaves the lock not held, and the connection in order.

Interrupts are put at every point of an acquire where a signal can strike, cancellations at
every turn of the loop; the rest comes at a moment that the proxy holds open.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from _harness import Ways, async_only, leftovers, one_server, sync_only
from _lines import nobody_waits
from _strikes import Interrupt, struck_at
from _waiting import queue_of

import fastlock

TTL = 30  # so long that expiry never does what giving back should


def gone(fl: Ways, *keys: str | bytes) -> Callable[[], bool]:
    return lambda: not fl.admin.exists(*keys)


# ------------------------------------------------------------------ interrupts at every point


@sync_only
@one_server
@pytest.mark.parametrize(
    "way",
    [
        "try_acquire",
        "acquire",
        "waiting",
        "fair",
        "fair waiting",
        "fair with",
        "many",
        "all",
        "with",
    ],
)
async def test_an_interrupt_at_every_point_leaves_no_lock(fl: Ways, way: str) -> None:
    client = fl.raw(await fl.warm(fl.client(retry_timeout=1, push=False)))
    key = fl.key()
    fl.admin.set(held := fl.key("held"), "taken", px=600_000)
    calls: dict[str, Callable[[], Any]] = {
        "try_acquire": lambda: client.try_acquire(key, TTL),
        "acquire": lambda: client.acquire(key, TTL),
        "waiting": lambda: client.acquire(held, TTL, 0.003),
        "fair": lambda: client.acquire(key, TTL, 5, fair=True),
        "fair waiting": lambda: client.acquire(held, TTL, 0.003, fair=True),
        "fair with": lambda: client.lock(key, TTL, fair=True).__enter__(),
        "many": lambda: client.try_acquire_many([key, held, key + "2"], TTL),
        "all": lambda: client.lock_all([key, key + "2"], TTL).__enter__(),
        "with": lambda: client.lock(key, TTL).__enter__(),
    }
    # What is remembered of a ttl from now on has its points no more: they must not grow fewer
    # while they are counted.
    assert client.try_acquire(fl.key("before"), TTL).release() is True
    for step in range(1, 2000):
        result = None
        try:
            with struck_at(step) as where:
                result = calls[way]()
        except (Interrupt, fastlock.AcquireTimeout):
            pass
        if not where:
            break
        assert result is None, f"{where} was swallowed"
        # Sooner than a place in a queue would end by itself.
        await fl.until(gone(fl, key, key + "2", queue_of(key), queue_of(held)), 2)
        assert fl.admin.get(held) == b"taken", where
        # The connection is in order, or a new one is: the next caller gets its own answers.
        lease = client.try_acquire(key, 5)
        assert lease is not None, where
        assert fl.admin.get(key) == lease.token.encode(), where
        assert lease.release() is True, where
    assert 2 < step < 1999
    assert (result is None) == way.endswith("waiting")
    fl.admin.delete(key, key + "2", held)


# Struck between its making and its owner's keeping it, a socket is closed by the garbage
# collector, which says so; redis-py has many such points and closes no other way either.
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@sync_only
@one_server
async def test_an_interrupt_at_every_point_of_connecting(fl: Ways) -> None:
    key = fl.key()
    step, stride = 1, 1
    while True:
        client = fl.client_class(fl.server.uri)
        result = None
        try:
            with struck_at(step) as where:
                result = client.try_acquire(key, TTL)
        except Interrupt:
            pass
        if not where:
            break
        assert result is None, f"{where} was swallowed"
        await fl.until(gone(fl, key))
        lease = client.try_acquire(key, 5)
        assert lease is not None, where
        assert lease.release() is True, where
        client.close()
        step += stride
        stride = 3 + step % 5  # hundreds of lines: some of them in each run of this loop
    assert step > 100
    assert result.release() is True
    client.close()


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # as above
@sync_only
@one_server
async def test_an_interrupt_at_every_point_of_waiting_to_be_told(fl: Ways) -> None:
    """Another thread of the client waits for another key, and is told however that ends."""
    facade = await fl.warm(fl.client(retry_timeout=60_000))
    client = fl.raw(facade)
    fl.admin.set(held := fl.key("held"), "taken", px=600_000)
    step, stride = 1, 1
    while True:
        fl.admin.set(other := fl.key("other"), "taken")
        waiter = fl.spawn(facade.acquire(other, TTL, 60))
        await fl.until(lambda: other.encode() in client._queue.lines, 10)
        try:
            with struck_at(step) as where:
                client.acquire(held, TTL, 0.01)
        except (Interrupt, fastlock.AcquireTimeout):
            pass
        assert held.encode() not in client._queue.lines, where
        fl.admin.delete(other)
        assert await (await waiter).release() is True, where
        assert nobody_waits(fl, facade), where
        if not where:
            break
        step += stride
        stride = 1 + step % 3
    assert step > 50
    client.close()
    fl.admin.delete(held)


@sync_only
@one_server
async def test_an_interrupt_at_every_point_of_a_release_leaves_the_truth(fl: Ways) -> None:
    """The lease may be released again, and says True or, once freed, False; never a guess."""
    client = fl.raw(await fl.warm(fl.client()))
    key = fl.key()
    for step in range(1, 2000):
        lease = client.acquire(key, TTL, 5)
        try:
            with struck_at(step) as where:
                lease.release()
        except Interrupt:
            pass
        if not where:
            break
        known_over = lease.over
        assert lease.release() is not known_over, where
        assert fl.admin.exists(key) == 0, where
    assert 2 < step < 1999


#: So many points there are at least from the beginning of a call whose answer is lost until it
#: connects anew; the points of connecting are struck above.
UNTIL_CONNECTING = {"cython": 14, "python": 36}


@sync_only
@one_server
@pytest.mark.parametrize("way", ["try_acquire", "acquire"])
async def test_an_interrupt_behind_a_lost_answer_leaves_no_lock(
    fl: Ways, core: str, way: str
) -> None:
    for step in range(1, UNTIL_CONNECTING[core] + 1):
        proxy = fl.proxy()
        client = fl.raw(await fl.warm(fl.client(proxy.uri)))
        assert client.try_acquire(fl.key("before"), TTL).release() is True
        key = fl.key(f"{step}")
        lost = proxy.fault("lose_reply")
        with pytest.raises(Interrupt), struck_at(step) as where:
            getattr(client, way)(key, TTL)
        await fl.until(gone(fl, key), 5)
        if not lost.happened.is_set():  # it was struck before it was sent, or just then
            time.sleep(0.02)
            await fl.until(gone(fl, key), 5)
        assert fl.admin.exists(key) == 0, where
        client.close()


@sync_only
@one_server
async def test_an_interrupt_behind_a_lost_answer_to_a_release_leaves_the_truth(
    fl: Ways, core: str
) -> None:
    for step in range(1, UNTIL_CONNECTING[core] + 1):
        proxy = fl.proxy()
        client = fl.raw(await fl.warm(fl.client(proxy.uri)))
        lease = client.try_acquire(fl.key(f"{step}"), TTL)
        proxy.fault("lose_reply")
        with pytest.raises(Interrupt), struck_at(step) as where:
            lease.release()
        known_over = lease.over
        assert lease.release() is not known_over, where
        client.close()


@sync_only
@one_server
@pytest.mark.parametrize("many", [False, True])
async def test_an_interrupt_at_every_point_of_an_extend_leaves_a_true_deadline(
    fl: Ways, many: bool
) -> None:
    client = fl.raw(await fl.warm(fl.client()))
    key = fl.key()
    for ttl in (5, 60):
        for step in range(1, 2000):
            lease = client.acquire(key, 20, 5)
            try:
                with struck_at(step) as where:
                    if many:
                        client.extend_many([lease], ttl)
                    else:
                        lease.extend(ttl)
            except Interrupt:
                pass
            assert 0 < lease.remaining() * 1000 <= fl.admin.pttl(key) + 50, where
            lease.extend(20)
            assert lease.release() is True, where
            if not where:
                break
        assert 10 < step < 1999


# ------------------------------------------------------------------ interrupts while it waits


@contextmanager
def signal_raises(number: int) -> Iterator[None]:
    def strike(*_: object) -> None:
        raise Interrupt

    before = signal.signal(number, strike)
    try:
        yield
    finally:
        signal.signal(number, before)


def strike_main_when(ready: Callable[[], Any]) -> threading.Thread:
    """Send SIGUSR1 to the main thread once ``ready()`` has returned."""

    def run() -> None:
        ready()
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread


@sync_only
@pytest.mark.parametrize("method", ["try_acquire", "acquire", "try_acquire_many"])
async def test_a_signal_while_the_answer_is_on_its_way(fl: Ways, method: str) -> None:
    proxy, key = fl.proxy(), fl.key()
    client = fl.raw(await fl.warm(fl.client(proxy.uri)))
    held = proxy.fault("hold_reply")
    done: list[int] = []
    with signal_raises(signal.SIGUSR1):
        striker = strike_main_when(lambda: (held.wait(), done.append(fl.admin.exists(key))))
        with pytest.raises(Interrupt):
            getattr(client, method)([key] if method.endswith("many") else key, TTL)
        striker.join(5)
    assert done == [1]  # the server had done it when the signal came
    held.go()
    await fl.until(gone(fl, key), 5)
    lease = client.try_acquire(key, 5)
    assert lease.release() is True


@sync_only
async def test_a_signal_while_waiting_for_the_holder(fl: Ways) -> None:
    proxy, key = fl.proxy(), fl.key()
    client = fl.raw(await fl.warm(fl.client(proxy.uri, retry_timeout=60_000)))
    fl.admin.set(key, "taken", px=60_000)

    def tried() -> None:
        while "SET" not in proxy.verbs():
            threading.Event().wait(0.005)
        threading.Event().wait(0.05)

    with signal_raises(signal.SIGUSR1):
        striker = strike_main_when(tried)
        with pytest.raises(Interrupt):
            client.acquire(key, TTL)
        striker.join(5)
    assert fl.admin.get(key) == b"taken"
    fl.admin.delete(key)
    await fl.sleep(0.05)
    assert fl.admin.exists(key) == 0


@sync_only
async def test_a_signal_while_another_thread_reads(fl: Ways) -> None:
    """The main thread is no leader but waits behind one; the other caller notices nothing."""
    proxy, key, other = fl.proxy(), fl.key(), fl.key()
    facade = await fl.warm(fl.client(proxy.uri))
    client = fl.raw(facade)
    first = proxy.fault("hold_reply")
    leader = fl.spawn(facade.try_acquire(other, ttl=TTL))
    await fl.happened(first)

    def both_sent() -> None:
        while proxy.verbs()[-2:] != ["SET", "SET"]:
            threading.Event().wait(0.005)
        threading.Event().wait(0.05)

    with signal_raises(signal.SIGUSR1):
        striker = strike_main_when(both_sent)
        with pytest.raises(Interrupt):
            client.try_acquire(key, TTL)
        striker.join(5)
    first.go()
    lease = await leader
    assert fl.admin.get(other).decode() == lease.token
    await fl.until(gone(fl, key), 5)
    assert await lease.release() is True
    assert proxy.connections == 1


CHILD = """
import sys, time
import _harness
client = _harness.client_class("sync", sys.argv[2])(sys.argv[1])
client.ping()
print("ready", flush=True)
try:
    if sys.argv[4] == "with":
        with client.lock(sys.argv[3], ttl=30):
            print("held", flush=True)
            time.sleep(30)
    else:
        client.acquire(sys.argv[3], ttl=30)
except KeyboardInterrupt:
    print("interrupted", flush=True)
    client.close()
"""


@sync_only
@one_server
@pytest.mark.parametrize("moment", ["acquire", "with"])
async def test_control_c(fl: Ways, moment: str) -> None:
    proxy, key = fl.proxy(), fl.key()
    held = proxy.fault("hold_reply" if moment == "acquire" else "delay_reply", verb="SET")
    tests = str(Path(__file__).resolve().parents[1])
    path = os.pathsep.join([tests, os.environ.get("PYTHONPATH", "")])
    with subprocess.Popen(
        [sys.executable, "-c", CHILD, proxy.uri, fl.core, key, moment],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": path},
        text=True,
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        held.wait()
        if moment == "with":
            assert child.stdout.readline() == "held\n"
        assert fl.admin.exists(key) == 1
        child.send_signal(signal.SIGINT)
        await fl.sleep(0.1)
        held.go()
        assert child.stdout.readline() == "interrupted\n"
        assert child.wait(10) == 0
    assert fl.admin.exists(key) == 0


# ------------------------------------------------------------------ cancellation


@async_only
@pytest.mark.parametrize("way", ["try_acquire", "acquire", "many", "all", "with"])
@pytest.mark.parametrize("connected", [True, False], ids=["connected", "connecting"])
async def test_cancelling_at_every_turn_of_the_loop_leaves_no_lock(
    fl: Ways, way: str, connected: bool
) -> None:
    key = fl.key()
    shared = await fl.warm(fl.client())
    calls: dict[str, Callable[[Any], Any]] = {
        "try_acquire": lambda client: client.try_acquire(key, TTL),
        "acquire": lambda client: client.acquire(key, TTL),
        "many": lambda client: client.try_acquire_many([key, key + "2"], TTL),
        "all": lambda client: client.lock_all([key, key + "2"], TTL).__aenter__(),
        "with": lambda client: client.lock(key, TTL).__aenter__(),
    }
    for turns in range(2000):
        client = shared if connected else fl.client_class(fl.server.uri)
        task = asyncio.ensure_future(calls[way](client))
        for _ in range(turns if connected else turns * 3):
            await asyncio.sleep(0)
        done = task.done()
        task.cancel()
        await asyncio.wait([task])
        if not done:
            assert task.cancelled()
            await fl.until(gone(fl, key, key + "2"))
        if not connected:
            await client.close()
        if done:
            break
        lease = await shared.try_acquire(key, 5)
        assert fl.admin.get(key).decode() == lease.token
        assert await lease.release() is True
    assert 1 < turns < 1999
    fl.admin.delete(key, key + "2")


@async_only
@pytest.mark.parametrize("milliseconds", [0, 5, 20, 45, 55, 80])
async def test_cancelling_while_the_answer_is_delayed(fl: Ways, milliseconds: int) -> None:
    """Before, while and after the answer is on its way; others' answers stay theirs."""
    proxy, key, other = fl.proxy(), fl.key(), fl.key()
    client = await fl.warm(fl.client(proxy.uri))
    proxy.fault("delay_reply", seconds=0.05)
    task = asyncio.ensure_future(client.acquire(key, ttl=TTL))
    neighbour = asyncio.ensure_future(client.acquire(other, ttl=TTL))
    await asyncio.sleep(milliseconds / 1000)
    held = task.done()
    task.cancel()
    await asyncio.wait([task])
    if held:
        assert await (await task).release() is True
    else:
        assert task.cancelled()
    lease = await neighbour
    assert fl.admin.get(other).decode() == lease.token
    await fl.until(gone(fl, key))
    assert await lease.release() is True
    assert proxy.connections == 1


@async_only
async def test_a_timeout_around_an_acquire_leaves_no_lock(fl: Ways) -> None:
    proxy, key = fl.proxy(), fl.key()
    client = await fl.warm(fl.client(proxy.uri))
    held = proxy.fault("hold_reply")
    acquiring = asyncio.ensure_future(asyncio.wait_for(client.acquire(key, ttl=TTL), 0.3))
    await fl.happened(held)
    assert fl.admin.exists(key) == 1  # the server had done it, and nobody knew
    with pytest.raises(asyncio.TimeoutError):
        await acquiring
    held.go()
    await fl.until(gone(fl, key))


@async_only
async def test_cancelling_a_waiter_leaves_the_holder_and_the_key_alone(fl: Ways) -> None:
    client, key = fl.client(retry_timeout=10), fl.key()
    holder = await client.acquire(key, ttl=TTL)
    waiters = [asyncio.ensure_future(client.acquire(key, ttl=TTL)) for _ in range(10)]
    await asyncio.sleep(0.05)
    for waiter in waiters[::2]:
        waiter.cancel()
    await asyncio.wait(waiters[::2])
    assert fl.admin.get(key).decode() == holder.token
    assert await holder.release() is True
    for waiter in waiters[1::2]:
        waiter.cancel()
    await asyncio.wait(waiters)
    for waiter in waiters:
        if not waiter.cancelled():
            await waiter.result().release()
    await fl.until(gone(fl, key))


@async_only
async def test_cancelling_one_caller_does_not_cancel_the_others_connection(fl: Ways) -> None:
    proxy = fl.proxy()
    slow = proxy.fault("hold_reply", verb="HELLO")
    client = fl.client(proxy.uri)
    first = asyncio.ensure_future(client.acquire(fl.key(), ttl=TTL))
    await fl.happened(slow)
    second = asyncio.ensure_future(client.acquire(fl.key(), ttl=TTL))
    await asyncio.sleep(0.02)
    first.cancel()
    slow.go()
    assert await (await second).release() is True
    assert first.cancelled()
    assert proxy.connections == 1


@async_only
async def test_cancelling_a_body_frees_its_lock(fl: Ways) -> None:
    client, key = fl.client(), fl.key()
    inside = asyncio.Event()

    async def body() -> None:
        async with client.lock(key, ttl=TTL):
            inside.set()
            await asyncio.sleep(60)

    task = asyncio.ensure_future(body())
    await inside.wait()
    assert fl.admin.exists(key) == 1
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    assert fl.admin.exists(key) == 0


@async_only
async def test_cancelling_the_release_of_a_block_still_frees_the_lock(fl: Ways) -> None:
    proxy, key = fl.proxy(), fl.key()
    client = await fl.warm(fl.client(proxy.uri))

    async def body() -> None:
        async with client.lock(key, ttl=TTL):
            planned.append(proxy.fault("cut_before"))

    planned: list[Any] = []
    for turns in range(200):
        task = asyncio.ensure_future(body())
        while not planned and not task.done():
            await asyncio.sleep(0)
        for _ in range(turns):
            await asyncio.sleep(0)
        done = task.done()
        task.cancel()
        await asyncio.wait([task])
        await fl.until(gone(fl, key))
        planned.clear()
        proxy._faults.clear()
        if done:
            break


@async_only
async def test_closing_a_coroutine_in_the_middle_leaves_no_lock(fl: Ways) -> None:
    client, key = await fl.warm(fl.client()), fl.key()
    coroutine = client.acquire(key, ttl=TTL)
    coroutine.send(None)  # as far as waiting for the answer
    await fl.until(lambda: bool(fl.admin.exists(key)), 2)
    coroutine.close()
    await fl.until(gone(fl, key))


@async_only
async def test_closing_a_coroutine_after_its_loop_has_stopped_leaves_no_lock(fl: Ways) -> None:
    key = fl.key()

    def elsewhere() -> None:
        loop = asyncio.new_event_loop()
        try:
            client = fl.client_class(fl.server.uri)
            loop.run_until_complete(client.ping())

            async def begin() -> Any:
                coroutine = client.acquire(key, ttl=TTL)
                coroutine.send(None)
                return coroutine

            coroutine = loop.run_until_complete(begin())
            coroutine.close()
            loop.run_until_complete(client.close())
        finally:
            loop.close()

    await asyncio.to_thread(elsewhere)
    await fl.until(gone(fl, key))


@async_only
async def test_a_generator_that_is_abandoned_frees_its_lock(fl: Ways) -> None:
    """The loop closes it in a task of its own, in which nobody had entered."""
    client, key = await fl.warm(fl.client()), fl.key()

    async def numbers() -> Any:
        async with client.lock(key, ttl=TTL):
            yield 1
            yield 2

    async for _ in numbers():
        assert fl.admin.exists(key) == 1
        break
    gc.collect()
    await fl.until(gone(fl, key))


@async_only
async def test_closing_a_coroutine_inside_its_block_frees_the_lock(fl: Ways) -> None:
    key = fl.key()
    for keys in ([key], [key, key + "2"]):

        def elsewhere(keys: list[str] = keys) -> None:
            inside: list[str] = []
            loop = asyncio.new_event_loop()
            try:
                client = fl.client_class(fl.server.uri)
                loop.run_until_complete(client.ping())

                async def body() -> None:
                    block = client.lock(key, TTL) if keys == [key] else client.lock_all(keys, TTL)
                    async with block:
                        inside.append(key)
                        await asyncio.sleep(60)

                async def begin() -> Any:
                    coroutine = body()
                    waited_for = coroutine.send(None)
                    while not inside:
                        await asyncio.sleep(0.005)
                        if waited_for.done():
                            waited_for = coroutine.send(None)
                    assert fl.admin.exists(*keys) == len(keys)
                    return coroutine

                coroutine = loop.run_until_complete(begin())
                coroutine.close()
                loop.run_until_complete(client.close())
            finally:
                loop.close()

        await asyncio.to_thread(elsewhere)
        await fl.until(gone(fl, *keys))


# ------------------------------------------------------------------ closing the client


@pytest.mark.parametrize("method", ["try_acquire", "acquire", "many", "all"])
async def test_closing_the_client_gives_back_what_was_under_way(fl: Ways, method: str) -> None:
    proxy, key = fl.proxy(), fl.key()
    client = await fl.warm(fl.client(proxy.uri))
    held = proxy.fault("hold_command")
    calls: dict[str, Callable[[], Any]] = {
        "try_acquire": lambda: client.try_acquire(key, TTL),
        "acquire": lambda: client.acquire(key, TTL),
        "many": lambda: client.try_acquire_many([key], TTL),
        "all": lambda: client.lock_all([key], TTL).__aenter__(),
    }
    acquiring = fl.spawn(calls[method]())
    await fl.happened(held)
    closing = fl.spawn(client.close())
    await fl.sleep(0.05)
    held.go()  # the command arrives, unless the client has ended its connection
    await closing
    with pytest.raises(fastlock.FastlockError, match="closed"):
        await acquiring
    # From here on nothing that was held can arrive, and nobody gives anything back.
    await fl.until(lambda: not proxy.open and "fastlock-give-back" not in leftovers()[1], 10)
    assert fl.admin.exists(key) == 0


@sync_only
async def test_who_is_interrupted_before_its_turn_renews_nothing_in_the_middle(fl: Ways) -> None:
    """Another thread is extending it, with renewals paused: one now would land behind that."""
    proxy, key = fl.proxy(), fl.key()
    client = fl.raw(await fl.warm(fl.client(proxy.uri)))
    lease = client.acquire(key, 1.5, auto_renew=True)
    held = proxy.fault("hold_reply")
    other = threading.Thread(target=lease.extend, args=(60,))
    other.start()
    held.wait()
    with signal_raises(signal.SIGUSR1):
        striker = strike_main_when(lambda: time.sleep(0.2))
        with pytest.raises(Interrupt):
            client.extend_many([lease], 60)
        striker.join()
    before = len(proxy.commands)
    time.sleep(1.2)  # the time of two renewals
    assert len(proxy.commands) == before
    held.go()
    other.join(10)
    assert 50 < lease.remaining() < fl.admin.pttl(key) / 1000 + 0.05
    assert lease.release() is True
