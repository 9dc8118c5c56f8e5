"""What users of threads write: no error in any checker, and these types. Law: never run."""

from __future__ import annotations

import threading

from typing_extensions import Unpack, reveal_type

import fastlock
from fastlock import AcquireTimeout, Client, Config, Lease, Lock, LockLost
from fastlock.config import Options

# -- a client, from all that it can be made of

client = Client("redis://localhost", socket_timeout=1, prefix="app:", handover="local")
Client()
Client(host="localhost", port=6379, password=None)
Client(Config.from_env(), push=False)
Client(uri="redis://localhost")


def connect(**options: Unpack[Options]) -> Client:
    return Client("redis://localhost", **options)


with connect(retries=5) as made:
    reveal_type(made)  #: Client
    reveal_type(made.config)  #: Config
reveal_type(client.core)  #: str
reveal_type(client.ping())  #: float
reveal_type(client.server.version)  #: str
reveal_type(client.closed)  #: bool

# -- one lock

with client.lock("orders:42", ttl=30) as lease:
    reveal_type(lease)  #: Lease
    reveal_type(lease.key)  #: str | bytes
    reveal_type(lease.token)  #: str
    reveal_type(lease.ttl)  #: float
    reveal_type(lease.deadline)  #: float
    reveal_type(lease.remaining())  #: float
    reveal_type(lease.valid())  #: bool
    reveal_type(lease.fence)  #: int | None
    reveal_type(lease.state)  #: Literal['held', 'unknown', 'lost', 'released']
    reveal_type(lease.lost)  #: Lost
    reveal_type(lease.lost.wait(timeout=1))  #: bool
    reveal_type(lease.lost.reason)  #: str | None
    lease.extend()
    lease.extend(60)
    reveal_type(lease.release())  #: bool
    reveal_type(lease.release(wait=True))  #: bool
    reveal_type(lease.release(wait=False))  #: bool | None
    if lease.lost:
        print(lease.lost.reason)

tried = client.try_acquire(b"orders:42", 10)
reveal_type(tried)  #: Lease | None
if tried is not None:
    reveal_type(tried.release())  #: bool
if held := client.try_acquire("k", ttl=5, fence=True):
    with held as entered:
        reveal_type(entered)  #: Lease

try:
    with client.acquire("orders:42", timeout=5, fair=True) as lease:
        pass
except AcquireTimeout as late:
    reveal_type(late.key)  #: str | bytes
except LockLost:
    pass
reveal_type(client.acquire("k", min_replicas=1, replica_timeout=0.5))  #: Lease
reveal_type(client.adopt("k", "token", fence=7))  #: Lease
reveal_type(client.locked("k"))  #: bool
reveal_type(client.holder("k"))  #: str | None
reveal_type(client.force_release("k"))  #: bool

# -- a spec

spec = client.lock("report", ttl=60, timeout=None, release="deferred", if_lost="warn")
reveal_type(spec)  #: Lock
reveal_type(spec.acquire())  #: bool
reveal_type(spec.acquire(blocking=False))  #: bool
reveal_type(spec.acquire(True, 5))  #: bool
reveal_type(spec.release())  #: bool
reveal_type(spec.locked())  #: bool
as_annotated: Lock = spec

# -- many

leases = client.try_acquire_many(["a", b"b"], ttl=5)
reveal_type(leases)  #: list[Lease | None]
reveal_type(client.release_many(leases))  #: list[bool]
reveal_type(client.extend_many(leases, ttl=10))  #: list[bool]
client.release_many(lease for lease in leases if lease)
with client.lock_all({"a", "b"}, ttl=5, timeout=1) as both:
    reveal_type(both)  #: list[Lease]

# -- decorators keep what they decorate


@client.lock("report", ttl=60)
def report(year: int, *lines: str, title: str = "") -> float:
    return float(year)


reveal_type(report)  #: (year: int, *lines: str, title: str = "") -> float
reveal_type(report(2026, "a", title="b"))  #: float


class Reports:
    @client.lock("report")
    def one(self, year: int) -> str:
        return str(year)

    @classmethod
    @client.lock("report")
    def made(cls) -> Reports:
        return cls()


reveal_type(Reports().one)  #: (year: int) -> str
reveal_type(Reports.made().one(1))  #: str

# -- renewal


def on_lost(lost: Lease) -> None:
    print(lost.key)


with client.lock("k", auto_renew=True, max_hold=None, on_lost=on_lost) as lease:
    pass
client.acquire("k", auto_renew=True, on_lost=lambda lost: print(lost.key))
stopping = threading.Event()
client.try_acquire_many(["a"], auto_renew=True, on_lost=lambda _: stopping.set())

reveal_type(fastlock.core)  #: str
reveal_type(fastlock.__version__)  #: str
