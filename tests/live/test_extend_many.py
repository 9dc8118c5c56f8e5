"""Many leases extended at once: each result is exact, and no deadline says too much."""

from __future__ import annotations

from typing import Any

import pytest
from _harness import Ways, one_server, remaining_at_most
from test_faults_many import ready

import fastlock


async def test_all_are_extended_in_one_go(fl: Ways) -> None:
    client = await fl.warm(fl.client())
    keys = [fl.key() for _ in range(2500)]
    leases = await client.try_acquire_many(keys, ttl=5)
    assert await client.extend_many(leases, 60) == [True] * 2500
    for key, lease in zip(keys[::100], leases[::100], strict=True):
        assert lease.ttl == 60
        assert lease.remaining() > 50
        remaining_at_most(fl, lease, key)
    assert await client.release_many(leases) == [True] * 2500


async def test_each_keeps_its_own_ttl(fl: Ways) -> None:
    client = await fl.warm(fl.client())
    keys = [fl.key() for _ in range(4)]
    ttls = [5, 20.5, 5, 60]
    leases = [await client.acquire(key, ttl) for key, ttl in zip(keys, ttls, strict=True)]
    for key in keys:
        fl.admin.pexpire(key, 3000)
    assert await client.extend_many(leases) == [True] * 4
    for key, lease, ttl in zip(keys, leases, ttls, strict=True):
        assert ttl * 0.9 < lease.remaining() < lease.ttl == ttl
        remaining_at_most(fl, lease, key)
    await client.release_many(leases)


async def test_what_is_no_longer_ours_is_told(fl: Ways) -> None:
    client = await fl.warm(fl.client())
    keys = [fl.key() for _ in range(5)]
    leases = await client.try_acquire_many(keys, ttl=30)
    await leases[1].release()
    fl.admin.delete(keys[2])
    fl.admin.set(keys[3], "somebody else's", px=60_000)
    assert await client.extend_many([*leases, None, leases[0]], 40) == [
        True, False, False, False, True, False, True,
    ]  # fmt: skip
    assert [bool(lease.lost) for lease in leases] == [False, False, True, True, False]
    assert fl.admin.get(keys[3]) == b"somebody else's"
    assert fl.admin.exists(keys[2]) == 0
    with pytest.raises(fastlock.LockLost):
        await leases[3].extend()
    assert await client.extend_many(leases[1:4]) == [False] * 3
    assert await client.extend_many([]) == []
    await client.release_many(leases)
    fl.admin.delete(keys[3])


async def test_it_takes_few_writes(fl: Ways) -> None:
    client, proxy, keys = await ready(fl, 900)
    leases = await client.try_acquire_many(keys, ttl=30)
    before = len(proxy.verbs())
    assert await client.extend_many(leases, 40) == [True] * 900
    assert len(proxy.verbs()) - before == 900
    assert len(set(proxy.verbs()[before:])) == 1
    await client.release_many(leases)


@pytest.mark.parametrize("nth", [1, 57, 200])
@pytest.mark.parametrize("fault", ["lose_reply", "cut_reply", "cut_before"])
async def test_a_batch_cut_midway_is_finished(fl: Ways, fault: str, nth: int) -> None:
    client, proxy, keys = await ready(fl, 200)
    leases = await client.try_acquire_many(keys, ttl=10)
    planned = proxy.fault(fault, nth=nth, size=2)
    assert await client.extend_many(leases, 30) == [True] * 200
    await fl.happened(planned)
    for key, lease in zip(keys, leases, strict=True):
        assert lease.remaining() > 20
        remaining_at_most(fl, lease, key)
    await client.release_many(leases)


@one_server
async def test_an_answer_lost_for_good_leaves_the_earlier_deadline(fl: Ways) -> None:
    client, proxy, keys = await ready(fl, 40, retries=1)
    leases = await client.try_acquire_many(keys, ttl=30)
    before = [lease.deadline for lease in leases]
    proxy.fault("lose_reply", nth=20)
    last = proxy.fault("lose_reply", nth=40)  # the first of the second write
    with pytest.raises(fastlock.OutcomeUnknown) as caught:
        await client.extend_many(leases, 60)
    await fl.happened(last)
    assert caught.value.key == keys[19]
    assert [now.deadline > was for now, was in zip(leases, before, strict=True)] == (
        [True] * 19 + [False] * 21
    )
    for key, lease in zip(keys, leases, strict=True):
        remaining_at_most(fl, lease, key)
    assert await client.extend_many(leases, 60) == [True] * 40
    assert await client.release_many(leases) == [True] * 40


@one_server
async def test_nothing_was_sent_so_nothing_has_changed(fl: Ways) -> None:
    client, proxy, keys = await ready(fl, 5, retries=0)
    leases = await client.try_acquire_many(keys, ttl=30)
    before = [lease.deadline for lease in leases]
    proxy.close()
    with pytest.raises(fastlock.FastlockError) as caught:
        await client.extend_many(leases, 1)
        await client.extend_many(leases, 1)  # the first may have found the connection lost
    if not isinstance(caught.value, fastlock.OutcomeUnknown):
        assert [lease.deadline for lease in leases] == before
    fl.admin.delete(*keys)


async def test_a_server_error_is_raised_after_all_were_tried(fl: Ways) -> None:
    client, proxy, keys = await ready(fl, 30)
    leases = await client.try_acquire_many(keys, ttl=10)
    before = leases[11].deadline
    planned = proxy.fault("replace_reply", nth=12, data=b"-OOM command not allowed\r\n")
    with pytest.raises(fastlock.ServerError, match="OOM") as caught:
        await client.extend_many(leases, 30)
    await fl.happened(planned)
    assert keys[11] in str(caught.value)
    assert leases[11].deadline == before
    assert all(lease.ttl == 30 for lease in leases if lease.key != keys[11])
    await client.release_many(leases)


async def test_scripts_forgotten_by_the_server(fl: Ways) -> None:
    client, _, keys = await ready(fl, 100)
    leases = await client.try_acquire_many(keys, ttl=10)
    fl.admin.script_flush()
    assert await client.extend_many(leases, 30) == [True] * 100
    assert fl.admin.pttl(keys[-1]) > 20_000
    await client.release_many(leases)


async def test_opposite_orders_never_deadlock(fl: Ways) -> None:
    client = await fl.warm(fl.client())
    keys = [fl.key() for _ in range(20)]
    leases = await client.try_acquire_many(keys, ttl=30)

    async def extend(order: list[Any]) -> None:
        for _ in range(10):
            assert await client.extend_many(order, 30) == [True] * 20
            await order[0].extend(30)

    await fl.together([extend(leases), extend(leases[::-1]), extend(leases[7:] + leases[:7])])
    assert await client.release_many(leases) == [True] * 20


async def test_bad_input_is_refused_before_anything_is_sent(fl: Ways) -> None:
    client, other = await fl.warm(fl.client()), await fl.warm(fl.client())
    key = fl.key()
    lease = await client.acquire(key, 10)
    for leases in ([await other.try_acquire(fl.key())], [key], 7, None):
        with pytest.raises(fastlock.ConfigError, match=r"^leases: "):
            await client.extend_many(leases)
    for ttl in (0, -1, "5", float("nan"), True):
        with pytest.raises(fastlock.ConfigError, match=r"^ttl: "):
            await client.extend_many([lease], ttl)
    assert fl.admin.pttl(key) <= 10_000
    await lease.release()
