"""Leases on a majority that renew themselves, and who is told when one is lost.

Law: as of tests/live/test_renewal.py: what is asserted is what the servers and the lease say,
with the servers killed and frozen for real.
"""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import pytest
from _harness import Ways, async_only, sync_only
from _quorum import Masters, quorum
from _strikes import Interrupt

import fastlock

TTL = 2.0  # seconds; renewed every 0.7


@pytest.fixture
def server(started: Masters) -> Any:
    return started[0]


async def test_it_is_held_for_as_long_as_it_takes(fl: Ways, nodes: Masters) -> None:
    client, key = quorum(fl, nodes.uris), fl.key()
    async with client.lock(key, ttl=TTL, auto_renew=True) as lease:
        for _ in range(22):
            await fl.sleep(0.1)
            assert lease.valid()
            assert nodes.held(key) == [lease.token.encode()] * 3
        assert lease.state == "held"
    assert nodes.free(key)
    assert not lease.lost


async def test_a_dead_minority_is_no_loss(fl: Ways, nodes: Masters) -> None:
    client, key = quorum(fl, nodes.uris), fl.key()
    lease = await client.acquire(key, ttl=TTL, auto_renew=True)
    nodes.kill(0)
    await fl.sleep(1.5 * TTL)
    assert lease.valid()
    assert nodes.held(key) == [lease.token.encode()] * 2
    assert await lease.release() is True


@pytest.mark.parametrize("how", ["deleted", "taken over"])
async def test_a_loss_is_told_at_the_next_renewal(fl: Ways, nodes: Masters, how: str) -> None:
    client, key = quorum(fl, nodes.uris), fl.key()
    told: list[Any] = []
    lease = await client.acquire(key, ttl=3.0, auto_renew=True, on_lost=told.append)
    begun = time.monotonic()
    for node in nodes.all[:2]:
        if how == "deleted":
            node.admin.delete(key)
        else:
            node.admin.set(key, "somebody else", px=60_000)
    assert await lease.lost.wait(30)
    assert time.monotonic() - begun < 2.9  # not at its deadline
    await fl.until(lambda: told)
    assert told == [fl.raw(lease)]
    assert not lease.valid()
    assert lease.state == "lost"
    assert await lease.release() is False
    await fl.until(lambda: nodes.held(key)[2] is None)  # the vote that was left
    for node in nodes.all:
        node.admin.delete(key)


async def test_without_an_answer_it_is_lost_at_its_deadline(fl: Ways, nodes: Masters) -> None:
    client, key = quorum(fl, nodes.uris, node_timeout=0.1), fl.key()
    told: list[Any] = []
    lease = await client.acquire(key, ttl=TTL, auto_renew=True, on_lost=told.append)
    nodes.freeze(0, 1)
    await fl.until(lambda: lease.state == "unknown")
    assert await lease.lost.wait(30)
    assert "before its deadline" in lease.lost.reason
    assert lease.remaining() == 0.0
    await fl.until(lambda: told)


async def test_a_silent_majority_that_comes_back_in_time(fl: Ways, nodes: Masters) -> None:
    client, key = quorum(fl, nodes.uris, node_timeout=0.1), fl.key()
    lease = await client.acquire(key, ttl=3.0, auto_renew=True)
    nodes.freeze(0, 1)
    await fl.until(lambda: lease.state == "unknown")
    nodes.mend()
    await fl.until(lambda: lease.state == "held")
    assert lease.valid()
    assert await lease.release() is True


async def test_max_hold_ends_it(fl: Ways, nodes: Masters) -> None:
    client, key = quorum(fl, nodes.uris), fl.key()
    begun = time.monotonic()
    lease = await client.acquire(key, ttl=TTL, auto_renew=True, max_hold=1.0)
    assert await lease.lost.wait(30)
    assert 1.0 <= time.monotonic() - begun < 10
    assert "max_hold" in lease.lost.reason
    await fl.until(lambda: nodes.free(key))


async def test_by_hand_in_between(fl: Ways, nodes: Masters) -> None:
    client, key = quorum(fl, nodes.uris), fl.key()
    lease = await client.acquire(key, ttl=TTL, auto_renew=True)
    await lease.extend(20)
    assert lease.remaining() > 15
    await fl.sleep(0.5)
    assert lease.remaining() > 14
    await lease.extend(TTL)
    await fl.sleep(1.5 * TTL)
    assert lease.valid()
    assert lease.remaining() <= TTL
    assert await lease.release() is True


async def test_what_nobody_can_release_is_renewed_no_more(fl: Ways, nodes: Masters) -> None:
    client, key = quorum(fl, nodes.uris), fl.key()
    lease = await client.acquire(key, ttl=TTL, auto_renew=True)
    await fl.sleep(TTL)
    assert lease.valid()
    del lease
    await fl.until(lambda: nodes.free(key))


async def test_a_block_whose_lock_was_lost(fl: Ways, nodes: Masters) -> None:
    client, key = quorum(fl, nodes.uris), fl.key()
    with pytest.raises(fastlock.LockLost):
        async with client.lock(key, ttl=TTL, auto_renew=True) as lease:
            for node in nodes.all:
                node.admin.delete(key)
            assert await lease.lost.wait(30)
    async with client.lock(key, ttl=TTL, auto_renew=True, if_lost="ignore") as lease:
        for node in nodes.all:
            node.admin.delete(key)
        assert await lease.lost.wait(30)


@async_only
async def test_a_blocked_loop_does_not_stop_it(fl: Ways, nodes: Masters) -> None:
    client, key = quorum(fl, nodes.uris), fl.key()
    lease = await client.acquire(key, ttl=TTL, auto_renew=True)
    await asyncio.sleep(0.4)
    time.sleep(2 * TTL)
    assert lease.valid()
    assert await lease.release() is True


@async_only
async def test_a_lost_lease_can_cancel_its_task(fl: Ways, nodes: Masters) -> None:
    client, key = quorum(fl, nodes.uris), fl.key()
    with pytest.raises(fastlock.LockLost):
        async with client.lock(key, ttl=TTL, auto_renew=True, cancel_on_lost=True):
            for node in nodes.all:
                node.admin.delete(key)
            await asyncio.sleep(10)


async def test_closing_ends_renewals(fl: Ways, nodes: Masters) -> None:
    client, key = quorum(fl, nodes.uris), fl.key()
    lease = await client.acquire(key, ttl=TTL, auto_renew=True)
    await client.close()
    await fl.until(lambda: nodes.free(key))
    assert not lease.valid()


async def test_many_leases(fl: Ways, nodes: Masters) -> None:
    client = quorum(fl, nodes.uris, node_timeout=1.0)
    keys = [fl.key() for _ in range(20)]
    leases = [await client.acquire(key, ttl=TTL, auto_renew=True) for key in keys]
    await fl.sleep(1.3 * TTL)
    assert all(lease.valid() for lease in leases)
    assert [await lease.release() for lease in leases] == [True] * len(keys)


@sync_only
@pytest.mark.parametrize("runs", [True, False])
async def test_an_interrupt_while_the_thread_starts(
    fl: Ways, nodes: Masters, runs: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a thread's start, which waits for it, a signal's exception tells nothing."""
    client, key, other = quorum(fl, nodes.uris), fl.key(), fl.key("other")
    start = threading.Thread.start

    def interrupted(thread: threading.Thread) -> None:
        if thread.name != "fastlock-keeper":
            start(thread)
            return
        monkeypatch.undo()
        if runs:
            start(thread)
        raise Interrupt

    monkeypatch.setattr(threading.Thread, "start", interrupted)
    with pytest.raises(Interrupt):
        await client.acquire(key, ttl=TTL, auto_renew=True)
    await fl.until(lambda: nodes.free(key))
    lease = await client.acquire(other, ttl=TTL, auto_renew=True)
    if not runs:
        await fl.sleep(1.2 * TTL)
        assert lease.valid()
    names = [thread.name for thread in threading.enumerate()]
    assert names.count("fastlock-keeper") == 1
    assert await lease.release() is True
