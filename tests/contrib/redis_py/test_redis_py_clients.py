"""Names, and redis-py clients of every kind, with redis-py's Lock and with ours."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from _drop_in import THEIRS, Locks
from _harness import CORES, Ways, one_server

ours = pytest.mark.parametrize("core", CORES, indirect=True)


@one_server
async def test_names(rp: Locks) -> None:
    stem = rp.fl.key("ключ")
    for name in (stem, stem.encode() + b"\xff", ""):
        raw = name.encode() if isinstance(name, str) else name
        async with rp.lock(name, timeout=10) as lock:
            assert lock.name == name
            assert rp.fl.admin.get(raw) == lock.local.token
        assert not rp.fl.admin.exists(raw)


@one_server
@ours  # with hiredis installed, redis-py encodes names as UTF-8 whatever it was told
async def test_the_client_s_encoding(rp: Locks) -> None:
    key = rp.fl.key("é")
    client = rp.redis(encoding="latin-1")
    lock = rp.lock(key, client=client, timeout=10)
    await lock.acquire(token="ü")
    assert rp.fl.admin.get(key.encode("latin-1")) == b"\xfc"
    await lock.release()


@one_server
async def test_clients_of_every_kind(rp: Locks) -> None:
    server = rp.fl.server
    key = rp.fl.key()
    kinds = {"db": rp.redis(db=3), "single": rp.redis(single_connection_client=True)}
    if hasattr(server, "unix_uri"):
        kinds["unix"] = rp.redis(server.unix_uri)
    for kind, client in kinds.items():
        async with rp.lock(key, client=client, timeout=10) as lock:
            assert await lock.owned()
            number = 3 if kind == "db" else 0
            assert keys_of(rp.fl, number, key) == [key]


def keys_of(fl: Ways, db: int, key: str) -> list[str]:
    pipe = fl.admin.pipeline(transaction=True)
    pipe.execute_command("SELECT", db)
    pipe.keys(key)
    pipe.execute_command("SELECT", 0)
    return [one.decode() for one in pipe.execute()[1]]


async def test_both_libraries_exclude_each_other(rp: Locks) -> None:
    key = rp.fl.key()
    theirs = rp.wrapped(THEIRS[rp.fl.api](rp.client, key, timeout=10))
    mine = rp.lock(key, timeout=10)
    assert await theirs.acquire(blocking=False)
    assert await mine.acquire(blocking=False) is False
    await theirs.release()
    assert await mine.acquire(blocking=False)
    assert await theirs.acquire(blocking=False) is False
    await mine.release()


@one_server
async def test_lock_class(rp: Locks) -> None:
    lock = rp.wrapped(rp.client.lock(rp.fl.key(), timeout=5, lock_class=rp.lock_class))
    assert isinstance(lock.raw if rp.fl.sync else lock, rp.lock_class)
    async with lock:
        assert await lock.owned()


@one_server
async def test_tls(rp: Locks, tls_server: Any, certificates: Any) -> None:
    key = rp.fl.key()
    client = rp.redis(tls_server.uri, ssl_ca_certs=certificates.ca)
    async with rp.lock(key, client=client, timeout=10) as lock:
        assert await lock.extend(5)
        assert tls_server.admin.get(key) == lock.local.token
    assert not tls_server.admin.exists(key)


@one_server
async def test_many_at_once_exclude_each_other(rp: Locks) -> None:
    await exclude_each_other(rp, lambda lock: [lock() for _ in range(7)])


@one_server
@ours  # redis-py's release forgets what another task has acquired meanwhile
async def test_many_who_share_a_lock_object_exclude_each_other(rp: Locks) -> None:
    await exclude_each_other(rp, lambda lock: [lock()] * 7)


async def exclude_each_other(rp: Locks, make: Callable[[Callable[[], Any]], list[Any]]) -> None:
    key, inside, most = rp.fl.key(), [], []

    async def body(lock: Any) -> None:
        for _ in range(5):
            async with lock:
                inside.append(1)
                await rp.fl.sleep(0)
                most.append(len(inside))
                inside.pop()

    locks = make(lambda: rp.lock(key, timeout=30, sleep=0.001))
    await rp.fl.together(body(lock) for lock in locks)
    assert most == [1] * 35
