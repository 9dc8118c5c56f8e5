"""A cluster: every command finds the node of its key, also while that changes.

Law: what is so, the nodes themselves say.
"""

from __future__ import annotations

import gc
import itertools
import os
import pickle
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from _cluster import ClusterServers
from _harness import Ways, sync_only
from _strikes import Interrupt, struck_at

from fastlock._slots import slot
from fastlock.errors import AcquireTimeout, LockLost, ServerError, TransportError


async def test_keys_of_all_nodes(fl: Ways, cluster: ClusterServers) -> None:
    client = fl.client()
    served = set()
    for _ in range(30):
        key = fl.key()
        served.add(cluster.master_of(key).port)
        lease = await client.try_acquire(key, ttl=10)
        assert await client.try_acquire(key) is None
        assert fl.admin.get(key) == lease.token.encode()
        await lease.extend(20)
        assert 19 < fl.admin.pttl(key) / 1000 <= 20
        assert await client.locked(key)
        assert await client.holder(key)
        assert await lease.release() is True
        assert fl.admin.get(key) is None
    assert len(served) == 3


async def test_numbers_turns_and_other_ways_to_lock(fl: Ways) -> None:
    client = fl.client()
    for _ in range(5):
        key = fl.key()
        async with client.lock(key, ttl=5, fence=True) as lease:
            first = lease.fence
        async with client.lock(key, ttl=5, fence=True, fair=True) as lease:
            assert lease.fence > first
            with pytest.raises(AcquireTimeout):
                await client.acquire(key, timeout=0.05, fair=True)
        lease = await client.acquire(key)
        other = await client.adopt(key, lease.token)
        assert await other.release() is True
        assert await lease.release() is False
        assert await client.force_release(key) is False
    assert await client.ping() > 0
    assert (await client.server()).version in cluster_version(fl)


def cluster_version(fl: Ways) -> str:
    version: str = fl.server.version
    return version


async def test_a_release_that_nobody_waits_for(fl: Ways) -> None:
    client = fl.client()
    for _ in range(10):
        key = fl.key()
        lease = await client.acquire(key, ttl=10)
        assert await lease.release(wait=False) is None
        await fl.until(lambda key=key: fl.admin.get(key) is None)
        assert not lease.lost


async def test_usual_answers_take_no_operation(fl: Ways) -> None:
    client, key = fl.client(handover_time=60), fl.key()  # no courtesy, however slow all this is
    raw = fl.raw(client)
    assert await (await client.acquire(key, ttl=10)).release() is True

    def routed(call: Any) -> Any:
        raise AssertionError(f"{call.verb} did not go straight")

    raw._call = routed
    lease = await client.try_acquire(key, ttl=10)
    assert fl.admin.get(key) == lease.token.encode()
    assert await client.try_acquire(key) is None
    assert await lease.release() is True
    async with client.lock(key, ttl=10, timeout=5):
        assert fl.admin.exists(key)
    assert not fl.admin.exists(key)
    del raw._call
    fl.admin.rpush(key, "no lock")
    with pytest.raises(ServerError, match=f"WRONGTYPE.*{key}"):
        await client.acquire(key, ttl=10, timeout=5)
    fl.admin.delete(key)
    lease = await client.acquire(key, ttl=10)
    fl.admin.delete(key)
    assert await lease.release() is False


@pytest.mark.parametrize("step", ["try", "release"])
async def test_a_lost_answer_of_one_node(fl: Ways, cluster: ClusterServers, step: str) -> None:
    client, key = fl.client(), fl.key()
    assert await (await client.acquire(key, ttl=10)).release() is True
    lease = None if step == "try" else await client.acquire(key, ttl=10)
    home = cluster.master_of(key)
    nodes = fl.raw(client)._cluster.book.nodes.values()
    (node,) = [node for node in nodes if node.address[1] == home.port]
    home.freeze()
    try:
        waiting = fl.spawn(client.try_acquire(key, ttl=10) if lease is None else lease.release())
        await fl.until(lambda: node.server.ready().pipe.owed)
        await fl.sleep(0.02)
        node.server.ready().pipe.abort("the test ends it")
        await fl.sleep(0.02)
    finally:
        home.thaw()
    if lease is None:
        lease = await waiting
        assert fl.admin.get(key) == lease.token.encode()
        assert await lease.release() is True
    else:
        assert await waiting is True
    assert not fl.admin.exists(key)


def neighbours(cluster: ClusterServers, key: str) -> tuple[int, Any, Any]:
    """The key's slot, the master that serves it, and another one."""
    source = cluster.master_of(key)
    others = [s for s in cluster.alive() if cluster.is_master(s) and s is not source]
    return cluster.slot(key), source, others[0]


async def test_after_its_slot_has_moved(fl: Ways, cluster: ClusterServers) -> None:
    client, key = fl.client(), fl.key()
    moved, source, target = neighbours(cluster, key)
    lease = await client.acquire(key, ttl=10)
    cluster.move(moved, source, target)
    assert await client.try_acquire(key) is None
    await lease.extend(20)
    assert target.admin.get(key) == lease.token.encode()
    assert await lease.release() is True
    lease = await client.acquire(key, ttl=10)
    cluster.move(moved, target, source)
    assert await lease.release(wait=False) is None
    await fl.until(lambda: source.admin.get(key) is None)
    assert not lease.lost


async def test_while_its_slot_is_on_its_way(fl: Ways, cluster: ClusterServers) -> None:
    client, key = fl.client(), fl.key()
    moved, source, target = neighbours(cluster, key)
    lease = await client.acquire(key, ttl=10)
    cluster.begin_move(moved, source, target)
    try:
        assert await client.try_acquire(key) is None  # still at the source
        await lease.extend(10)
        cluster.move_keys(moved, source, target)
        assert await client.try_acquire(key) is None  # at the target by now
        await lease.extend(10)
        assert await client.locked(key)
        other = await client.adopt(key, lease.token)
        assert await other.release() is True
        with pytest.raises(LockLost):
            await lease.extend(10)
        lease = await client.acquire(key, ttl=10)  # at neither: taken at the target
        assert source.admin.execute_command("CLUSTER", "COUNTKEYSINSLOT", moved) == 0
        with pytest.raises(AcquireTimeout):
            await client.acquire(key, timeout=0.2)
    finally:
        cluster.end_move(moved, source, target)
    assert target.admin.get(key) == lease.token.encode()
    assert await lease.release() is True
    cluster.move(moved, target, source)


async def test_two_clients_wake_each_other(fl: Ways) -> None:
    one, other = fl.client(), fl.client(retry_timeout=60_000)
    for _ in range(3):
        key = fl.key()
        lease = await one.acquire(key, ttl=60)
        waiting = fl.spawn(other.acquire(key, ttl=60, timeout=20))
        node = fl.server.master_of(key)
        await fl.until(lambda node=node: node.admin.info("clients")["tracking_clients"])
        assert not waiting.done()
        assert await lease.release() is True
        await fl.until(waiting.done, 15)
        assert await (await waiting).release() is True


async def test_batches_over_all_nodes(fl: Ways, cluster: ClusterServers) -> None:
    client = fl.client()
    keys = [fl.key() for _ in range(40)]
    held = await client.acquire(keys[7], ttl=10)
    leases = await client.try_acquire_many(keys, ttl=10)
    assert [lease is not None for lease in leases] == [key != keys[7] for key in keys]
    assert await client.extend_many(leases, 20) == [key != keys[7] for key in keys]
    gone = leases[11]
    assert fl.admin.delete(gone.key) == 1
    moved, source, target = neighbours(cluster, keys[3])
    cluster.move(moved, source, target)
    results = await client.release_many(leases)
    assert results == [key not in (keys[7], keys[11]) for key in keys]
    assert [fl.admin.exists(key) for key in keys] == [key == keys[7] for key in keys]
    assert await held.release() is True
    cluster.move(moved, target, source)


async def test_a_batch_while_a_slot_is_on_its_way(fl: Ways, cluster: ClusterServers) -> None:
    client = fl.client()
    tag = fl.key()
    keys = [f"{{{tag}}}{number}" for number in range(10)] + [fl.key() for _ in range(10)]
    moved, source, target = neighbours(cluster, keys[0])
    first = await client.try_acquire_many(keys[:5], ttl=10)
    cluster.begin_move(moved, source, target)
    try:
        leases = await client.try_acquire_many(keys, ttl=10)
        assert [lease is None for lease in leases] == [number < 5 for number in range(20)]
        assert await client.extend_many([*first, *leases[5:]], 20) == [True] * 20
        cluster.move_keys(moved, source, target)
        assert await client.release_many([*first, *leases[5:]]) == [True] * 20
    finally:
        cluster.end_move(moved, source, target)
        cluster.move(moved, target, source)


def at_each(cluster: ClusterServers, name: str, count: int) -> dict[Any, list[str]]:
    """For each master so many keys that it serves."""
    found: dict[Any, list[str]] = {s: [] for s in cluster.alive() if cluster.is_master(s)}
    served = {}
    for first, last, where, *_ in cluster.alive()[0].admin.execute_command("CLUSTER", "SLOTS"):
        served.update(dict.fromkeys(range(first, last + 1), where[1]))
    for key in (f"{name}:{number}" for number in itertools.count()):
        own = next(keys for s, keys in found.items() if s.port == served[slot(key.encode())])
        if len(own) < count:
            own.append(key)
        if all(len(keys) == count for keys in found.values()):
            return found
    raise AssertionError


async def test_a_batch_larger_than_what_goes_out_together(
    fl: Ways, cluster: ClusterServers
) -> None:
    client, name = fl.client(), fl.key()
    keys = [f"{name}:{number}" for number in range(4000)]
    held = [await client.acquire(key, ttl=10) for key in (keys[0], keys[1999], keys[-1])]
    leases = await client.try_acquire_many(keys, ttl=10)
    refused = [place for place, lease in enumerate(leases) if lease is None]
    assert refused == [0, 1999, 3999]
    assert [lease.key for lease in leases if lease] == [
        key for place, key in enumerate(keys) if place not in refused
    ]
    for place in range(1, 3999, 97):
        assert fl.admin.get(keys[place]) == (leases[place] or held[1]).token.encode()
    results = await client.release_many(leases)
    assert results == [place not in refused for place in range(4000)]
    assert await client.release_many(held) == [True] * 3


@pytest.mark.parametrize("number", [0, 2])
async def test_a_batch_is_with_all_nodes_before_one_has_answered(
    fl: Ways, cluster: ClusterServers, number: int
) -> None:
    """And nobody at another node waits for the one that is late."""
    client, name = fl.client(), fl.key()
    parts = at_each(cluster, name, 4)
    keys = [key for own in zip(*parts.values(), strict=True) for key in own]
    assert await client.release_many(await client.try_acquire_many(keys, 10)) == [True] * 12
    late = list(parts)[number]
    rest = [(server, key) for server, own in parts.items() if server is not late for key in own]
    late.freeze()
    try:
        batch = fl.spawn(client.try_acquire_many(keys, ttl=10))
        await fl.until(lambda: all(server.admin.exists(key) for server, key in rest), 4)
        began = time.monotonic()
        for _, key in rest:
            assert await client.try_acquire(key) is None
            key = f"beside:{{{key}}}"
            assert await (await client.acquire(key, ttl=10)).release() is True
        assert time.monotonic() - began < 3  # whoever waits for that node waits for 5 s
        assert not batch.done()
    finally:
        late.thaw()
    leases = await batch
    assert [fl.admin.get(key) for key in keys] == [lease.token.encode() for lease in leases]
    assert await client.release_many(leases) == [True] * 12


async def test_a_batch_of_which_one_connection_breaks(fl: Ways, cluster: ClusterServers) -> None:
    """What the others answered counts; of the rest is asked whose it is."""
    client, name = fl.client(), fl.key()
    parts = at_each(cluster, name, 4)
    keys = [key for own in zip(*parts.values(), strict=True) for key in own]
    assert await client.release_many(await client.try_acquire_many(keys, 10)) == [True] * 12
    late = list(parts)[1]
    held = await client.acquire(parts[late][2], ttl=10)
    leases: list[Any] = []
    nodes = fl.raw(client)._cluster.book.nodes.values()
    (node,) = [node for node in nodes if node.address[1] == late.port]
    for taking in (True, False):
        late.freeze()
        try:
            if taking:
                batch = fl.spawn(client.try_acquire_many(keys, ttl=10))
            else:
                batch = fl.spawn(client.release_many(leases))
            await fl.until(lambda: node.server.ready().pipe.owed)
            await fl.sleep(0.05)
            node.server.ready().pipe.abort("the test ends it")
            await fl.sleep(0.05)
        finally:
            late.thaw()
        if taking:
            leases = await batch
            assert [lease is not None for lease in leases] == [key != held.key for key in keys]
            wanted = [(lease or held).token.encode() for lease in leases]
            assert [fl.admin.get(key) for key in keys] == wanted
            assert all(lease.valid() for lease in leases if lease)
        else:
            assert await batch == [key != held.key for key in keys]
            assert [fl.admin.exists(key) for key in keys] == [key == held.key for key in keys]
    assert await held.release() is True


@contextmanager
def uncollected() -> Iterator[None]:
    """What an earlier interrupt has left in cycles ends outside: there nothing strikes."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


# Struck between its making and its owner's keeping it, a socket is closed by the garbage collector,
# which says so: an acquire that comes back again and again listens for others at times.
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@sync_only
@pytest.mark.slow
@pytest.mark.parametrize("way", ["try_acquire", "with"])
async def test_an_interrupt_at_every_point_of_a_try(
    fl: Ways, cluster: ClusterServers, way: str
) -> None:
    client, key = fl.raw(fl.client()), fl.key()
    home = cluster.master_of(key).admin
    assert client.acquire(key, 30).release() is True
    calls = {
        "try_acquire": lambda: client.try_acquire(key, 30),
        "with": lambda: client.lock(key, 30).__enter__(),
    }
    for step in range(1, 2000):
        result = None
        try:
            with uncollected(), struck_at(step) as where:
                result = calls[way]()
        except Interrupt:
            pass
        if not where:
            break
        assert result is None, f"{where} was swallowed"
        await fl.until(lambda: not home.exists(key), 15)
        # The connection is in order, or a new one is.
        lease = client.try_acquire(key, 5)
        assert lease is not None, where
        assert lease.release() is True, where
    assert 5 < step < 1999
    assert result.release() is True


@sync_only
@pytest.mark.slow
async def test_an_interrupt_at_every_point_of_a_batch(fl: Ways, cluster: ClusterServers) -> None:
    client = fl.raw(fl.client())
    parts = at_each(cluster, fl.key(), 2)
    keys = [key for own in parts.values() for key in own]
    homes = {key: server.admin for server, own in parts.items() for key in own}
    client.release_many(client.try_acquire_many(keys, 30))

    async def all_free(where: list[str]) -> None:
        await fl.until(lambda: not any(homes[key].exists(key) for key in keys), 15)
        leases = client.try_acquire_many(keys, 30)
        assert None not in leases, where
        assert client.release_many(leases) == [True] * 6, where

    for step in range(1, 2000):
        result = None
        try:
            with uncollected(), struck_at(step) as where:
                result = client.try_acquire_many(keys, 30)
        except Interrupt:
            pass
        if not where:
            break
        assert result is None, f"{where} was swallowed"
        await all_free(where)
    assert 20 < step < 1999
    leases = result
    for step in range(1, 2000):
        results = None
        try:
            with uncollected(), struck_at(step) as where:
                results = client.release_many(leases)
        except Interrupt:
            pass
        if not where:
            break
        assert results is None, f"{where} was swallowed"
        for lease in leases:  # whatever is in doubt, nobody takes for freed
            if not lease.over and not lease.doubt:
                assert homes[lease.key].get(lease.key) == lease.token.encode(), where
        client.release_many(leases)
        await all_free(where)
        leases = client.try_acquire_many(keys, 30)
    assert 20 < step < 1999
    assert results == [True] * 6


async def test_several_locks_or_none(fl: Ways, cluster: ClusterServers) -> None:
    client, tag = fl.client(), fl.key()
    keys = [f"{{{tag}}}{number}" for number in range(3)]
    async with client.lock_all(keys, ttl=10) as leases:
        assert [fl.admin.get(lease.key) for lease in leases] == [
            lease.token.encode() for lease in leases
        ]
        with pytest.raises(AcquireTimeout):
            async with client.lock_all(keys[1:], timeout=0.1):
                pass
    assert not any(map(fl.admin.exists, keys))


@pytest.mark.parametrize("fence", [False, True])
async def test_locks_of_several_slots_or_none(fl: Ways, fence: bool) -> None:
    client, other = fl.client(), fl.client()
    keys = [fl.key() for _ in range(8)]
    async with client.lock_all(keys, ttl=10, fence=fence) as leases:
        assert [lease.key for lease in leases] == keys
        assert [fl.admin.get(key) for key in keys] == [lease.token.encode() for lease in leases]
        assert all((lease.fence is not None) is fence for lease in leases)
        with pytest.raises(AcquireTimeout):
            async with other.lock_all(keys[::-1], timeout=0.1):
                pass
    assert not any(map(fl.admin.exists, keys))
    for key in keys:  # whichever of them it is: none of the others stays
        held = await other.acquire(key, ttl=10)
        with pytest.raises(AcquireTimeout):
            async with client.lock_all(keys, timeout=0, fence=fence):
                pass
        assert [fl.admin.exists(one) for one in keys] == [one == key for one in keys]
        assert await held.release() is True


async def test_who_waits_for_all_holds_none(fl: Ways) -> None:
    client, other = fl.client(), fl.client()
    keys = [fl.key() for _ in range(6)]
    held = await other.acquire(keys[3], ttl=10)

    async def all_of_them() -> int:
        async with client.lock_all(keys, ttl=10, timeout=10) as leases:
            return len(leases)

    waiting = fl.spawn(all_of_them())
    await fl.sleep(0.3)
    rest = keys[:3] + keys[4:]
    leases = [await other.acquire(key, ttl=10, timeout=2) for key in rest]
    await other.release_many([*leases, held])
    assert await waiting == 6
    assert not any(map(fl.admin.exists, keys))


async def test_a_released_lock_goes_on_to_the_next_of_the_client(fl: Ways) -> None:
    client, key = fl.client(), fl.key()
    order: list[int] = []

    async def one(number: int) -> None:
        async with client.lock(key, ttl=10, timeout=10):
            order.append(number)
            await fl.sleep(0.01)

    async with client.lock(key, ttl=10):
        waiting = []
        for number in range(4):
            waiting.append(fl.spawn(one(number)))
            await fl.sleep(0.05)
    for each in waiting:
        await each
    assert order == [0, 1, 2, 3]
    assert fl.admin.exists(key) == 0


@sync_only
async def test_a_forked_child_goes_its_own_way(fl: Ways) -> None:
    client, keys = fl.raw(fl.client()), [fl.key() for _ in range(6)]
    leases = [client.acquire(key, 10, auto_renew=True) for key in keys[:3]]
    child = os.fork()
    if not child:
        status = 1
        try:
            taken = client.try_acquire_many(keys, 10)
            fine = [lease is None for lease in taken] == [True] * 3 + [False] * 3
            fine = fine and client.release_many(taken) == [False] * 3 + [True] * 3
            fine = fine and not any(lease.valid() for lease in leases)
            client.close()
            status = 0 if fine else 2
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    assert [lease.release() for lease in leases] == [True] * 3


async def test_a_spec_finds_its_client_again(fl: Ways) -> None:
    client, key = fl.raw(fl.client()), fl.key()
    spec = pickle.loads(pickle.dumps(client.lock(key, ttl=5)))
    assert spec._client is client
    assert isinstance(client, fl.client_class)


async def test_where_no_node_answers(fl: Ways) -> None:
    client = fl.client("redis+cluster://127.0.0.1:1,127.0.0.1:2", retries=1)
    with pytest.raises(TransportError, match="tells the map") as caught:
        await client.try_acquire(fl.key())
    assert not caught.value.sent
