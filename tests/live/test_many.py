"""Many keys at once: try_acquire_many, release_many, and lock_all, which is all or nothing."""

from __future__ import annotations

import pytest
from _harness import Ways, clock, one_server

import fastlock


def keys_of(fl: Ways, number: int) -> list[str]:
    return [fl.key() for _ in range(number)]


# ------------------------------------------------------------------ try_acquire_many


async def test_many_locks_in_one_go(fl: Ways) -> None:
    client, keys = fl.client(), keys_of(fl, 1000)
    for key in keys[::10]:
        fl.admin.set(key, "taken", px=10_000)
    before = clock()
    leases = await client.try_acquire_many(keys, ttl=10)
    after = clock()
    assert [lease is None for lease in leases] == [not i % 10 for i in range(1000)]
    mine = [lease for lease in leases if lease is not None]
    assert [lease.key for lease in mine] == [key for i, key in enumerate(keys) if i % 10]
    assert fl.admin.mget([lease.key for lease in mine]) == [lease.token.encode() for lease in mine]
    assert len({lease.token for lease in mine}) == 900
    assert {9_000 < fl.admin.pttl(lease.key) <= 10_000 for lease in mine[::100]} == {True}
    assert all(before < lease.deadline - (10 - 0.102) < after for lease in mine)
    assert await client.release_many(mine) == [True] * 900
    assert fl.admin.exists(*keys) == 100
    fl.admin.delete(*keys)


async def test_release_many_tells_the_truth_about_each(fl: Ways) -> None:
    client, keys = fl.client(), keys_of(fl, 5)
    leases = await client.try_acquire_many(keys, ttl=5)
    fl.admin.delete(keys[1])
    fl.admin.set(keys[3], "somebody else's", px=5000)
    assert await leases[4].release() is True
    assert await client.release_many(leases) == [True, False, True, False, False]
    assert await client.release_many(leases) == [False] * 5
    assert fl.admin.mget(keys) == [None, None, None, b"somebody else's", None]
    fl.admin.delete(keys[3])


@one_server
async def test_nothing_to_do_is_done(fl: Ways) -> None:
    client = fl.client()
    assert await client.try_acquire_many([], ttl=5) == []
    assert await client.release_many([]) == []


async def test_a_key_twice_goes_to_the_first(fl: Ways) -> None:
    client, key = fl.client(), fl.key()
    first, second = await client.try_acquire_many([key, key], ttl=5)
    assert second is None
    assert await first.release() is True


async def test_any_iterable_of_keys_will_do(fl: Ways) -> None:
    client, keys = fl.client(), keys_of(fl, 3)
    leases = await client.try_acquire_many((key for key in keys), ttl=5)
    assert [lease.key for lease in leases] == keys
    assert await client.release_many(tuple(leases) if not fl.sync else leases) == [True] * 3


async def test_a_batch_is_few_writes_and_no_other_commands(fl: Ways) -> None:
    proxy = fl.proxy()
    client, keys = await fl.warm(fl.client(proxy.uri)), keys_of(fl, 200)
    said = len(proxy.commands)
    leases = await client.try_acquire_many(keys, ttl=5)
    await client.release_many(leases)
    assert len(proxy.commands) - said == 400


@one_server
@pytest.mark.slow
async def test_a_hundred_thousand_locks(fl: Ways) -> None:
    client, stem = fl.client(), fl.key()
    keys = [f"{stem}:{number}" for number in range(100_000)]
    leases = await client.try_acquire_many(keys, ttl=60)
    assert None not in leases
    assert len({lease.token for lease in leases}) == 100_000
    assert fl.admin.exists(*keys) == 100_000
    assert await client.release_many(leases) == [True] * 100_000
    assert fl.admin.exists(*keys) == 0


async def test_release_many_takes_what_try_acquire_many_gave(fl: Ways) -> None:
    client, keys = fl.client(), keys_of(fl, 4)
    fl.admin.set(keys[2], "taken", px=60_000)
    leases = await client.try_acquire_many(keys, ttl=5)
    assert await client.release_many(leases) == [True, True, False, True]
    fl.admin.delete(keys[2])


async def test_release_many_refuses_what_is_no_lease_of_this_client(fl: Ways) -> None:
    client, other, key = fl.client(), fl.client(), fl.key()
    mine, theirs = await client.acquire(fl.key(), ttl=5), await other.acquire(key, ttl=5)
    for wrong in (theirs, "orders:42"):
        with pytest.raises(fastlock.ConfigError, match="leases"):
            await client.release_many([mine, wrong])
    assert theirs.valid()
    assert await client.release_many([mine]) == [True]
    assert await theirs.release() is True


@one_server
async def test_a_wrong_key_among_many_takes_none(fl: Ways) -> None:
    client, keys = fl.client(), keys_of(fl, 3)
    for bad in ("", 7, b"x" * 65537):
        with pytest.raises(fastlock.ConfigError, match="key"):
            await client.try_acquire_many([*keys, bad], ttl=5)
    assert fl.admin.exists(*keys) == 0


# ------------------------------------------------------------------ lock_all


async def test_all_locks_are_held_and_then_free(fl: Ways) -> None:
    client, keys = fl.client(), keys_of(fl, 20)
    async with client.lock_all(keys, ttl=5) as leases:
        assert [lease.key for lease in leases] == keys
        assert fl.admin.mget(keys) == [lease.token.encode() for lease in leases]
        assert len({lease.token for lease in leases}) == 20
        assert {4_000 < fl.admin.pttl(key) <= 5_000 for key in keys} == {True}
        assert all(lease.valid() for lease in leases)
    assert fl.admin.exists(*keys) == 0


async def test_one_that_is_taken_means_none_is_taken(fl: Ways) -> None:
    client, keys = fl.client(retry_timeout=20), keys_of(fl, 10)
    fl.admin.set(keys[7], "taken", px=5000)
    with pytest.raises(fastlock.AcquireTimeout):
        async with client.lock_all(keys, ttl=5, timeout=0.1):
            raise AssertionError("one of them is held by somebody else")
    assert fl.admin.exists(*keys) == 1
    waiter = fl.spawn(_hold(client, keys))
    await fl.sleep(0.05)
    assert fl.admin.exists(*keys) == 1
    fl.admin.delete(keys[7])
    assert await waiter == 10
    assert fl.admin.exists(*keys) == 0


async def _hold(client: object, keys: list[str]) -> int:
    async with client.lock_all(keys, ttl=5, timeout=5) as leases:  # type: ignore[attr-defined]
        return len(leases)


async def test_opposite_orders_never_deadlock(fl: Ways) -> None:
    client, other = fl.client(retry_timeout=5), fl.client(retry_timeout=5)
    keys = keys_of(fl, 4)
    inside: list[int] = []

    async def often(one: object, order: list[str], name: int) -> None:
        for _ in range(5):
            async with one.lock_all(order, ttl=5, timeout=20):  # type: ignore[attr-defined]
                inside.append(name)
                await fl.sleep(0.002)
                assert inside == [name]
                inside.clear()

    await fl.together(
        [often(client, keys, 1), often(other, keys[::-1], 2), often(client, keys[::-1], 3)]
    )
    assert fl.admin.exists(*keys) == 0


async def test_the_body_s_exception_goes_through_and_all_are_freed(fl: Ways) -> None:
    client, keys = fl.client(), keys_of(fl, 3)
    with pytest.raises(ZeroDivisionError):
        async with client.lock_all(keys, ttl=5):
            fl.admin.delete(keys[0])
            raise ZeroDivisionError
    assert fl.admin.exists(*keys) == 0


async def test_one_lost_of_all_is_told_at_exit(fl: Ways) -> None:
    client, keys = fl.client(), keys_of(fl, 3)
    with pytest.raises(fastlock.LockLost) as caught:
        async with client.lock_all(keys, ttl=5):
            fl.admin.delete(keys[1])
    assert caught.value.key == keys[1]
    assert fl.admin.exists(*keys) == 0


@one_server
async def test_bad_lists_are_refused(fl: Ways) -> None:
    client, key = fl.client(), fl.key()
    for bad in ([], "one key", b"one key", [key, key], [key, key.encode()], [key, ""], 7):
        with pytest.raises(fastlock.ConfigError, match="key"):
            client.lock_all(bad, ttl=5)
