"""One lock's life on a real server: what is stored, who gets it, when it ends."""

from __future__ import annotations

import re
import time

import pytest
from _harness import Ways, clock, remaining_at_most

import fastlock


@pytest.mark.smoke
async def test_acquire_and_release(fl: Ways) -> None:
    client, key = fl.client(), fl.key()
    lease = await client.try_acquire(key, ttl=5)
    assert lease.valid()
    assert fl.admin.get(key).decode() == lease.token
    assert await client.try_acquire(key, ttl=5) is None
    assert await lease.release() is True
    assert fl.admin.exists(key) == 0
    assert not lease.valid()
    assert await lease.release() is False


@pytest.mark.smoke
async def test_the_context_manager_holds_and_frees(fl: Ways) -> None:
    client, key = fl.client(), fl.key()
    async with client.lock(key, ttl=5) as lease:
        assert lease.valid()
        assert await client.locked(key) is True
    assert await client.locked(key) is False


# ------------------------------------------------------------------ what the server holds


@pytest.mark.parametrize(
    ("ttl", "milliseconds"),
    [(5, 5000), (0.01, 10), (1.1, 1100), (0.0101, 11), (30.0001, 30001), (315360000, 315360000000)],
)
async def test_the_ttl_is_whole_milliseconds_rounded_up(
    fl: Ways, ttl: float, milliseconds: int
) -> None:
    proxy, key = fl.proxy(), fl.key()
    client = fl.client(proxy.uri)
    lease = await client.try_acquire(key, ttl=ttl)
    sent = [args for args in proxy.commands if args[0] == b"SET"]
    assert sent == [
        [b"SET", key.encode(), lease.token.encode(), b"NX", b"PX", b"%d" % milliseconds]
    ]
    assert lease.ttl == milliseconds / 1000
    if milliseconds > 1000:
        assert milliseconds - 1000 < fl.admin.pttl(key) <= milliseconds
    await lease.release()


async def test_the_default_ttl_is_thirty_seconds(fl: Ways) -> None:
    client, key = fl.client(), fl.key()
    lease = await client.acquire(key)
    assert 29_000 < fl.admin.pttl(key) <= 30_000
    assert await lease.release() is True


@pytest.mark.parametrize(
    "key",
    [b"\x00\xff\r\n $3", "schlüssel ☃", b"k" * 65536, "k" * 65536],
    ids=["binary", "unicode", "64KiB-bytes", "64KiB-str"],
)
async def test_keys_are_used_raw(fl: Ways, key: str | bytes) -> None:
    client = fl.client()
    wire = key.encode() if isinstance(key, str) else key
    lease = await client.acquire(key, ttl=5, timeout=10)  # sessions may share the server
    assert lease.key == key
    assert fl.admin.get(wire).decode() == lease.token
    assert await client.holder(key) == lease.token.partition(".")[2]
    assert await lease.release() is True
    assert fl.admin.exists(wire) == 0


async def test_bytes_and_str_name_the_same_key(fl: Ways) -> None:
    client, key = fl.client(), fl.key()
    lease = await client.acquire(key, ttl=5)
    assert await client.try_acquire(key.encode(), ttl=5) is None
    await lease.release()


async def test_the_prefix_stands_before_every_key(fl: Ways) -> None:
    prefix, key = fl.key("prefix") + "/", "orders"
    client = fl.client(prefix=prefix)
    lease = await client.acquire(key, ttl=5)
    assert lease.key == key
    assert fl.admin.get(prefix + key).decode() == lease.token
    assert await client.locked(key) is True
    await lease.extend(5)
    assert await lease.release() is True
    (one,) = await client.try_acquire_many([key], ttl=5)
    assert fl.admin.get(prefix + key).decode() == one.token
    assert await client.release_many([one]) == [True]
    async with client.lock_all([key], ttl=5) as (one,):
        assert fl.admin.get(prefix + key).decode() == one.token
    assert await client.force_release(key) is False


async def test_tokens_are_unique_and_random(fl: Ways) -> None:
    client, other = await fl.warm(fl.client()), await fl.warm(fl.client())
    leases = await client.try_acquire_many([fl.key() for _ in range(50)], ttl=5)
    leases += await other.try_acquire_many([fl.key() for _ in range(50)], ttl=5)
    for _ in range(20):
        lease = await client.acquire(fl.key(), ttl=5)
        await lease.release()
        leases.append(lease)
    assert len({lease.token for lease in leases}) == len(leases)
    secrets = [lease.token.partition(".")[0] for lease in leases]
    # 128 bits in base64 are 22 letters, drawn anew for every connection; then the counter.
    randoms = {re.fullmatch(r"([\w-]{22})-[0-9a-f]+", secret)[1] for secret in secrets}  # type: ignore[index]
    assert len(randoms) == 2
    # The same lock a second time: another token.
    key = fl.key()
    first = await client.acquire(key, ttl=5)
    await first.release()
    second = await client.acquire(key, ttl=5)
    assert first.token != second.token
    for lease in [*leases, second]:
        if lease.valid():
            assert await lease.release() is True


# ------------------------------------------------------------------ deadline


async def test_the_lease_ends_before_the_key_does(fl: Ways) -> None:
    client, key = fl.client(), fl.key()
    await client.ping()
    before = clock()
    lease = await client.acquire(key, ttl=10)
    after = clock()
    margin = 10 * 0.01 + 0.002
    assert before + 10 - margin <= lease.deadline <= after + 10 - margin
    remaining_at_most(fl, lease, key)
    assert lease.remaining() <= lease.deadline - after
    before = clock()
    await lease.extend(20)
    after = clock()
    margin = 20 * 0.01 + 0.002
    assert before + 20 - margin <= lease.deadline <= after + 20 - margin
    remaining_at_most(fl, lease, key)
    await lease.release()


async def test_a_lease_that_ran_out_says_so_without_asking(fl: Ways) -> None:
    client, key = fl.client(), fl.key()
    lease = await client.acquire(key, ttl=0.1)
    assert lease.valid()
    assert not lease.lost
    await fl.until(lambda: not lease.valid())
    assert lease.lost
    assert lease.remaining() == 0.0
    assert clock() >= lease.deadline


async def test_release_after_expiry_is_false_and_leaves_the_next_holder_alone(fl: Ways) -> None:
    client, other, key = fl.client(), fl.client(), fl.key()
    lease = await client.acquire(key, ttl=0.05)
    await fl.until(lambda: not fl.admin.exists(key))
    next_one = await other.try_acquire(key, ttl=5)
    assert await lease.release() is False
    assert fl.admin.get(key).decode() == next_one.token
    with pytest.raises(fastlock.LockLost) as caught:
        await lease.extend(5)
    assert caught.value.key == key
    assert fl.admin.get(key).decode() == next_one.token
    assert await next_one.release() is True


# ------------------------------------------------------------------ extend


@pytest.mark.parametrize("ttl", [20, 2, None])
async def test_extend_replaces_the_ttl(fl: Ways, ttl: float | None) -> None:
    client, key = fl.client(), fl.key()
    lease = await client.acquire(key, ttl=5)
    fl.admin.pexpire(key, 3000)
    assert await lease.extend(ttl) is None
    wanted = 5 if ttl is None else ttl
    assert (wanted - 1) * 1000 < fl.admin.pttl(key) <= wanted * 1000
    assert lease.ttl == wanted
    remaining_at_most(fl, lease, key)
    assert await lease.release() is True


async def test_extend_of_a_stolen_lock_is_lock_lost(fl: Ways) -> None:
    client, key = fl.client(), fl.key()
    lease = await client.acquire(key, ttl=5)
    fl.admin.set(key, "somebody else's", px=5000)
    with pytest.raises(fastlock.LockLost) as caught:
        await lease.extend(9)
    assert caught.value.key == key
    assert not lease.valid()
    assert lease.lost
    assert fl.admin.get(key) == b"somebody else's"
    assert fl.admin.pttl(key) <= 5000
    assert await lease.release() is False
    fl.admin.delete(key)


async def test_extend_of_a_deleted_lock_does_not_bring_it_back(fl: Ways) -> None:
    client, key = fl.client(), fl.key()
    lease = await client.acquire(key, ttl=5)
    fl.admin.delete(key)
    with pytest.raises(fastlock.LockLost):
        await lease.extend()
    assert fl.admin.exists(key) == 0


async def test_extend_after_release_is_lock_lost(fl: Ways) -> None:
    client, key = fl.client(), fl.key()
    lease = await client.acquire(key, ttl=5)
    assert await lease.release() is True
    with pytest.raises(fastlock.LockLost):
        await lease.extend()
    assert fl.admin.exists(key) == 0


async def test_extend_refuses_a_bad_ttl_and_keeps_the_lease(fl: Ways) -> None:
    client, key = fl.client(), fl.key()
    lease = await client.acquire(key, ttl=5)
    for bad in (0, -1, float("nan"), 1e12, True, "5"):
        with pytest.raises(fastlock.ConfigError, match="ttl"):
            await lease.extend(bad)
    assert lease.valid()
    assert await lease.release() is True


# ------------------------------------------------------------------ waiting


async def test_acquire_waits_until_the_holder_lets_go(fl: Ways) -> None:
    client, key = fl.client(retry_timeout=20), fl.key()
    holder = await client.acquire(key, ttl=5)
    waiter = fl.spawn(client.acquire(key, ttl=5, timeout=5))
    await fl.sleep(0.1)
    assert not waiter.done()
    assert await holder.release() is True
    lease = await waiter
    assert fl.admin.get(key).decode() == lease.token
    assert await lease.release() is True


async def test_acquire_waits_until_the_holder_expires(fl: Ways) -> None:
    client, key = fl.client(retry_timeout=20), fl.key()
    await client.acquire(key, ttl=0.2)
    lease = await client.acquire(key, ttl=5)
    assert fl.admin.get(key).decode() == lease.token
    assert await lease.release() is True


async def test_acquire_times_out_and_says_who_has_it(fl: Ways) -> None:
    client, key = fl.client(retry_timeout=50), fl.key()
    other = fl.client(label="night-shift")
    holder = await other.acquire(key, ttl=5)
    started = time.monotonic()
    with pytest.raises(fastlock.AcquireTimeout) as caught:
        await client.acquire(key, ttl=5, timeout=0.3)
    assert time.monotonic() - started >= 0.3
    assert isinstance(caught.value, TimeoutError)
    assert caught.value.key == key
    assert key in str(caught.value)
    assert "night-shift" in str(caught.value)
    assert holder.token not in str(caught.value)
    assert fl.admin.get(key).decode() == holder.token
    assert await holder.release() is True


async def test_timeout_zero_tries_exactly_once(fl: Ways) -> None:
    proxy, key = fl.proxy(), fl.key()
    client = await fl.warm(fl.client(proxy.uri))
    fl.admin.set(key, "taken", px=5000)
    tried = len(proxy.verbs())
    with pytest.raises(fastlock.AcquireTimeout):
        await client.acquire(key, timeout=0)
    assert proxy.verbs()[tried:] == ["SET"]
    fl.admin.delete(key)
    lease = await client.acquire(key, timeout=0)
    assert await lease.release() is True


async def test_the_last_try_is_at_the_deadline(fl: Ways) -> None:
    """The pause would go far beyond the timeout: it is cut short for one more try."""
    client, key = fl.client(retry_timeout=60_000, push=False), fl.key()
    fl.admin.set(key, "taken", px=150)
    before = clock()
    lease = await client.acquire(key, ttl=5, timeout=0.4)
    assert lease.deadline - (5 - 0.052) - before >= 0.4
    assert await lease.release() is True


async def test_a_pause_lasts_about_retry_timeout(fl: Ways) -> None:
    proxy, key = fl.proxy(), fl.key()
    client = await fl.warm(fl.client(proxy.uri, retry_timeout=100, push=False))
    fl.admin.set(key, "taken", px=60_000)
    tried = len(proxy.verbs())
    with pytest.raises(fastlock.AcquireTimeout):
        await client.acquire(key, timeout=1.0)
    fl.admin.delete(key)
    # At 0, after pauses of 80 to 100 ms (more on a busy machine), then at the deadline; a
    # server that had to learn the script (NOSCRIPT) is told it in one command more.
    tries = [verb for verb in proxy.verbs()[tried:] if verb != "EVAL"]
    assert 5 <= len(tries) <= 14


async def test_a_body_exception_goes_through_and_the_lock_is_freed(fl: Ways) -> None:
    client, key = fl.client(), fl.key()
    with pytest.raises(ZeroDivisionError):
        async with client.lock(key, ttl=5):
            raise ZeroDivisionError
    assert fl.admin.exists(key) == 0


async def test_a_lost_lock_is_told_at_exit(fl: Ways) -> None:
    client, key = fl.client(), fl.key()
    with pytest.raises(fastlock.LockLost) as caught:
        async with client.lock(key, ttl=5):
            fl.admin.delete(key)
    assert caught.value.key == key


async def test_a_body_exception_is_never_replaced_by_a_lost_lock(fl: Ways) -> None:
    client, key = fl.client(), fl.key()
    with pytest.raises(ZeroDivisionError):
        async with client.lock(key, ttl=5):
            fl.admin.delete(key)
            raise ZeroDivisionError
    async with client.lock(key, ttl=5):  # the spec and the key are usable as before
        pass


async def test_a_lease_is_a_context_manager_too(fl: Ways) -> None:
    client, key = fl.client(), fl.key()
    lease = await client.try_acquire(key, ttl=5)
    async with lease as same:
        assert same.token == lease.token
    assert fl.admin.exists(key) == 0
