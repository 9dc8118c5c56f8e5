"""Fencing numbers and a network that fails: a lock taken once has one number.

Law: that of ``test_faults.py``. The number that counts is the one the server drew when it
gave the lock; a repetition that draws another where the lock is ours already is a defect.
"""

from __future__ import annotations

from typing import Any

import pytest
from _harness import Ways, async_only, remaining_at_most
from _proxy import Proxy

import fastlock
from fastlock.fencing import companion

TTL = 5
#: Faults after which the command has been carried out, and those after which it has not.
DONE: dict[str, dict[str, Any]] = {
    "lose_reply": {},
    "lose_reply_rst": {"name": "lose_reply", "rst": True},
    "cut_reply": {"size": 3},
    "cut_after": {},
}
NOT_DONE: dict[str, dict[str, Any]] = {
    "cut_before": {},
    "cut_before_rst": {"name": "cut_before", "rst": True},
}
GENTLE: dict[str, dict[str, Any]] = {"split_reply": {}, "delay_reply": {"seconds": 0.05}}


def plan(proxy: Proxy, fault: str, **more: Any) -> Any:
    settings = {"name": fault, **{**DONE, **NOT_DONE, **GENTLE}[fault], **more}
    return proxy.fault(settings.pop("name"), **settings)


def kept(fl: Ways, key: str) -> tuple[int, str]:
    """The last number of the lock, and the token it was drawn for."""
    number, _, token = fl.admin.get(companion(key.encode())).decode().partition(" ")
    return int(number), token


def draws(fl: Ways) -> int:
    """How many numbers the server has been asked to draw, for any lock."""
    return int(fl.admin.info("commandstats").get("cmdstat_time", {"calls": 0})["calls"])


async def ready(fl: Ways, **options: Any) -> tuple[Any, Proxy, str]:
    """A connected client behind a proxy, whose server knows all scripts; a key."""
    proxy = fl.proxy()
    client = await fl.warm(fl.client(proxy.uri, **options))
    key = fl.key()
    assert await (await client.acquire(f"{key}:warm", ttl=TTL, fence=True)).release() is True
    async with client.lock_all([f"{key}:warm"], ttl=TTL, fence=True):
        pass
    return client, proxy, key


# ------------------------------------------------------------------ one lock


@pytest.mark.smoke
@pytest.mark.parametrize("fault", [*DONE, *NOT_DONE, *GENTLE])
@pytest.mark.parametrize("method", ["try_acquire", "acquire"])
async def test_a_lost_connection_costs_no_number(fl: Ways, method: str, fault: str) -> None:
    client, proxy, key = await ready(fl)
    before = draws(fl)
    planned = plan(proxy, fault)
    lease = await getattr(client, method)(key, ttl=TTL, fence=True)
    await fl.happened(planned)
    assert draws(fl) == before + 1
    assert kept(fl, key) == (lease.fence, lease.token)
    assert fl.admin.get(key).decode() == lease.token
    remaining_at_most(fl, lease, key)
    sent = [args for args in proxy.commands if args[0] == b"EVALSHA" and key.encode() in args]
    assert len(sent) == (1 if fault in GENTLE else 2)
    assert await lease.release() is True
    async with client.lock(key, ttl=TTL, fence=True) as later:
        assert later.fence > lease.fence


async def test_the_number_is_that_of_the_try_whose_reply_was_lost(fl: Ways) -> None:
    client, proxy, key = await ready(fl, socket_timeout=0.4)
    held = proxy.fault("hold_reply")
    waiter = fl.spawn(client.try_acquire(key, ttl=TTL, fence=True))
    await fl.happened(held)
    first = kept(fl, key)
    lease = await waiter
    assert (lease.fence, lease.token) == first == kept(fl, key)
    held.go()
    assert await lease.release() is True


async def test_several_failures_in_a_row_cost_none(fl: Ways) -> None:
    client, proxy, key = await ready(fl)
    before = draws(fl)
    proxy.fault("lose_reply")
    proxy.fault("cut_before")
    last = proxy.fault("cut_reply", size=2)
    lease = await client.acquire(key, ttl=TTL, fence=True)
    await fl.happened(last)
    assert draws(fl) == before + 1
    assert kept(fl, key) == (lease.fence, lease.token)
    assert await lease.release() is True


async def test_a_lock_that_expired_meanwhile_is_taken_anew_with_a_new_number(fl: Ways) -> None:
    client, proxy, key = await ready(fl, socket_timeout=0.4)
    held = proxy.fault("hold_reply")
    waiter = fl.spawn(client.try_acquire(key, ttl=0.2, fence=True))
    await fl.happened(held)
    first, token = kept(fl, key)
    lease = await waiter
    assert lease.valid()
    assert lease.token == token
    assert lease.fence > first
    assert kept(fl, key) == (lease.fence, token)
    held.go()
    assert await lease.release() is True


async def test_somebody_else_s_lock_is_not_ours_and_its_number_stays(fl: Ways) -> None:
    client, proxy, key = await ready(fl)
    holder = await fl.client().acquire(key, ttl=TTL, fence=True)
    planned = proxy.fault("lose_reply")
    assert await client.try_acquire(key, ttl=TTL, fence=True) is None
    await fl.happened(planned)
    assert kept(fl, key) == (holder.fence, holder.token)
    assert await holder.release() is True


@pytest.mark.parametrize("loss", ["deleted", "of another token"])
async def test_a_number_that_is_not_ours_is_not_taken_for_ours(fl: Ways, loss: str) -> None:
    """The lock is ours since the lost try, but what is kept beside it has changed since."""
    client, proxy, key = await ready(fl, socket_timeout=0.4)
    held = proxy.fault("hold_reply")
    waiter = fl.spawn(client.try_acquire(key, ttl=TTL, fence=True))
    await fl.happened(held)
    first, token = kept(fl, key)
    ahead = first + 1_000_000_000
    if loss == "deleted":
        fl.admin.delete(companion(key.encode()))
    else:
        fl.admin.set(companion(key.encode()), f"{ahead} somebody's", px=60_000)
    lease = await waiter
    assert lease.token == token
    assert kept(fl, key) == (lease.fence, token)
    if loss == "deleted":
        assert lease.fence > first
    else:
        assert lease.fence == ahead + 1
    held.go()
    assert await lease.release() is True


async def test_an_answer_that_never_comes_is_unknown_and_given_back(fl: Ways) -> None:
    client, proxy, key = await ready(fl, retries=1)
    last = proxy.fault("lose_reply", times=2)
    with pytest.raises(fastlock.OutcomeUnknown) as caught:
        await client.acquire(key, ttl=TTL, fence=True)
    await fl.happened(last)
    assert caught.value.key == key
    await fl.until(lambda: not fl.admin.exists(key), 4)
    first, _ = kept(fl, key)
    async with client.lock(key, ttl=TTL, fence=True) as lease:
        assert lease.fence > first


async def test_a_waiting_acquire_outlives_a_lost_connection(fl: Ways) -> None:
    client, proxy, key = await ready(fl, retry_timeout=20)
    holder = await fl.client().acquire(key, ttl=60, fence=True)
    waiter = fl.spawn(client.acquire(key, ttl=TTL, timeout=10, fence=True))
    for fault in ("lose_reply", "cut_before", "cut_reply"):
        await fl.happened(plan(proxy, fault))
    assert kept(fl, key) == (holder.fence, holder.token)
    assert await holder.release() is True
    lease = await waiter
    assert lease.fence > holder.fence
    assert kept(fl, key) == (lease.fence, lease.token)
    assert await lease.release() is True


@async_only
async def test_a_cancelled_acquire_leaves_its_number_and_no_lock(fl: Ways) -> None:
    client, proxy, key = await ready(fl)
    held = proxy.fault("hold_reply")
    waiter = fl.spawn(client.acquire(key, ttl=TTL, fence=True))
    await fl.happened(held)
    first, _ = kept(fl, key)
    waiter.cancel()
    held.go()
    await fl.until(lambda: not fl.admin.exists(key))
    async with client.lock(key, ttl=TTL, fence=True) as lease:
        assert lease.fence > first


@pytest.mark.parametrize("fault", ["lose_reply", "cut_before"])
async def test_a_forgotten_script_and_a_lost_reply(fl: Ways, fault: str) -> None:
    """EVALSHA finds no script; the EVAL that follows is the one that is lost."""
    client, proxy, key = await ready(fl)
    before = draws(fl)
    fl.admin.script_flush()
    planned = plan(proxy, fault, verb="EVAL")
    lease = await client.acquire(key, ttl=TTL, fence=True)
    await fl.happened(planned)
    assert draws(fl) == before + 1
    assert kept(fl, key) == (lease.fence, lease.token)
    assert await lease.release() is True


@pytest.mark.parametrize("error", ["LOADING loading the dataset", "BUSY a script is running"])
async def test_a_server_that_is_not_ready_yet_is_asked_again(fl: Ways, error: str) -> None:
    client, proxy, key = await ready(fl)
    before = draws(fl)
    # The command did arrive in this test, so the second try must recognise its own lock.
    planned = proxy.fault("replace_reply", data=f"-{error}\r\n".encode())
    lease = await client.acquire(key, ttl=TTL, timeout=5, fence=True)
    await fl.happened(planned)
    assert draws(fl) == before + 1
    assert kept(fl, key) == (lease.fence, lease.token)
    assert await lease.release() is True


# ------------------------------------------------------------------ many locks


@pytest.mark.parametrize("fault", [*DONE, *NOT_DONE])
@pytest.mark.parametrize("nth", [1, 7, 20])
async def test_a_batch_cut_anywhere_costs_no_number(fl: Ways, nth: int, fault: str) -> None:
    client, proxy, key = await ready(fl)
    keys = [f"{key}:{number}" for number in range(20)]
    holder = await fl.client().acquire(keys[3], ttl=TTL, fence=True)
    before = draws(fl)
    planned = plan(proxy, fault, nth=nth)
    leases = await client.try_acquire_many(keys, ttl=TTL, fence=True)
    await fl.happened(planned)
    assert draws(fl) == before + 19
    assert [lease is None for lease in leases] == [number == 3 for number in range(20)]
    for lease in leases:
        if lease is not None:
            assert kept(fl, lease.key) == (lease.fence, lease.token)
            remaining_at_most(fl, lease, lease.key)
    assert kept(fl, keys[3]) == (holder.fence, holder.token)
    assert await client.release_many(leases) == [number != 3 for number in range(20)]
    assert await holder.release() is True


async def test_a_batch_and_a_forgotten_script(fl: Ways) -> None:
    client, proxy, key = await ready(fl)
    keys = [f"{key}:{number}" for number in range(20)]
    before = draws(fl)
    fl.admin.script_flush()
    planned = proxy.fault("lose_reply", verb="EVAL", nth=5)
    leases = await client.try_acquire_many(keys, ttl=TTL, fence=True)
    await fl.happened(planned)
    assert draws(fl) == before + 20
    assert [kept(fl, lease.key) for lease in leases] == [
        (lease.fence, lease.token) for lease in leases
    ]
    assert await client.release_many(leases) == [True] * 20


@pytest.mark.parametrize("fault", [*DONE, *NOT_DONE])
async def test_all_or_nothing_costs_no_number(fl: Ways, fault: str) -> None:
    client, proxy, key = await ready(fl)
    keys = [f"{key}:{number}" for number in range(5)]
    before = draws(fl)
    planned = plan(proxy, fault)
    async with client.lock_all(keys, ttl=TTL, fence=True) as leases:
        await fl.happened(planned)
        assert draws(fl) == before + 5
        for lease in leases:
            assert kept(fl, lease.key) == (lease.fence, lease.token)
            remaining_at_most(fl, lease, lease.key)
    assert fl.admin.exists(*keys) == 0


async def test_all_or_nothing_and_one_number_that_was_lost(fl: Ways) -> None:
    """Of what the lost try took, the others keep their numbers; that one gets a higher one."""
    client, proxy, key = await ready(fl, socket_timeout=0.4)
    keys = [f"{key}:{number}" for number in range(3)]
    held = proxy.fault("hold_reply")
    spec = client.lock_all(keys, ttl=TTL, fence=True)
    waiter = fl.spawn(spec.__aenter__())
    await fl.happened(held)
    first = [kept(fl, name)[0] for name in keys]
    fl.admin.delete(companion(keys[1].encode()))
    leases = await waiter
    assert [leases[0].fence, leases[2].fence] == [first[0], first[2]]
    assert leases[1].fence > first[1]
    assert [kept(fl, name)[0] for name in keys] == [lease.fence for lease in leases]
    held.go()
    await spec.__aexit__(None, None, None)
    assert fl.admin.exists(*keys) == 0


async def test_all_or_nothing_gives_up_what_a_lost_try_took(fl: Ways) -> None:
    """The lost try took all; one of them is somebody else's by now, so none is ours."""
    client, proxy, key = await ready(fl, socket_timeout=0.4, retry_timeout=20)
    keys = [f"{key}:{number}" for number in range(3)]
    held = proxy.fault("hold_reply")
    spec = client.lock_all(keys, ttl=TTL, timeout=30, fence=True)
    waiter = fl.spawn(spec.__aenter__())
    await fl.happened(held)
    first = [kept(fl, name)[0] for name in keys]
    fl.admin.set(keys[2], "somebody else's", px=60_000)
    await fl.until(lambda: not fl.admin.exists(keys[0], keys[1]))
    fl.admin.delete(keys[2])
    leases = await waiter
    assert all(lease.fence > before for lease, before in zip(leases, first, strict=True))
    held.go()
    await spec.__aexit__(None, None, None)
    assert fl.admin.exists(*keys) == 0
