"""Mistakes of users of threads, and what checkers say of each line. Law: never run."""

# pyright: standard

from __future__ import annotations

from typing_extensions import reveal_type

import fastlock
from fastlock import Client, QuorumClient
from fastlock.aio import Lease as AsyncLease

# -- settings

Client("redis://localhost", sokcet_timeout=1)  #! mypy call-arg; pyright reportCallIssue
Client("redis://localhost", port="6379")  #! mypy arg-type; pyright reportArgumentType
Client(handover="lock")  #! mypy arg-type; pyright reportArgumentType
Client(6379)  #! mypy arg-type; pyright reportArgumentType
fastlock.Config(hots="localhost")  #! mypy call-arg; pyright reportCallIssue
fastlock.Config.from_url("redis://localhost", dbb=1)  #! mypy call-arg; pyright reportCallIssue
fastlock.Config().replace(dbb=1)  #! mypy call-arg; pyright reportCallIssue
fastlock.Config().port = 1  #! mypy misc; pyright reportAttributeAccessIssue
QuorumClient("redis://a", node_timeout="1")  #! mypy arg-type; pyright reportArgumentType

client = Client()

# -- arguments

client.try_acquire("k", tll=1)  #! mypy call-arg; pyright reportCallIssue
client.try_acquire("k", ttl="30")  #! mypy arg-type; pyright reportArgumentType
client.try_acquire("k", ttl=None)  #! mypy arg-type; pyright reportArgumentType
client.try_acquire(42)  #! mypy arg-type; pyright reportArgumentType
client.try_acquire("k", timeout=1)  #! mypy call-arg; pyright reportCallIssue
client.acquire("k", 30, 5, True)  #! mypy call-arg; pyright reportCallIssue
client.lock("k", release="later")  #! mypy arg-type; pyright reportArgumentType
client.lock("k", release=False)  #! mypy arg-type; pyright reportArgumentType
client.lock("k", if_lost="ignored")  #! mypy arg-type; pyright reportArgumentType
client.lock("k", cancel_on_lost=True)  #! mypy call-arg; pyright reportCallIssue
client.lock("k", on_lost=lambda: 0)  #! mypy misc, arg-type; pyright reportArgumentType
client.lock_all(1)  #! mypy arg-type; pyright reportArgumentType
QuorumClient(["a", "b", "c"]).acquire("k", fence=True)  #! mypy arg-type; pyright reportArgumentType

# -- what comes back

client.try_acquire("k").release()  #! mypy union-attr; pyright reportOptionalMemberAccess
print(client.try_acquire("k").key)  #! mypy union-attr; pyright reportOptionalMemberAccess
number: int = client.acquire("k").fence  #! mypy assignment; pyright reportAssignmentType
client.lock("k").extend(1)  #! mypy attr-defined; pyright reportAttributeAccessIssue
other: AsyncLease = client.acquire("k")  #! mypy assignment; pyright reportAssignmentType


def on_lost(lease: AsyncLease) -> None: ...


client.lock("k", auto_renew=True, on_lost=on_lost)  #! mypy arg-type; pyright reportArgumentType
client.release_many(client.acquire("k"))  #! mypy arg-type; pyright reportArgumentType

# -- the wrong colour


@client.lock("k")
async def job(number: int) -> float:
    return float(number)


reveal_type(job)  #: NeedsAioClient
job(1)  #! mypy operator; pyright reportCallIssue


@client.lock("k")
def work(number: int) -> float:
    return float(number)


work("1")  #! mypy arg-type; pyright reportArgumentType


async def main() -> None:
    async with client.lock("k"):  #! mypy attr-defined; pyright reportGeneralTypeIssues
        pass
    await client.acquire("k")  #! mypy misc; pyright reportGeneralTypeIssues
