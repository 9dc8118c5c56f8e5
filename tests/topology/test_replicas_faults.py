"""Locks that replicas confirm, and networks, processes and callers that end in the middle.

Law: that of ``live/test_faults.py``: what the server has at the end is what the caller was told,
and nothing that was left behind lands later.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import signal
import time
from typing import Any

import pytest
from _harness import SERVERS, Ways, async_only, one_server, remaining_at_most, sync_only
from _proxy import Proxy
from _replicas import Master, master

import fastlock

TTL = 20
WANTS = {"min_replicas": 2, "replica_timeout": 10}
#: The network's fault, and of which of the two commands.
FAULTS: dict[str, dict[str, Any]] = {
    "SET arrives, nothing comes back": {"name": "lose_reply", "verb": "SET"},
    "the same by RST": {"name": "lose_reply", "verb": "SET", "rst": True},
    "half an answer to SET": {"name": "cut_reply", "verb": "SET", "size": 3},
    "SET is the last that arrives": {"name": "cut_after", "verb": "SET"},
    "SET never arrives": {"name": "cut_before", "verb": "SET"},
    "SET is answered, WAIT is not": {"name": "lose_reply", "verb": "WAIT"},
    "WAIT never arrives": {"name": "cut_before", "verb": "WAIT"},
    "WAIT is answered by nonsense": {"name": "replace_reply", "verb": "WAIT", "data": b"+OK\r\n"},
    "SET is answered by nonsense": {"name": "replace_reply", "verb": "SET", "data": b":7\r\n"},
    "byte by byte": {"name": "split_reply", "verb": "WAIT"},
}


@pytest.fixture(params=SERVERS)
def server(request: pytest.FixtureRequest) -> Master:
    """A master of every kind in turn."""
    return master(request.param)


async def ready(fl: Ways, **options: Any) -> tuple[Any, Proxy, str]:
    """A client behind a proxy, with both its connections; a key."""
    proxy = fl.proxy()
    client = await fl.warm(fl.client(proxy.uri, **options))
    lease = await client.acquire(fl.key(), TTL, **WANTS)
    assert await lease.release() is True
    return client, proxy, fl.key()


@one_server
@pytest.mark.parametrize("fault", FAULTS)
async def test_a_lost_answer_loses_no_lock(fl: Ways, server: Master, fault: str) -> None:
    client, proxy, key = await ready(fl)
    planned = proxy.fault(**FAULTS[fault])
    lease = await client.try_acquire(key, TTL, **WANTS)
    await fl.happened(planned)
    for one in (server, *server.replicas):
        assert one.admin.get(key).decode() == lease.token
    remaining_at_most(fl, lease, key)
    assert await lease.release() is True
    assert fl.admin.exists(key) == 0


@one_server
async def test_the_number_of_a_lock_taken_unheard_is_confirmed_too(
    fl: Ways, server: Master
) -> None:
    client, proxy, key = await ready(fl)
    first = await client.acquire(key, TTL, fence=True, **WANTS)
    assert await first.release() is True
    lost = proxy.fault("lose_reply", verb="EVALSHA")
    lease = await client.acquire(key, TTL, 5, fence=True, **WANTS)
    await fl.happened(lost)
    assert lease.fence > first.fence
    assert server.replicas[1].admin.get(key).decode() == lease.token
    assert await lease.release() is True


@one_server
@pytest.mark.parametrize("fault", ["SET arrives, nothing comes back", "WAIT never arrives"])
async def test_what_was_taken_unheard_is_not_confirmed_by_that(
    fl: Ways, server: Master, fault: str
) -> None:
    """The repetition writes nothing by itself: WAIT behind it would speak of nothing."""
    client, proxy, key = await ready(fl)
    with server.without_replicas():
        planned = proxy.fault(**FAULTS[fault])
        with pytest.raises(fastlock.NotReplicated) as caught:
            await client.acquire(key, TTL, 5, min_replicas=1, replica_timeout=0.2)
        await fl.happened(planned)
    assert (caught.value.confirmed, fl.admin.exists(key)) == (0, 0)


@one_server
async def test_no_answer_at_all_is_unknown_and_given_back(fl: Ways, server: Master) -> None:
    client, proxy, key = await ready(fl, retries=1)
    last = proxy.fault("lose_reply", verb="WAIT", times=2)
    with pytest.raises(fastlock.OutcomeUnknown) as caught:
        await client.acquire(key, TTL, **WANTS)
    await fl.happened(last)
    assert caught.value.key == key
    await fl.until(lambda: fl.admin.exists(key) == 0, 10)


async def test_what_is_late_never_lands(fl: Ways, server: Master) -> None:
    """The server has ended that connection before anything is sent anew."""
    client, proxy, key = await ready(fl, socket_timeout=0.3)
    late = proxy.fault("hold_command", verb="SET")
    lease = await client.acquire(key, TTL, min_replicas=1, replica_timeout=0.2)
    await fl.happened(late)
    assert fl.admin.get(key).decode() == lease.token
    assert await lease.release() is True
    late.go()
    await fl.until(lambda: proxy.open == 2)
    assert fl.admin.exists(key) == 0


@one_server
async def test_what_is_late_never_lands_behind_a_refusal(fl: Ways, server: Master) -> None:
    """Nobody would give it back: the caller was told that somebody else has the lock."""
    client, proxy, key = await ready(fl, socket_timeout=0.3)
    late = proxy.fault("hold_command", verb="SET")
    trying = fl.spawn(client.try_acquire(key, TTL, min_replicas=1, replica_timeout=0.2))
    await fl.happened(late)
    fl.admin.set(key, "somebody's")
    assert await trying is None
    fl.admin.delete(key)
    late.go()
    await fl.until(lambda: proxy.open == 2)
    assert fl.admin.exists(key) == 0


@one_server
async def test_a_refusal_that_could_not_be_released_is_given_back(fl: Ways, server: Master) -> None:
    client, proxy, key = await ready(fl)
    release = (await client.server()).release_command
    lost = proxy.fault("cut_before", verb=release)
    with pytest.raises(fastlock.NotReplicated, match="in the background") as caught:
        await client.acquire(key, TTL, min_replicas=3, replica_timeout=0.05)
    await fl.happened(lost)
    assert isinstance(caught.value.__cause__, fastlock.FastlockError)
    await fl.until(lambda: fl.admin.exists(key) == 0, 10)


@one_server
async def test_connections_that_died_idle_cost_one_failure(fl: Ways, server: Master) -> None:
    """However many were kept: the first that has broken takes the others along."""
    proxy = fl.proxy()
    client = fl.client(proxy.uri, retries=1)
    with server.without_replicas():
        many = [fl.spawn(client.acquire(fl.key(), TTL, **WANTS)) for _ in range(4)]
        await fl.until(lambda: server.waiting() == 4)
    for one in many:
        assert await (await one).release() is True
    assert proxy.open == 5
    proxy.cut()
    await fl.until(lambda: proxy.open == 0)
    lease = await client.acquire(fl.key(), TTL, **WANTS)
    assert await lease.release() is True
    assert proxy.open <= 2


# ------------------------------------------------------------------ who leaves in the middle


async def in_the_middle(fl: Ways, server: Master, client: Any, key: str) -> Any:
    """Somebody who has taken the lock, and waits for the replicas, which are stopped."""
    waiter = fl.spawn(client.acquire(key, TTL, min_replicas=1, replica_timeout=15))
    await fl.until(lambda: server.waiting() == 1 and fl.admin.exists(key))
    return waiter


@one_server
async def test_closing_the_client_ends_it(fl: Ways, server: Master) -> None:
    name = f"closed-{fl.key()}"
    client, key = fl.client(client_name=name), fl.key()
    with server.without_replicas():
        waiter = await in_the_middle(fl, server, client, key)
        began = time.monotonic()
        closing = fl.spawn(client.close())
        with pytest.raises(fastlock.FastlockError, match="closed"):
            await waiter
        assert time.monotonic() - began < 5
        await closing
        await fl.until(lambda: fl.admin.exists(key) == 0 and not server.named(name), 10)
        assert server.waiting() == 0
    with pytest.raises(fastlock.FastlockError, match="closed"):
        await client.try_acquire(key, TTL, min_replicas=1)


@one_server
async def test_closing_the_client_ends_its_connecting(fl: Ways, server: Master) -> None:
    client, proxy, key = await ready(fl, connect_timeout=60, socket_timeout=60)
    with server.without_replicas():
        first = fl.spawn(refused_or_closed(client, fl.key()))
        await fl.until(lambda: server.waiting() == 1)
        held = proxy.fault("hold_reply", verb="HELLO")
        second = fl.spawn(refused_or_closed(client, key))
        await fl.happened(held)
        began = time.monotonic()
        closing = fl.spawn(client.close())
        await first
        await second
        await closing
        assert time.monotonic() - began < 10
        held.go()


async def refused_or_closed(client: Any, key: str) -> None:
    with pytest.raises(fastlock.FastlockError, match="closed"):
        await client.acquire(key, TTL, min_replicas=1, replica_timeout=15)


@async_only
@one_server
async def test_a_cancelled_task_leaves_nothing(fl: Ways, server: Master) -> None:
    client, key = fl.client(), fl.key()
    with server.without_replicas():
        waiter = await in_the_middle(fl, server, client, key)
        waiter.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiter
        await fl.until(lambda: fl.admin.exists(key) == 0 and server.waiting() == 0, 10)
    lease = await client.try_acquire(key, TTL, **WANTS)
    assert await lease.release() is True


@async_only
@one_server
async def test_a_cancelled_task_s_command_never_lands(fl: Ways, server: Master) -> None:
    client, proxy, key = await ready(fl)
    late = proxy.fault("hold_command", verb="SET")
    waiter = fl.spawn(client.acquire(key, TTL, **WANTS))
    await fl.happened(late)
    waiter.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiter
    await fl.until(lambda: not fl.raw(client)._settling)
    late.go()
    await fl.until(lambda: proxy.open == 1)
    assert fl.admin.exists(key) == 0


class Interrupted(Exception):
    """What a signal's handler raises."""


@sync_only
@one_server
async def test_an_interrupt_leaves_nothing(fl: Ways, server: Master) -> None:
    client, key = fl.raw(fl.client()), fl.key()

    def interrupt(*_: object) -> None:
        raise Interrupted

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        with server.without_replicas():
            signal.setitimer(signal.ITIMER_REAL, 0.3)
            with pytest.raises(Interrupted):
                client.acquire(key, TTL, min_replicas=1, replica_timeout=15)
            await fl.until(lambda: fl.admin.exists(key) == 0 and server.waiting() == 0, 10)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    lease = client.try_acquire(key, TTL, **WANTS)
    assert lease.release() is True


@sync_only
@one_server
async def test_a_handler_in_the_middle_has_a_connection_of_its_own(
    fl: Ways, server: Master
) -> None:
    client, key = fl.raw(fl.client()), fl.key()
    heard: list[bool] = []

    def handler(*_: object) -> None:
        lease = client.try_acquire(f"{key}:handler", TTL)
        with pytest.raises(fastlock.NotReplicated):
            client.try_acquire(f"{key}:other", TTL, min_replicas=1, replica_timeout=0.1)
        heard.append(lease.release())

    before = signal.signal(signal.SIGALRM, handler)
    try:
        with server.without_replicas():
            signal.setitimer(signal.ITIMER_REAL, 0.2)
            with pytest.raises(fastlock.NotReplicated):
                client.acquire(key, TTL, min_replicas=1, replica_timeout=1)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert heard == [True]
    assert fl.admin.exists(key, f"{key}:handler", f"{key}:other") == 0


# ------------------------------------------------------------------ forks


@pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")
@one_server
async def test_a_forked_child_has_connections_of_its_own(fl: Ways, server: Master) -> None:
    name = f"forked-{fl.key()}"
    client, key = fl.client(client_name=name), fl.key()
    await client.ping()
    lease = await client.acquire(key, TTL, **WANTS)
    parents = server.named(name)
    assert len(parents) == 2
    child = multiprocessing.get_context("fork").Process(
        target=_child, args=(fl, client, key, lease, server)
    )
    child.start()
    child.join(30)
    assert child.exitcode == 0
    assert server.named(name) == parents
    assert lease.valid()
    other = await client.acquire(f"{key}:parent", TTL, **WANTS)
    assert server.named(name) == parents
    assert await other.release() is True
    assert await lease.release() is True


def _child(fl: Ways, client: Any, key: str, lease: Any, server: Master) -> None:
    async def body() -> None:
        with pytest.raises(fastlock.LockError, match="parent process"):
            await lease.release()
        assert await client.try_acquire(key, TTL, **WANTS) is None
        mine = await client.acquire(f"{key}:child", TTL, **WANTS)
        assert server.replicas[0].admin.get(f"{key}:child").decode() == mine.token
        assert await mine.release() is True
        await client.close()

    if fl.sync:
        from _harness import drive

        drive(body())
    else:
        asyncio.set_event_loop(None)
        asyncio._set_running_loop(None)  # the parent's
        asyncio.run(body())
