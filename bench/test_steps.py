"""What each step of a pair costs, core by core: ``python -m pytest bench`` (pytest-benchmark).

Law: for finding where a change made something slower (``--benchmark-compare``), never for a
claim: claims are ratios, and ``python -m bench`` makes them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

import fastlock
from fastlock import _impl, aio

from .ours import uri
from .servers import Server, binary, running

KEY, TOKEN = b"bench:key:000000", b"t" * 40
MANY = [f"bench:key:{number:06d}" for number in range(1000)]
ANSWERS = {
    "stored": b"+OK\r\n",
    "freed": b":1\r\n",
    "refused": b"$-1\r\n",
    "a thousand": b"+OK\r\n" * 1000,
}


@pytest.fixture(params=["cython", "python"])
def core(request: pytest.FixtureRequest) -> _impl.Core:
    return _impl.load(request.param)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running("redis" if binary("redis") else "valkey", 0) as started:
        yield started


@pytest.fixture
def client(core: _impl.Core, server: Server) -> Iterator[fastlock.Client]:
    kind = type("Client", (fastlock.Client,), {"_core": core})
    with kind(uri(server.port)) as made:
        made.ping()
        yield made


def test_encode(benchmark: Any, core: _impl.Core) -> None:
    packed = benchmark(core.pack, b"SET", KEY, TOKEN, b"NX", b"PX", 30_000)
    assert packed.startswith(b"*6\r\n$3\r\nSET\r\n")


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
def test_parse(benchmark: Any, core: _impl.Core, answer: bytes) -> None:
    replies = benchmark(core.decoder().feed, answer)
    assert len(replies) == answer.count(b"\r\n")


def test_ping(benchmark: Any, client: fastlock.Client) -> None:
    benchmark(client.ping)


def test_pair(benchmark: Any, client: fastlock.Client) -> None:
    def pair() -> bool:
        lease = client.try_acquire("bench:pair", 30)
        return lease is not None and lease.release()

    assert benchmark(pair) is True


def test_with(benchmark: Any, client: fastlock.Client) -> None:
    lock = client.lock("bench:with", 30)

    def held() -> bool:
        with lock as lease:
            return lease.valid()

    assert benchmark(held) is True


def test_a_thousand(benchmark: Any, client: fastlock.Client) -> None:
    def pairs() -> list[bool]:
        leases = client.try_acquire_many(MANY, 30)
        return client.release_many([lease for lease in leases if lease is not None])

    assert benchmark(pairs) == [True] * len(MANY)


def test_async_pair(benchmark: Any, core: _impl.Core, server: Server) -> None:
    kind = type("Client", (aio.Client,), {"_core": core})

    async def pair() -> bool:
        lease = await client.try_acquire("bench:aio", 30)
        return lease is not None and await lease.release()

    loop = asyncio.new_event_loop()
    try:
        client = kind(uri(server.port))
        loop.run_until_complete(client.ping())
        assert benchmark(lambda: loop.run_until_complete(pair())) is True
        loop.run_until_complete(client.close())
    finally:
        loop.close()
