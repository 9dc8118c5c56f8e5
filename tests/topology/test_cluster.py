"""A cluster: every command finds the node of its key, also while that changes.

Law: what is so, the nodes themselves say.
"""

from __future__ import annotations

import os
import pickle
from typing import Any

import pytest
from _cluster import ClusterServers
from _harness import Ways, sync_only

from fastlock.errors import AcquireTimeout, LockLost, TransportError


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


def neighbours(cluster: ClusterServers, key: str) -> tuple[int, Any, Any]:
    """The key's slot, the master that serves it, and another one."""
    source = cluster.master_of(key)
    others = [s for s in cluster.alive() if cluster.is_master(s) and s is not source]
    return cluster.slot(key), source, others[0]


async def test_after_its_slot_has_moved(fl: Ways, cluster: ClusterServers) -> None:
    client, key = fl.client(), fl.key()
    slot, source, target = neighbours(cluster, key)
    lease = await client.acquire(key, ttl=10)
    cluster.move(slot, source, target)
    assert await client.try_acquire(key) is None
    await lease.extend(20)
    assert target.admin.get(key) == lease.token.encode()
    assert await lease.release() is True
    lease = await client.acquire(key, ttl=10)
    cluster.move(slot, target, source)
    assert await lease.release(wait=False) is None
    await fl.until(lambda: source.admin.get(key) is None)
    assert not lease.lost


async def test_while_its_slot_is_on_its_way(fl: Ways, cluster: ClusterServers) -> None:
    client, key = fl.client(), fl.key()
    slot, source, target = neighbours(cluster, key)
    lease = await client.acquire(key, ttl=10)
    cluster.begin_move(slot, source, target)
    try:
        assert await client.try_acquire(key) is None  # still at the source
        await lease.extend(10)
        cluster.move_keys(slot, source, target)
        assert await client.try_acquire(key) is None  # at the target by now
        await lease.extend(10)
        assert await client.locked(key)
        other = await client.adopt(key, lease.token)
        assert await other.release() is True
        with pytest.raises(LockLost):
            await lease.extend(10)
        lease = await client.acquire(key, ttl=10)  # at neither: taken at the target
        assert source.admin.execute_command("CLUSTER", "COUNTKEYSINSLOT", slot) == 0
        with pytest.raises(AcquireTimeout):
            await client.acquire(key, timeout=0.2)
    finally:
        cluster.end_move(slot, source, target)
    assert target.admin.get(key) == lease.token.encode()
    assert await lease.release() is True
    cluster.move(slot, target, source)


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
        await fl.until(waiting.done, 2)
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
    slot, source, target = neighbours(cluster, keys[3])
    cluster.move(slot, source, target)
    results = await client.release_many(leases)
    assert results == [key not in (keys[7], keys[11]) for key in keys]
    assert [fl.admin.exists(key) for key in keys] == [key == keys[7] for key in keys]
    assert await held.release() is True
    cluster.move(slot, target, source)


async def test_a_batch_while_a_slot_is_on_its_way(fl: Ways, cluster: ClusterServers) -> None:
    client = fl.client()
    tag = fl.key()
    keys = [f"{{{tag}}}{number}" for number in range(10)] + [fl.key() for _ in range(10)]
    slot, source, target = neighbours(cluster, keys[0])
    first = await client.try_acquire_many(keys[:5], ttl=10)
    cluster.begin_move(slot, source, target)
    try:
        leases = await client.try_acquire_many(keys, ttl=10)
        assert [lease is None for lease in leases] == [number < 5 for number in range(20)]
        assert await client.extend_many([*first, *leases[5:]], 20) == [True] * 20
        cluster.move_keys(slot, source, target)
        assert await client.release_many([*first, *leases[5:]]) == [True] * 20
    finally:
        cluster.end_move(slot, source, target)
        cluster.move(slot, target, source)


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
