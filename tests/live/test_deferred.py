"""Releases that nobody waits for: sent at once, answered for in the end.

Law: nothing else is sent by the client while a test waits for what a deferred release did.
"""

from __future__ import annotations

import logging
import pickle
import subprocess
import sys
import threading
from typing import Any

import pytest
from _harness import Ways, one_server, sync_only
from test_faults import DONE, NOT_DONE, plan, ready

import fastlock
from fastlock import _deferred
from fastlock._doubt import SHARED


@pytest.mark.smoke
async def test_a_deferred_release_frees_at_once(fl: Ways) -> None:
    client = await fl.warm(fl.client())
    key = fl.key()
    lease = await client.try_acquire(key)
    assert await lease.release(wait=False) is None
    assert (lease.valid(), lease.remaining(), bool(lease.lost)) == (False, 0.0, False)
    await fl.until(lambda: not fl.admin.exists(key))
    assert await lease.release() is False
    assert await lease.release(wait=False) is False
    for _ in range(100):
        lease = await client.try_acquire(key)
        assert lease is not None
        assert await lease.release(wait=False) is None


async def test_a_pair_costs_one_round_trip(fl: Ways) -> None:
    """While the answer to the release is held back, the caller has long gone on."""
    client, proxy, key = await ready(fl)
    lease = await client.try_acquire(key)
    held = proxy.fault("hold_reply")
    assert await lease.release(wait=False) is None
    await fl.happened(held)
    assert not lease.valid()
    held.go()


async def test_a_spec_may_defer_its_releases(fl: Ways) -> None:
    client, proxy, key = await ready(fl)
    spec = client.lock(key, ttl=30, release="deferred")
    assert spec.deferred
    async with spec:
        held = proxy.fault("hold_reply")
    await fl.happened(held)  # while the answer is held back, the block has been left
    held.go()
    await fl.until(lambda: not fl.admin.exists(key))
    assert await spec.acquire()
    assert await spec.release() is True
    await fl.until(lambda: not fl.admin.exists(key))
    with pytest.raises(RuntimeError):
        await spec.release()
    assert pickle.loads(pickle.dumps(fl.raw(spec))).deferred
    with pytest.raises(ZeroDivisionError):
        async with spec:
            raise ZeroDivisionError
    await fl.until(lambda: not fl.admin.exists(key))


async def test_a_spec_does_not_defer_what_has_expired(fl: Ways) -> None:
    client = await fl.warm(fl.client())
    key = fl.key()
    spec = client.lock(key, ttl=0.05, release="deferred")
    with pytest.raises(fastlock.LockLost):
        async with spec as lease:
            await fl.until(lambda: not fl.admin.exists(key))
    assert lease.lost
    assert await spec.acquire()
    await fl.until(lambda: not fl.admin.exists(key))
    assert await spec.release() is False


async def test_what_release_means_is_checked(fl: Ways) -> None:
    client = fl.client()
    for wrong in ("later", True, None):
        with pytest.raises(fastlock.ConfigError, match=r"^release: "):
            client.lock(fl.key(), release=wrong)
    assert not client.lock(fl.key()).deferred


async def test_closing_waits_for_all_of_them(fl: Ways) -> None:
    client = await fl.warm(fl.client())
    keys = [f"{fl.key()}:{n}" for n in range(64)]

    async def work(key: str) -> None:
        for _ in range(5):
            lease = await client.try_acquire(key)
            assert lease is not None
            await lease.release(wait=False)

    await fl.together([work(key) for key in keys])
    await client.close()
    assert fl.admin.exists(*keys) == 0


@sync_only
async def test_closing_waits_for_what_another_thread_has_just_found_lost(
    fl: Ways, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, proxy, key = await ready(fl)
    background = fl.raw(client)._background
    add, found = background.add, threading.Event()

    def slowly(*debt: Any) -> None:
        found.set()
        threading.Event().wait(0.3)
        add(*debt)

    monkeypatch.setattr(background, "add", slowly)
    lease = await client.try_acquire(key)
    planned = plan(proxy, "cut_before")
    await lease.release(wait=False)
    await fl.happened(planned)
    assert found.wait(5)
    await client.close()
    assert fl.admin.exists(key) == 0


async def test_more_than_anybody_reads(fl: Ways) -> None:
    """Nobody asks for an answer in between: the callers read now and then."""
    client = await fl.warm(fl.client())
    keys = [f"{fl.key()}:{n}" for n in range(5 * _deferred.MOST)]
    for lease in await client.try_acquire_many(keys):
        await lease.release(wait=False)
    await fl.until(lambda: fl.admin.exists(*keys) == 0)
    assert await client.locked(keys[0]) is False


async def test_a_lock_lost_before_is_told(fl: Ways, caplog: pytest.LogCaptureFixture) -> None:
    client = await fl.warm(fl.client())
    key = fl.key()
    lease = await client.try_acquire(key)
    fl.admin.set(key, "somebody else's", px=60_000)
    with caplog.at_level(logging.WARNING, "fastlock"):
        await lease.release(wait=False)
        await fl.until(lambda: caplog.records)
        assert lease.lost
    assert fl.admin.get(key) == b"somebody else's"
    assert [record.getMessage() for record in caplog.records] == [
        f"{key!r} was no longer held when its deferred release arrived"
    ]
    fl.admin.delete(key)


@pytest.mark.parametrize("fault", [*DONE, *NOT_DONE])
async def test_a_lost_connection_is_mended_behind_the_scenes(fl: Ways, fault: str) -> None:
    client, proxy, key = await ready(fl)
    lease = await client.try_acquire(key)
    planned = plan(proxy, fault)
    await lease.release(wait=False)
    await fl.happened(planned)
    await fl.until(lambda: not fl.admin.exists(key))
    assert not lease.lost
    assert await client.try_acquire(key) is not None
    await client.force_release(key)


async def test_a_connection_lost_before_is_no_hindrance(fl: Ways) -> None:
    client, proxy, key = await ready(fl)
    lease = await client.try_acquire(key)
    proxy.cut()
    await lease.release(wait=False)
    await fl.until(lambda: not fl.admin.exists(key))
    assert not lease.lost


async def test_a_server_without_the_script(fl: Ways) -> None:
    client = await fl.warm(fl.client())
    key = fl.key()
    lease = await client.try_acquire(key)
    fl.admin.script_flush()
    await lease.release(wait=False)
    await fl.until(lambda: not fl.admin.exists(key))
    assert not lease.lost


ENDINGS = {
    "the end": "",
    "sys.exit": "sys.exit(0)",
    "an exception": "raise SystemError",
}


@pytest.mark.parametrize("ending", ENDINGS)
async def test_a_process_ends_with_releases_under_way(fl: Ways, ending: str) -> None:
    """The answers to the releases are held back until the process wants to end."""
    proxy = fl.proxy()
    script = f"""
import asyncio, sys, threading
from fastlock import _impl
import fastlock, fastlock.aio
core = _impl.load({fl.core!r})
class Client(fastlock.Client): _core = core
class AsyncClient(fastlock.aio.Client): _core = core

def sync():
    client = Client({proxy.uri!r})
    def work(number):
        for turn in range(20):
            client.try_acquire(f"{fl.key()}:{{number}}:{{turn}}").release(wait=False)
    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()

async def tasks():
    client = AsyncClient({proxy.uri!r})
    async def work(number):
        for turn in range(20):
            lease = await client.try_acquire(f"{fl.key()}:{{number}}:{{turn}}")
            await lease.release(wait=False)
    await asyncio.gather(*map(work, range(8)))
    await client.close()

sync() if {fl.sync} else asyncio.run(tasks())
print("done")
{ENDINGS[ending]}
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout == "done\n", done.stderr
    assert done.returncode == (1 if ending == "an exception" else 0), done.stderr
    if ending != "an exception":
        assert done.stderr == ""
    assert fl.admin.keys(f"{fl.key()}:*") == []


async def test_a_child_leaves_its_parents_releases_alone(fl: Ways) -> None:
    import os

    client, proxy, key = await ready(fl)
    lease = await client.try_acquire(key)
    held = proxy.fault("hold_command")
    await lease.release(wait=False)
    child = os.fork()
    if not child:
        os._exit(_in_child(fl, client))
    assert os.waitpid(child, 0)[1] == 0
    held.go()
    await fl.until(lambda: not fl.admin.exists(key))


def _in_child(fl: Ways, client: Any) -> int:
    raw = fl.raw(client)
    if not fl.sync:
        return int(bool(raw._deferred))
    raw._deferred.close(5)
    return int(bool(raw._deferred._pending or raw._deferred._thread))


@sync_only
@one_server
@pytest.mark.parametrize("shared", [False, True])
async def test_of_two_releases_the_deferred_one_tells_of_no_loss(fl: Ways, shared: bool) -> None:
    """If another call joined it, that one was told what became of the lock."""
    proxy, key = fl.proxy(), fl.key()
    client = await fl.warm(fl.client(proxy.uri))
    lease = await client.acquire(key, 60)
    fl.admin.delete(key)
    held = proxy.fault("hold_reply")
    await lease.release(wait=False)
    await fl.happened(held)
    if shared:
        fl.raw(lease).doubt = SHARED
    held.go()
    await client.close()
    assert bool(lease.lost) is not shared


@one_server
async def test_what_a_replica_refuses_is_released_when_it_is_the_master_again(
    fl: Ways, own_server: Any
) -> None:
    """Not given up: the ttl would be all that frees it."""
    client, key = fl.client(own_server.uri), fl.key()
    lease = await client.acquire(key, ttl=60)
    own_server.admin.execute_command("REPLICAOF", "127.0.0.1", 1)  # nobody is there
    assert await lease.release(wait=False) is None
    await fl.sleep(0.2)
    assert own_server.admin.get(key) == lease.token.encode()
    own_server.admin.execute_command("REPLICAOF", "NO", "ONE")
    await fl.until(lambda: not own_server.admin.exists(key), 10)
    assert not lease.lost
