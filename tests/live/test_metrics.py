"""What a client counts and times, four ways: ``stats()``.

Law: every figure is compared with what the test has done, to the one.
"""

from __future__ import annotations

import os
import threading
from typing import Any

import pytest
from _figures import counted
from _harness import FREE_THREADED, Ways, clock, one_server, sync_only
from _servers import Certificates, Server

import fastlock

pytestmark = one_server


def exact(fl: Ways) -> bool:
    """Whether each hold is timed, be its release a straight one; else a sample of those."""
    return bool(fl.core == "cython")


async def test_pairs_and_refusals(fl: Ways) -> None:
    client, key = fl.client(), fl.key()
    assert counted(client) == {}
    for _ in range(3):
        lease = await client.try_acquire(key, 30)
        assert await client.try_acquire(key, 30) is None
        assert await lease.release() is True
        assert await lease.release() is False
    assert counted(client) == {"acquired": 3, "refused": 3, "released": 3, "connections": 1}
    stats = client.stats()
    assert stats.hold.count == (3 if exact(fl) else 0)
    assert 0 <= stats.hold.sum < 3
    assert stats.round_trip.count >= 4
    assert 0 < stats.round_trip.mean < 1
    assert stats.wait.count == 0


async def test_each_unusual_answer_is_a_round_trip(fl: Ways) -> None:
    client, key = await fl.warm(fl.client()), fl.key()
    lease = await client.acquire(key, 30)
    for count in (1, 2):
        before = client.stats().round_trip.count
        with pytest.raises(fastlock.AcquireTimeout):
            await client.acquire(key, 30, timeout=0)
        assert client.stats().round_trip.count == before + 1, count
    fl.admin.delete(key)
    before = client.stats().round_trip.count
    assert await lease.release() is False
    assert client.stats().round_trip.count == before + 1


async def test_over_tls_each_pair_is_two_round_trips(
    fl: Ways, tls_server: Server, certificates: Certificates
) -> None:
    """Of the compiled core, whose socket is Python's there; else a sample of tries is timed."""
    client = await fl.warm(fl.client(tls_server.uri, ssl_ca_certs=certificates.ca))
    before = client.stats()
    for _ in range(3):
        assert await (await client.acquire(fl.key(), 30)).release()
    after = client.stats()
    assert after.released - before.released == 3
    trips, holds = (6, 3) if exact(fl) else (0, 0)
    assert after.round_trip.count - before.round_trip.count == trips
    assert after.hold.count - before.hold.count == holds


async def test_all_that_a_thousand_pairs_were(fl: Ways) -> None:
    """Looking at the figures in between changes none."""
    client, key = fl.client(), fl.key()
    for number in range(1100):
        lease = await client.try_acquire(key, 30)
        assert client.stats().acquired == number + 1
        await lease.release()
        assert client.stats().released == number + 1 or number % 7
    for _ in range(1100):
        await (await client.try_acquire(key, 30)).release()
    stats = client.stats()
    assert counted(client) == {"acquired": 2200, "released": 2200, "connections": 1}
    assert stats.hold.count == 2200 if exact(fl) else stats.hold.count >= 1100 // 16 - 1
    assert stats.round_trip.count >= 1100 // 64 - 1
    assert 0 < stats.hold.mean < 1


async def test_a_hold_lasts_from_the_acquire_to_the_release(fl: Ways) -> None:
    """Also where its deadline has moved meanwhile, and where it came by another way."""
    client = fl.client()
    plain, extended, together = [await client.acquire(fl.key(), 5) for _ in range(3)]
    numbered = await client.acquire(fl.key(), 5, fence=True)
    renewed = await client.acquire(fl.key(), 5, auto_renew=True)
    await fl.sleep(0.06)
    await extended.extend(500)
    await client.extend_many([together], 1000)
    for lease in (plain, extended, numbered, renewed):
        assert await lease.release()
    assert await client.release_many([together]) == [True]
    stats = client.stats()
    assert counted(client, "acquired", "released") == {"acquired": 5, "released": 5}
    count = stats.hold.count
    assert count == 5 if exact(fl) else count == 1
    assert count * 0.06 <= stats.hold.sum < 5
    assert stats.hold.quantile(0) >= 0.05


async def test_a_batch(fl: Ways) -> None:
    client = fl.client()
    keys = [fl.key() for _ in range(20)]
    held = await client.try_acquire(keys[3], 30)
    leases = await client.try_acquire_many(keys, 30)
    fl.admin.delete(keys[5])
    await client.release_many(leases)
    await held.release()
    figures = {"acquired": 20, "refused": 1, "released": 19, "lost": 1, "connections": 1}
    assert counted(client) == figures
    assert client.stats().hold.count in ((19,) if exact(fl) else (18, 19))
    async with client.lock_all(keys, 30):
        pass
    assert counted(client, "acquired", "released") == {"acquired": 40, "released": 39}


async def test_a_batch_that_raises(fl: Ways) -> None:
    """What is known by then counts: freed, and found lost; not what nobody can know."""
    proxy = fl.proxy()
    client = await fl.warm(fl.client(proxy.uri, retries=0))
    before = client.stats()
    keys = [fl.key() for _ in range(10)]
    leases = await client.try_acquire_many(keys, 30)
    fl.admin.delete(keys[0])
    proxy.fault("lose_reply", nth=4)
    with pytest.raises(fastlock.OutcomeUnknown):
        await client.extend_many(leases, 30)
    assert counted(client, "lost") == {"lost": 1}
    await client.ping()  # connects
    fl.admin.delete(keys[1])
    brief = await client.acquire(fl.key(), 0.05)
    await fl.sleep(0.05)
    proxy.fault("lose_reply", nth=4)
    with pytest.raises(fastlock.OutcomeUnknown):
        await client.release_many([leases[1], *leases[4:6], brief, *leases[6:]])
    await client.ping()
    after = client.stats()
    assert after.acquired - before.acquired == 11
    assert (after.released - before.released, after.lost) == (2, 2)
    assert after.hold.count - before.hold.count in ((2,) if exact(fl) else (1, 2))
    with pytest.raises(fastlock.OutcomeUnknown):
        await client.release_many([brief])
    assert counted(client, "lost") == {"lost": 2}


async def test_waiting(fl: Ways) -> None:
    first, client, key = fl.client(), fl.client(), fl.key()
    held = await first.acquire(key, 30)
    with pytest.raises(fastlock.AcquireTimeout):
        await client.acquire(key, 30, timeout=0.5)
    waiter = fl.spawn(client.acquire(key, 30, timeout=30))
    await fl.until(lambda: client.stats().waiting == 1)
    await held.release()
    lease = await waiter
    await lease.release()
    figures = {"acquired": 1, "timeouts": 1, "waited": 2, "released": 1, "connections": 1}
    assert counted(client) == figures
    assert client.stats().wait.count == 2
    assert 0 < client.stats().wait.sum < 30


@pytest.mark.parametrize("handover", ["swap", "local"])
async def test_handing_over(fl: Ways, handover: str) -> None:
    client = await fl.warm(fl.client(handover=handover, handover_time=1000.0))
    before, key = client.stats(), fl.key()
    held = await client.acquire(key, 30)
    waiter = fl.spawn(client.acquire(key, 30, timeout=30))
    queue = fl.raw(client)._queue
    await fl.until(lambda: (place := queue.first(key.encode())) is not None and place.offer)
    await fl.sleep(0.2)
    assert await held.release() is True
    assert await (await waiter).release() is True
    after = client.stats()
    assert after.acquired - before.acquired == after.released - before.released == 2
    assert after.handed_over == 1
    assert after.waited == 1
    assert after.hold.count - before.hold.count == (2 if exact(fl) else 1)


@pytest.mark.parametrize("handover", ["swap", "local"])
async def test_a_hold_begins_when_the_lock_was_handed_over(fl: Ways, handover: str) -> None:
    """One after the other they held it, so together for no longer than that took."""
    client = await fl.warm(fl.client(handover=handover, handover_time=1000.0))
    key, begun_at = fl.key(), clock()
    lease = await client.acquire(key, 30)
    before, queue = client.stats().hold, fl.raw(client)._queue
    for _ in range(3):
        waiter = fl.spawn(client.acquire(key, 30, timeout=30))
        await fl.until(lambda: (place := queue.first(key.encode())) is not None and place.offer)
        await fl.sleep(0.1)
        assert await lease.release() is True
        lease = await waiter
    hold = client.stats().hold
    assert hold.count - before.count == client.stats().handed_over == 3
    assert 0.3 <= hold.sum - before.sum < 1.5 * (clock() - begun_at)
    assert await lease.release() is True


@pytest.mark.parametrize("handover", ["swap", "local"])
async def test_what_is_acquired_is_released(fl: Ways, handover: str) -> None:
    """By whichever way it came: straight, by a swap, kept, after a wait for the server's word."""
    clients = [await fl.warm(fl.client(handover=handover, handover_time=0.01)) for _ in range(2)]
    key = fl.key()

    async def work(client: Any) -> None:
        for _ in range(20):
            await (await client.acquire(key, 30, 60)).release()

    await fl.together(work(clients[number % 2]) for number in range(8))
    figures = [counted(client, "acquired", "released") for client in clients]
    assert figures == [{"acquired": 81, "released": 81}] * 2  # one to warm it


async def test_renewals_and_losses(fl: Ways) -> None:
    client, keys = fl.client(), [fl.key(), fl.key(), fl.key()]
    renewed = await client.acquire(keys[0], 0.3, auto_renew=True)
    await fl.until(lambda: client.stats().renewed >= 2)
    fl.admin.delete(keys[0])
    await fl.until(lambda: client.stats().lost == 1)
    assert await renewed.release() is False
    plain = await client.acquire(keys[1], 30)
    fl.admin.delete(keys[1])
    assert await plain.release() is False
    extended = await client.acquire(keys[2], 30)
    fl.admin.delete(keys[2])
    with pytest.raises(fastlock.LockLost):
        await extended.extend()
    assert await extended.release() is False
    assert counted(client, "acquired", "released", "lost") == {
        "acquired": 3, "released": 0, "lost": 3,
    }  # fmt: skip


async def test_deferred_releases(fl: Ways) -> None:
    client, key = fl.client(), fl.key()
    await (await client.try_acquire(key, 30)).release(wait=False)
    lease = await client.try_acquire(key, 30)
    fl.admin.delete(key)
    await lease.release(wait=False)
    await fl.until(lambda: client.stats().lost == 1)
    figures = {"acquired": 2, "released": 2, "lost": 1, "connections": 1}
    assert counted(client) == figures


async def test_trouble(fl: Ways) -> None:
    proxy = fl.proxy()
    client = await fl.warm(fl.client(proxy.uri, retries=1))
    proxy.fault("cut_before", "SET")
    lease = await client.acquire(fl.key(), 30)
    await lease.release()
    assert counted(client, "connections", "reconnects", "retries", "failed") == {
        "connections": 2, "reconnects": 1, "retries": 1, "failed": 0,
    }  # fmt: skip
    proxy.down()
    other = fl.client(proxy.uri, retries=1)
    with pytest.raises(fastlock.TransportError):
        await other.try_acquire(fl.key(), 30)
    assert counted(other) == {"failed": 1, "retries": 1}


async def test_an_unknown_outcome(fl: Ways) -> None:
    proxy = fl.proxy()
    client = await fl.warm(fl.client(proxy.uri, retries=0))
    lease = await client.acquire(fl.key(), 30)
    proxy.fault("lose_reply", "DELIFEQ")
    with pytest.raises(fastlock.OutcomeUnknown):
        await lease.release()
    assert counted(client, "acquired", "unknown") == {"acquired": 2, "unknown": 1}


async def test_too_few_replicas(fl: Ways) -> None:
    client = fl.client()
    with pytest.raises(fastlock.NotReplicated):
        await client.try_acquire(fl.key(), 30, min_replicas=1, replica_timeout=0.01)
    assert counted(client, "acquired", "released", "failed") == {
        "acquired": 0, "released": 0, "failed": 1,
    }  # fmt: skip


async def test_adopting(fl: Ways) -> None:
    client, key = fl.client(), fl.key()
    lease = await client.acquire(key, 30)
    other = await client.adopt(key, lease.token)
    assert await other.release()
    assert counted(client, "acquired", "adopted", "released") == {
        "acquired": 1, "adopted": 1, "released": 1,
    }  # fmt: skip


async def test_it_can_be_switched_off(fl: Ways) -> None:
    client = fl.client(metrics=False)
    assert await (await client.try_acquire(fl.key(), 30)).release()
    with pytest.raises(fastlock.ConfigError, match="metrics"):
        client.stats()


async def test_after_close(fl: Ways) -> None:
    client = fl.client()
    assert await (await client.try_acquire(fl.key(), 30)).release()
    await client.close()
    assert counted(client, "acquired", "released") == {"acquired": 1, "released": 1}


@sync_only
async def test_threads_lose_no_count(fl: Ways) -> None:
    client = fl.client()
    pairs, callers = (400 if FREE_THREADED else 150), 8
    mixed = threading.Barrier(callers)

    async def work(number: int) -> None:
        key = fl.key(str(number))
        mixed.wait(30)
        for _ in range(pairs):
            lease = await client.try_acquire(key, 30)
            assert await client.try_acquire(key, 30) is None
            await lease.release()
            client.stats()

    await fl.together(work(number) for number in range(callers))
    total = pairs * callers
    figures = {"acquired": total, "refused": total, "released": total, "connections": 1}
    assert counted(client) == figures
    held = client.stats().hold.count
    assert held == total if exact(fl) else 0 < held <= total // 16


@sync_only
@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
async def test_a_forked_child_begins_at_zero(fl: Ways) -> None:
    client = fl.client()
    assert await (await client.try_acquire(fl.key(), 30)).release()
    child = os.fork()
    if not child:
        status = 1
        try:
            fresh = counted(client) == {} and client.stats().hold.count == 0
            lease = fl.raw(client).try_acquire(fl.key(), 30)
            figures = {"acquired": 1, "released": 1, "connections": 1}
            status = 0 if fresh and lease.release() and counted(client) == figures else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert counted(client) == {"acquired": 1, "released": 1, "connections": 1}
