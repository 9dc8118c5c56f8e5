"""Nothing is left behind, however often: objects, C memory, references, descriptors, threads.

Law: a leak shows in every round; what grows once is a cache. ``make leaks`` does a million
operations each way, a session of tests some thousand.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest
from _harness import Ways, one_server
from _levels import Levels
from _streams import BAD, GOOD, cores

import fastlock
from fastlock import _impl
from fastlock.errors import TransportError

pytestmark = [one_server, pytest.mark.memory, pytest.mark.slow]

ROUNDS = 4
Work = Callable[[Ways, Any, int], Awaitable[None]]
#: Name -> how many operations one turn does, and the turn.
WORK: dict[str, tuple[int, Work]] = {}


def work(operations: int) -> Callable[[Work], Work]:
    def keep(turn: Work) -> Work:
        WORK[turn.__name__] = (operations, turn)
        return turn

    return keep


@work(2)
async def pairs(fl: Ways, client: Any, turn: int) -> None:
    lease = await client.try_acquire("pairs")
    assert await lease.release() is True


@work(2)
async def blocks(fl: Ways, client: Any, turn: int) -> None:
    async with client.lock("blocks", ttl=5):
        pass


@work(1)
async def refusals(fl: Ways, client: Any, turn: int) -> None:
    assert await client.try_acquire("taken") is None


@work(2)
async def timeouts(fl: Ways, client: Any, turn: int) -> None:
    with pytest.raises(fastlock.AcquireTimeout):
        await client.acquire("taken", timeout=0)
    with pytest.raises(fastlock.LockLost):
        await client.adopt("taken", "another")


@work(3)
async def extensions(fl: Ways, client: Any, turn: int) -> None:
    lease = await client.acquire("extensions", ttl=5)
    await lease.extend(6)
    await lease.release()


@work(3)
async def deferred(fl: Ways, client: Any, turn: int) -> None:
    lease = await client.acquire(f"deferred{turn % 10}")
    await lease.release(wait=False)
    await client.locked("taken")


@work(152)
async def batches(fl: Ways, client: Any, turn: int) -> None:
    leases = await client.try_acquire_many([f"batch{place}" for place in range(50)] + ["taken"])
    assert all(await client.extend_many(leases[:50]))
    assert (await client.release_many(leases)).count(True) == 50


@work(8)
async def all_or_none(fl: Ways, client: Any, turn: int) -> None:
    async with client.lock_all(["a", "b", "c"], ttl=5):
        pass
    with pytest.raises(fastlock.AcquireTimeout):
        async with client.lock_all(["a", "taken"], ttl=5, timeout=0):
            pass


@work(15)
async def numbered(fl: Ways, client: Any, turn: int) -> None:
    async with client.lock("numbered", ttl=5, fence=True) as lease:
        assert lease.fence
    assert await client.try_acquire("taken", fence=True) is None
    leases = await client.try_acquire_many(["n1", "n2", "taken", "n3"], fence=True)
    assert (await client.release_many(leases)).count(True) == 3
    async with client.lock_all(["n1", "n2"], ttl=5, fence=True):
        pass


@work(6)
async def in_queues(fl: Ways, client: Any, turn: int) -> None:
    async with client.lock("fair", ttl=5, fair=True):
        pass
    async with client.lock("fair", ttl=5, fair=True, fence=True):
        with pytest.raises(fastlock.AcquireTimeout):
            await client.acquire("fair", ttl=5, timeout=0, fair=True)
        with pytest.raises(fastlock.AcquireTimeout):
            await client.acquire("fair", ttl=5, timeout=0.001, fair=True)


@work(4)
async def questions(fl: Ways, client: Any, turn: int) -> None:
    assert await client.holder("taken")
    assert await client.locked("taken")
    assert await client.force_release("nothing") is False
    await client.ping()


@work(3)
async def errors(fl: Ways, client: Any, turn: int) -> None:
    with pytest.raises(fastlock.ServerError, match="WRONGTYPE"):
        await client.acquire("a set", timeout=1)
    with pytest.raises(fastlock.ConfigError):
        await client.acquire("", timeout=1)
    with pytest.raises(fastlock.ServerError, match="WRONGTYPE"):
        await client.holder("a set")


@work(20)
async def together(fl: Ways, client: Any, turn: int) -> None:
    async def one(name: str) -> None:
        for _ in range(2):
            lease = await client.acquire(name, timeout=10)
            await lease.release()

    await fl.together(one(f"together{place}") for place in range(5))


@work(3)
async def lost_connections(fl: Ways, client: Any, turn: int) -> None:
    for entry in fl.admin.client_list():
        if entry["name"] == "leaks":
            fl.admin.client_kill_filter(_id=entry["id"])
    lease = await client.acquire("lost", timeout=10)
    await lease.release()


@work(3)
async def clients(fl: Ways, client: Any, turn: int) -> None:
    other = fl.client_class(fl.server.uri, prefix="leaks:")
    if fl.sync:
        with other:
            other.acquire("clients").release()
    else:
        async with other:
            await (await other.acquire("clients")).release()


@pytest.mark.parametrize("name", WORK)
async def test_nothing_is_left_of(fl: Ways, operations: int, name: str) -> None:
    each, turn = WORK[name]
    slow = {"lost_connections": 10, "clients": 10, "together": 2}.get(name, 1)
    turns = max(60, operations // len(WORK) // each // slow)
    patient = {"connect_timeout": 60, "socket_timeout": 60}  # the machine may be busy
    client = fl.client(prefix="leaks:", client_name="leaks", retry_timeout=1, **patient)
    await fl.warm(client)
    fl.admin.sadd("leaks:a set", "x")
    fl.admin.set("leaks:taken", "somebody else's")
    raw = fl.raw(client)
    shared = [raw, type(raw), raw.config, fastlock.ServerError, fastlock.Lease, "leaks:", b"OK"]
    grown: list[list[str]] = []
    for number in range(ROUNDS):
        if number == 1:  # the first warms up
            before = Levels(shared)
        for place in range(turns // ROUNDS):
            await turn(fl, client, place)
        await client.ping()
        if number:
            now = Levels(shared)
            grown.append(now.grown_since(before, turns // ROUNDS))
            before = now
    assert not all(grown), grown
    fl.admin.delete("leaks:a set", "leaks:taken")


# ------------------------------------------------------------------ below the API


def _streams(core: _impl.Core) -> None:
    """Good and bad ones, whole and left in the middle."""
    for data in [data for data, _ in GOOD[:-1]] + BAD:
        core.decoder().feed(data)
        core.decoder().feed(data[: len(data) // 2])
        core.decoder().feed(b"*3\r\n$3\r\nabc\r\n" + data)


def _packing(core: _impl.Core) -> None:
    prepared = core.prepare(b"SET", bytes, bytes, int)
    numbered = core.numbered(b"prefix", b"suffix")
    for size in (1, 100, 2000):
        pairs = numbered.pairs(["k" * size] * 5, b"prefix")
        prepared.many(pairs, size)
        prepared.fill(*pairs[0], size)
        core.pack(b"GET", pairs[0][0], size)
        for wrong in (None, 2**70, "text"):
            with suppress(TypeError, OverflowError):
                prepared.many([*pairs, (b"k", wrong)], 1)
            with suppress(TypeError, OverflowError):
                prepared.many(pairs, wrong)
            with suppress(TypeError, OverflowError):
                core.pack(b"GET", wrong)


def _pipes(core: _impl.Core) -> None:
    """Answered, abandoned, deferred, kept, and ended in every way."""
    for end in ("close", "abort", "eof", "noise", "nobody asked", "dropped"):
        near, far = socket.socketpair()
        with far:
            pipe = core.pipe(near)
            pipe.defer(b"+", 1)
            pipe.defer(b"+", 1)
            pipe.post(b"+", 2)
            far.sendall(b"$3\r\nodd\r\n:1\r\n+a\r\n+b\r\n+mine\r\n*2\r\n+half\r\n")
            assert pipe.call(b"+", 1, 5) == [b"mine"]
            with pytest.raises(TransportError):
                pipe.call(b"+", 2, 0.0)
            if end == "close" or (end == "dropped" and core.name == "python"):
                pipe.close()
            elif end == "abort":
                pipe.abort("for a test")
            elif end == "eof":
                far.shutdown(socket.SHUT_WR)
            elif end == "noise":
                far.sendall(b"?")
            elif end == "nobody asked":
                far.sendall(b"+whole\r\n" * 300)
            if end != "dropped":  # which a socket of Python's would complain about
                with pytest.raises(TransportError):
                    pipe.call(b"+" * 200, 200, 5)
                    pipe.call(b"+", 1, 5)
            del pipe


@pytest.mark.parametrize("below", [_streams, _packing, _pipes])
@pytest.mark.parametrize("core", [core.name for core in cores()])
def test_nothing_is_left_below(
    core: str, below: Callable[[_impl.Core], None], operations: int, server: Any
) -> None:
    chosen = _impl.load(core)
    turns = max(40, operations // (2000 if below is _pipes else 1000))
    one = sys.intern("k")
    grown: list[list[str]] = []
    for number in range(ROUNDS):
        if number == 1:
            before = Levels([chosen, b"OK", one])
        for _ in range(turns // ROUNDS):
            below(chosen)
        if number:
            now = Levels([chosen, b"OK", one])
            grown.append(now.grown_since(before, turns // ROUNDS))
            before = now
    assert not all(grown), grown
