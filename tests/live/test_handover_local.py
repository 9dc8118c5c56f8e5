"""handover="local": a lock goes on under the giver's token, and the server hears nothing of it.

Law: whose the lock is the server says as well; what was sent is counted by the proxy.
"""

from __future__ import annotations

import random
import threading
from contextlib import suppress
from typing import Any

import pytest
from _harness import Ways, remaining_at_most, sync_only
from test_handover import PATIENT, nothing_stays, storm, waits

import fastlock

LOCAL = {**PATIENT, "handover": "local"}


async def handed(fl: Ways, client: Any, key: str, lease: Any, **options: Any) -> tuple[Any, bool]:
    """The next one's lease, and whether it has the same token."""
    waiter = await waits(fl, client, key, **options)
    assert await lease.release() is True
    taken = await waiter
    assert not lease.valid()
    assert lease.state == "released"
    assert await lease.release() is False
    assert await lease.release(wait=False) is False
    with pytest.raises(fastlock.LockLost):
        await lease.extend(60)
    assert await client.release_many([lease]) == [False]
    assert taken.valid()
    assert fl.admin.get(key) == taken.token.encode()
    remaining_at_most(fl, taken, key)
    return taken, taken.token == lease.token


async def test_no_command_at_all(fl: Ways) -> None:
    proxy, key = fl.proxy(), fl.key()
    client = await fl.warm(fl.client(proxy.uri, **LOCAL))
    lease = await client.acquire(key, ttl=40)
    for _ in range(5):
        waiter = await waits(fl, client, key, ttl=40)
        before = len(proxy.commands)
        assert await lease.release() is True
        taken = await waiter
        assert len(proxy.commands) == before
        assert taken.token == lease.token
        assert taken.ttl == 40
        assert taken.deadline <= lease.deadline
        assert 30 < taken.remaining() < 40
        lease = taken
    assert await client.holder(key) == (await client.holder(key))
    assert await lease.release() is True
    assert not fl.admin.exists(key)
    assert nothing_stays(fl, client)


async def test_who_asked_for_less_is_not_given_more(fl: Ways) -> None:
    """Else a lock would stay for longer than its holder's lease, if that is let expire."""
    client, key = await fl.warm(fl.client(**LOCAL)), fl.key()
    lease = await client.acquire(key, ttl=60)
    taken, same = await handed(fl, client, key, lease, ttl=5)
    assert not same
    assert fl.admin.pttl(key) <= 5000
    assert await taken.release() is True


async def test_a_lease_never_lasts_longer_than_the_one_before(fl: Ways) -> None:
    client, key = await fl.warm(fl.client(**LOCAL)), fl.key()
    lease = await client.acquire(key, ttl=30)
    taken, same = await handed(fl, client, key, lease, ttl=50)
    assert same
    assert taken.deadline == lease.deadline
    assert taken.ttl == 50
    await taken.extend()
    assert taken.remaining() > 45
    assert await taken.release() is True


@pytest.mark.parametrize(
    "why", ["little is left", "fenced taker", "fenced giver", "renewed taker", "renewed giver",
            "extended", "extended with others"],
)  # fmt: skip
async def test_what_goes_by_a_swap(fl: Ways, why: str) -> None:
    client, key = await fl.warm(fl.client(**LOCAL)), fl.key()
    options: dict[str, Any] = {"ttl": 90 if why == "little is left" else 30}
    giver = {"fence": why == "fenced giver", "auto_renew": why == "renewed giver"}
    lease = await client.acquire(key, 30, **giver)
    if why == "extended":
        await lease.extend(30)
    elif why == "extended with others":
        await lease.extend(30)
        assert await client.extend_many([lease]) == [True]
    options |= {"fence": why == "fenced taker", "auto_renew": why == "renewed taker"}
    taken, same = await handed(fl, client, key, lease, **options)
    assert not same
    assert (taken.fence is None) == (why != "fenced taker")
    if why == "little is left":
        assert taken.remaining() > 80
    assert await taken.release() is True


async def test_no_update_is_lost(fl: Ways) -> None:
    proxy, key = fl.proxy(), fl.key()
    limits = {"handover_time": 1000.0, "handover_limit": 10**6}
    client = await fl.warm(fl.client(proxy.uri, handover="local", **limits))
    workers, rounds = (16, 40) if fl.sync else (64, 20)
    before = len(proxy.commands)
    done = await storm(fl, client, key, workers, rounds)
    sent = len(proxy.commands) - before
    assert done == workers * rounds
    assert not fl.admin.exists(key)
    assert nothing_stays(fl, client)
    assert sent < 0.2 * done, (sent, done)


@pytest.mark.parametrize("api", ["sync"], indirect=True)
@pytest.mark.parametrize("seed", range(3))
async def test_releasing_twice_at_once_ends_nobody_elses_lease(fl: Ways, seed: int) -> None:
    """Every lease is released by two threads, each in its own way, while others wait."""
    facade = await fl.warm(fl.client(handover="local", handover_time=1000.0))
    client, key = fl.raw(facade), fl.key()
    inside: list[int] = []
    failures: list[BaseException] = []
    freed: list[bool] = []

    def released(lease: Any, how: str) -> None:
        try:
            if how == "many":
                freed.extend(client.release_many([lease]))
            elif how == "deferred":
                lease.release(wait=False)
            elif how == "extend":
                with suppress(fastlock.LockLost):
                    lease.extend(30)
            else:
                freed.append(lease.release())
        except BaseException as error:
            failures.append(error)

    def work(number: int) -> None:
        dice = random.Random(f"{seed} {number}")
        try:
            for _ in range(40):
                lease = client.acquire(key, 30, 20)
                inside.append(number)
                assert inside == [number]
                assert lease.valid()
                inside.pop()
                how = dice.choice(["plain", "many", "deferred", "extend"])
                other = threading.Thread(target=released, args=(lease, how))
                other.start()
                lease.release()
                other.join(20)
                assert not lease.valid()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not failures
    await fl.until(lambda: not fl.admin.exists(key))


async def test_who_leaves_passes_it_on(fl: Ways) -> None:
    """Waiters time out or are cancelled at the moment when they could be given the lock."""
    client, key = await fl.warm(fl.client(handover="local", handover_time=1000.0)), fl.key()
    dice = random.Random(3)
    inside: list[int] = []
    ended: list[str] = []

    async def work() -> None:
        for _ in range(15):
            try:
                lease = await client.acquire(key, 30, dice.uniform(0, 0.02))
            except fastlock.AcquireTimeout:
                ended.append("timed out")
                continue
            inside.append(1)
            assert inside == [1]
            await fl.sleep(dice.uniform(0, 0.002))
            inside.pop()
            ended.append("held")
            assert await lease.release() is True

    await fl.together([work() for _ in range(12)])
    assert set(ended) == {"timed out", "held"}
    await fl.until(lambda: not fl.admin.exists(key))
    assert nothing_stays(fl, client)


@sync_only
async def test_a_second_release_that_is_under_way_keeps_the_token_from_going_on(fl: Ways) -> None:
    proxy, key = fl.proxy(), fl.key()
    client = await fl.warm(
        fl.client(proxy.uri, socket_timeout=3, retry_timeout=50, handover="local")
    )
    lease = await client.acquire(key, 30)
    waiter = await waits(fl, client, key)
    held = proxy.fault("hold_command")
    fl.raw(lease)._client._queue._limit = 0  # this one goes to the server
    first = fl.spawn(lease.release())
    await fl.happened(held)
    fl.raw(lease)._client._queue._limit = 256
    second = fl.spawn(lease.release())
    await fl.sleep(0.05)
    assert not waiter.done()
    held.go()
    assert sorted([await first, await second]) == [False, True]
    taken = await waiter
    assert taken.token != lease.token
    assert fl.admin.get(key) == taken.token.encode()
    assert await taken.release() is True
