"""What users of asyncio write: no error in any checker, and these types. Law: never run."""

from __future__ import annotations

import asyncio

from typing_extensions import reveal_type

import fastlock
from fastlock import aio
from fastlock.aio import Client, Lease, Lock


async def one_lock(client: Client) -> None:
    async with client.lock("orders:42", ttl=30, cancel_on_lost=True, auto_renew=True) as lease:
        reveal_type(lease)  #: Lease
        lost = lease.lost
        reveal_type(lost.is_set())  #: bool
        reveal_type(await lost)  #: bool
        reveal_type(await lease.lost.wait(timeout=1))  #: bool
        reveal_type(lease.valid())  #: bool
        await lease.extend(60)
        reveal_type(await lease.release())  #: bool
        reveal_type(await lease.release(wait=False))  #: bool | None
        if lease.lost:
            return

    tried = await client.try_acquire("orders:42")
    reveal_type(tried)  #: Lease | None
    if tried is not None:
        async with tried as entered:
            reveal_type(entered)  #: Lease
    reveal_type(await client.acquire("k", timeout=5, fair=True))  #: Lease
    reveal_type(await client.adopt("k", "token"))  #: Lease
    reveal_type(await client.locked("k"))  #: bool
    reveal_type(await client.holder("k"))  #: str | None
    reveal_type(await client.force_release("k"))  #: bool
    reveal_type(await client.ping())  #: float
    reveal_type((await client.server()).version)  #: str
    await asyncio.wait_for(client.acquire("k"), 1)


async def spec(client: Client) -> None:
    lock = client.lock("report", timeout=1, release="wait", if_lost="ignore", fence=True)
    reveal_type(lock)  #: Lock
    reveal_type(await lock.acquire(blocking=False))  #: bool
    reveal_type(await lock.release())  #: bool
    reveal_type(await lock.locked())  #: bool
    as_annotated: Lock = lock
    await as_annotated.acquire()


async def many(client: Client) -> None:
    leases = await client.try_acquire_many(("a", "b"))
    reveal_type(leases)  #: list[Lease | None]
    reveal_type(await client.extend_many(leases))  #: list[bool]
    reveal_type(await client.release_many(leases))  #: list[bool]
    async with client.lock_all(["a", "b"], timeout=0) as both:
        reveal_type(both)  #: list[Lease]
    first, second = await asyncio.gather(client.try_acquire("a"), client.acquire("b"))
    reveal_type(first)  #: Lease | None
    reveal_type(second)  #: Lease


client = fastlock.aio.Client("redis://localhost", label="worker", db=2)


@client.lock("report", ttl=60)
async def report(year: int, *, title: str = "") -> float:
    return float(year)


reveal_type(report)  #: (year: int, *, title: str = "") -> Coroutine[Any, Any, float]


class Reports:
    @client.lock("report")
    async def one(self, year: int) -> str:
        return str(year)


async def main() -> None:
    async with aio.Client() as entered:
        reveal_type(entered)  #: Client
        await one_lock(entered)
    reveal_type(await report(2026, title="b"))  #: float
    reveal_type(await Reports().one(2026))  #: str
    task = asyncio.create_task(report(2026))
    reveal_type(await task)  #: float


def on_lost(lost: Lease) -> None:
    print(lost.key)


async def on_lost_too(lost: Lease) -> None:
    await lost.release()


client.lock("k", auto_renew=True, on_lost=on_lost)
client.lock("k", auto_renew=True, on_lost=on_lost_too)
