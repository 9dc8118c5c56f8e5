"""Locks that replicas confirm before their caller has them: a master with two replicas.

Law: what counts is what the servers have. A replica that is to be late is stopped (SIGSTOP): it
stays connected, and confirms nothing.
"""

from __future__ import annotations

import pickle
import time
from typing import Any

import pytest
from _harness import SERVERS, Ways, one_server, remaining_at_most
from _replicas import Master, master

import fastlock

TTL = 20
#: Far beyond what a replica on the same machine takes, on a busy one too.
AMPLE = 5.0


@pytest.fixture(params=SERVERS)
def server(request: pytest.FixtureRequest) -> Master:
    """A master of every kind in turn."""
    return master(request.param)


@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize("fence", [False, True])
async def test_who_has_it_has_it_on_so_many_replicas(
    fl: Ways, server: Master, number: int, fence: bool
) -> None:
    client, key = fl.client(), fl.key()
    with server.without_replicas(2 - number):
        arguments = {"fence": fence, "min_replicas": number, "replica_timeout": AMPLE}
        lease = await client.try_acquire(key, TTL, **arguments)
        for replica in server.replicas[-number:]:
            assert replica.admin.get(key).decode() == lease.token
        remaining_at_most(fl, lease, key)
        assert (lease.fence is not None) is fence
        assert await lease.release() is True
        lease = await client.acquire(key, TTL, 5, **arguments)
        for replica in server.replicas[-number:]:
            assert replica.admin.get(key).decode() == lease.token
        assert await lease.release() is True
    assert fl.admin.exists(key) == 0


@one_server
@pytest.mark.parametrize("call", ["try_acquire", "acquire", "fenced", "with"])
async def test_more_than_there_are_is_told_and_leaves_nothing(
    fl: Ways, server: Master, call: str
) -> None:
    client, key = fl.client(), fl.key()
    wants = {"min_replicas": 3, "replica_timeout": 0.2}
    began = time.monotonic()
    with pytest.raises(fastlock.NotReplicated, match=r"[0-2] of the 3 replicas") as caught:
        if call == "try_acquire":
            await client.try_acquire(key, TTL, **wants)
        elif call == "with":
            async with client.lock(key, TTL, **wants):
                raise AssertionError("it is held")
        else:
            await client.acquire(key, TTL, 5, fence=call == "fenced", **wants)
    assert fl.admin.exists(key) == 0
    assert 0.2 <= time.monotonic() - began < 5
    error = pickle.loads(pickle.dumps(caught.value))
    assert (error.key, error.wanted) == (key, 3)
    assert error.confirmed in (0, 1, 2)  # what a busy machine had done by then


@pytest.mark.parametrize("fence", [False, True])
async def test_replicas_that_are_stopped_confirm_nothing(
    fl: Ways, server: Master, fence: bool
) -> None:
    client, key = fl.client(), fl.key()
    with server.without_replicas():
        for call in (client.try_acquire, client.acquire):
            with pytest.raises(fastlock.NotReplicated) as caught:
                await call(key, TTL, fence=fence, min_replicas=1, replica_timeout=0.1)
            assert (caught.value.confirmed, fl.admin.exists(key)) == (0, 0)
    lease = await client.try_acquire(
        key, TTL, fence=fence, min_replicas=1, replica_timeout=AMPLE
    )  # the same connection, whose WAIT is over
    assert await lease.release() is True


@one_server
async def test_a_lock_of_somebody_else_is_that(fl: Ways, server: Master) -> None:
    client, key = fl.client(retry_timeout=20), fl.key()
    fl.admin.set(key, "somebody's")
    for wanted in (1, 3):
        wants = {"min_replicas": wanted, "replica_timeout": 0.1}
        assert await client.try_acquire(key, TTL, **wants) is None
        with pytest.raises(fastlock.AcquireTimeout):
            await client.acquire(key, TTL, 0.2, **wants)
        with pytest.raises(fastlock.AcquireTimeout):
            await client.acquire(key, TTL, 0, **wants)
    assert fl.admin.get(key) == b"somebody's"
    fl.admin.delete(key)


@one_server
async def test_a_key_of_another_type_is_named(fl: Ways, server: Master) -> None:
    client, key = fl.client(), fl.key()
    fl.admin.rpush(key, "x")
    waiter = client.acquire(key, TTL, 5, min_replicas=1)
    with pytest.raises(fastlock.ServerError, match=key) as caught:
        await waiter
    assert caught.value.code == "WRONGTYPE"
    fl.admin.delete(key)


async def test_one_set_and_one_wait_for_each(fl: Ways, server: Master) -> None:
    client, key = await fl.warm(fl.client()), fl.key()
    for fence in (False, True):  # the connection of its own is there, and knows the script
        assert await (await client.acquire(key, TTL, fence=fence, min_replicas=1)).release()
    counted = server.count()
    for _ in range(3):
        lease = await client.acquire(key, TTL, min_replicas=2, replica_timeout=AMPLE)
        assert await lease.release() is True
    counts = counted()
    assert (counts["set"], counts["wait"]) == (3, 3)
    counted = server.count()
    lease = await client.try_acquire(key, TTL, fence=True, min_replicas=2, replica_timeout=AMPLE)
    counts = counted()
    assert (counts["evalsha"], counts["wait"]) == (1, 1)
    assert await lease.release() is True


@one_server
async def test_none_and_zero_ask_no_replica(fl: Ways, server: Master) -> None:
    client, key = await fl.warm(fl.client()), fl.key()
    counted = server.count()
    for number in (None, 0):
        lease = await client.try_acquire(key, TTL, min_replicas=number)
        assert await lease.release() is True
        async with client.lock(key, TTL, min_replicas=number):
            pass
    assert "wait" not in counted()


@one_server
async def test_a_spec_keeps_what_it_was_told(fl: Ways, server: Master) -> None:
    client, key = fl.client(), fl.key()
    lock = client.lock(key, TTL, min_replicas=2, replica_timeout=AMPLE)
    counted = server.count()
    async with lock as lease:
        assert server.replicas[0].admin.get(key).decode() == lease.token
    assert await lock.acquire(blocking=False) is True
    assert await lock.release() is True
    assert counted()["wait"] == 2
    loaded = pickle.loads(pickle.dumps(fl.raw(lock)))
    assert loaded.replicas == {"min_replicas": 2, "replica_timeout": AMPLE}
    assert client.lock(key, TTL).replicas == {}


@one_server
async def test_it_is_renewed_like_any_other(fl: Ways, server: Master) -> None:
    client, key = fl.client(), fl.key()
    counted = server.count()
    lease = await client.acquire(key, 2.1, min_replicas=2, replica_timeout=2, auto_renew=True)
    first = lease.deadline
    await fl.until(lambda: lease.deadline > first)
    assert lease.state == "held"
    assert await lease.release() is True
    assert counted()["wait"] == 1


@one_server
async def test_who_waits_gets_it_confirmed(fl: Ways, server: Master) -> None:
    """From another client: the usual lines, and the usual wake-up."""
    client, key = fl.client(retry_timeout=60_000), fl.key()
    holder = await fl.client().acquire(key, TTL)
    wants = {"min_replicas": 2, "replica_timeout": AMPLE}
    waiters = [fl.spawn(client.acquire(key, TTL, 15, **wants)) for _ in range(3)]
    await fl.until(lambda: len(fl.raw(client)._queue.waiting) == 3)
    counted = server.count()
    assert await holder.release() is True
    for _ in range(3):
        await fl.until(lambda: any(one.done() for one in waiters))
        (done,) = [one for one in waiters if one.done()]
        waiters.remove(done)
        lease = await done
        for replica in server.replicas:
            assert replica.admin.get(key).decode() == lease.token
        assert await lease.release() is True
    assert counted()["wait"] >= 3


@pytest.mark.parametrize("handover", ["swap", "local"])
@one_server
async def test_nobody_hands_it_over_unconfirmed(fl: Ways, server: Master, handover: str) -> None:
    client, key = fl.client(handover=handover), fl.key()
    holder = await client.acquire(key, TTL)
    waiter = fl.spawn(client.acquire(key, TTL, 15, min_replicas=2, replica_timeout=AMPLE))
    await fl.until(lambda: fl.raw(client)._queue.waiting)
    counted = server.count()
    assert await holder.release() is True
    lease = await waiter
    assert counted()["wait"] >= 1
    assert lease.token != holder.token
    for replica in server.replicas:
        assert replica.admin.get(key).decode() == lease.token
    assert await lease.release() is True


@one_server
async def test_who_is_refused_by_replicas_lets_the_next_one_try(fl: Ways, server: Master) -> None:
    client, key = fl.client(retry_timeout=60_000), fl.key()
    holder = await client.acquire(key, TTL)
    wants = {"min_replicas": 3, "replica_timeout": 0.05}

    async def refused() -> None:
        with pytest.raises(fastlock.NotReplicated):
            await client.acquire(key, TTL, 15, **wants)

    first = fl.spawn(refused())
    await fl.until(lambda: len(fl.raw(client)._queue.waiting) == 1)
    second = fl.spawn(client.acquire(key, TTL, 15))
    await fl.until(lambda: len(fl.raw(client)._queue.waiting) == 2)
    assert await holder.release() is True
    await first
    assert await (await second).release() is True


# ------------------------------------------------------------------ who waits for whom


@one_server
async def test_others_of_the_client_are_not_behind_it(fl: Ways, server: Master) -> None:
    client = await fl.warm(fl.client())
    with server.without_replicas():
        slow = fl.spawn(either(client, fl.key()))
        await fl.until(lambda: server.waiting() == 1)
        for _ in range(20):
            assert await (await client.acquire(fl.key(), TTL)).release() is True
        assert server.waiting() == 1
        assert not slow.done()
    await slow


@one_server
async def test_nobody_is_behind_another_one_s_wait(fl: Ways, server: Master) -> None:
    client = fl.client(client_name=f"many-{fl.key()}")
    name = client.config.client_name
    with server.without_replicas():
        many = [fl.spawn(either(client, fl.key())) for _ in range(8)]
        await fl.until(lambda: server.waiting() == 8)
    for one in many:
        await one
    # A few stay for the next, and the shared one.
    await fl.until(lambda: len(server.named(name)) <= 5)
    assert len(server.named(name)) > 1


async def either(client: Any, key: str) -> None:
    """Wait for replicas that are stopped, until they go on."""
    lease = await client.try_acquire(key, TTL, min_replicas=1, replica_timeout=15)
    assert await lease.release() is True


@one_server
async def test_the_caller_s_timeout_bounds_it(fl: Ways, server: Master) -> None:
    client, key = fl.client(), fl.key()
    with server.without_replicas():
        began = time.monotonic()
        with pytest.raises(fastlock.NotReplicated):
            await client.acquire(key, TTL, 0.1, min_replicas=1, replica_timeout=15)
        assert time.monotonic() - began < 3
    assert fl.admin.exists(key) == 0


@one_server
async def test_it_may_take_longer_than_an_answer(fl: Ways, server: Master) -> None:
    """``socket_timeout`` is for answers; WAIT's own time comes on top."""
    client, key = fl.client(socket_timeout=0.3), fl.key()
    with server.without_replicas(), pytest.raises(fastlock.NotReplicated):
        await client.try_acquire(key, TTL, min_replicas=1, replica_timeout=0.8)
    assert fl.admin.exists(key) == 0
    assert client.config.socket_timeout == 0.3
