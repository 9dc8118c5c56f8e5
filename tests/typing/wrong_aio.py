"""Mistakes of users of asyncio, the forgotten await first. Law: never run."""

# pyright: standard, reportUnnecessaryComparison=true

from __future__ import annotations

import fastlock
from fastlock import aio
from fastlock.aio import Client


async def forgotten_await(client: Client) -> None:
    client.try_acquire("k")  #! mypy unused-coroutine; pyright reportUnusedCoroutine
    client.acquire("k")  #! mypy unused-coroutine; pyright reportUnusedCoroutine
    client.force_release("k")  #! mypy unused-coroutine; pyright reportUnusedCoroutine
    client.close()  #! mypy unused-coroutine; pyright reportUnusedCoroutine
    if client.try_acquire("k"):  #! mypy truthy-bool; pyright reportUnnecessaryComparison
        pass
    if not client.locked("k"):  #! mypy truthy-bool; pyright reportUnnecessaryComparison
        pass
    lease = client.try_acquire("k")
    lease.release()  #! mypy attr-defined; pyright reportAttributeAccessIssue
    for x in client.try_acquire_many(["k"]):  #! mypy attr-defined; pyright reportGeneralTypeIssues
        print(x)
    held: aio.Lease = client.acquire("k")  #! mypy assignment; pyright reportAssignmentType
    print(held)


async def of_a_lease(lease: aio.Lease) -> None:
    lease.release()  #! mypy unused-coroutine; pyright reportUnusedCoroutine
    lease.release(wait=False)  #! mypy unused-coroutine; pyright reportUnusedCoroutine
    lease.extend(60)  #! mypy unused-coroutine; pyright reportUnusedCoroutine
    lease.lost.wait()  #! mypy unused-coroutine; pyright reportUnusedCoroutine
    freed: bool = lease.release()  #! mypy assignment; pyright reportAssignmentType
    print(freed)


async def forgotten_async(client: Client, lease: aio.Lease) -> None:
    with client.lock("k"):  #! mypy attr-defined; pyright reportGeneralTypeIssues
        pass
    with client.lock_all(["k"]):  #! mypy attr-defined; pyright reportGeneralTypeIssues
        pass
    with lease:  #! mypy attr-defined; pyright reportGeneralTypeIssues
        pass
    with aio.Client():  #! mypy attr-defined; pyright reportGeneralTypeIssues
        pass
    async with client.acquire("k"):  #! mypy attr-defined; pyright reportGeneralTypeIssues
        pass


async def of_a_spec(client: Client) -> None:
    lock = client.lock("k")
    lock.acquire()  #! mypy unused-coroutine; pyright reportUnusedCoroutine
    lock.release()  #! mypy unused-coroutine; pyright reportUnusedCoroutine
    if lock.acquire(blocking=False):  #! mypy truthy-bool; pyright reportUnnecessaryComparison
        pass


async def of_a_quorum(client: aio.QuorumClient) -> None:
    client.acquire("k")  #! mypy unused-coroutine; pyright reportUnusedCoroutine
    with client.lock("k"):  #! mypy attr-defined; pyright reportGeneralTypeIssues
        pass
    (await client.acquire("k")).release()  #! mypy unused-coroutine; pyright reportUnusedCoroutine


async def arguments(client: Client) -> None:
    await client.try_acquire("k", tll=1)  #! mypy call-arg; pyright reportCallIssue
    await client.try_acquire("k", ttl="30")  #! mypy arg-type; pyright reportArgumentType
    client.lock("k", release="later")  #! mypy arg-type; pyright reportArgumentType
    aio.Client("redis://localhost", passphrase="p")  #! mypy call-arg; pyright reportCallIssue


client = fastlock.aio.Client()


@client.lock("k")  #! mypy arg-type; pyright reportArgumentType
def work(number: int) -> float:
    return float(number)


@client.lock("k")
async def job(number: int) -> float:
    return float(number)


async def main() -> None:
    job(1)  #! mypy unused-coroutine; pyright reportUnusedCoroutine
    await job("1")  #! mypy arg-type; pyright reportArgumentType
