"""Locks that replicas confirm, in a cluster: WAIT runs at the master that serves the key's slot.

Law: that of ``test_replicas.py``: what counts is what the servers have. A replica that is stopped
(SIGSTOP) goes on before the cluster counts it as failed.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import _servers
import pytest
from _cluster import ClusterServers, until
from _four import WAYS, Four
from _harness import SERVERS, Ways, async_only, drive, remaining_at_most, sync_only

import fastlock

#: What a version of a server does differently, test_replicas.py finds out.
pytestmark = pytest.mark.parametrize(
    "cluster", SERVERS if _servers.NAMED else SERVERS[:1], indirect=True
)

TTL = 20
#: Far beyond what a replica on the same machine takes, on a busy one too.
WANTS = {"min_replicas": 1, "replica_timeout": 5.0}
#: What a stopped replica is given.
BRIEF = {"min_replicas": 1, "replica_timeout": 0.1}


def other_than(cluster: ClusterServers, master: Any) -> Any:
    return next(server for server in cluster.masters() if server is not master)


@contextmanager
def stopped(replica: Any) -> Iterator[None]:
    replica.freeze()
    try:
        yield
    finally:
        replica.thaw()


def has(replica: Any, key: str) -> bytes | None:
    """What a replica has, without being sent to its master."""
    with replica.admin.client() as alone:
        alone.execute_command("READONLY")
        found: bytes | None = alone.get(key)
        alone.execute_command("READWRITE")
        return found


def waiting(server: Any) -> list[str]:
    """The numbers of the connections that are in a WAIT at this moment."""
    return [
        one["id"]
        for one in server.admin.client_list()
        if one["cmd"] == "wait" and "b" in one["flags"]
    ]


def named(servers: list[Any], name: str) -> set[tuple[int, str]]:
    """The connections that have this name: the port of their server, their number."""
    return {
        (server.port, one["id"])
        for server in servers
        for one in server.admin.client_list()
        if one["name"] == name
    }


# ------------------------------------------------------------------ what is confirmed


async def test_who_has_it_has_it_on_a_replica_of_its_slot(
    fl: Ways, cluster: ClusterServers
) -> None:
    client = fl.client()
    for master in cluster.masters():
        key, replica = cluster.key_at(master, fl.key()), cluster.replica_of(master)
        for fence in (False, True):
            lease = await client.try_acquire(key, TTL, fence=fence, **WANTS)
            assert has(replica, key) == lease.token.encode()
            remaining_at_most(fl, lease, key)
            assert (lease.fence is not None) is fence
            assert await client.try_acquire(key, TTL, **BRIEF) is None
            with pytest.raises(fastlock.AcquireTimeout):
                await client.acquire(key, TTL, 0.05, **BRIEF)
            assert await lease.release() is True
        async with client.lock(key, TTL, auto_renew=True, **WANTS) as lease:
            assert has(replica, key) == lease.token.encode()
        assert fl.admin.exists(key) == 0


async def test_a_replica_that_is_stopped_confirms_nothing(
    fl: Ways, cluster: ClusterServers
) -> None:
    client = fl.client()
    master = cluster.master_of(fl.key())
    key, elsewhere = (
        cluster.key_at(where, fl.key()) for where in (master, other_than(cluster, master))
    )
    with stopped(cluster.replica_of(master)):
        for fence in (False, True):
            with pytest.raises(fastlock.NotReplicated) as caught:
                await client.acquire(key, TTL, 5, fence=fence, **BRIEF)
            assert (caught.value.key, caught.value.confirmed, caught.value.wanted) == (key, 0, 1)
            assert master.admin.exists(key) == 0
        lease = await client.acquire(elsewhere, TTL, 5, **WANTS)
        assert await lease.release() is True
    lease = await client.acquire(key, TTL, 5, **WANTS)
    assert await lease.release() is True
    with pytest.raises(fastlock.NotReplicated, match="1 of the 2 replicas"):
        await client.try_acquire(key, TTL, min_replicas=2, replica_timeout=0.3)
    assert master.admin.exists(key) == 0


async def test_others_are_not_behind_it(fl: Ways, cluster: ClusterServers) -> None:
    client, key = await fl.warm(fl.client()), fl.key()
    master = cluster.master_of(key)
    with stopped(cluster.replica_of(master)):
        slow = fl.spawn(client.try_acquire(key, TTL, min_replicas=1, replica_timeout=15))
        await fl.until(lambda: waiting(master))
        for _ in range(5):
            assert await (await client.acquire(f"{{{key}}}other", TTL)).release() is True
        assert not slow.done()
    assert await (await slow).release() is True


# ------------------------------------------------------------------ slots that move


async def test_after_its_slot_has_moved(fl: Ways, cluster: ClusterServers) -> None:
    """MOVED is followed on that connection, too; the new master's replica confirms."""
    client, key = fl.client(), fl.key()
    source = cluster.master_of(key)
    slot, target = cluster.slot(key), other_than(cluster, source)
    assert await (await client.acquire(key, TTL, **WANTS)).release() is True
    cluster.move(slot, source, target)
    try:
        lease = await client.acquire(key, TTL, 5, **WANTS)
        assert target.admin.get(key) == lease.token.encode()
        assert has(cluster.replica_of(target), key) == lease.token.encode()
        assert await lease.release() is True
    finally:
        cluster.move(slot, target, source)


async def test_while_its_slot_is_on_its_way(fl: Ways, cluster: ClusterServers) -> None:
    """A key that is at neither is taken where the slot goes, by ASKING, and confirmed there."""
    client, key = fl.client(), fl.key()
    source = cluster.master_of(key)
    slot, target = cluster.slot(key), other_than(cluster, source)
    cluster.begin_move(slot, source, target)
    try:
        lease = await client.acquire(key, TTL, 5, **WANTS)
        there = cluster.replica_of(target).admin  # which would not tell of the slot as a client
        assert there.execute_command("CLUSTER", "GETKEYSINSLOT", slot, 9) == [key.encode()]
        assert target.admin.execute_command("CLUSTER", "COUNTKEYSINSLOT", slot) == 1
        assert await client.try_acquire(key, TTL, **BRIEF) is None
        assert await lease.release() is True
        with stopped(cluster.replica_of(target)), pytest.raises(fastlock.NotReplicated):
            await client.acquire(key, TTL, 5, **BRIEF)
        for server in (source, target):
            assert server.admin.execute_command("CLUSTER", "COUNTKEYSINSLOT", slot) == 0
    finally:
        cluster.end_move(slot, source, target)
        cluster.move(slot, target, source)


async def test_not_before_all_of_its_slot_has_arrived(fl: Ways, cluster: ClusterServers) -> None:
    """TRYAGAIN: one of the two keys that a fencing number takes is here, the other there."""
    client, key = fl.client(), fl.key()
    source = cluster.master_of(key)
    slot, target = cluster.slot(key), other_than(cluster, source)
    first = await client.acquire(key, TTL, fence=True)
    assert await first.release() is True  # the number stays
    cluster.begin_move(slot, source, target)
    try:
        waiter = fl.spawn(client.acquire(key, TTL, 10, fence=True, **WANTS))
        await fl.sleep(0.1)
        assert not waiter.done()
    finally:
        cluster.move_keys(slot, source, target)
        cluster.end_move(slot, source, target)
    lease = await waiter
    assert lease.fence > first.fence
    assert has(cluster.replica_of(target), key) == lease.token.encode()
    assert await lease.release() is True
    cluster.move(slot, target, source)


async def test_while_nobody_serves_its_slot(fl: Ways, cluster: ClusterServers) -> None:
    """CLUSTERDOWN: surely not done, and tried again."""
    client, key = fl.client(), fl.key()
    master, slot = cluster.master_of(key), cluster.slot(key)
    assert await (await client.acquire(key, TTL, **WANTS)).release() is True
    master.admin.execute_command("CLUSTER", "DELSLOTS", slot)
    try:
        waiter = fl.spawn(client.acquire(key, TTL, 10, **WANTS))
        await fl.sleep(0.1)
        assert not waiter.done()
    finally:
        master.admin.execute_command("CLUSTER", "ADDSLOTS", slot)
    lease = await waiter
    assert has(cluster.replica_of(master), key) == lease.token.encode()
    assert await lease.release() is True


@pytest.mark.slow
def test_a_master_that_is_demoted_meanwhile(cluster: ClusterServers) -> None:
    """What it still says proves nothing of the next one, and nothing stays there.

    Redis ends WAIT by that, and then the next master is asked; Valkey lets it last.
    """
    master = cluster.master_of("{demoted}")
    replica = cluster.replica_of(master)
    caught: list[tuple[int, int]] = []

    async def body(fl: Ways) -> None:
        client, key = fl.client(), f"{{demoted}}{fl.api}:{fl.core}"
        with pytest.raises(fastlock.NotReplicated) as error:
            await client.acquire(key, TTL, 20, min_replicas=2, replica_timeout=1.5)
        caught.append((error.value.wanted, fl.admin.exists(key)))
        lease = await client.acquire(key, TTL, 20, **WANTS)
        assert has(master, key) == lease.token.encode()
        assert await lease.release() is True

    four = Four(cluster, body)
    try:
        until(lambda: four.check() or len(waiting(master)) == len(WAYS))
        cluster.promote(replica, master)
        assert not caught
    finally:
        four.join()
        cluster.settled()
    assert caught == [(2, 0)] * len(WAYS)


@pytest.mark.slow
def test_what_its_replica_has_confirmed_outlives_a_master(cluster: ClusterServers) -> None:
    """It is killed right behind that. Four ways at once."""
    master = cluster.master_of("{survives}")
    replica = cluster.replica_of(master)
    ready = threading.Barrier(len(WAYS) + 1)
    kept: list[bool] = []

    async def body(fl: Ways) -> None:
        client, key = fl.client(), f"{{survives}}{fl.api}:{fl.core}"
        lease = await client.acquire(key, TTL, 20, **WANTS)
        ready.wait(20)
        await fl.until(lambda: cluster.is_master(replica), 20)
        kept.append(replica.admin.get(key) == lease.token.encode())
        await fl.until(lambda: cluster.master_of(key) is replica, 20)
        assert await client.try_acquire(key, TTL, **BRIEF) is None
        await lease.extend(TTL)
        assert await lease.release() is True

    four = Four(cluster, body)
    try:
        ready.wait(20)
        master.kill()
        four.join()
    finally:
        if master.process is None:
            master.start()
        cluster.settled()
    assert kept == [True] * len(WAYS)


# ------------------------------------------------------------------ who leaves in the middle


async def in_the_middle(fl: Ways, client: Any, key: str, master: Any) -> Any:
    """Somebody who has taken the lock, and waits for the replica, which is stopped."""
    waiter = fl.spawn(client.acquire(key, TTL, 30, min_replicas=1, replica_timeout=15))
    await fl.until(lambda: waiting(master) and master.admin.exists(key))
    return waiter


async def test_a_lost_answer_is_asked_for_again(fl: Ways, cluster: ClusterServers) -> None:
    """The lock was taken by the lost one; it is extended, for only that can be confirmed."""
    client, key = fl.client(), fl.key()
    master = cluster.master_of(key)
    await client.ping()  # perhaps it is that replica that it asks first
    with stopped(cluster.replica_of(master)):
        waiter = await in_the_middle(fl, client, key, master)
        token = master.admin.get(key)
        (number,) = waiting(master)
        assert master.admin.client_kill_filter(_id=number) == 1
        await fl.until(lambda: waiting(master) not in ([], [number]))
        assert not waiter.done()
    lease = await waiter
    assert lease.token.encode() == token == has(cluster.replica_of(master), key)
    remaining_at_most(fl, lease, key)
    assert await lease.release() is True


async def test_what_was_left_behind_is_ended_before_anything_is_sent_anew(
    fl: Ways, cluster: ClusterServers
) -> None:
    """At the node where it was left: it may still carry a try."""
    client, other, key = fl.client(), fl.client(), fl.key()
    master = cluster.master_of(key)
    for options in ({}, WANTS):
        for one in (client, other):
            assert await (await one.acquire(key, TTL, **options)).release() is True
        mine, left = [
            fl.raw(one)._cluster.book.node_of(key.encode()).server for one in (client, other)
        ]
        number = left.ready().info.connection_id
        mine.strays.append(left.ready().info)
        lease = await client.acquire(key, TTL, **options)
        assert number not in [int(one["id"]) for one in master.admin.client_list()]
        assert mine.strays == []
        assert await lease.release() is True


async def test_closing_the_client_ends_it(fl: Ways, cluster: ClusterServers) -> None:
    name = f"closed-{fl.key()}"
    client, key = fl.client(client_name=name), fl.key()
    master, masters = cluster.master_of(key), cluster.masters()
    await client.ping()  # perhaps it is that replica that it asks first
    with stopped(cluster.replica_of(master)):
        waiter = await in_the_middle(fl, client, key, master)
        closing = fl.spawn(client.close())
        with pytest.raises(fastlock.FastlockError, match="closed"):
            await waiter
        await closing
        await fl.until(lambda: not master.admin.exists(key) and not named(masters, name), 10)
        assert not waiting(master)
    with pytest.raises(fastlock.FastlockError, match="closed"):
        await client.try_acquire(key, TTL, min_replicas=1)


@async_only
async def test_a_cancelled_task_leaves_nothing(fl: Ways, cluster: ClusterServers) -> None:
    client, key = fl.client(), fl.key()
    master = cluster.master_of(key)
    await client.ping()  # perhaps it is that replica that it asks first
    with stopped(cluster.replica_of(master)):
        waiter = await in_the_middle(fl, client, key, master)
        waiter.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiter
        await fl.until(lambda: not master.admin.exists(key) and not waiting(master), 10)
    lease = await client.try_acquire(key, TTL, **WANTS)
    assert await lease.release() is True


class Interrupted(Exception):
    """What a signal's handler raises."""


@sync_only
async def test_an_interrupt_leaves_nothing(fl: Ways, cluster: ClusterServers) -> None:
    client, key = fl.raw(fl.client()), fl.key()
    master = cluster.master_of(key)

    def interrupt(*_: object) -> None:
        raise Interrupted

    assert client.acquire(key, TTL, **WANTS).release() is True  # connected
    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        with stopped(cluster.replica_of(master)):
            signal.setitimer(signal.ITIMER_REAL, 0.2)
            with pytest.raises(Interrupted):
                client.acquire(key, TTL, min_replicas=1, replica_timeout=15)
            await fl.until(lambda: not master.admin.exists(key) and not waiting(master), 10)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    lease = client.try_acquire(key, TTL, **WANTS)
    assert lease.release() is True


@pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")
async def test_a_forked_child_has_connections_of_its_own(fl: Ways, cluster: ClusterServers) -> None:
    name = f"forked-{fl.key()}"
    client, key = fl.client(client_name=name), fl.key()
    lease = await client.acquire(key, TTL, **WANTS)
    parents = named(cluster.alive(), name)
    child = multiprocessing.get_context("fork").Process(
        target=_child, args=(fl, client, key, lease, cluster)
    )
    child.start()
    child.join(30)
    assert child.exitcode == 0
    assert named(cluster.alive(), name) == parents
    other = await client.acquire(f"{{{key}}}parent", TTL, **WANTS)
    assert await other.release() is True
    assert await lease.release() is True


def _child(fl: Ways, client: Any, key: str, lease: Any, cluster: ClusterServers) -> None:
    async def body() -> None:
        with pytest.raises(fastlock.LockError, match="parent process"):
            await lease.release()
        assert await client.try_acquire(key, TTL, **BRIEF) is None
        mine = await client.acquire(f"{key}:child", TTL, **WANTS)
        replica = cluster.replica_of(cluster.master_of(mine.key))
        assert has(replica, mine.key) == mine.token.encode()
        assert await mine.release() is True
        await client.close()

    if fl.sync:
        drive(body())
    else:
        asyncio.set_event_loop(None)
        asyncio._set_running_loop(None)  # the parent's
        asyncio.run(body())
