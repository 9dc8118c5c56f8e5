"""Who waits for a lock is woken by the server, as soon as anything ends it.

Law: pauses are a minute long, and so are timeouts: who is not woken is seen to hang. No speed is
asserted.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from typing import Any

import pytest
from _harness import Ways, async_only, clock, one_server, sync_only
from _lines import PATIENT, TAKEN, in_line, lined_up, nobody_waits
from _servers import Certificates, Server

import fastlock
from fastlock import _watch
from fastlock._rivals import LATELY

#: Seconds; a wake-up takes less than a thousandth of one, and a pause a minute.
AT_ONCE = 20
PASSWORD = secrets.token_hex(8)


def listeners(admin: Any, name: str) -> list[int]:
    """The numbers of a client's connections that watch keys."""
    return [
        int(one["id"]) for one in admin.client_list() if one["name"] == name and "t" in one["flags"]
    ]


async def watching(fl: Ways, client: Any, key: str, admin: Any = None) -> None:
    """Until the server was asked to tell of the key, or of more."""
    admin = admin or fl.admin
    before = clock()
    await fl.until(lambda: admin.info("stats")["tracking_total_keys"] > 0, 10)
    await fl.until(lambda: clock() > before + 0.02, 10)


async def waits(fl: Ways, client: Any, key: str, **options: Any) -> Any:
    """Somebody of the client who waits for the key, and will be told."""
    (waiter,) = await lined_up(fl, client, key, [client.acquire(key, timeout=60, **options)])
    await watching(fl, client, key)
    return waiter


async def held_by(fl: Ways, how: str, key: str) -> Callable[[], Any]:
    """Have somebody else hold the lock; gives what ends that."""
    if how == "redis-py":
        lock = fl.admin.lock(key, timeout=60, thread_local=False)
        assert lock.acquire(blocking=False)
        return lock.release
    if how in ("release", "deferred release"):
        other = fl.client()
        lease = await other.acquire(key, ttl=60)
        return lambda: lease.release(how == "release")
    fl.admin.set(key, TAKEN)
    if how == "expiry":
        return lambda: fl.admin.pexpire(key, 50)
    if how == "rename":
        return lambda: fl.admin.rename(key, f"{key}:renamed")
    return lambda: fl.admin.delete(key)


@pytest.mark.parametrize(
    "how", ["release", "deferred release", "redis-py", "delete", "expiry", "rename"]
)
async def test_whatever_ends_a_lock_wakes(fl: Ways, how: str) -> None:
    client, key = await fl.warm(fl.client(**PATIENT)), fl.key()
    end = await held_by(fl, how, key)
    waiter = await waits(fl, client, key)
    began = clock()
    ended = end()
    if how.endswith("release"):
        await ended
    lease = await waiter
    assert clock() - began < AT_ONCE
    assert await lease.release() is True
    assert nobody_waits(fl, client)
    fl.admin.delete(f"{key}:renamed")


async def test_a_flush_wakes_everybody(fl: Ways, own_server: Server) -> None:
    keys = [fl.key() for _ in range(5)]
    client = fl.client(own_server.uri, **PATIENT)
    own_server.admin.mset(dict.fromkeys(keys, TAKEN))
    waiting = []
    for key in keys:
        waiting += await lined_up(fl, client, key, [client.acquire(key, timeout=60)])
    await fl.until(lambda: own_server.admin.info("stats")["tracking_total_keys"] == len(keys), 10)
    own_server.admin.flushall()
    for one in waiting:
        assert await (await one).release() is True


async def test_a_lock_that_expires_is_taken_though_nobody_tells(fl: Ways) -> None:
    """The waiter's own timer counts: what is pushed is dropped on the way."""
    client, key = await fl.warm(fl.client(**PATIENT)), fl.key()
    listener: Any = fl.raw(client)._listener
    if fl.sync:
        listener._take = _deaf(listener, listener._take)
    else:
        listener._pushed = lambda push: None
    fl.admin.set(key, TAKEN, px=300)
    began = clock()
    lease = await client.acquire(key, timeout=60)
    assert 0.2 < clock() - began < AT_ONCE
    assert await lease.release() is True


def _deaf(listener: Any, take: Any) -> Any:
    def wrapped(wire: Any, reply: Any, about: object) -> None:
        if type(reply).__name__ != "Push":
            take(wire, reply, about)

    return wrapped


async def test_a_push_is_only_a_hint(fl: Ways) -> None:
    """The key changes and is held all the same: the waiter goes on waiting, and is told again."""
    proxy, key = fl.proxy(), fl.key()
    client = await fl.warm(fl.client(proxy.uri, **PATIENT))
    fl.admin.set(key, TAKEN)
    waiter = await waits(fl, client, key)

    def told(before: int) -> bool:
        fl.admin.set(key, f"another's, {before}")  # again, for it may not have been watched yet
        return proxy.verbs().count("PTTL") > before

    for _ in range(5):
        before = proxy.verbs().count("PTTL")
        await fl.until(lambda b=before: told(b), 10)  # type: ignore[misc]
    assert not waiter.done()
    fl.admin.delete(key)
    assert await (await waiter).release() is True


@one_server
async def test_what_is_freed_before_the_server_is_asked_is_tried_for_at_once(
    fl: Ways, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the refusal and the arming: nothing will be told of that."""
    monkeypatch.setattr(_watch, "VAIN", 3600.0)
    proxy, key = fl.proxy(), fl.key()
    client = await fl.warm(fl.client(proxy.uri, **PATIENT))
    fl.admin.set(key, TAKEN)
    held = proxy.fault("hold_command", verb="PTTL")
    (waiter,) = await lined_up(fl, client, key, [client.acquire(key, timeout=60)])
    await fl.happened(held)
    fl.admin.delete(key)
    held.go()
    assert await (await waiter).release() is True


@one_server
async def test_a_server_that_calls_a_held_lock_free_is_not_tried_without_end(fl: Ways) -> None:
    """As where a proxy sends questions to a replica that lags."""
    proxy, key = fl.proxy(), fl.key()
    client = await fl.warm(fl.client(proxy.uri, **PATIENT))
    fl.admin.set(key, TAKEN)
    before = len(proxy.verbs())
    free = proxy.fault("replace_reply", verb="PTTL", times=1000, data=b":-2\r\n")
    (waiter,) = await lined_up(fl, client, key, [client.acquire(key, timeout=60)])
    await fl.happened(free)
    await fl.sleep(1.0)
    assert len(proxy.verbs()) - before < 100
    fl.admin.delete(key)
    assert await (await waiter).release() is True


async def test_a_wait_costs_a_few_commands_however_long_it_is(fl: Ways) -> None:
    proxy, key = fl.proxy(), fl.key()
    client = await fl.warm(fl.client(proxy.uri, retry_timeout=10))
    fl.admin.set(key, TAKEN)
    waiter = await waits(fl, client, key)
    await fl.until(lambda: proxy.commands[-1][0] == b"PTTL", 10)
    before = len(proxy.commands)
    await fl.sleep(0.5)
    assert len(proxy.commands) == before
    fl.admin.delete(key)
    assert await (await waiter).release() is True


async def test_uncontended_locks_ask_nobody_to_tell(fl: Ways) -> None:
    proxy = fl.proxy()
    client = await fl.warm(fl.client(proxy.uri))
    async with client.lock(fl.key()), client.lock(fl.key(), fence=True):
        pass
    key = fl.key()
    assert await client.try_acquire(key) is not None
    assert await client.try_acquire(key) is None
    assert proxy.connections == 1
    assert not any(args[:2] == [b"CLIENT", b"TRACKING"] for args in proxy.commands)
    fl.admin.delete(key)


@pytest.mark.parametrize("kind", ["fence", "lock_all", "unending"])
async def test_every_kind_of_acquire_is_woken(fl: Ways, kind: str) -> None:
    client, key = await fl.warm(fl.client(**PATIENT)), fl.key()
    fl.admin.set(key, TAKEN)
    if kind == "lock_all":
        keys = [fl.key(), key, fl.key()]
        waiter = fl.spawn(_all(client, keys))
        await watching(fl, client, key)
    elif kind == "unending":
        raw = fl.raw(client)
        claim = raw._claim_of(
            [key], raw._tokens.pairs([key], b""), fastlock._args.NO_EXPIRY, None,
            fastlock._fork.generation,
        )  # fmt: skip
        waiter = fl.spawn(_drive(fl, raw, claim))
        await watching(fl, client, key)
    else:
        waiter = await waits(fl, client, key, fence=True)
    fl.admin.delete(key)
    assert await waiter or True
    await fl.until(lambda: not fl.admin.exists(key) or kind != "lock_all", 10)
    fl.admin.delete(key)


async def _all(client: Any, keys: list[str]) -> bool:
    async with client.lock_all(keys, timeout=60) as leases:
        return len(leases) == len(keys)


async def _drive(fl: Ways, raw: Any, claim: Any) -> Any:
    acquired = raw._acquire(fastlock._ops.acquire, claim)
    return acquired if fl.sync else await acquired


async def test_what_is_no_lock_is_found_out_at_once(fl: Ways) -> None:
    """It may stay for ever, and nobody would tell."""
    client, key = await fl.warm(fl.client(**PATIENT)), fl.key()
    fl.admin.lpush(key, "x")
    for options in ({}, {"fence": True}):
        began = clock()
        with pytest.raises(fastlock.ServerError, match="WRONGTYPE"):
            await client.acquire(key, timeout=60, **options)
        with pytest.raises(fastlock.ServerError, match="WRONGTYPE"):
            async with client.lock_all([fl.key(), key], timeout=60, **options):
                pass
        assert clock() - began < AT_ONCE
    fl.admin.delete(key)


# ------------------------------------------------------------------ connections


async def test_one_connection_more_while_somebody_waits(fl: Ways) -> None:
    name, keys = f"w{secrets.token_hex(4)}", [fl.key() for _ in range(4)]
    client = await fl.warm(fl.client(client_name=name, **PATIENT))

    def connections() -> int:
        return sum(one["name"] == name for one in fl.admin.client_list())

    assert connections() == 1
    fl.admin.mset(dict.fromkeys(keys, TAKEN))
    waiting = [fl.spawn(client.acquire(keys[n % 4], timeout=60)) for n in range(256)]
    await fl.until(lambda: sum(in_line(fl, client, key) for key in keys) == 256, 30)
    await fl.until(lambda: len(listeners(fl.admin, name)) == 1, 10)
    assert connections() == 2
    if fl.sync:  # to free them one by one takes too many threads too long
        await client.close()
        for one in waiting:
            with pytest.raises(fastlock.FastlockError, match="closed"):
                await one
        fl.admin.delete(*keys)
        return
    fl.admin.delete(*keys)
    for one in waiting:
        assert await (await one).release() is True
        if one is waiting[-40]:  # at least these wait yet
            assert connections() == 2
    await fl.until(lambda: connections() == 1, 3 * _watch.LINGER + 10)


@sync_only
async def test_the_connection_of_threads_ends_when_nobody_waits(fl: Ways) -> None:
    name, key = f"w{secrets.token_hex(4)}", fl.key()
    client = await fl.warm(fl.client(client_name=name, **PATIENT))
    for _ in range(2):
        fl.admin.set(key, TAKEN)
        waiter = await waits(fl, client, key)
        await fl.until(lambda: len(listeners(fl.admin, name)) == 1, 10)
        fl.admin.delete(key)
        assert await (await waiter).release() is True
        await fl.until(lambda: not listeners(fl.admin, name), 3 * _watch.LINGER + 10)


@pytest.mark.parametrize("which", ["listener", "main", "both"])
async def test_a_killed_connection_loses_no_wake_up(fl: Ways, which: str) -> None:
    name, keys = f"w{secrets.token_hex(4)}", [fl.key() for _ in range(3)]
    client = await fl.warm(fl.client(client_name=name, **PATIENT))
    fl.admin.mset(dict.fromkeys(keys, TAKEN))
    waiting = []
    for key in keys:
        waiting += await lined_up(fl, client, key, [client.acquire(key, timeout=60)])
    await fl.until(lambda: len(listeners(fl.admin, name)) == 1, 10)
    await fl.sleep(0.1)
    for one in fl.admin.client_list():
        if one["name"] == name:
            listens = "t" in one["flags"]
            if which == "both" or listens == (which == "listener"):
                fl.admin.client_kill_filter(_id=one["id"])
    fl.admin.delete(*keys)
    for one in waiting:
        assert await (await one).release() is True


@one_server
async def test_a_server_that_starts_anew_wakes(fl: Ways, own_server: Server) -> None:
    key = fl.key()
    client = fl.client(own_server.uri, retries=10, **PATIENT)
    own_server.admin.set(key, TAKEN)
    (waiter,) = await lined_up(fl, client, key, [client.acquire(key, timeout=60)])
    await watching(fl, client, key, own_server.admin)
    own_server.stop()
    own_server.start()
    lease = await waiter
    assert await lease.release() is True


@one_server
async def test_a_silent_listener_is_given_up(fl: Ways) -> None:
    """Its answer never comes: after ``socket_timeout`` the waiter looks by itself."""
    proxy, key = fl.proxy(), fl.key()
    client = await fl.warm(fl.client(proxy.uri, socket_timeout=0.5, **PATIENT))
    fl.admin.set(key, TAKEN)
    held = proxy.fault("hold_reply", verb="PTTL")
    (waiter,) = await lined_up(fl, client, key, [client.acquire(key, timeout=60)])
    await fl.happened(held)
    fl.admin.delete(key)
    lease = await waiter
    held.go()
    assert await lease.release() is True


async def test_over_tls(fl: Ways, tls_server: Server, certificates: Certificates) -> None:
    client, key = fl.client(tls_server.uri, ssl_ca_certs=certificates.ca, **PATIENT), fl.key()
    for _ in range(3):
        tls_server.admin.set(key, TAKEN)
        waiting = await lined_up(
            fl, client, key, [client.acquire(key, timeout=60) for _ in range(3)]
        )
        await watching(fl, client, key, tls_server.admin)
        tls_server.admin.delete(key)
        for one in waiting:
            assert await (await one).release() is True


@pytest.mark.parametrize("how", ["unix", "resp2"])
async def test_however_the_server_is_reached(fl: Ways, own_server: Server, how: str) -> None:
    uri = own_server.unix_uri if how == "unix" else own_server.uri
    client, key = fl.client(uri, protocol=2 if how == "resp2" else 3, **PATIENT), fl.key()
    own_server.admin.set(key, TAKEN)
    (waiter,) = await lined_up(fl, client, key, [client.acquire(key, timeout=60)])
    await watching(fl, client, key, own_server.admin)
    own_server.admin.delete(key)
    assert await (await waiter).release() is True


# ------------------------------------------------------------------ where the server does not tell


@pytest.mark.parametrize("missing", ["client|tracking", "client|caching", "pttl"])
async def test_where_it_is_refused_the_waiter_looks_by_itself(
    fl: Ways, own_server: Server, missing: str
) -> None:
    proxy, key = fl.proxy(own_server), fl.key()
    own_server.admin.execute_command(
        "ACL", "SETUSER", "locks", "reset", "on", f">{PASSWORD}", "~*", "+@all", f"-{missing}"
    )
    client = fl.client(f"redis://locks:{PASSWORD}@127.0.0.1:{proxy.port}", retry_timeout=20)
    own_server.admin.set(key, TAKEN)
    waiting = await lined_up(fl, client, key, [client.acquire(key, timeout=60) for _ in range(3)])
    await fl.until(lambda: len(proxy.verbs()) > 10, 10)
    own_server.admin.delete(key)
    for one in waiting:
        assert await (await one).release() is True
    asked = [args for args in proxy.commands if args[:2] == [b"CLIENT", b"TRACKING"]]
    assert len(asked) == 1
    assert proxy.connections == 2


async def test_a_pause_ends_with_the_holders_ttl(fl: Ways, own_server: Server) -> None:
    """Also where nobody tells, and the pause is a minute."""
    key = fl.key()
    own_server.admin.execute_command(
        "ACL", "SETUSER", "locks", "reset", "on", f">{PASSWORD}", "~*", "+@all", "-client|tracking"
    )
    client = fl.client(f"redis://locks:{PASSWORD}@127.0.0.1:{own_server.port}", **PATIENT)
    own_server.admin.set(key, TAKEN, px=500)
    began = clock()
    lease = await client.acquire(key, timeout=60)
    assert clock() - began < AT_ONCE
    assert await lease.release() is True


@one_server
async def test_no_push_if_it_is_switched_off(fl: Ways) -> None:
    proxy, key = fl.proxy(), fl.key()
    client = await fl.warm(fl.client(proxy.uri, push=False, retry_timeout=20))
    fl.admin.set(key, TAKEN)
    (waiter,) = await lined_up(fl, client, key, [client.acquire(key, timeout=60)])
    tried = len(proxy.verbs())
    await fl.until(lambda: len(proxy.verbs()) > tried + 5, 10)
    fl.admin.delete(key)
    assert await (await waiter).release() is True
    assert proxy.connections == 1
    assert "PTTL" not in proxy.verbs()


# ------------------------------------------------------------------ processes


@one_server
async def test_a_child_listens_for_itself(fl: Ways) -> None:
    """Forked while the parent waits: neither hears the other's."""
    client, key = await fl.warm(fl.client(**PATIENT)), fl.key()
    fl.admin.set(key, TAKEN)
    waiter = await waits(fl, client, key)
    raw = fl.client_class(fl.server.uri, **PATIENT) if not fl.sync else fl.raw(client)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            if fl.sync:
                lease = raw.acquire(f"{key}:child", timeout=60)
                code = 0 if lease.release() else 1
            else:
                code = 0
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
    fl.admin.delete(key)
    assert await (await waiter).release() is True
    if not fl.sync:
        await raw.close()


@async_only
@one_server
async def test_a_cancelled_first_takes_the_connecting_from_nobody(fl: Ways) -> None:
    proxy, keys = fl.proxy(), [fl.key(), fl.key()]
    client = await fl.warm(fl.client(proxy.uri, **PATIENT))
    fl.admin.mset(dict.fromkeys(keys, TAKEN))
    held = proxy.fault("hold_reply", verb="HELLO")
    waiting = []
    for key in keys:
        waiting += await lined_up(fl, client, key, [client.acquire(key, timeout=60)])
    await fl.happened(held)
    waiting[0].cancel()
    held.go()
    await fl.until(lambda: proxy.verbs().count("PTTL") == 1, 10)
    fl.admin.delete(keys[1])
    assert await (await waiting[1]).release() is True
    fl.admin.delete(keys[0])


def test_what_a_server_may_say() -> None:
    assert list(_watch.changed([b"invalidate", [b"a", b"b"]]) or ()) == [b"a", b"b"]
    assert _watch.changed([b"invalidate", None]) is None
    assert list(_watch.changed([b"message", b"x"]) or ()) == []
    assert list(_watch.changed([b"invalidate", [b"a", 1, [b"b"]]]) or ()) == [b"a"]
    assert _watch.held_for([-2, -2]) is None
    assert _watch.held_for([-2, 1000]) == 1.0 + _watch.SLACK
    assert _watch.held_for([-1, 1000]) == float("inf")
    for nonsense in ([b"1"], [-3], [None]):
        with pytest.raises(fastlock.TransportError):
            _watch.held_for(nonsense)
    assert _watch.refused([b"OK", fastlock.ServerError("NOPERM no")]) is True
    with pytest.raises(fastlock.TransportError):
        _watch.refused([fastlock.ServerError("LOADING not now")])


async def test_who_looks_first_finds_out_too_that_the_key_holds_no_lock(fl: Ways) -> None:
    client, key = await fl.warm(fl.client(**PATIENT)), fl.key()
    fl.admin.hset(key, "no", "lock")
    fl.raw(client)._queue.rivals.woke(key.encode(), clock())
    began = clock()
    with pytest.raises(fastlock.ServerError, match="WRONGTYPE"):
        await client.acquire(key, timeout=60)
    assert clock() - began < AT_ONCE
    fl.admin.delete(key)


@one_server
async def test_the_first_of_a_long_line_does_not_sleep_on(fl: Ways) -> None:
    """Whoever was before it has the lock, and that ends without a word of its client's."""
    client, key = await fl.warm(fl.client(**PATIENT)), fl.key()
    lease = await client.acquire(key, ttl=60)
    waiters = await lined_up(fl, client, key, [client.acquire(key, 300, 60) for _ in range(40)])
    assert await lease.release() is True
    await waiters[0]
    began = clock()
    fl.admin.delete(key)
    for waiter in waiters[1:]:
        assert await (await waiter).release() is True
    assert clock() - began < AT_ONCE
    assert nobody_waits(fl, client)


@one_server
async def test_several_locks_ask_before_they_are_tried_for_again(fl: Ways) -> None:
    """Once they were too late: each change of a held lock costs one question."""
    proxy, keys = fl.proxy(), [fl.key(), fl.key()]
    client = await fl.warm(fl.client(proxy.uri, **PATIENT))
    fl.admin.set(keys[1], TAKEN)
    waiter = fl.spawn(_all(client, keys))
    await fl.until(lambda: proxy.commands[-1][0] == b"PTTL", 10)

    def noticed(before: int) -> bool:
        fl.admin.set(keys[1], TAKEN)
        return proxy.verbs().count("PTTL") > before

    for _ in range(2):
        before = proxy.verbs().count("PTTL")
        await fl.until(lambda b=before: noticed(b), 10)  # type: ignore[misc]
    tries = len([verb for verb in proxy.verbs() if verb != "PTTL"])
    for _ in range(10):
        before = proxy.verbs().count("PTTL")
        await fl.until(lambda b=before: noticed(b), 10)  # type: ignore[misc]
    assert len([verb for verb in proxy.verbs() if verb != "PTTL"]) <= tries + 1
    fl.admin.delete(keys[1])
    await waiter


async def test_who_was_woken_looks_before_it_takes_the_lock_once_more(fl: Ways) -> None:
    """The others who were woken have their chance; a little later nobody is thought of."""
    proxy, key = fl.proxy(), fl.key()
    client = await fl.warm(fl.client(proxy.uri, **PATIENT))
    fl.admin.set(key, TAKEN)
    waiter = await waits(fl, client, key)
    fl.admin.delete(key)
    assert await (await waiter).release() is True
    rivals = fl.raw(client)._queue.rivals
    for looks in (True, False):
        rivals.woke(key.encode(), clock() - (0 if looks else 2 * LATELY))
        before = len(proxy.verbs())
        lease = await client.acquire(key, timeout=60)
        assert (proxy.verbs()[before] == "PTTL") is looks
        assert await lease.release() is True
    assert not rivals.about(key.encode(), clock())
