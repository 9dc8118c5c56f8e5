"""The drop-in in forked children, where redis-py's Lock is not right: see docs/redis-py.md."""

from __future__ import annotations

import os
import traceback
from typing import Any

import pytest
import redis
from _drop_in import FakeTime, Locks
from _harness import CORES, one_server, sync_only
from redis.exceptions import LockNotOwnedError

from fastlock.contrib import redis_py

pytestmark = [
    pytest.mark.parametrize("core", CORES, indirect=True),
    pytest.mark.parametrize("decode", [False], indirect=True, ids=["bytes"]),
    pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning"),
]


@one_server
@sync_only
async def test_a_forked_child_does_not_release(rp: Locks) -> None:
    key, own = rp.fl.key(), rp.fl.key("own")
    lock = rp.lock(key, timeout=30)
    await lock.acquire()
    lock = lock.raw

    def child() -> None:
        assert lock.owned() is False
        with pytest.raises(LockNotOwnedError, match="parent"):
            lock.extend(10)
        with pytest.raises(LockNotOwnedError, match="parent"):
            lock.release()
        with rp.lock_class(rp.client, own, timeout=10) as mine:
            assert mine.owned()
        redis_py.close()

    in_child(child)
    assert lock.owned() is True
    lock.release()
    assert not rp.fl.admin.exists(key)


@one_server
@sync_only
async def test_a_fork_between_two_tries_makes_two_acquisitions(
    rp: Locks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a signal handler could; with one token either could release the other's."""
    key = rp.fl.key()
    rp.fl.admin.set(key, "taken")
    lock = rp.lock(key, timeout=30).raw
    children: list[int] = []
    seen: list[Any] = []
    time = FakeTime()
    monkeypatch.setattr(redis.lock, "mod_time", time)

    def between() -> None:
        if children:
            seen.append(rp.fl.admin.getdel(key))
            return
        children.append(os.fork())
        if children[0]:
            os.waitpid(children[0], 0)
        else:
            rp.fl.admin.delete(key)

    time.on_sleep = between
    try:
        assert lock.acquire()
    finally:
        if children == [0]:
            os._exit(0)
    assert len(seen) == 1
    assert seen[0] not in (None, b"taken", lock.local.token)
    lock.release()


def in_child(body: Any) -> None:
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            body()
        except BaseException:
            os.write(writer, traceback.format_exc()[-3000:].encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as said:
        failure = said.read()
    os.waitpid(child, 0)
    assert not failure, failure
