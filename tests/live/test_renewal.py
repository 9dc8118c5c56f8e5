"""Leases that renew themselves: held as long as their holder wants, never longer.

Law: renewals are seen at the server, or on the wire by the proxy; never asked of the client.
"""

from __future__ import annotations

import asyncio
import gc
import os
import pickle
import subprocess
import sys
import time
from collections import Counter
from typing import Any

import pytest
from _harness import Ways, async_only, clock, one_server, remaining_at_most, sync_only
from _proxy import Proxy
from _servers import Server, has_ifeq

import fastlock
from fastlock._renewal import Renewal

TTL = 1.5
LONGER = 4.0  # s, in which a lock of TTL ends twice


async def ready(fl: Ways, **options: Any) -> tuple[Any, Proxy, str]:
    """A connected client behind a proxy, whose server knows all scripts; a key."""
    proxy = fl.proxy()
    client = await fl.warm(fl.client(proxy.uri, **options))
    return client, proxy, fl.key()


def renewals(proxy: Proxy, key: str) -> list[str]:
    """The commands that renewed it, by name."""
    found = []
    for args in list(proxy.commands):
        verb = args[0].decode().upper()
        renews = b"IFEQ" in args if verb == "SET" else verb == "EVAL" and b"PEXPIRE" in args[1]
        if renews and key.encode() in args:
            found.append(verb)
    return found


async def stays(fl: Ways, key: str, token: str, seconds: float = LONGER) -> None:
    """Whoever looks at the server sees it held all the time."""
    end = clock() + seconds
    while clock() < end:
        assert fl.admin.get(key) == token.encode()
        await fl.sleep(0.02)


# ------------------------------------------------------------------ held


@pytest.mark.smoke
async def test_a_renewed_lock_outlives_its_ttl(fl: Ways) -> None:
    client, key = fl.client(), fl.key()
    async with client.lock(key, ttl=TTL, auto_renew=True) as lease:
        await stays(fl, key, lease.token)
        assert (lease.valid(), lease.state, bool(lease.lost)) == (True, "held", False)
        assert lease.lost.reason is None
        assert 0 < lease.remaining() <= TTL
        remaining_at_most(fl, lease, key)
    assert fl.admin.exists(key) == 0
    assert (lease.state, bool(lease.lost), lease.valid()) == ("released", False, False)


@pytest.mark.smoke
async def test_without_renewal_it_does_not(fl: Ways) -> None:
    client, key = fl.client(), fl.key()
    lease = await client.acquire(key, ttl=0.3)
    assert lease.state == "held"
    await fl.until(lambda: not fl.admin.exists(key))
    assert (lease.state, bool(lease.lost)) == ("lost", True)
    assert await lease.release() is False


async def test_everything_that_acquires_can_renew(fl: Ways) -> None:
    client, keys = fl.client(), [fl.key(name) for name in "abcdefgh"]
    spec = client.lock(keys[0], ttl=TTL, auto_renew=True)
    other = client.lock(keys[1], ttl=TTL, auto_renew=True)
    assert await spec.acquire() is True
    assert await other.acquire(blocking=False) is True
    leases = [
        await client.acquire(keys[2], ttl=TTL, auto_renew=True),
        await client.try_acquire(keys[3], ttl=TTL, auto_renew=True),
        *await client.try_acquire_many(keys[3:6], ttl=TTL, auto_renew=True),
    ]
    assert leases[2] is None
    async with client.lock_all(keys[6:], ttl=TTL, auto_renew=True) as together:
        end = clock() + LONGER
        while clock() < end:
            assert fl.admin.exists(*keys) == len(keys)
            await fl.sleep(0.02)
        assert [lease.state for lease in together] == ["held"] * 2
    assert fl.admin.exists(*keys) == len(keys) - 2
    assert await spec.release() is True
    assert await other.release() is True
    assert await client.release_many(leases) == [True, True, False, True, True]
    assert fl.admin.exists(*keys) == 0


async def test_a_decorated_function_is_renewed_while_it_runs(fl: Ways) -> None:
    client, key = fl.client(), fl.key()

    @client.lock(key, ttl=0.9, auto_renew=True)
    async def report() -> None:
        await fl.sleep(2.0)
        assert fl.admin.exists(key)

    await report()
    assert fl.admin.exists(key) == 0


@one_server
async def test_every_third_of_the_ttl_and_not_after_the_release(fl: Ways) -> None:
    client, proxy, key = await ready(fl)
    lease = await client.acquire(key, ttl=TTL, auto_renew=True)
    await stays(fl, key, lease.token)
    count = len(renewals(proxy, key))
    # Every 0.5 s, up to an eighth of that earlier; a slow machine may leave some out.
    assert 3 <= count <= 1 + LONGER / (TTL / 3 * 7 / 8)
    assert await lease.release() is True
    count = len(renewals(proxy, key))
    await fl.sleep(TTL)
    assert len(renewals(proxy, key)) == count
    assert fl.admin.exists(key) == 0


async def test_by_the_server_s_own_command_where_it_has_one(fl: Ways) -> None:
    client, proxy, key = await ready(fl)
    lease = await client.acquire(key, ttl=0.9, auto_renew=True)
    await fl.until(lambda: len(renewals(proxy, key)) >= 2)
    assert set(renewals(proxy, key)) == {"SET" if has_ifeq(fl.server.version) else "EVAL"}
    await lease.release()


async def test_connections_are_as_few_as_can_be(fl: Ways) -> None:
    """For threads it is the same one; a loop's socket belongs to the loop."""
    proxy = fl.proxy()
    client = fl.client(proxy.uri)
    keys = [f"{fl.key()}:{number}" for number in range(50)]
    leases = await client.try_acquire_many(keys, ttl=0.9, auto_renew=True)
    await fl.until(lambda: len(renewals(proxy, keys[-1])) >= 2)
    assert proxy.connections == (1 if fl.sync else 2)
    await client.release_many(leases)


@async_only
async def test_a_blocked_loop_keeps_its_locks(fl: Ways) -> None:
    client = await fl.warm(fl.client())
    keys = [fl.key() for _ in range(3)]
    leases = await client.try_acquire_many(keys, ttl=TTL, auto_renew=True)
    end = clock() + LONGER
    while clock() < end:
        assert fl.admin.exists(*keys) == 3
        time.sleep(0.05)
    assert [lease.state for lease in leases] == ["held"] * 3
    assert await client.release_many(leases) == [True] * 3


@one_server
async def test_over_a_unix_socket(fl: Ways) -> None:
    client, key = fl.client(fl.server.unix_uri), fl.key()
    async with client.lock(key, ttl=0.9, auto_renew=True) as lease:
        await stays(fl, key, lease.token, 2.0)


@one_server
async def test_over_tls(fl: Ways, tls_server: Server, certificates: Any) -> None:
    client = fl.client(tls_server.uri, ssl_ca_certs=certificates.ca)
    key = fl.key()
    async with client.lock(key, ttl=TTL, auto_renew=True) as lease:
        end = clock() + LONGER
        while clock() < end:
            assert tls_server.admin.get(key) == lease.token.encode()
            await fl.sleep(0.02)
        assert lease.state == "held"
    assert tls_server.admin.exists(key) == 0


async def test_callers_that_come_and_go_exclude_each_other(fl: Ways) -> None:
    client, key = fl.client(retry_timeout=2), fl.key()
    inside: list[int] = []
    done: Counter[int] = Counter()

    async def work(me: int) -> None:
        for _ in range(15):
            async with client.lock(key, ttl=0.6, auto_renew=True):
                inside.append(me)
                await fl.sleep(0.002)
                assert inside == [me]
                inside.clear()
                done[me] += 1

    await fl.together(work(me) for me in range(6))
    assert set(done.values()) == {15}
    assert fl.admin.exists(key) == 0


# ------------------------------------------------------------------ max_hold


@one_server
async def test_after_max_hold_it_is_renewed_no_more(fl: Ways) -> None:
    client, key = fl.client(), fl.key()
    started = clock()
    with pytest.raises(fastlock.LockLost, match="max_hold") as caught:
        async with client.lock(key, ttl=0.9, auto_renew=True, max_hold=1.5) as lease:
            assert await lease.lost.wait(30) is True
            assert clock() - started > 1.5
            assert "max_hold (1.5 s)" in lease.lost.reason
            await fl.until(lambda: not fl.admin.exists(key))
    assert caught.value.key == key


@one_server
@pytest.mark.parametrize("freed", [False, True], ids=["expired", "deleted"])
async def test_who_sees_it_lost_at_once_sees_why(
    fl: Ways, freed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = Renewal._tell
    seen: list[tuple[str, str]] = []

    def look_first(renewal: Renewal, lease: Any, reason: str) -> None:
        seen.append((lease.lost.reason, reason))
        told(renewal, lease, reason)

    monkeypatch.setattr(Renewal, "_tell", look_first)
    client, key = fl.client(), fl.key()
    lease = await client.acquire(key, ttl=0.9, auto_renew=True, max_hold=1.5)
    if freed:
        fl.admin.delete(key)
    assert await lease.lost.wait(30) is True
    await fl.until(lambda: seen)
    ((before, told_then),) = seen
    assert before == told_then == lease.lost.reason
    assert ("the server had it no more" if freed else "max_hold (1.5 s)") in before


@one_server
async def test_no_max_hold_has_to_be_asked_for(fl: Ways) -> None:
    client, key = fl.client(), fl.key()
    assert client.lock(key, auto_renew=True).renews["max_hold"] == 3600
    async with client.lock(key, ttl=0.9, auto_renew=True, max_hold=None) as lease:
        await stays(fl, key, lease.token, 2.0)


# ------------------------------------------------------------------ extended by hand


@one_server
@pytest.mark.parametrize("ttl", [20.0, 0.9, None])
async def test_an_extension_by_hand_changes_what_renewals_set(fl: Ways, ttl: float | None) -> None:
    client, key = await fl.warm(fl.client()), fl.key()
    lease = await client.acquire(key, ttl=1.8, auto_renew=True)
    assert await lease.extend(ttl) is None
    wanted = 1.8 if ttl is None else ttl
    assert lease.ttl == wanted
    remaining_at_most(fl, lease, key)
    before, end = lease.deadline, clock() + 3 * min(wanted, 1.0)
    while clock() < end:
        assert fl.admin.pttl(key) > (15_000 if wanted == 20 else 0)
        await fl.sleep(0.02)
    assert lease.valid()
    assert (lease.deadline > before) == (wanted < 20)  # then it has been renewed since
    assert await lease.release() is True


async def test_many_are_extended_by_hand(fl: Ways) -> None:
    client = await fl.warm(fl.client())
    keys = [f"{fl.key()}:{number}" for number in range(300)]
    leases = await client.try_acquire_many(keys, ttl=TTL, auto_renew=True)
    fl.admin.delete(keys[7])
    assert await client.extend_many(leases, 30) == [True] * 7 + [False] + [True] * 292
    assert leases[7].lost
    assert all(fl.admin.pttl(key) > 25_000 for key in (keys[0], keys[-1]))
    await fl.sleep(TTL)
    assert all(fl.admin.pttl(key) > 20_000 for key in (keys[0], keys[-1]))
    assert await client.extend_many(leases, 1.5) == [True] * 7 + [False] + [True] * 292
    await fl.sleep(3.0)
    assert fl.admin.exists(*keys) == 299
    assert sum(await client.release_many(leases)) == 299


@one_server
async def test_one_extension_at_a_time_is_under_way(fl: Ways) -> None:
    """Over whatever connections: what is set last is what was asked for last."""
    client, proxy, key = await ready(fl)
    lease = await client.acquire(key, ttl=3.0, auto_renew=True)
    held = proxy.fault("hold_command", verb="SET")
    await fl.happened(held)  # a renewal is in the network
    sent = len(renewals(proxy, key))
    extending = fl.spawn(lease.extend(60))
    await fl.sleep(0.2)
    assert not extending.done()
    assert len(renewals(proxy, key)) == sent
    held.go()
    await extending
    assert fl.admin.pttl(key) > 55_000
    assert lease.remaining() > 55
    remaining_at_most(fl, lease, key)
    await fl.sleep(1.0)
    assert fl.admin.pttl(key) > 55_000
    assert await lease.release() is True


async def test_extended_by_many_at_once(fl: Ways) -> None:
    client, key = await fl.warm(fl.client()), fl.key()
    lease = await client.acquire(key, ttl=0.6, auto_renew=True)

    async def extend() -> None:
        for _ in range(30):
            await lease.extend(0.6)
            assert lease.valid()

    await fl.together(extend() for _ in range(4))
    remaining_at_most(fl, lease, key)
    await stays(fl, key, lease.token, 1.5)
    assert await lease.release() is True


async def test_what_an_extension_finds_lost_is_told_at_once(fl: Ways) -> None:
    client, key = await fl.warm(fl.client()), fl.key()
    told: list[Any] = []
    lease = await client.acquire(key, ttl=30, auto_renew=True, on_lost=told.append)
    fl.admin.delete(key)
    with pytest.raises(fastlock.LockLost):
        await lease.extend(30)
    assert lease.lost
    await fl.until(lambda: told == [fl.raw(lease)])
    with pytest.raises(fastlock.LockLost):
        await lease.extend(30)


# ------------------------------------------------------------------ ends


async def test_closing_the_client_ends_it(fl: Ways) -> None:
    client, proxy, key = await ready(fl)
    lease = await client.acquire(key, ttl=0.9, auto_renew=True)
    await fl.until(lambda: renewals(proxy, key))
    assert lease.valid()
    await client.close()
    count = len(renewals(proxy, key))
    await fl.until(lambda: not fl.admin.exists(key))
    assert len(renewals(proxy, key)) == count
    assert lease.lost
    with pytest.raises(fastlock.FastlockError, match="closed"):
        await client.acquire(key, ttl=0.9, auto_renew=True)


async def test_what_nobody_can_release_is_not_renewed(fl: Ways) -> None:
    client, key = await fl.warm(fl.client()), fl.key()
    assert await client.try_acquire(key, ttl=0.9, auto_renew=True) is not None
    gc.collect()
    await fl.until(lambda: not fl.admin.exists(key))


@one_server
@pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")
async def test_a_child_renews_its_own_and_none_of_its_parent_s(fl: Ways) -> None:
    client, key, own = await fl.warm(fl.client()), fl.key(), fl.key("own")
    lease = await client.acquire(key, ttl=TTL, auto_renew=True)
    await fl.sleep(0.6)
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        code = 1
        try:
            code = _in_child(fl, lease, own)
        finally:
            os.write(writer, b"%d" % code)
            os._exit(0)
    os.close(writer)
    await stays(fl, key, lease.token)
    assert os.read(reader, 1) == b"0"
    os.close(reader)
    os.waitpid(child, 0)
    assert lease.state == "held"
    assert await lease.release() is True


def _in_child(fl: Ways, lease: Any, own: str) -> int:
    raw = fl.raw(lease)
    try:
        lost = raw.release() if fl.sync else asyncio.run(raw.release())
    except fastlock.LockError:
        lost = None
    assert lost is None

    async def renewed() -> int:
        made = fl.client_class(fl.server.uri)
        acquiring = made.acquire(own, ttl=0.6, auto_renew=True)
        mine = acquiring if fl.sync else await acquiring
        time.sleep(1.5)
        closing = mine.release()
        freed = closing if fl.sync else await closing
        return 0 if freed else 2

    if not fl.sync:
        return asyncio.run(renewed())
    try:
        renewed().send(None)
    except StopIteration as end:
        return int(end.value)
    return 3


END = """
import asyncio, sys
import fastlock, fastlock.aio
from fastlock import _impl
core = _impl.load({core!r})
class Client(fastlock.Client): _core = core
class AsyncClient(fastlock.aio.Client): _core = core

def sync():
    client = Client({uri!r})
    leases = client.try_acquire_many([f"{key}:{{n}}" for n in range(100)], ttl=0.9, auto_renew=True)
    import time; time.sleep(1.5)
    assert all(lease.state == "held" for lease in leases)
    return client, leases

async def tasks():
    client = AsyncClient({uri!r})
    keys = [f"{key}:{{n}}" for n in range(100)]
    leases = await client.try_acquire_many(keys, ttl=0.9, auto_renew=True)
    await asyncio.sleep(1.5)
    assert all(lease.state == "held" for lease in leases)
    await client._server.close()  # the loop's connection; renewals go on over theirs
    return client, leases

held = sync() if {sync} else asyncio.run(tasks())
print("done")
{ending}
"""


@one_server
@pytest.mark.parametrize(
    "ending", ["", "sys.exit(0)", "raise SystemError", "import os; os._exit(0)"]
)
async def test_a_process_ends_with_leases_held(fl: Ways, ending: str) -> None:
    script = END.format(core=fl.core, uri=fl.server.uri, key=fl.key(), sync=fl.sync, ending=ending)
    done = subprocess.run(
        [sys.executable, "-W", "ignore::ResourceWarning", "-c", script],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.stdout in ("done\n", "") if "_exit" in ending else done.stdout == "done\n", done
    assert done.returncode == (1 if "SystemError" in ending else 0), done.stderr
    if "SystemError" not in ending:
        assert done.stderr == ""
    await fl.until(lambda: fl.admin.keys(f"{fl.key()[:-1]}*") == [])


# ------------------------------------------------------------------ specs, arguments


async def test_a_spec_pickles_with_what_it_says_about_renewal(fl: Ways) -> None:
    client, key = fl.client(), fl.key()
    more = {} if fl.sync else {"cancel_on_lost": True}
    spec = client.lock(
        key, ttl=7, auto_renew=True, max_hold=60, on_lost=os.getpid, if_lost="warn", **more
    )
    loaded = pickle.loads(pickle.dumps(fl.raw(spec)))
    assert loaded.renews == {"auto_renew": True, "max_hold": 60, "on_lost": os.getpid, **more}
    assert loaded.if_lost == "warn"
    plain = pickle.loads(pickle.dumps(fl.raw(client.lock(key))))
    assert (plain.renews, plain.if_lost) == ({}, "raise")


def _coroutine() -> Any:
    async def tell(lease: Any) -> None: ...

    return tell


BAD = {
    "auto_renew": [{"auto_renew": 1}, {"auto_renew": "yes"}],
    "max_hold": [
        {"auto_renew": True, "max_hold": value} for value in (0, -1, "5", True, float("nan"), 1e12)
    ]
    + [{"max_hold": 60}],
    "on_lost": [{"on_lost": print}, {"auto_renew": True, "on_lost": "print"}],
}


@one_server
@pytest.mark.parametrize("field", BAD)
async def test_bad_arguments_are_refused_at_the_door(fl: Ways, field: str) -> None:
    client, key = fl.client(), fl.key()
    for options in BAD[field]:
        for method in ("lock", "acquire", "try_acquire"):
            with pytest.raises(fastlock.ConfigError, match=f"^{field}: ") as caught:
                made = getattr(client, method)(key, **options)
                await made
            assert caught.value.field == field
        for method in ("lock_all", "try_acquire_many"):
            with pytest.raises(fastlock.ConfigError, match=f"^{field}: "):
                await getattr(client, method)([key], **options)
    for wrong in ("Raise", None, True):
        for make in (
            lambda w: client.lock(key, if_lost=w),
            lambda w: client.lock_all([key], if_lost=w),
        ):
            with pytest.raises(fastlock.ConfigError, match=r"^if_lost: "):
                make(wrong)
    assert fl.admin.exists(key) == 0


@one_server
@sync_only
async def test_a_coroutine_function_is_for_asyncio(fl: Ways) -> None:
    with pytest.raises(fastlock.ConfigError, match="coroutine function"):
        fl.client().lock(fl.key(), auto_renew=True, on_lost=_coroutine())


# ------------------------------------------------------------------ very many

#: Leases, their ttl, and for how long they are watched, in seconds.
MANY, LONG, WATCHED = 10_000, 30.0, 12.0


@one_server
@pytest.mark.slow
async def test_ten_thousand_leases_cost_next_to_nothing(fl: Ways, own_server: Server) -> None:
    """Spread over a third of their ttl, as leases are that come when they come."""
    client = fl.client(own_server.uri)
    await client.ping()
    before = os.listdir("/proc/self/task") if sys.platform == "linux" else []
    leases: list[Any] = []
    for start in range(0, MANY, 100):
        keys = [f"{number}" for number in range(start, start + 100)]
        leases += await client.try_acquire_many(keys, ttl=LONG, auto_renew=True)
        await fl.sleep(LONG / 3 / (MANY / 100))
    if before:  # the heartbeat's, and the one that would tell if anything happened
        assert len(os.listdir("/proc/self/task")) - len(before) == 2
    gc.collect()
    reads = own_server.admin.info("stats")["total_reads_processed"]
    counted = calls(own_server)
    used, started = time.process_time(), clock()
    await fl.sleep(WATCHED)
    used, took = time.process_time() - used, clock() - started
    reads = own_server.admin.info("stats")["total_reads_processed"] - reads
    counted = calls(own_server) - counted
    print(f"{MANY} leases: {used / took:.2%} of a core, {reads / took:.1f} writes a second")
    assert counted >= MANY  # the time is longer than a third of the ttl: each was renewed
    assert reads < 3 * took / 0.25  # a write for every quarter of a second, and a few more
    assert used / took < 0.02
    assert all(lease.state == "held" for lease in leases)
    assert own_server.admin.dbsize() == MANY
    assert sum(await client.release_many(leases)) == MANY


def calls(server: Server) -> int:
    """How many commands about locks it has carried out."""
    stats = server.admin.info("commandstats")
    return sum(stats.get(f"cmdstat_{verb}", {"calls": 0})["calls"] for verb in ("set", "eval"))
