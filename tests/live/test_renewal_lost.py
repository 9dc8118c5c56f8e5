"""Leases that renew themselves and are lost all the same: who is told, when, and how blocks end.

Law: a lock is lost by what happens at the server or to the connection, never by pretending.
"""

from __future__ import annotations

import asyncio
import sys
import threading
from typing import Any

import pytest
from _harness import Ways, async_only, clock, one_server, sync_only
from _servers import Server, has_ifeq
from test_renewal import ready, renewals, stays

import fastlock

TTL = 0.9
THIEF = "somebody else's"

#: What may happen to a key, and what is left of it afterwards.
FATES: dict[str, Any] = {
    "deleted": lambda admin, key: admin.delete(key),
    "stolen": lambda admin, key: admin.set(key, THIEF, px=60_000),
    "of another type": lambda admin, key: (admin.delete(key), admin.rpush(key, THIEF)),
    "flushed": lambda admin, key: admin.flushall(),
}


# ------------------------------------------------------------------ told


@pytest.mark.smoke
@pytest.mark.parametrize("fate", FATES)
async def test_a_lost_lock_is_told_to_everybody(fl: Ways, own_server: Server, fate: str) -> None:
    client, key = fl.client(own_server.uri), fl.key()
    told: list[Any] = []
    with pytest.raises(fastlock.LockLost, match="the server had it no more") as caught:
        async with client.lock(key, ttl=TTL, auto_renew=True, on_lost=told.append) as lease:
            assert not lease.lost
            waiter = fl.spawn(lease.lost.wait())
            FATES[fate](own_server.admin, key)
            happened = clock()
            assert await lease.lost.wait(30) is True
            # Within ttl/3; the rest is for slow machines, and before the deadline all the same.
            assert clock() - happened < TTL / 3 + 5
            assert await waiter is True
            assert lease.lost.is_set()
            assert lease.lost
            assert lease.lost.reason.startswith("the server had it no more")
            assert (lease.state, lease.valid(), lease.remaining()) == ("lost", False, 0.0)
            await fl.until(lambda: told)
    assert caught.value.key == key
    assert told == [fl.raw(lease)]
    left = own_server.admin.type(key)
    assert left == {"stolen": b"string", "of another type": b"list"}.get(fate, b"none")
    if fate == "stolen":
        assert own_server.admin.get(key) == THIEF.encode()
    assert await lease.release() is False
    with pytest.raises(fastlock.LockLost):
        await lease.extend()
    assert await client.extend_many([lease], 5) == [False]
    assert bool(lease.lost)
    await fl.sleep(TTL)
    assert len(told) == 1


@one_server
async def test_others_are_renewed_meanwhile(fl: Ways) -> None:
    client = await fl.warm(fl.client())
    keys = [f"{fl.key()}:{number}" for number in range(40)]
    told: list[Any] = []
    leases = await client.try_acquire_many(keys, ttl=1.5, auto_renew=True, on_lost=told.append)
    fl.admin.delete(*keys[::4])
    await fl.until(lambda: len(told) == 10, 30)
    assert [bool(lease.lost) for lease in leases] == [True, False, False, False] * 10
    assert {lease.key for lease in told} == set(keys[::4])
    await stays(fl, keys[1], leases[1].token)
    assert fl.admin.exists(*keys) == 30
    assert await client.release_many(leases) == [False, True, True, True] * 10


@one_server
@sync_only
async def test_callbacks_run_on_a_thread_of_their_own(fl: Ways) -> None:
    """One that takes its time delays neither renewals nor the news of other losses."""
    client, keys = fl.client(), [fl.key(), fl.key(), fl.key()]
    go_on, names = threading.Event(), []

    def slow(lease: Any) -> None:
        names.append(threading.current_thread().name)
        go_on.wait(60)

    leases = await client.try_acquire_many(keys, ttl=1.5, auto_renew=True, on_lost=slow)
    fl.admin.delete(keys[0])
    await fl.until(lambda: names, 30)
    fl.admin.delete(keys[1])
    assert await leases[1].lost.wait(30)
    await stays(fl, keys[2], leases[2].token)
    assert names == ["fastlock-on-lost"]
    go_on.set()
    await fl.until(lambda: len(names) == 2)
    await client.release_many(leases)


@async_only
async def test_callbacks_run_in_the_loop(fl: Ways) -> None:
    client = fl.client()
    loop, told = asyncio.get_running_loop(), []

    async def tell(lease: Any) -> None:
        await asyncio.sleep(0)
        told.append((asyncio.get_running_loop(), lease))

    for on_lost in (tell, lambda lease: told.append((asyncio.get_running_loop(), lease))):
        key = fl.key()
        lease = await client.acquire(key, ttl=TTL, auto_renew=True, on_lost=on_lost)
        fl.admin.delete(key)
        await fl.until(lambda: told, 30)
        assert told.pop() == (loop, lease)


async def test_what_a_callback_raises_is_logged(fl: Ways, caplog: pytest.LogCaptureFixture) -> None:
    client, keys = fl.client(), [fl.key(), fl.key()]

    def fail(lease: Any) -> None:
        raise ZeroDivisionError

    async def fail_later(lease: Any) -> None:
        raise ZeroDivisionError

    for key, on_lost in zip(keys, [fail, fail if fl.sync else fail_later], strict=True):
        lease = await client.acquire(key, ttl=TTL, auto_renew=True, on_lost=on_lost)
        fl.admin.delete(key)
        assert await lease.lost.wait(30)
    await fl.until(lambda: len(caplog.records) == 2)
    assert [record.getMessage() for record in caplog.records] == [
        f"on_lost of {key!r} failed" for key in keys
    ]
    assert all(record.exc_info[0] is ZeroDivisionError for record in caplog.records)  # type: ignore[index]


async def test_without_a_callback_it_is_logged(fl: Ways, caplog: pytest.LogCaptureFixture) -> None:
    client, key = fl.client(), fl.key()
    lease = await client.acquire(key, ttl=TTL, auto_renew=True)
    fl.admin.delete(key)
    assert await lease.lost.wait(30)
    (record,) = caplog.records
    assert record.getMessage().startswith(f"{key!r} was lost: the server had it no more")
    assert lease.token not in caplog.text


async def test_a_deferred_release_of_a_lost_lock_is_told_too(fl: Ways) -> None:
    client, key = await fl.warm(fl.client()), fl.key()
    told: list[Any] = []
    lease = await client.acquire(key, ttl=30, auto_renew=True, on_lost=told.append)
    fl.admin.set(key, THIEF, px=60_000)
    await lease.release(wait=False)
    await fl.until(lambda: told)
    assert told == [fl.raw(lease)]
    assert lease.lost
    assert fl.admin.get(key) == THIEF.encode()
    fl.admin.delete(key)


async def test_what_was_told_already_a_deferred_release_tells_no_more(
    fl: Ways, caplog: pytest.LogCaptureFixture
) -> None:
    client, key = await fl.warm(fl.client()), fl.key()
    told: list[Any] = []
    lease = await client.acquire(key, ttl=0.3, auto_renew=True, max_hold=0.01, on_lost=told.append)
    assert await lease.lost.wait(30)
    await fl.until(lambda: fl.admin.exists(key) == 0 and told)
    await lease.release(wait=False)
    await fl.until(lambda: "when its deferred release arrived" in caplog.text)
    await fl.sleep(0.1)
    assert told == [fl.raw(lease)]
    assert lease.lost.reason.startswith("it had been held for max_hold")


# ------------------------------------------------------------------ waiting for it


async def test_waiting_ends_when_time_is_over_or_the_lock_released(fl: Ways) -> None:
    client, keys = fl.client(), [fl.key(), fl.key()]
    for key, options in zip(keys, ({}, {"auto_renew": True}), strict=True):
        lease = await client.acquire(key, ttl=30, **options)
        before = clock()
        assert await lease.lost.wait(0.2) is False
        assert clock() - before > 0.19
        assert await lease.lost.wait(0) is False
        waiting = fl.spawn(lease.lost.wait())
        await fl.sleep(0.1)
        assert not waiting.done()
        assert await lease.release() is True
        assert await waiting is False
        assert await lease.lost.wait() is False
        assert repr(lease.lost) == "<lost: no>"


async def test_a_lease_that_is_not_renewed_can_be_waited_for_as_well(fl: Ways) -> None:
    client, keys = fl.client(), [fl.key(), fl.key()]
    lease = await client.acquire(keys[0], ttl=0.4)
    assert await lease.lost.wait() is True
    assert clock() >= lease.deadline
    assert lease.lost.reason == "it expired, was deleted or taken over"
    lease = await client.acquire(keys[1], ttl=60)
    waiting = fl.spawn(lease.lost.wait())
    fl.admin.delete(keys[1])
    with pytest.raises(fastlock.LockLost):
        await lease.extend()
    assert await waiting is True


@async_only
async def test_it_can_be_awaited_itself(fl: Ways) -> None:
    client, key = fl.client(), fl.key()
    lease = await client.acquire(key, ttl=TTL, auto_renew=True)
    waiting = asyncio.ensure_future(_awaited(lease.lost))
    fl.admin.delete(key)
    assert await waiting is True
    done, _ = await asyncio.wait([asyncio.ensure_future(_awaited(lease.lost))])
    assert done.pop().result() is True


async def _awaited(lost: Any) -> bool:
    told: bool = await lost
    return told


# ------------------------------------------------------------------ how blocks end


async def lose(fl: Ways, lease: Any) -> None:
    fl.admin.delete(lease.key)
    if lease.ttl == TTL:  # it is renewed, so that it will be told
        assert await lease.lost.wait(30)


@pytest.mark.parametrize("if_lost", ["raise", "warn", "ignore"])
@pytest.mark.parametrize("auto_renew", [True, False])
async def test_a_block_whose_lock_was_lost_ends_as_was_said(
    fl: Ways, caplog: pytest.LogCaptureFixture, if_lost: str, auto_renew: bool
) -> None:
    client, keys = fl.client(), [fl.key() for _ in range(3)]
    options = {"ttl": TTL if auto_renew else 30, "auto_renew": auto_renew, "if_lost": if_lost}
    if auto_renew:
        options["on_lost"] = lambda lease: None
    blocks = [client.lock(keys[0], **options), client.lock_all(keys[1:], **options)]
    for block in blocks:
        caplog.clear()
        failure = None
        try:
            async with block as entered:
                leases = entered if isinstance(entered, list) else [entered]
                await lose(fl, leases[-1])
        except fastlock.LockLost as error:
            failure = error
        said = [record.getMessage() for record in caplog.records]
        text = f"{leases[-1].key!r} was lost before its block ended: "
        assert (failure is not None) == (if_lost == "raise")
        assert len(said) == (if_lost == "warn")
        assert all(one.startswith(text) for one in [*said, *([str(failure)] if failure else [])])
    assert fl.admin.exists(*keys) == 0


@pytest.mark.parametrize("if_lost", ["raise", "warn", "ignore"])
async def test_the_body_s_own_exception_goes_first(fl: Ways, if_lost: str) -> None:
    client, keys = fl.client(), [fl.key(), fl.key()]
    options = {"ttl": TTL, "auto_renew": True, "if_lost": if_lost}
    for block in (client.lock(keys[0], **options), client.lock_all(keys, **options)):
        with pytest.raises(ZeroDivisionError) as caught:
            async with block as entered:
                lease = entered[0] if isinstance(entered, list) else entered
                await lose(fl, lease)
                raise ZeroDivisionError
        assert not isinstance(caught.value.__context__, fastlock.LockLost)
    assert fl.admin.exists(*keys) == 0


async def test_a_lock_released_in_its_block_was_not_lost(fl: Ways) -> None:
    client, key = fl.client(), fl.key()
    async with client.lock(key, ttl=TTL, auto_renew=True) as lease:
        assert await lease.release() is True
    assert not lease.lost


async def test_threading_lock_s_manner_tells_by_false(fl: Ways) -> None:
    client, key = fl.client(), fl.key()
    spec = client.lock(key, ttl=TTL, auto_renew=True)
    assert await spec.acquire()
    fl.admin.delete(key)
    await fl.sleep(TTL)
    assert await spec.release() is False


# ------------------------------------------------------------------ a task is cancelled


@async_only
async def test_the_task_that_holds_it_is_cancelled(fl: Ways) -> None:
    client, keys = fl.client(), [fl.key(), fl.key()]
    options: Any = {"ttl": TTL, "auto_renew": True, "cancel_on_lost": True, "if_lost": "ignore"}
    for block in (client.lock(keys[0], **options), client.lock_all(keys, **options)):
        with pytest.raises(fastlock.LockLost) as caught:
            async with block:
                fl.admin.delete(keys[0])
                await asyncio.sleep(60)
                raise AssertionError("it was not cancelled")
        assert isinstance(caught.value.__cause__, asyncio.CancelledError)
        assert caught.value.key == keys[0]
        await asyncio.sleep(0.01)  # the task is as good as new
        if sys.version_info >= (3, 11):
            task = asyncio.current_task()
            assert task is not None
            assert task.cancelling() == 0
    assert fl.admin.exists(*keys) == 0


@one_server
@async_only
async def test_only_that_task_is_cancelled_and_only_in_its_block(fl: Ways) -> None:
    client, keys = fl.client(), [fl.key(), fl.key(), fl.key()]
    entered = [asyncio.Event() for _ in keys]

    async def hold(place: int) -> str:
        async with client.lock(keys[place], ttl=TTL, auto_renew=True, cancel_on_lost=True):
            entered[place].set()
            await asyncio.sleep(2.5)
        await asyncio.sleep(TTL)
        return "done"

    tasks = [asyncio.ensure_future(hold(place)) for place in range(3)]
    await asyncio.gather(*(event.wait() for event in entered))
    fl.admin.delete(keys[1])
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert results[0] == results[2] == "done"
    assert isinstance(results[1], fastlock.LockLost)
    lease = await client.acquire(keys[0], ttl=TTL, auto_renew=True, cancel_on_lost=True)
    assert await lease.release() is True
    await asyncio.sleep(TTL)


@async_only
async def test_a_body_that_ends_before_the_cancellation_strikes(fl: Ways) -> None:
    """It was asked for, and the body comes to its end without waiting for anything."""
    client, key = fl.client(), fl.key()
    struck: list[bool] = []
    with pytest.raises(fastlock.LockLost):
        async with client.lock(
            key,
            ttl=TTL,
            auto_renew=True,
            cancel_on_lost=True,
            on_lost=lambda _: ended.set_result(1),
        ) as lease:
            ended = asyncio.get_running_loop().create_future()
            fl.admin.delete(key)
            try:
                await ended
            except asyncio.CancelledError:
                struck.append(True)
    assert lease.lost
    await asyncio.sleep(0.01)
    if sys.version_info >= (3, 11):
        assert asyncio.current_task().cancelling() == 0  # type: ignore[union-attr]


@async_only
async def test_what_the_body_makes_of_the_cancellation_goes_first(fl: Ways) -> None:
    client, key = fl.client(), fl.key()
    with pytest.raises(ZeroDivisionError):
        async with client.lock(key, ttl=TTL, auto_renew=True, cancel_on_lost=True):
            fl.admin.delete(key)
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                raise ZeroDivisionError from None
    await asyncio.sleep(0.01)


@async_only
@pytest.mark.skipif(sys.version_info < (3, 11), reason="a task does not count who cancels it")
async def test_a_cancellation_by_somebody_else_goes_on(fl: Ways) -> None:
    client, key = fl.client(), fl.key()
    entered = asyncio.Event()
    told = asyncio.Event()

    async def hold() -> None:
        async with client.lock(
            key, ttl=TTL, auto_renew=True, cancel_on_lost=True, on_lost=lambda _: told.set()
        ):
            entered.set()
            await asyncio.sleep(60)

    task = asyncio.ensure_future(hold())
    await entered.wait()
    fl.admin.delete(key)
    await told.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


# ------------------------------------------------------------------ out of reach


@one_server
async def test_a_server_that_stops_makes_it_unknown_and_then_lost(
    fl: Ways, own_server: Server
) -> None:
    """Until the lease's own deadline there is hope; then there is none, whatever comes."""
    client, key = fl.client(own_server.uri), fl.key()
    told: list[float] = []
    with pytest.raises(fastlock.LockLost, match="no renewal was answered"):
        async with client.lock(
            key, ttl=3, auto_renew=True, on_lost=lambda _: told.append(clock())
        ) as lease:
            await fl.sleep(1.2)
            assert lease.state == "held"
            own_server.freeze()
            deadline = lease.deadline
            await fl.until(lambda: lease.state == "unknown", 30)
            assert lease.valid()
            assert not lease.lost
            assert await lease.lost.wait(30) is True
            assert lease.deadline == deadline
            assert clock() >= deadline
            await fl.until(lambda: told)
            assert told[0] >= deadline
            own_server.thaw()
            await fl.sleep(0.3)
            assert (lease.state, lease.valid()) == ("lost", False)
    assert len(told) == 1
    await fl.until(lambda: not own_server.admin.exists(key))


@one_server
async def test_a_server_that_stops_for_a_while_is_waited_for(fl: Ways, own_server: Server) -> None:
    client, key = fl.client(own_server.uri), fl.key()
    lease = await client.acquire(key, ttl=6, auto_renew=True)
    await fl.sleep(1.5)
    own_server.freeze()
    await fl.until(lambda: lease.state == "unknown", 30)
    own_server.thaw()
    await fl.until(lambda: lease.state == "held", 30)
    await fl.sleep(6)
    assert own_server.admin.get(key) == lease.token.encode()
    assert await lease.release() is True


@one_server
async def test_a_lost_connection_is_made_anew_in_time(fl: Ways) -> None:
    async def happens(cut: str) -> None:
        client, proxy, key = await ready(fl, client_name=f"renewing-{fl.key()}")
        lease = await client.acquire(key, ttl=3.0, auto_renew=True)
        await fl.until(lambda: renewals(proxy, key), 30)
        connections = proxy.connections
        if cut == "listener":
            proxy.down()
            await fl.sleep(0.9)
            proxy.up()
        elif cut == "connections":
            proxy.cut()
        else:
            for one in fl.admin.client_list():
                if one["name"] == client.config.client_name:
                    fl.admin.client_kill_filter(_id=one["id"])
        await stays(fl, key, lease.token, 5.0)
        assert proxy.connections > connections
        assert lease.state == "held"
        assert await lease.release() is True

    await fl.together(happens(cut) for cut in ("connections", "listener", "by the server"))


@one_server
async def test_a_renewal_cut_anywhere_is_said_again(fl: Ways) -> None:
    async def happens(fault: str) -> None:
        client, proxy, key = await ready(fl)
        lease = await client.acquire(key, ttl=3.0, auto_renew=True)
        planned = proxy.fault(fault)
        await fl.happened(planned)
        count = len(renewals(proxy, key))
        await fl.until(lambda: len(renewals(proxy, key)) > count, 2.0)
        await stays(fl, key, lease.token, 4.0)
        assert lease.state == "held"
        assert await lease.release() is True

    await fl.together(
        happens(fault) for fault in ("lose_reply", "cut_before", "cut_after", "cut_reply")
    )


#: That end no lease.
ERRORS = (
    "LOADING Redis is loading", "MASTERDOWN no link", "OOM command not allowed", "ERR x",
)  # fmt: skip


@one_server
async def test_an_error_is_not_the_end(fl: Ways) -> None:
    async def happens(text: str) -> None:
        client, proxy, key = await ready(fl)
        lease = await client.acquire(key, ttl=3.0, auto_renew=True)
        planned = proxy.fault("replace_reply", data=f"-{text}\r\n".encode())
        await fl.happened(planned)
        count = len(renewals(proxy, key))
        await fl.until(lambda: len(renewals(proxy, key)) > count, 2.0)
        await fl.until(lambda: lease.state == "held", 10)
        await stays(fl, key, lease.token, 4.0)
        assert await lease.release() is True

    await fl.together(happens(text) for text in ERRORS)


async def test_a_server_without_memory_still_renews(fl: Ways, own_server: Server) -> None:
    """SET is refused then, and EXPIRE is not."""
    client, key = fl.client(own_server.uri), fl.key()
    lease = await client.acquire(key, ttl=3.0, auto_renew=True)
    own_server.admin.config_set("maxmemory-policy", "noeviction")
    own_server.admin.config_set("maxmemory", "1")
    with pytest.raises(fastlock.ServerError, match="OOM"):
        await client.try_acquire(fl.key(), ttl=3)
    end = clock() + 5
    while clock() < end:
        assert own_server.admin.get(key) == lease.token.encode()
        await fl.sleep(0.05)
    assert lease.valid()
    own_server.admin.config_set("maxmemory", "0")
    assert await lease.release() is True


async def test_a_server_that_forgets_its_scripts(fl: Ways, own_server: Server) -> None:
    client, key = fl.client(own_server.uri), fl.key()
    lease = await client.acquire(key, ttl=TTL, auto_renew=True)
    end = clock() + 3
    while clock() < end:
        own_server.admin.script_flush()
        assert own_server.admin.get(key) == lease.token.encode()
        await fl.sleep(0.02)
    assert lease.state == "held"
    await lease.release()


async def test_a_server_restarted_without_its_data_is_told_as_lost(
    fl: Ways, own_server: Server
) -> None:
    client, key = fl.client(own_server.uri), fl.key()
    with pytest.raises(fastlock.LockLost, match="the server had it no more"):
        async with client.lock(key, ttl=6.0, auto_renew=True) as lease:
            own_server.restart()
            assert await lease.lost.wait(30) is True
            assert clock() < lease.deadline
    assert await client.try_acquire(key, ttl=1) is not None


@one_server
async def test_another_server_is_spoken_to_in_its_own_words(fl: Ways, own_server: Server) -> None:
    """The lock is there, as after a failover to a replica of an older version."""
    proxy = fl.proxy(own_server)
    client, key = fl.client(proxy.uri), fl.key()
    lease = await client.acquire(key, ttl=9.0, auto_renew=True)
    await fl.until(lambda: renewals(proxy, key), 30)
    connections = proxy.connections
    proxy.down()  # no renewal comes between the two
    own_server.become("redis" if own_server.kind == "valkey" else "valkey")
    own_server.admin.set(key, lease.token, px=9000)
    proxy.up()
    await fl.until(lambda: proxy.connections > connections, 30)
    await fl.sleep(0.5)
    words = set()
    for _ in range(2):
        count = len(renewals(proxy, key))
        await fl.until(lambda: len(renewals(proxy, key)) > count, 30)  # noqa: B023
        words.add(renewals(proxy, key)[-1])
    assert words == {"SET" if has_ifeq(own_server.version) else "EVAL"}
    assert own_server.admin.get(key) == lease.token.encode()
    assert lease.state == "held"
    assert await lease.release() is True
