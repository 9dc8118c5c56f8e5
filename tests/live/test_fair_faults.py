"""Fair locks and a network that fails: a step whose answer was lost is the same step again.

Law: that of ``test_faults.py``. What counts is what the server has: one place for each who waits, a
lock for the one who says that he holds it, nothing when all have left, and that sooner than a
place ends by itself.
"""

from __future__ import annotations

from typing import Any

import pytest
from _harness import Ways, async_only, remaining_at_most
from _proxy import Proxy
from _waiting import nothing_left, queue_of, waiting

import fastlock
from fastlock.fencing import companion

TTL = 20
FAULTS: dict[str, dict[str, Any]] = {
    "lose_reply": {},
    "lose_reply, rst": {"name": "lose_reply", "rst": True},
    "cut_reply": {"size": 3},
    "cut_after": {},
    "cut_before": {},
    "cut_before, rst": {"name": "cut_before", "rst": True},
    "split_reply": {},
}


def plan(proxy: Proxy, fault: str) -> Any:
    settings = {"name": fault, **FAULTS[fault]}
    return proxy.fault(settings.pop("name"), **settings)


async def ready(fl: Ways, **options: Any) -> tuple[Any, Proxy, str]:
    """A connected client behind a proxy, whose server knows the scripts; a key."""
    proxy = fl.proxy()
    client = await fl.warm(fl.client(proxy.uri, **{"retry_timeout": 20, **options}))
    key = fl.key()
    assert await (await client.acquire(f"{key}:warm", TTL, fair=True)).release() is True
    return client, proxy, key


async def come_in(fl: Ways, key: str, coroutine: Any) -> Any:
    before = len(waiting(fl.admin, key))
    started = fl.spawn(coroutine)
    await fl.until(lambda: len(waiting(fl.admin, key)) == before + 1)
    return started


@pytest.mark.smoke
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("fence", [False, True])
async def test_a_lost_connection_loses_no_lock(fl: Ways, fault: str, fence: bool) -> None:
    client, proxy, key = await ready(fl)
    planned = plan(proxy, fault)
    lease = await client.acquire(key, TTL, 15, fair=True, fence=fence)
    await fl.happened(planned)
    assert fl.admin.get(key).decode() == lease.token
    if fence:
        kept = fl.admin.get(companion(key.encode())).decode()
        assert kept == f"{lease.fence} {lease.token}"
    remaining_at_most(fl, lease, key)
    assert fl.admin.exists(queue_of(key)) == 0
    assert await lease.release() is True


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_lost_connection_loses_no_place(fl: Ways, fault: str) -> None:
    """The first step is struck, and a later one: there is one place, and it is the first."""
    client, proxy, key = await ready(fl)
    holder = await fl.client().acquire(key, TTL)
    planned = plan(proxy, fault)
    waiter = await come_in(fl, key, client.acquire(key, TTL, 15, fair=True))
    later = await come_in(fl, key, fl.client(retry_timeout=20).acquire(key, TTL, 15, fair=True))
    await fl.happened(planned)
    order = waiting(fl.admin, key)
    await fl.happened(plan(proxy, fault))
    assert waiting(fl.admin, key) == order
    assert await holder.release() is True
    lease = await waiter
    assert lease.token.encode() == order[0]
    assert waiting(fl.admin, key) == order[1:]
    assert await lease.release() is True
    assert await (await later).release() is True
    assert nothing_left(fl.admin, key)


async def test_a_lock_taken_unheard_counts_from_then(fl: Ways) -> None:
    client, proxy, key = await ready(fl, socket_timeout=0.4)
    held = proxy.fault("hold_reply")
    waiter = fl.spawn(client.acquire(key, TTL, 15, fair=True))
    await fl.happened(held)
    token = fl.admin.get(key)
    lease = await waiter
    assert lease.token.encode() == token
    remaining_at_most(fl, lease, key)
    held.go()
    assert await lease.release() is True


@pytest.mark.parametrize("timeout", [0, 0.2])
async def test_a_lost_answer_to_the_last_step_leaves_no_place(fl: Ways, timeout: float) -> None:
    client, proxy, key = await ready(fl, retry_timeout=60_000)
    fl.admin.set(key, "somebody's")
    planned = proxy.fault("lose_reply", verb="EVALSHA", nth=1 if timeout == 0 else 2)
    with pytest.raises(fastlock.AcquireTimeout):
        await client.acquire(key, TTL, timeout, fair=True)
    await fl.happened(planned)
    assert fl.admin.exists(queue_of(key)) == 0
    fl.admin.delete(key)


async def test_an_answer_that_never_comes_is_unknown_and_given_back(fl: Ways) -> None:
    client, proxy, key = await ready(fl, retries=1)
    last = proxy.fault("lose_reply", times=2)
    with pytest.raises(fastlock.OutcomeUnknown) as caught:
        await client.acquire(key, TTL, fair=True)
    await fl.happened(last)
    assert caught.value.key == key
    await fl.until(lambda: nothing_left(fl.admin, key), 2)


async def test_a_place_is_given_back_when_no_answer_comes_any_more(fl: Ways) -> None:
    client, proxy, key = await ready(fl, retries=1)
    holder = await fl.client().acquire(key, TTL)

    async def wait() -> None:
        with pytest.raises(fastlock.OutcomeUnknown):
            await client.acquire(key, TTL, fair=True)

    waiter = await come_in(fl, key, wait())
    last = proxy.fault("lose_reply", verb="EVALSHA", times=2)
    await waiter
    await fl.happened(last)
    await fl.until(lambda: fl.admin.exists(queue_of(key)) == 0, 2)
    assert await holder.release() is True


@async_only
@pytest.mark.parametrize("fault", ["hold_reply", "hold_command"])
async def test_a_cancelled_step_leaves_neither_lock_nor_place(fl: Ways, fault: str) -> None:
    client, proxy, key = await ready(fl)
    for is_free in (True, False):
        if not is_free:
            fl.admin.set(key, "somebody's")
        held = proxy.fault(fault, verb="EVALSHA")
        waiter = fl.spawn(client.acquire(key, TTL, fair=True))
        await fl.happened(held)
        waiter.cancel()
        held.go()
        await fl.until(lambda: fl.admin.exists(queue_of(key)) == 0, 2)
        if is_free:
            await fl.until(lambda: nothing_left(fl.admin, key), 2)
    assert fl.admin.get(key) == b"somebody's"
    fl.admin.delete(key)


@async_only
async def test_a_place_that_is_given_up_unheard_is_given_up_again(fl: Ways) -> None:
    """What is posted on leaving is lost with its connection; the background says it anew."""
    client, proxy, key = await ready(fl)
    holder = await fl.client().acquire(key, TTL)
    waiter = await come_in(fl, key, client.acquire(key, TTL, fair=True))
    lost = proxy.fault("cut_before", verb="EVAL")
    waiter.cancel()
    await fl.happened(lost)
    await fl.until(lambda: fl.admin.exists(queue_of(key)) == 0, 2)
    assert await holder.release() is True


@pytest.mark.parametrize("error", ["LOADING loading the dataset", "BUSY a script is running"])
async def test_a_server_that_is_not_ready_yet_is_asked_again(fl: Ways, error: str) -> None:
    client, proxy, key = await ready(fl)
    # The command did arrive in this test, so the second step must recognise its own lock.
    planned = proxy.fault("replace_reply", data=f"-{error}\r\n".encode())
    lease = await client.acquire(key, TTL, 5, fair=True)
    await fl.happened(planned)
    assert fl.admin.get(key).decode() == lease.token
    assert await lease.release() is True
    assert nothing_left(fl.admin, key)
