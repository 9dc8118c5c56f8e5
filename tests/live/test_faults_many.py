"""Batches and a network that fails in the middle of them: each key's result is exact."""

from __future__ import annotations

from typing import Any

import pytest
from _harness import Ways, clock, one_server
from _proxy import Proxy

import fastlock

TTL = 10
MARGIN = TTL * 0.01 + 0.002


async def ready(fl: Ways, number: int, **options: Any) -> tuple[Any, Proxy, list[str]]:
    proxy = fl.proxy()
    client = await fl.warm(fl.client(proxy.uri, **options))
    return client, proxy, [fl.key() for _ in range(number)]


def check(fl: Ways, keys: list[str], leases: list[Any], taken: set[str], before: float) -> None:
    """What the list says is what the server has."""
    tokens = dict(zip(keys, fl.admin.mget(keys), strict=True))
    for key, lease in zip(keys, leases, strict=True):
        if key in taken:
            assert lease is None
            assert tokens[key] == b"taken"
            continue
        assert lease.key == key
        assert tokens[key] == lease.token.encode()
        asked, left = clock(), lease.remaining()
        assert 0 < left <= fl.admin.pttl(key) / 1000 + (clock() - asked) + 0.001
        assert before <= lease.deadline - TTL + MARGIN <= clock()


@pytest.mark.parametrize("nth", [1, 2, 57, 200])
@pytest.mark.parametrize("fault", ["lose_reply", "cut_reply", "cut_before"])
async def test_a_batch_cut_midway_has_exact_results(fl: Ways, fault: str, nth: int) -> None:
    client, proxy, keys = await ready(fl, 200)
    taken = set(keys[::7])
    for key in taken:
        fl.admin.set(key, "taken", px=60_000)
    planned = proxy.fault(fault, nth=nth, size=2)
    before = clock()
    leases = await client.try_acquire_many(keys, ttl=TTL)
    await fl.happened(planned)
    check(fl, keys, leases, taken, before)
    mine = [lease for lease in leases if lease is not None]
    planned = proxy.fault(fault, nth=min(nth, len(mine)), size=2)
    assert await client.release_many(mine) == [True] * len(mine)
    await fl.happened(planned)
    assert fl.admin.exists(*keys) == len(taken)
    fl.admin.delete(*keys)


async def test_a_batch_cut_several_times(fl: Ways) -> None:
    client, proxy, keys = await ready(fl, 50)
    proxy.fault("lose_reply", nth=10)
    proxy.fault("cut_before", nth=70)  # of the second write, which asks about the rest
    last = proxy.fault("lose_reply", nth=80)
    before = clock()
    leases = await client.try_acquire_many(keys, ttl=TTL)
    await fl.happened(last)
    check(fl, keys, leases, set(), before)
    assert await client.release_many(leases) == [True] * 50


@one_server
async def test_a_batch_that_fails_for_good_leaves_nothing(fl: Ways) -> None:
    client, proxy, keys = await ready(fl, 50, retries=1)
    proxy.fault("lose_reply", nth=20)
    proxy.fault("lose_reply", nth=51)
    with pytest.raises(fastlock.OutcomeUnknown) as caught:
        await client.try_acquire_many(keys, ttl=TTL)
    assert caught.value.key in keys
    await fl.until(lambda: not fl.admin.exists(*keys))


async def test_a_server_error_about_one_key_gives_all_back(fl: Ways) -> None:
    client, proxy, keys = await ready(fl, 30)
    planned = proxy.fault("replace_reply", nth=12, data=b"-OOM command not allowed\r\n")
    with pytest.raises(fastlock.ServerError) as caught:
        await client.try_acquire_many(keys, ttl=TTL)
    await fl.happened(planned)
    assert caught.value.code == "OOM"
    assert keys[11] in str(caught.value)
    await fl.until(lambda: not fl.admin.exists(*keys))


async def test_scripts_forgotten_by_the_server_in_the_middle(fl: Ways) -> None:
    client, _, keys = await ready(fl, 100)
    leases = await client.try_acquire_many(keys, ttl=TTL)
    fl.admin.script_flush()
    assert await client.release_many(leases) == [True] * 100
    assert fl.admin.exists(*keys) == 0


async def test_release_many_after_the_deadline_is_unknown_but_tries_all(fl: Ways) -> None:
    """One lease has ended while its answer was lost; the others are still freed for sure."""
    client, proxy, keys = await ready(fl, 10, socket_timeout=0.4)
    brief = await client.acquire(keys[0], ttl=0.2)
    leases = [brief, *await client.try_acquire_many(keys[1:], ttl=TTL)]
    held = proxy.fault("hold_reply")
    with pytest.raises(fastlock.OutcomeUnknown) as caught:
        await client.release_many(leases)
    held.go()
    assert caught.value.key == keys[0]
    assert fl.admin.exists(*keys) == 0


async def test_split_bytes_do_not_disturb_a_batch(fl: Ways) -> None:
    client, proxy, keys = await ready(fl, 20)
    planned = proxy.fault("split_reply", times=20)
    leases = await client.try_acquire_many(keys, ttl=TTL)
    await fl.happened(planned)
    assert [lease.key for lease in leases] == keys
    assert await client.release_many(leases) == [True] * 20


@pytest.mark.parametrize("fault", ["lose_reply", "cut_before", "cut_reply"])
async def test_lock_all_outlives_a_lost_connection(fl: Ways, fault: str) -> None:
    client, proxy, keys = await ready(fl, 5)
    planned = proxy.fault(fault)
    before = clock()
    async with client.lock_all(keys, ttl=TTL, timeout=5) as leases:
        await fl.happened(planned)
        tokens = fl.admin.mget(keys)
        assert tokens == [lease.token.encode() for lease in leases]
        for lease in leases:
            asked, left = clock(), lease.remaining()
            assert left <= fl.admin.pttl(lease.key) / 1000 + (clock() - asked) + 0.001
            assert lease.deadline >= before + TTL - MARGIN
        planned = proxy.fault(fault)
    await fl.happened(planned)
    assert fl.admin.exists(*keys) == 0


async def test_lock_all_that_lost_one_meanwhile_takes_none(fl: Ways) -> None:
    """All were taken, the reply was lost, and one fell to somebody else: all or nothing."""
    client, proxy, keys = await ready(fl, 5, socket_timeout=0.4)
    held = proxy.fault("hold_reply")
    attempt = fl.spawn(_all(client, keys, timeout=2.0))  # enough to connect anew
    await fl.happened(held)
    fl.admin.set(keys[2], "stolen", px=60_000)
    with pytest.raises(fastlock.AcquireTimeout):
        await attempt
    held.go()
    assert fl.admin.mget(keys) == [None, None, b"stolen", None, None]
    fl.admin.delete(keys[2])


async def _all(client: Any, keys: list[str], timeout: float = 0.6) -> None:
    async with client.lock_all(keys, ttl=TTL, timeout=timeout):
        raise AssertionError("one of them is somebody else's")


@one_server
async def test_lock_all_that_fails_for_good_leaves_nothing(fl: Ways) -> None:
    client, proxy, keys = await ready(fl, 5, retries=1)
    proxy.fault("lose_reply", times=2)
    with pytest.raises(fastlock.OutcomeUnknown):
        await _all(client, keys)
    await fl.until(lambda: not fl.admin.exists(*keys))
