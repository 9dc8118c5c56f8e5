"""A cluster's client when a node hangs, when nobody serves a slot, and when callers leave early.

Law: what is so, the nodes say. A node that hangs is stopped (SIGSTOP).
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import _servers
import pytest
from _cluster import NODE_TIMEOUT, ClusterServers
from _four import WAYS, Four
from _harness import SERVERS, Ways, async_only, clock, sync_only
from _strikes import Interrupt, struck_at
from _waiting import nothing_left, queue_of, waiting

import fastlock
from fastlock import _cluster, _fork, _ops_fair, _scripted

#: They are about the client.
pytestmark = pytest.mark.parametrize(
    "cluster", SERVERS if _servers.NAMED else SERVERS[:1], indirect=True
)

TTL = 30


def releases(server: Any) -> int:
    """How many commands that release it has carried out since its statistics began."""
    stats = server.admin.info("commandstats")
    verbs = ("delifeq", "delex", "eval", "evalsha")
    return sum(stats[f"cmdstat_{verb}"]["calls"] for verb in verbs if f"cmdstat_{verb}" in stats)


def cut(server: Any, name: str) -> None:
    """End the connections of that name there."""
    for one in server.admin.client_list():
        if one["name"] == name:
            server.admin.client_kill_filter(_id=one["id"])


@contextmanager
def undisturbed(cluster: ClusterServers) -> Iterator[None]:
    """The others take nobody that hangs for dead meanwhile."""
    for server in cluster.alive():
        server.admin.config_set("cluster-node-timeout", 60_000)
    try:
        yield
    finally:
        for server in cluster.alive():
            server.admin.config_set("cluster-node-timeout", NODE_TIMEOUT)
        cluster.settled()


# ------------------------------------------------------------------ giving back


def test_a_node_that_hangs_delays_no_give_back_at_another(cluster: ClusterServers) -> None:
    """Four ways at once."""
    hanging, fine = cluster.masters()[:2]
    stuck, free = cluster.key_at(hanging, "stuck"), cluster.key_at(fine, "free")
    ready = threading.Barrier(len(WAYS) + 1)
    took: list[float] = []

    async def body(fl: Ways) -> None:
        name = f"{fl.api}-{fl.core}"
        client = fl.client(client_name=name, socket_timeout=0.3, retries=0)
        there, here = f"{{{stuck}}}{name}", f"{{{free}}}{name}"
        assert await (await client.acquire(there, TTL)).release() is True
        lease, other = [await client.acquire(key, TTL) for key in (here, f"{here}:other")]
        many = [(f"{there}:{number}".encode(), b"token") for number in range(1100)]
        ready.wait(20)
        ready.wait(20)  # it is stopped
        with pytest.raises(fastlock.OutcomeUnknown):
            await client.acquire(there, TTL)  # is given back there, as soon as that is possible
        cut(fine, name)
        began = time.monotonic()
        await lease.release(wait=False)  # on a connection that is lost: another one is made
        # And what comes behind a portion for the other node, in the same batch.
        fl.raw(client)._give_back_pairs([*many, other.pair], clock() + TTL, _fork.generation)
        await fl.until(lambda: not fine.admin.exists(here, f"{here}:other"), 10)
        took.append(time.monotonic() - began)
        ready.wait(20)
        ready.wait(20)  # it goes on
        await fl.until(lambda: not cluster.admin.exists(there), 10)

    with undisturbed(cluster):
        four = Four(cluster, body)
        try:
            ready.wait(20)
            hanging.freeze()
            ready.wait(20)
            ready.wait(20)
        finally:
            hanging.thaw()
        ready.wait(20)
        four.join()
    assert len(took) == len(WAYS)
    assert min(took) < 1.0, took  # of a busy machine


async def test_what_an_error_takes_along_is_given_back_at_once(
    fl: Ways, cluster: ClusterServers
) -> None:
    """On the same connection, right behind what took it, and then once more to be sure."""
    client, key = fl.client(), fl.key()
    master = cluster.master_of(key)
    keys = [f"{{{key}}}{number}" for number in range(3)]
    for lease in await client.try_acquire_many(keys, TTL, fence=True):  # it knows the script now
        assert await lease.release() is True
    master.admin.rpush(keys[2], "no lock")
    master.admin.config_resetstat()
    with pytest.raises(fastlock.ServerError, match="WRONGTYPE"):
        await client.try_acquire_many(keys, TTL, fence=True)
    await fl.until(lambda: releases(master) >= 9 and not master.admin.exists(*keys[:2]))
    assert releases(master) == 9  # by scripts the three tries are among them
    master.admin.delete(keys[2])


@async_only
async def test_closing_a_coroutine_after_its_loop_has_stopped_leaves_no_lock(
    fl: Ways, cluster: ClusterServers
) -> None:
    """No task can be made for it then: what is sent at once must do."""
    key = fl.key()

    def elsewhere() -> None:
        loop = asyncio.new_event_loop()
        try:
            client = fl.client_class(cluster.uri)
            lease = loop.run_until_complete(client.acquire(key, TTL))
            assert loop.run_until_complete(lease.release()) is True

            async def begin() -> Any:
                coroutine = client.acquire(key, TTL)
                coroutine.send(None)
                return coroutine

            coroutine = loop.run_until_complete(begin())
            coroutine.close()
            loop.run_until_complete(client.close())
        finally:
            loop.close()

    await asyncio.to_thread(elsewhere)
    await fl.until(lambda: not fl.admin.exists(key))


# Connections made in the middle are closed by the garbage collector, which says so: see
# test_leaving_early.py.
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@sync_only
@pytest.mark.parametrize("replicas", [0, 1])
async def test_an_interrupt_at_every_point_leaves_no_lock(
    fl: Ways, cluster: ClusterServers, replicas: int
) -> None:
    client, key = fl.raw(fl.client()), fl.key()
    admin = cluster.master_of(key).admin
    wants = {"min_replicas": replicas, "replica_timeout": 5}
    assert client.try_acquire(key, TTL, **wants).release() is True
    step, stride = 1, 1
    gc.disable()  # what it finds could be struck, where no exception gets out
    try:
        while True:
            result = None
            try:
                with struck_at(step) as where:
                    result = client.try_acquire(key, TTL, **wants)
            except Interrupt:
                pass
            if not where:
                break
            assert result is None, f"{where} was swallowed"
            await fl.until(lambda: not admin.exists(key), 15)
            lease = client.try_acquire(key, TTL)
            assert admin.get(key) == lease.token.encode(), where
            assert lease.release() is True, where
            step += stride
            stride = 1 + replicas * (step % 5)  # hundreds of lines: some of them in each run
    finally:
        gc.enable()
        gc.collect()
    assert step > 50
    assert result.release() is True


@async_only
async def test_cancelling_at_every_turn_of_the_loop_leaves_no_lock(
    fl: Ways, cluster: ClusterServers
) -> None:
    client, key = fl.client(), fl.key()
    admin = cluster.master_of(key).admin
    for wants in ({}, {"min_replicas": 1, "replica_timeout": 5}):
        assert await (await client.acquire(key, TTL, **wants)).release() is True
        for turns in itertools.count():
            task = asyncio.ensure_future(client.acquire(key, TTL, 20, **wants))
            for _ in range(turns):
                await asyncio.sleep(0)
            done = task.done()
            task.cancel()
            await asyncio.wait([task])
            if done:
                break
            assert task.cancelled()
            await fl.until(lambda: not admin.exists(key))
            lease = await client.try_acquire(key, TTL)
            assert admin.get(key) == lease.token.encode()
            assert await lease.release() is True
        assert turns > 1
        assert await task.result().release() is True


# ------------------------------------------------------------------ waiting


async def test_closing_the_client_ends_a_pause(
    fl: Ways, cluster: ClusterServers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a caller whose slot nobody serves at the moment."""
    client, key = fl.client(), fl.key()
    master, slot = cluster.master_of(key), cluster.slot(key)
    assert await (await client.acquire(key, TTL)).release() is True
    paused = threading.Event()

    def pause(*_: object) -> float:
        paused.set()
        return 40.0

    monkeypatch.setattr(_cluster, "_pause", pause)
    master.admin.execute_command("CLUSTER", "DELSLOTS", slot)
    try:
        waiter = fl.spawn(client.acquire(key, TTL, 60))
        await fl.until(paused.is_set)
        await fl.sleep(0.05)
        began = time.monotonic()
        closing = fl.spawn(client.close())
        with pytest.raises(fastlock.FastlockError, match="the client is closed"):
            await waiter
        await closing
        assert time.monotonic() - began < 20
    finally:
        master.admin.execute_command("CLUSTER", "ADDSLOTS", slot)


async def test_the_first_slot_is_tried_first(fl: Ways, cluster: ClusterServers) -> None:
    """The same order for all, whatever order the keys come in: who is refused has taken nothing."""
    client, other = fl.client(), fl.client()
    keys = sorted((fl.key() for _ in range(6)), key=cluster.slot, reverse=True)
    held = await other.acquire(keys[-1], TTL)
    for server in cluster.masters():
        server.admin.config_resetstat()
    with pytest.raises(fastlock.AcquireTimeout):
        async with client.lock_all(keys, TTL, 0):
            pass
    assert sum(map(releases, cluster.masters())) <= 1  # by scripts its only try is one of them
    assert await held.release() is True


async def test_only_who_is_next_in_a_queue_is_told(
    fl: Ways, cluster: ClusterServers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others watch a key for their turn at the node of the lock, not the lock itself."""
    monkeypatch.setattr(_scripted, "PLACE", 180_000)
    monkeypatch.setattr(_ops_fair, "KEEP", 60.0)
    key = fl.key()
    admin = cluster.master_of(key).admin
    admin.set(key, "somebody's")
    waiters = []
    for number in range(1, 6):
        client = fl.client(retry_timeout=60_000)
        waiters.append(fl.spawn(client.acquire(key, TTL, 40, fair=True)))
        await fl.until(lambda n=number: len(waiting(admin, key)) == n)  # type: ignore[misc]
    pattern = f"{queue_of(key).decode()}:*"
    await fl.until(lambda: len(admin.keys(pattern)) == len(waiters) - 1)
    await fl.sleep(0.2)  # until all of them watch
    assert admin.delete(key) == 1
    first = await waiters.pop(0)
    await fl.sleep(0.2)  # all have asked once where they are now
    admin.config_resetstat()
    assert await first.release() is True
    await fl.until(waiters[0].done)
    await fl.sleep(0.1)
    steps = admin.info("commandstats")["cmdstat_evalsha"]["calls"]
    assert 1 <= steps <= 2, "others have asked than who is next"
    for waiter in waiters:
        assert await (await waiter).release() is True
    assert nothing_left(admin, key)
