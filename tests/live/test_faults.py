"""One lock and a network that fails: the truth about every acquire, release and extend.

Law: every fault is put at an exact command or reply by the proxy, and must have happened.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from _harness import Ways, clock, one_server, remaining_at_most
from _proxy import Proxy
from _servers import Server

import fastlock

TTL = 5
MARGIN = TTL * 0.01 + 0.002

#: Faults after which the command has been carried out, and those after which it has not.
DONE: dict[str, dict[str, Any]] = {
    "lose_reply": {},
    "lose_reply_rst": {"name": "lose_reply", "rst": True},
    "cut_reply": {"size": 1},
    "cut_after": {},
}
NOT_DONE: dict[str, dict[str, Any]] = {
    "cut_before": {},
    "cut_before_rst": {"name": "cut_before", "rst": True},
}


def plan(proxy: Proxy, fault: str, **more: Any) -> Any:
    settings = {"name": fault, **{**DONE, **NOT_DONE}[fault], **more}
    return proxy.fault(settings.pop("name"), **settings)


async def ready(fl: Ways, **options: Any) -> tuple[Any, Proxy, str]:
    """A connected client behind a proxy, whose server knows all scripts; a key."""
    proxy = fl.proxy()
    client = await fl.warm(fl.client(proxy.uri, **options))
    return client, proxy, fl.key()


# ------------------------------------------------------------------ acquire


@pytest.mark.smoke
@pytest.mark.parametrize("fault", [*DONE, *NOT_DONE])
@pytest.mark.parametrize("method", ["try_acquire", "acquire"])
async def test_an_acquire_outlives_a_lost_connection(fl: Ways, method: str, fault: str) -> None:
    client, proxy, key = await ready(fl)
    planned = plan(proxy, fault)
    before = clock()
    lease = await getattr(client, method)(key, ttl=TTL)
    after = clock()
    await fl.happened(planned)
    assert fl.admin.get(key).decode() == lease.token
    assert lease.valid()
    remaining_at_most(fl, lease, key)
    assert before <= lease.deadline - TTL + MARGIN <= after
    assert await lease.release() is True
    assert fl.admin.exists(key) == 0


async def test_a_recognised_acquire_counts_from_its_first_try(fl: Ways) -> None:
    """The reply is held back for long before it is lost: the server's ttl has run meanwhile."""
    client, proxy, key = await ready(fl, socket_timeout=0.4)
    held = proxy.fault("hold_reply")
    before = clock()
    lease = await client.try_acquire(key, ttl=TTL)
    after = clock()
    await fl.happened(held)
    assert after - before >= 0.4
    assert before <= lease.deadline - TTL + MARGIN <= after - 0.4
    remaining_at_most(fl, lease, key)
    held.go()
    assert await lease.release() is True


async def test_a_dead_lease_is_never_returned(fl: Ways) -> None:
    """The lock of the first try has expired before the second could ask: it is taken anew."""
    client, proxy, key = await ready(fl, socket_timeout=0.8)
    held = proxy.fault("hold_reply")
    before = clock()
    lease = await client.try_acquire(key, ttl=0.7)
    await fl.happened(held)
    assert lease.deadline > before + 0.8 + 0.7 - 0.009 - 0.001
    assert lease.valid()
    assert fl.admin.get(key).decode() == lease.token
    held.go()
    assert await lease.release() is True


async def test_a_lock_of_somebody_else_is_not_ours_after_a_lost_reply(fl: Ways) -> None:
    client, proxy, key = await ready(fl)
    fl.admin.set(key, "somebody else's", px=60_000)
    planned = proxy.fault("lose_reply")
    assert await client.try_acquire(key, ttl=TTL) is None
    await fl.happened(planned)
    assert fl.admin.get(key) == b"somebody else's"
    assert fl.admin.pttl(key) > 50_000
    fl.admin.delete(key)


async def test_several_failures_in_a_row_are_outlived(fl: Ways) -> None:
    client, proxy, key = await ready(fl, retries=3)
    proxy.fault("lose_reply")
    proxy.fault("cut_before")
    last = proxy.fault("cut_reply", size=2)
    before = clock()
    lease = await client.try_acquire(key, ttl=TTL)
    await fl.happened(last)
    assert fl.admin.get(key).decode() == lease.token
    assert lease.deadline >= before + TTL - MARGIN
    remaining_at_most(fl, lease, key)
    assert await lease.release() is True


async def test_a_command_stuck_in_the_network_cannot_land_later(fl: Ways) -> None:
    """The SET is held back; the client gives up on it, and the key must never change by it."""
    client, proxy, key = await ready(fl, socket_timeout=0.3)
    stuck = proxy.fault("hold_command")
    lease = await client.try_acquire(key, ttl=TTL)
    assert await lease.release() is True
    assert stuck.happened.is_set()
    stuck.go()
    # The proxy passes it on now; the server has closed that connection long before.
    other = await client.try_acquire(key, ttl=TTL)
    await fl.sleep(0.05)
    assert fl.admin.get(key).decode() == other.token
    assert await other.release() is True
    await fl.sleep(0.05)
    assert fl.admin.exists(key) == 0


async def test_where_commands_may_land_late_the_oldest_try_counts(fl: Ways) -> None:
    """This user may not end connections. The SET lands after a refusal; the lock is as old as it,
    though the next try needs two questions to find that out.
    """
    commands = ["+@all", "-client"]
    fl.admin.acl_setuser("late", enabled=True, passwords=["+x"], keys=["*"], commands=commands)
    proxy, key = fl.proxy(), fl.key()
    uri = proxy.uri.replace("redis://", "redis://late:x@")
    client = await fl.warm(fl.client(uri, socket_timeout=0.3, retry_timeout=1500, push=False))
    fl.admin.set(key, "somebody", px=60_000)
    with pytest.raises(fastlock.AcquireTimeout):
        await client.acquire(key, ttl=TTL, timeout=0.01)  # the server learns that script, too
    stuck = proxy.fault("hold_command")
    lost = proxy.fault("lose_reply", nth=2)
    passed = len(proxy.verbs())
    acquiring = fl.spawn(client.acquire(key, ttl=TTL, timeout=30))
    await fl.happened(stuck)
    latest = clock()
    await fl.until(lambda: len(proxy.verbs()) >= passed + 2)  # the second is being refused
    await fl.sleep(0.1)
    fl.admin.delete(key)
    stuck.go()
    await fl.until(lambda: fl.admin.exists(key))
    lease = await acquiring
    await fl.happened(lost)
    assert fl.admin.get(key).decode() == lease.token
    assert lease.deadline <= latest + TTL - MARGIN
    remaining_at_most(fl, lease, key)
    assert await lease.release() is True
    fl.admin.acl_deluser("late")


async def test_an_acquire_that_never_gets_an_answer_is_unknown(fl: Ways) -> None:
    client, proxy, key = await ready(fl, retries=1)
    last = proxy.fault("lose_reply", times=2)
    with pytest.raises(fastlock.OutcomeUnknown) as caught:
        await client.try_acquire(key, ttl=TTL)
    await fl.happened(last)
    assert caught.value.key == key
    # What may have arrived is given back in the background.
    await fl.until(lambda: not fl.admin.exists(key), 2)


@one_server
async def test_an_acquire_that_never_left_is_a_transport_error(fl: Ways) -> None:
    proxy, key = fl.proxy(), fl.key()
    client = fl.client(proxy.uri, retries=1)
    proxy.down()
    for method in (client.try_acquire, client.acquire):
        with pytest.raises(fastlock.TransportError) as caught:
            await method(key, ttl=TTL)
        assert caught.value.sent is False
        assert client.config.address in str(caught.value)
    proxy.up()
    assert fl.admin.exists(key) == 0
    lease = await client.try_acquire(key, ttl=TTL)
    assert await lease.release() is True


@one_server
async def test_without_retries_the_first_failure_is_told(fl: Ways) -> None:
    client, proxy, key = await ready(fl, retries=0)
    proxy.fault("lose_reply")
    with pytest.raises(fastlock.OutcomeUnknown):
        await client.try_acquire(key, ttl=TTL)
    await fl.until(lambda: not fl.admin.exists(key), 2)


async def test_a_waiting_acquire_outlives_a_lost_connection(fl: Ways) -> None:
    client, proxy, key = await ready(fl, retry_timeout=20, push=False)
    fl.admin.set(key, "taken", px=60_000)
    waiter = fl.spawn(client.acquire(key, ttl=TTL, timeout=10))
    for fault in ("lose_reply", "cut_before", "cut_reply"):
        await fl.happened(plan(proxy, fault))
    fl.admin.delete(key)
    lease = await waiter
    assert fl.admin.get(key).decode() == lease.token
    remaining_at_most(fl, lease, key)
    assert await lease.release() is True


@one_server
async def test_the_timeout_bounds_an_acquire_on_a_dead_network(fl: Ways) -> None:
    proxy = fl.proxy()
    client = fl.client(proxy.uri, retries=1000)
    proxy.down()
    started = clock()
    with pytest.raises(fastlock.TransportError) as caught:
        await client.acquire(fl.key(), ttl=TTL, timeout=0.3)
    assert caught.value.sent is False
    assert clock() - started < 10  # a bound, not a speed: a thousand retries would take an hour


# ------------------------------------------------------------------ release


@pytest.mark.parametrize("fault", [*DONE, *NOT_DONE])
async def test_a_release_outlives_a_lost_connection(fl: Ways, fault: str) -> None:
    client, proxy, key = await ready(fl)
    lease = await client.acquire(key, ttl=TTL)
    planned = plan(proxy, fault)
    assert await lease.release() is True
    await fl.happened(planned)
    assert fl.admin.exists(key) == 0
    assert await lease.release() is False


@pytest.mark.parametrize("fault", ["lose_reply", "cut_before"])
async def test_leaving_a_block_outlives_a_lost_connection(fl: Ways, fault: str) -> None:
    client, proxy, key = await ready(fl)
    async with client.lock(key, ttl=TTL):
        planned = plan(proxy, fault)
    await fl.happened(planned)
    assert fl.admin.exists(key) == 0


async def test_a_lost_release_does_not_free_the_next_holder_s_lock(fl: Ways) -> None:
    """The first try freed it, somebody else took it: ours was freed, theirs stays."""
    client, proxy, key = await ready(fl, socket_timeout=0.4)
    lease = await client.acquire(key, ttl=TTL)
    held = proxy.fault("hold_reply")
    release = fl.spawn(lease.release())
    await fl.happened(held)
    fl.admin.set(key, "the next holder's", px=60_000)
    assert await release is True
    assert fl.admin.get(key) == b"the next holder's"
    held.go()
    fl.admin.delete(key)


async def disconnected(client: Any, proxy: Proxy) -> None:
    """The connection is gone, the client knows it, and a new one can be made."""
    proxy.down()
    with pytest.raises(fastlock.TransportError):
        await client.ping()
    proxy.up()


async def test_a_release_that_failed_before_it_left_leaves_no_doubt(fl: Ways) -> None:
    """No byte of the first try was sent: "not ours" is simply the truth."""
    client, proxy, key = await ready(fl, retries=1)
    lease = await client.acquire(key, ttl=TTL)
    await disconnected(client, proxy)
    fl.admin.set(key, "stolen", px=60_000)
    planned = proxy.fault("cut_before", verb="HELLO")
    assert await lease.release() is False
    await fl.happened(planned)
    assert fl.admin.get(key) == b"stolen"
    fl.admin.delete(key)


async def test_a_release_answered_after_the_deadline_is_unknown(fl: Ways) -> None:
    client, proxy, key = await ready(fl, socket_timeout=0.6)
    lease = await client.acquire(key, ttl=0.3)
    held = proxy.fault("hold_reply")
    with pytest.raises(fastlock.OutcomeUnknown) as caught:
        await lease.release()
    assert caught.value.key == key
    await fl.happened(held)
    held.go()


async def test_a_release_that_never_gets_an_answer_is_unknown_and_may_be_repeated(
    fl: Ways,
) -> None:
    client, proxy, key = await ready(fl, retries=1)
    lease = await client.acquire(key, ttl=TTL)
    proxy.fault("lose_reply", times=2)
    with pytest.raises(fastlock.OutcomeUnknown) as caught:
        await lease.release()
    assert caught.value.key == key
    # It is free by now, and somebody else may have it: it must not count as ours any more.
    assert fl.admin.exists(key) == 0
    assert not lease.valid()
    assert lease.remaining() == 0
    assert not lease.lost
    assert await lease.release() is True  # before our deadline: it was us
    assert not lease.lost


async def test_a_release_that_never_left_may_be_repeated(fl: Ways) -> None:
    client, proxy, key = await ready(fl, retries=0)
    lease = await client.acquire(key, ttl=TTL)
    await disconnected(client, proxy)
    planned = proxy.fault("cut_before", verb="HELLO")
    with pytest.raises(fastlock.TransportError) as caught:
        await lease.release()
    await fl.happened(planned)
    assert caught.value.sent is False
    assert lease.valid()
    assert await lease.release() is True
    assert fl.admin.exists(key) == 0


async def test_a_body_exception_is_not_replaced_by_a_release_that_failed(fl: Ways) -> None:
    client, proxy, key = await ready(fl, retries=0, connect_timeout=0.3)
    with pytest.raises(ZeroDivisionError):
        async with client.lock(key, ttl=1):
            proxy.fault("lose_reply", times=4)
            raise ZeroDivisionError
    await fl.until(lambda: not fl.admin.exists(key), 2)


# ------------------------------------------------------------------ extend


@pytest.mark.parametrize("fault", [*DONE, *NOT_DONE])
async def test_an_extend_outlives_a_lost_connection(fl: Ways, fault: str) -> None:
    client, proxy, key = await ready(fl)
    lease = await client.acquire(key, ttl=TTL)
    planned = plan(proxy, fault)
    before = clock()
    await lease.extend(60)
    after = clock()
    await fl.happened(planned)
    assert 59_000 < fl.admin.pttl(key) <= 60_000
    assert before <= lease.deadline - 60 + 0.602 <= after
    remaining_at_most(fl, lease, key)
    assert await lease.release() is True


async def test_an_extend_that_never_gets_an_answer_keeps_the_earlier_deadline(fl: Ways) -> None:
    client, proxy, key = await ready(fl, retries=1)
    lease = await client.acquire(key, ttl=TTL)
    deadline = lease.deadline
    proxy.fault("lose_reply", times=2)
    with pytest.raises(fastlock.OutcomeUnknown) as caught:
        await lease.extend(60)
    assert caught.value.key == key
    assert lease.deadline == deadline
    assert lease.valid()
    remaining_at_most(fl, lease, key)
    assert await lease.release() is True


async def test_a_shortening_that_never_gets_an_answer_counts_as_done(fl: Ways) -> None:
    client, proxy, key = await ready(fl, retries=1)
    lease = await client.acquire(key, ttl=60)
    before = clock()
    proxy.fault("lose_reply", times=2)
    with pytest.raises(fastlock.OutcomeUnknown):
        await lease.extend(2)
    assert lease.deadline <= clock() + 2 - 0.022
    assert lease.deadline >= before + 2 - 0.022
    remaining_at_most(fl, lease, key)
    assert await lease.release() is True


async def test_an_extend_that_finds_the_lock_stolen_is_lock_lost(fl: Ways) -> None:
    client, proxy, key = await ready(fl)
    lease = await client.acquire(key, ttl=TTL)
    fl.admin.set(key, "stolen", px=60_000)
    proxy.fault("lose_reply")
    with pytest.raises(fastlock.LockLost):
        await lease.extend(60)
    assert not lease.valid()
    assert fl.admin.get(key) == b"stolen"
    fl.admin.delete(key)


# ------------------------------------------------------------------ replies that come strangely


@one_server
@pytest.mark.parametrize("fault", ["split_reply", "half_close", "delay_reply"])
async def test_replies_may_come_in_pieces_late_or_last(fl: Ways, fault: str) -> None:
    client, proxy, key = await ready(fl)
    planned = proxy.fault(fault, seconds=0.05)
    lease = await client.try_acquire(key, ttl=TTL)
    await fl.happened(planned)
    assert fl.admin.get(key).decode() == lease.token
    await client.ping()  # an idle sync client learns of a goodbye at its next call
    planned = proxy.fault(fault, seconds=0.05)
    await lease.extend(TTL)
    await fl.happened(planned)
    await client.ping()
    planned = proxy.fault(fault, seconds=0.05)
    assert await lease.release() is True
    await fl.happened(planned)
    assert fl.admin.exists(key) == 0


@one_server
@pytest.mark.parametrize(
    "garbage",
    [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"$99999999999\r\n", b"*-7\r\n", b":1x\r\n", b"\x16\x03"],
)
async def test_garbage_ends_the_connection_and_the_truth_is_found_on_a_new_one(
    fl: Ways, garbage: bytes
) -> None:
    client, proxy, key = await ready(fl, socket_timeout=1)
    planned = proxy.fault("replace_reply", data=garbage)
    lease = await client.try_acquire(key, ttl=TTL)
    await fl.happened(planned)
    assert proxy.connections == 2
    assert fl.admin.get(key).decode() == lease.token
    remaining_at_most(fl, lease, key)
    assert await lease.release() is True


@one_server
async def test_a_push_nobody_asked_for_is_passed_over(fl: Ways) -> None:
    client, proxy, key = await ready(fl)
    planned = proxy.fault("add_reply", data=b">2\r\n+invalidate\r\n*1\r\n$1\r\nk\r\n")
    lease = await client.try_acquire(key, ttl=TTL)
    await fl.happened(planned)
    assert await lease.release() is True
    assert proxy.connections == 1


@one_server
async def test_a_reply_nobody_asked_for_ends_the_connection(fl: Ways) -> None:
    """Or else the next caller would take it for its own."""
    client, proxy, key = await ready(fl)
    planned = proxy.fault("replace_reply", data=b"+OK\r\n+OK\r\n")
    first = await client.try_acquire(key, ttl=TTL)
    await fl.happened(planned)
    fl.admin.set(taken := fl.key(), "taken", px=60_000)
    assert await client.try_acquire(taken, ttl=TTL) is None
    assert proxy.connections == 2
    assert await first.release() is True
    fl.admin.delete(taken)


# ------------------------------------------------------------------ the server itself


@pytest.mark.parametrize(
    "error", ["LOADING Redis is loading the dataset in memory", "BUSY a script is running"]
)
async def test_a_server_that_is_not_ready_yet_is_asked_again(fl: Ways, error: str) -> None:
    client, proxy, key = await ready(fl)
    # The command did arrive in this test, so the second try must recognise its own lock.
    planned = proxy.fault("replace_reply", data=f"-{error}\r\n".encode())
    lease: Any = await client.acquire(key, ttl=TTL, timeout=5)
    await fl.happened(planned)
    assert fl.admin.get(key).decode() == lease.token
    assert await lease.release() is True


@one_server
@pytest.mark.parametrize("code", ["READONLY", "OOM", "NOPERM"])
async def test_a_refusal_is_a_server_error_with_its_code(fl: Ways, code: str) -> None:
    client, proxy, key = await ready(fl)
    refusal = f"-{code} refused by the test\r\n".encode()
    attempts: list[Callable[[], Any]] = [
        lambda: client.try_acquire(key, ttl=TTL),
        lambda: client.locked(key),
    ]
    for attempt in attempts:
        proxy.fault("replace_reply", times=2, data=refusal)
        with pytest.raises(fastlock.ServerError) as caught:
            await attempt()
        assert caught.value.code == code
        assert key in str(caught.value)
        proxy._faults.clear()
    fl.admin.delete(key)


# ------------------------------------------------------------------ sent or not


@one_server
async def test_what_waits_in_a_full_buffer_counts_as_sent(fl: Ways, own_server: Server) -> None:
    """The server stands still and the socket takes no more: the bytes leave when it goes on."""
    client, key = fl.client(own_server.uri, retries=0), fl.key()
    lease = await client.acquire(key + "warm", ttl=TTL)
    assert await lease.release() is True
    own_server.freeze()
    batches = [
        fl.spawn(_ignored(client.try_acquire_many([f"{key}:{i}:{n}" for n in range(10_000)], 0.5)))
        for i in range(8)
    ]
    await fl.sleep(0.3)
    with pytest.raises(fastlock.OutcomeUnknown):
        await client.acquire(key, ttl=TTL, timeout=0)
    own_server.thaw()
    for batch in batches:
        await batch
    await fl.until(lambda: not own_server.admin.exists(key))


async def _ignored(call: Any) -> None:
    with suppress(fastlock.FastlockError):
        await call


async def test_a_forced_release_is_not_repeated(fl: Ways) -> None:
    proxy, key = fl.proxy(), fl.key()
    client = await fl.warm(fl.client(proxy.uri))
    fl.admin.set(key, "first", px=60_000)
    proxy.fault("lose_reply")
    with pytest.raises(fastlock.OutcomeUnknown) as caught:
        await client.force_release(key)
    assert caught.value.key == key
    assert proxy.verbs().count("GETDEL") == 1
    assert fl.admin.exists(key) == 0
