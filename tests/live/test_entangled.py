"""What several do with one lease at once, and what becomes of a lease that is given back.

Law: whoever comes into the middle of another's call, by a thread, a task or a signal, learns
the truth, and no lease counts for longer than the server keeps its lock.
"""

from __future__ import annotations

import asyncio
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from _harness import Ways, async_only, clock, sync_only
from _proxy import HANDSHAKE

import fastlock

THIEF = b"somebody else's"


def sent(proxy: Any, key: str) -> int:
    """How many commands about the key have passed."""
    return sum(
        key.encode() in args and args[0].decode().upper() not in HANDSHAKE
        for args in list(proxy.commands)
    )


@contextmanager
def struck_when(fault: Any, handler: Any) -> Iterator[None]:
    """The main thread runs ``handler`` for a signal once the proxy's fault has happened."""

    def strike() -> None:
        fault.wait()
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, handler)
    striker = threading.Thread(target=strike)
    striker.start()
    try:
        yield
    finally:
        signal.signal(signal.SIGUSR1, before)
        striker.join(10)


async def test_two_releases_of_a_stolen_lock_free_nothing(fl: Ways) -> None:
    """The second finds the first unanswered, which is no lost answer."""
    proxy, key = fl.proxy(), fl.key()
    client = await fl.warm(fl.client(proxy.uri))
    lease = await client.acquire(key, ttl=30)
    fl.admin.set(key, THIEF, px=60_000)
    before = sent(proxy, key)
    held = proxy.fault("hold_reply")
    first = fl.spawn(lease.release())
    await fl.happened(held)
    second = fl.spawn(lease.release())
    await fl.until(lambda: sent(proxy, key) == before + 2)
    held.go()
    assert [await first, await second] == [False, False]
    assert (lease.state, bool(lease.lost)) == ("lost", True)
    assert fl.admin.get(key) == THIEF
    fl.admin.delete(key)


async def test_a_deferred_release_beside_a_waiting_one_tells_of_no_loss(fl: Ways) -> None:
    proxy, key = fl.proxy(), fl.key()
    client = await fl.warm(fl.client(proxy.uri))
    lease = await client.acquire(key, ttl=30)
    held = proxy.fault("hold_reply")
    first = fl.spawn(lease.release())
    await fl.happened(held)
    assert await lease.release(wait=False) is None
    held.go()
    assert await first is True
    await fl.sleep(0.3)  # in which the other one's answer would be looked at
    assert (lease.state, bool(lease.lost)) == ("released", False)


@pytest.mark.parametrize("renewed", [False, True])
async def test_what_is_given_back_is_valid_no_more(fl: Ways, renewed: bool) -> None:
    """As by the interrupted end of a block."""
    told: list[Any] = []
    options: Any = {"auto_renew": True, "on_lost": told.append} if renewed else {}
    client, key = await fl.warm(fl.client()), fl.key()
    lease = await client.acquire(key, ttl=0.9, **options)
    fl.raw(lease)._abandon()
    assert (lease.valid(), lease.remaining(), lease.state) == (False, 0.0, "unknown")
    await fl.until(lambda: not fl.admin.exists(key))
    await fl.sleep(0.6)  # the time of two renewals
    assert told == []


@async_only
async def test_leases_of_a_closed_coroutine_are_given_back_and_renewed_no_more(fl: Ways) -> None:
    client, keys = await fl.warm(fl.client()), [fl.key() for _ in range(3)]
    told: list[Any] = []
    kept: list[Any] = []

    async def body() -> Any:
        async with client.lock_all(
            keys, ttl=0.9, auto_renew=True, cancel_on_lost=True, on_lost=told.append
        ) as leases:
            kept.extend(leases)
            yield

    running = body()
    await running.__anext__()
    await running.aclose()
    assert [lease.valid() for lease in kept] == [False] * 3
    await fl.until(lambda: not fl.admin.exists(*keys))
    await asyncio.sleep(0.6)  # the time of two renewals; a cancellation would strike here
    assert told == []


@async_only
async def test_all_locks_are_freed_whose_body_kept_a_cancellation_to_itself(fl: Ways) -> None:
    """Two of three are lost, and each has cancelled the task."""
    client, keys = await fl.warm(fl.client()), [fl.key() for _ in range(3)]

    async def body() -> int:
        with pytest.raises(fastlock.LockLost):
            async with client.lock_all(
                keys, ttl=0.9, auto_renew=True, cancel_on_lost=True
            ) as leases:
                fl.admin.delete(*keys[:2])
                with pytest.raises(asyncio.CancelledError):
                    await asyncio.sleep(60)
                await fl.until(lambda: leases[0].lost and leases[1].lost)
                await asyncio.sleep(0.01)
        assert leases[2].freed
        assert fl.admin.exists(*keys) == 0
        task: Any = asyncio.current_task()
        return task.cancelling() if hasattr(task, "cancelling") else 0

    assert await asyncio.ensure_future(body()) == 0


@async_only
async def test_renewals_count_for_no_longer_than_an_unheard_extension_may_leave(fl: Ways) -> None:
    """It lands late, behind renewals of more by the other connection."""
    proxy, key = fl.proxy(), fl.key()
    client = await fl.warm(fl.client(proxy.uri))
    lease = await client.acquire(key, ttl=6.0, auto_renew=True)
    held = proxy.fault("hold_command")
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(lease.extend(1.0), 0.2)
    await fl.happened(held)
    await fl.until(lambda: fl.admin.pttl(key) > 5900, 10)  # renewed
    deadline = lease.deadline
    assert deadline <= clock() + 1.0
    held.go()
    await fl.until(lambda: fl.admin.pttl(key) <= 1000, 10)  # there it is
    end = clock() + 2.0
    while clock() < end:
        counted = lease.deadline
        left = fl.admin.pttl(key) / 1000  # before the clock: time passes in between
        assert counted <= clock() + left + 0.05
        assert fl.admin.get(key) == lease.token.encode()
        await asyncio.sleep(0.02)
    assert lease.deadline > deadline
    assert await lease.release() is True


@sync_only
@pytest.mark.parametrize("renewed", [False, True])
async def test_a_handler_cannot_extend_what_is_being_extended(fl: Ways, renewed: bool) -> None:
    """Both would be carried out, and the interrupted one be believed."""
    proxy, key = fl.proxy(), fl.key()
    client = fl.raw(await fl.warm(fl.client(proxy.uri)))
    lease = client.acquire(key, 30, auto_renew=renewed)
    told: list[Any] = []
    held = proxy.fault("hold_reply")

    def handler(*_: object) -> None:
        with pytest.raises(fastlock.LockError, match="a handler has interrupted") as caught:
            lease.extend(0.5)
        told.append(caught.value.key)
        held.go()

    with struck_when(held, handler):
        lease.extend(60)
    assert told == [key]
    assert 50_000 < fl.admin.pttl(key) <= 60_000
    lease.extend(20)  # the turn was given back, once
    assert lease.remaining() < 20
    assert lease.release() is True


@sync_only
async def test_a_handler_does_not_wait_for_who_waits_for_its_thread(fl: Ways) -> None:
    """Somebody extends many, and waits for the one whose extension the handler has interrupted."""
    proxy = fl.proxy()
    client = fl.raw(await fl.warm(fl.client(proxy.uri)))
    first, second = leases = [client.acquire(fl.key(), 30) for _ in range(2)]
    for lease in leases:
        lease.extend(30)
    told: list[Any] = []
    results: list[bool] = []
    held = proxy.fault("hold_reply")
    others = threading.Thread(target=lambda: results.extend(client.extend_many(leases, 40)))

    def handler(*_: object) -> None:
        others.start()
        while not client._turns._listed:
            time.sleep(0.005)
        for extend in (lambda: second.extend(5), lambda: client.extend_many([second], 5)):
            with pytest.raises(fastlock.LockError, match="a handler has interrupted"):
                extend()
            told.append(extend)
        held.go()

    with struck_when(held, handler):
        first.extend(60)
    others.join(10)
    assert (len(told), results) == (2, [True, True])
    for lease in leases:
        assert 30_000 < fl.admin.pttl(lease.key) <= 40_000
        assert lease.release() is True


@sync_only
async def test_a_callback_that_asks_for_the_end_leaves_the_others_theirs(fl: Ways) -> None:
    """``sys.exit`` ends its thread's errand, not the thread."""
    client, keys = fl.raw(fl.client()), [fl.key() for _ in range(3)]
    told: list[Any] = []

    def tell(lease: Any) -> None:
        told.append(lease.key)
        sys.exit(1)

    leases = client.try_acquire_many(keys, ttl=0.9, auto_renew=True, on_lost=tell)
    fl.admin.delete(*keys)
    await fl.until(lambda: len(told) == 3)
    assert sorted(told) == sorted(keys)
    assert all(lease.lost for lease in leases)
