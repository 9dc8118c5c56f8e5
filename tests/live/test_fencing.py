"""Fencing numbers: strictly increasing for each key, whatever happens to lock and server.

Law: what the server keeps is read from the server, by an independent client.
"""

from __future__ import annotations

import pickle
import re
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from _harness import Ways, one_server, sync_only
from _servers import Server

import fastlock
from fastlock.fencing import companion

TTL = 5
HOUR = 3_600_000  # ms by which a companion outlives its lock's ttl
PAGE = Path(__file__).parents[2] / "docs" / "fencing.md"


def kept(admin: Any, key: str | bytes) -> tuple[int, str]:
    """The last number of the lock, and the token it was drawn for."""
    number, _, token = admin.get(beside(key)).decode().partition(" ")
    return int(number), token


def beside(key: str | bytes) -> bytes:
    return companion(key.encode() if isinstance(key, str) else key)


def clock_of(admin: Any) -> int:
    """The server's, in microseconds."""
    seconds, microseconds = admin.time()
    return int(seconds * 1_000_000 + microseconds)


def rising(numbers: list[int]) -> bool:
    return all(before < after for before, after in pairwise(numbers))


#: Every way to a lease; what it gives is released again.
Take = Callable[[Any, str], Awaitable[Any]]


async def _with(client: Any, key: str) -> Any:
    async with client.lock(key, ttl=TTL, fence=True) as lease:
        return lease


async def _all(client: Any, key: str) -> Any:
    async with client.lock_all([f"{key}:other", key], ttl=TTL, fence=True) as leases:
        return leases[1]


async def _many(client: Any, key: str) -> Any:
    leases = await client.try_acquire_many([key, f"{key}:other"], ttl=TTL, fence=True)
    await client.release_many(leases)
    return leases[0]


async def _acquire(client: Any, key: str) -> Any:
    lease = await client.acquire(key, TTL, 5, fence=True)
    await lease.release()
    return lease


async def _try(client: Any, key: str) -> Any:
    lease = await client.try_acquire(key, TTL, fence=True)
    await lease.release()
    return lease


WAYS: dict[str, Take] = {
    "try_acquire": _try,
    "acquire": _acquire,
    "lock": _with,
    "try_acquire_many": _many,
    "lock_all": _all,
}


# ------------------------------------------------------------------ from holder to holder


@pytest.mark.smoke
async def test_every_holder_s_number_is_higher(fl: Ways) -> None:
    clients, key = [fl.client(), fl.client()], fl.key()
    numbers = [clock_of(fl.admin)]
    for _ in range(3):
        for client in clients:
            for take in WAYS.values():
                lease = await take(client, key)
                assert kept(fl.admin, key) == (lease.fence, lease.token)
                numbers.append(lease.fence)
    numbers.append(clock_of(fl.admin) + 1)
    assert rising(numbers)
    assert fl.admin.exists(key) == 0


async def test_without_asking_there_is_no_number(fl: Ways) -> None:
    client, key = fl.client(), fl.key()
    lease = await client.acquire(key, ttl=TTL)
    adopted = await client.adopt(key, lease.token)
    assert (lease.fence, adopted.fence) == (None, None)
    assert await lease.release() is True
    for lease in await client.try_acquire_many([key], ttl=TTL):
        assert lease.fence is None
        assert await lease.release() is True
    async with client.lock(key, ttl=TTL, fence=False) as lease:
        assert lease.fence is None
    async with client.lock_all([key], ttl=TTL) as leases:
        assert leases[0].fence is None
    assert fl.admin.exists(beside(key)) == 0


async def test_a_holder_without_a_number_does_not_disturb(fl: Ways) -> None:
    client, key = fl.client(), fl.key()
    numbers = []
    for _ in range(3):
        numbers.append((await _acquire(client, key)).fence)
        assert await (await client.acquire(key, ttl=TTL)).release() is True
        fl.admin.set(key, "another library's", px=1)
        await fl.until(lambda: not fl.admin.exists(key))
    assert rising(numbers)


@pytest.mark.parametrize("end", ["expiry", "DEL", "force_release", "overwritten"])
async def test_however_the_lock_ended(fl: Ways, end: str) -> None:
    client, key = fl.client(), fl.key()
    numbers = []
    for take in WAYS.values():
        lease = await client.acquire(key, ttl=0.02 if end == "expiry" else TTL, fence=True)
        numbers.append(lease.fence)
        if end == "DEL":
            fl.admin.delete(key)
        elif end == "force_release":
            assert await client.force_release(key) is True
        elif end == "overwritten":
            fl.admin.set(key, "somebody else's", px=1)
        await fl.until(lambda: not fl.admin.exists(key))
        numbers.append((await take(client, key)).fence)
    assert rising(numbers)


async def test_numbers_rise_in_the_order_of_holding(fl: Ways) -> None:
    clients, key, numbers = [fl.client(retry_timeout=2) for _ in range(3)], fl.key(), []

    async def work(client: Any) -> None:
        for _ in range(8):
            async with client.lock(key, ttl=30, fence=True) as lease:
                numbers.append(lease.fence)
                await fl.sleep(0.0002)

    await fl.together(work(clients[number % 3]) for number in range(9))
    assert len(numbers) == 72
    assert rising(numbers)


async def test_an_extension_keeps_the_number(fl: Ways) -> None:
    client, key = fl.client(), fl.key()
    lease = await client.acquire(key, ttl=TTL, fence=True)
    number = lease.fence
    await lease.extend(60)
    assert await client.extend_many([lease], 30) == [True]
    assert lease.fence == number == kept(fl.admin, key)[0]
    assert await lease.release() is True
    assert lease.fence == number


async def test_a_lock_that_somebody_holds_gives_no_number(fl: Ways) -> None:
    holder, client, key = fl.client(label="holder"), fl.client(retry_timeout=5), fl.key()
    lease = await holder.acquire(key, ttl=TTL, fence=True)
    assert await client.try_acquire(key, ttl=TTL, fence=True) is None
    leases = await client.try_acquire_many([key, f"{key}:2"], ttl=TTL, fence=True)
    assert leases[0] is None
    with pytest.raises(fastlock.AcquireTimeout, match="held by holder"):
        await client.acquire(key, ttl=TTL, timeout=0.05, fence=True)
    with pytest.raises(fastlock.AcquireTimeout):
        async with client.lock_all([f"{key}:3", key], ttl=TTL, timeout=0.05, fence=True):
            raise AssertionError("it was entered")
    assert kept(fl.admin, key) == (lease.fence, lease.token)
    assert fl.admin.exists(f"{key}:3", beside(f"{key}:3")) == 0
    assert await client.release_many(leases) == [False, True]
    assert await lease.release() is True


@one_server
async def test_a_key_twice_in_a_batch_goes_to_the_first(fl: Ways) -> None:
    client, key = fl.client(), fl.key()
    first, second = await client.try_acquire_many([key, key], ttl=TTL, fence=True)
    assert second is None
    assert kept(fl.admin, key) == (first.fence, first.token)
    assert await first.release() is True


# ------------------------------------------------------------------ when the server forgets


@pytest.mark.parametrize("loss", ["FLUSHALL", "SCRIPT FLUSH", "restart", "kill"])
async def test_whatever_the_server_forgets(fl: Ways, own_server: Server, loss: str) -> None:
    client, key = fl.client(own_server.uri), fl.key()
    numbers = []
    for take in WAYS.values():
        lease = await client.acquire(key, ttl=60, fence=True)
        numbers.append(lease.fence)
        if loss == "restart":
            own_server.restart()
        elif loss == "kill":
            own_server.kill()
            own_server.start()
        else:
            own_server.admin.execute_command(*loss.split())
        if loss == "SCRIPT FLUSH":
            assert await lease.release() is True
            own_server.admin.script_flush()
        numbers.append((await take(client, key)).fence)
        assert await lease.release() is False
    assert rising(numbers)


@one_server
@pytest.mark.parametrize("loss", ["deleted", "older"])
async def test_a_companion_that_was_tampered_with(fl: Ways, loss: str) -> None:
    """As an eviction or an old backup would: the clock alone keeps numbers rising."""
    client, key = fl.client(), fl.key()
    numbers = []
    for take in WAYS.values():
        numbers.append((await take(client, key)).fence)
        if loss == "deleted":
            assert fl.admin.delete(beside(key)) == 1
        else:
            fl.admin.set(beside(key), "7 somebody's")
    assert rising(numbers)


# ------------------------------------------------------------------ what the server keeps


@pytest.mark.parametrize("ttl", [0.05, 5, 86_400])
async def test_a_companion_outlives_its_lock_by_an_hour(fl: Ways, ttl: float) -> None:
    client, key = fl.client(), fl.key()
    for take in (client.acquire(key, ttl=ttl, fence=True), _locked_all(client, key, ttl)):
        lease = await take
        end = lease.fence // 1000 + int(ttl * 1000) + HOUR  # on the server's clock
        before = clock_of(fl.admin) // 1000
        left = fl.admin.pttl(beside(key))
        after = clock_of(fl.admin) // 1000
        assert before + left <= end + 50  # a server's clock may stand for a moment
        assert end <= after + left + 50
        await lease.release()
        assert fl.admin.exists(beside(key)) == 1
    assert sorted(fl.admin.scan_iter(match=f"{key}*")) == [beside(key)]
    fl.admin.delete(beside(key))


async def _locked_all(client: Any, key: str, ttl: float) -> Any:
    async with client.lock_all([key], ttl=ttl, fence=True) as leases:
        return leases[0]


async def test_numbers_go_on_from_one_in_the_future(fl: Ways) -> None:
    """As after a clock that was set back: each is one above the last."""
    client, key = fl.client(), fl.key()
    ahead = clock_of(fl.admin) + 86_400_000_000  # a day
    fl.admin.set(beside(key), ahead, px=60_000)
    numbers = [ahead, *[(await take(client, key)).fence for take in WAYS.values()]]
    assert numbers == list(range(ahead, ahead + len(numbers)))
    # And is kept until the clock has passed it, by the ttl and an hour.
    left = fl.admin.pttl(beside(key)) - 86_400_000 - HOUR
    assert 0 < left <= TTL * 1000


async def test_the_prefix_is_part_of_the_companion_s_name(fl: Ways) -> None:
    prefix, key = fl.key("prefix"), fl.key()
    lease = await _acquire(fl.client(prefix=prefix), key)
    assert kept(fl.admin, prefix + key)[0] == lease.fence
    assert fl.admin.exists(beside(key)) == 0


async def test_only_the_lock_is_released(fl: Ways) -> None:
    client, key = fl.client(), fl.key()
    lease = await client.acquire(key, ttl=TTL, fence=True)
    before = fl.admin.get(beside(key))
    await lease.release(wait=False)
    await fl.until(lambda: not fl.admin.exists(key))
    async with client.lock(key, ttl=TTL, release="deferred", fence=True) as lease:
        assert fl.admin.get(beside(key)) > before
    await fl.until(lambda: not fl.admin.exists(key))
    assert kept(fl.admin, key)[0] == lease.fence


# ------------------------------------------------------------------ keys of another type


async def refusals(client: Any, keys: list[str], key: str) -> AsyncIterator[str]:
    """What each way to acquire with a number says of a wrong type."""

    async def together() -> None:
        async with client.lock_all(keys, ttl=TTL, fence=True):
            raise AssertionError("it was entered")

    for call in (
        lambda: client.try_acquire(key, ttl=TTL, fence=True),
        lambda: client.acquire(key, ttl=TTL, fence=True),
        lambda: client.try_acquire_many(keys, ttl=TTL, fence=True),
        together,
    ):
        with pytest.raises(fastlock.ServerError) as caught:
            await call()
        assert caught.value.code == "WRONGTYPE"
        yield str(caught.value)


@pytest.mark.parametrize("wrong", ["a list", b"no number", b"-7", b"9007199254740991", b"1" * 400])
async def test_a_companion_that_is_none_is_an_error_that_names_it(fl: Ways, wrong: Any) -> None:
    client, keys = fl.client(), [fl.key() for _ in range(3)]
    key = keys[1]
    set_wrong = fl.admin.rpush if wrong == "a list" else fl.admin.set
    set_wrong(beside(key), wrong)

    async for said in refusals(client, keys, key):
        assert repr(beside(key)) in said
        assert keys[0] not in said
    await fl.until(lambda: not fl.admin.exists(*keys))
    lease = await client.acquire(key, ttl=TTL)  # the lock itself is as it was
    assert await lease.release() is True
    fl.admin.delete(beside(key))


async def test_a_lock_of_another_type_is_an_error_that_names_it(fl: Ways) -> None:
    client, keys = fl.client(), [fl.key() for _ in range(3)]
    key = keys[1]
    fl.admin.rpush(key, "not a lock")

    async for said in refusals(client, keys, key):
        assert said.endswith(f"(key {key!r})")
    await fl.until(lambda: not fl.admin.exists(keys[0], keys[2]))
    assert fl.admin.exists(beside(key)) == 0
    fl.admin.delete(key)


async def test_a_server_out_of_memory_gives_neither_lock_nor_number(
    fl: Ways, own_server: Server
) -> None:
    client, key = await fl.warm(fl.client(own_server.uri)), fl.key()
    await _acquire(client, "warm")
    await _all(client, "warm")
    own_server.admin.config_set("maxmemory", "1")
    for call in (
        lambda: client.acquire(key, ttl=TTL, fence=True),
        lambda: client.try_acquire_many([key], ttl=TTL, fence=True),
        lambda: _all(client, key),
    ):
        with pytest.raises(fastlock.ServerError) as caught:
            await call()
        assert caught.value.code == "OOM"
        assert key in str(caught.value)
    assert own_server.admin.exists(key, beside(key)) == 0
    own_server.admin.config_set("maxmemory", "0")
    assert (await _acquire(client, key)).fence > 0


# ------------------------------------------------------------------ specs, handing on, bad input


async def test_a_spec_keeps_what_it_was_told(fl: Ways) -> None:
    client, key = fl.client(prefix=fl.key("prefix")), fl.key()
    spec = client.lock(key, ttl=TTL, fence=True)
    numbers = []
    for _ in range(3):
        async with spec as lease:
            numbers.append(lease.fence)
        assert await spec.acquire() is True
        await spec.release()
        assert await spec.acquire(blocking=False) is True
        await spec.release()
        numbers.append(kept(fl.admin, client.config.prefix + key)[0] - 1)
    assert rising(numbers)
    assert spec.fence is True
    loaded = pickle.loads(pickle.dumps(fl.raw(spec)))
    assert (loaded.key, loaded.fence) == (key, True)
    assert pickle.loads(pickle.dumps(fl.raw(client.lock(key)))).fence is False


async def test_a_decorated_function_runs_under_a_number(fl: Ways) -> None:
    client, key = fl.client(), fl.key()

    @client.lock(key, ttl=TTL, fence=True)
    async def report() -> int:
        return kept(fl.admin, key)[0]

    assert await report() < await report()


async def test_a_lease_is_handed_on_with_its_number(fl: Ways) -> None:
    giver, taker, key = fl.client(), fl.client(), fl.key()
    given = await giver.acquire(key, ttl=TTL, fence=True)
    lease = await taker.adopt(key, given.token, given.fence)
    assert lease.fence == given.fence
    assert (await taker.adopt(key, given.token, fence=given.fence)).fence == given.fence
    assert await lease.release() is True
    with pytest.raises(fastlock.LockLost):
        await taker.adopt(key, given.token, given.fence)


@one_server
@pytest.mark.parametrize("fence", [0, -1, True, 1.0, "7", 2**63], ids=repr)
async def test_what_is_no_number_is_not_adopted(fl: Ways, fence: Any) -> None:
    client = fl.client("redis://nowhere.invalid:1")
    with pytest.raises(fastlock.ConfigError) as caught:
        await client.adopt(fl.key(), "token", fence)
    assert caught.value.field == "fence"
    assert repr(fence) in str(caught.value)


@one_server
@pytest.mark.parametrize("fence", [1, 0, None, "yes", []], ids=repr)
async def test_a_switch_is_on_or_off(fl: Ways, fence: Any) -> None:
    client, key = fl.client("redis://nowhere.invalid:1"), fl.key()
    for call in (
        lambda: client.try_acquire(key, fence=fence),
        lambda: client.acquire(key, fence=fence),
        lambda: client.lock(key, fence=fence),
        lambda: client.try_acquire_many([key], fence=fence),
        lambda: client.lock_all([key], fence=fence),
    ):
        with pytest.raises(fastlock.ConfigError) as caught:
            made = call()
            if hasattr(made, "__await__"):
                await made
        assert str(caught.value) == f"fence: {fence!r} is neither True nor False"


@one_server
async def test_it_has_to_be_named(fl: Ways) -> None:
    client, key = fl.raw(fl.client()), fl.key()
    for call in (
        lambda: client.try_acquire(key, 5, True),
        lambda: client.acquire(key, 5, 5, True),
        lambda: client.lock(key, 5, 5, "wait", True),
        lambda: client.try_acquire_many([key], 5, True),
        lambda: client.lock_all([key], 5, 5, True),
    ):
        with pytest.raises(TypeError, match="positional argument"):
            call()


# ------------------------------------------------------------------ at the resource


def table() -> sqlite3.Connection:
    db = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
    db.execute("CREATE TABLE orders (id TEXT PRIMARY KEY, status TEXT, fence INTEGER DEFAULT 0)")
    db.execute("INSERT INTO orders (id, status) VALUES ('42', 'new')")
    return db


def write(db: sqlite3.Connection, status: str, fence: int) -> bool:
    change = "UPDATE orders SET status = ?, fence = ? WHERE id = '42' AND fence <= ?"
    return db.execute(change, (status, fence, fence)).rowcount == 1


async def test_a_holder_that_slept_through_its_ttl_cannot_write(fl: Ways) -> None:
    client, key, db = fl.client(retry_timeout=5), fl.key(), table()
    sleeper = await client.acquire(key, ttl=0.05, fence=True)
    assert write(db, "seen by the sleeper", sleeper.fence)
    async with client.lock(key, ttl=30, fence=True) as lease:
        assert write(db, "paid", lease.fence)
        assert write(db, "shipped", lease.fence)
        assert not write(db, "cancelled", sleeper.fence)
    assert not write(db, "cancelled", sleeper.fence)
    assert db.execute("SELECT status FROM orders").fetchall() == [("shipped",)]
    db.close()


@pytest.mark.parametrize("api", ["sync", "async"], indirect=True)
async def test_a_guard_refuses_who_lost_the_lock(fl: Ways) -> None:
    client, key, guard = fl.client(retry_timeout=5), fl.key(), fastlock.fencing.Guard()
    sleeper = await client.acquire(key, ttl=0.05, fence=True)
    guard.check(key, sleeper.fence)
    async with client.lock(key, ttl=30, fence=True) as lease:
        guard.check(key, lease.fence)
        with pytest.raises(fastlock.StaleFence) as caught:
            guard.check(key, sleeper.fence)
        assert (caught.value.fence, caught.value.seen) == (sleeper.fence, lease.fence)
        guard.check(key, lease.fence)
    without = await client.acquire(key, ttl=TTL)
    with pytest.raises(fastlock.ConfigError, match="fence=True"):
        guard.check(key, without.fence)
    assert await without.release() is True


def blocks() -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)


@sync_only
async def test_the_page_s_example_runs_as_printed(
    fl: Ways, capsys: pytest.CaptureFixture[str]
) -> None:
    client, example = blocks()[:2]
    assert client.count("6379") == 1
    here: dict[str, Any] = {}
    exec(client.replace("6379", str(fl.server.address[1])), here)
    exec(example, here)
    printed = capsys.readouterr()
    assert printed.out.splitlines() == re.findall(r"print.*  # (.*)", example) != []
    assert printed.err == ""
    here["client"].close()
    here["db"].close()
    fl.admin.delete(beside("orders:42"))


@sync_only
@one_server
async def test_the_page_s_guard_runs_as_printed(fl: Ways) -> None:
    (example,) = [block for block in blocks() if "Guard()" in block]
    with fl.raw(fl.client()) as client:
        here: dict[str, Any] = {"client": client}
        exec(example, here)
    assert here["orders"] == {"42": "packed"}
    with pytest.raises(fastlock.StaleFence):
        here["store"]("42", "lost", 1)
    assert here["orders"] == {"42": "packed"}
    fl.admin.delete(beside("orders:42"))
