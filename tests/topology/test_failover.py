"""What ``docs/replicas.md`` says of a failover: a lock survives where it was confirmed.

Law: a master of this test alone, which is killed; the failover is a replica's promotion by hand,
for who decides on it makes no difference to what the replica has.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from _harness import CORES, Ways, sync_only
from _replicas import Master
from _servers import free_port

TTL = 20
#: What the servers have does not depend on it, and starting them takes seconds.
one_core = pytest.mark.parametrize("core", CORES[:1], indirect=True)


@pytest.fixture
def server() -> Iterator[Master]:
    """One that may be killed."""
    master = Master("valkey", 2)
    yield master
    for one in (*master.replicas, master):
        one.discard()


@sync_only
@one_core
async def test_a_replica_that_had_not_confirmed_knows_no_lock(fl: Ways, server: Master) -> None:
    """The trace: the second holder comes while the first one's lease is valid."""
    had, had_not = server.replicas
    key = fl.key()
    # Its link is down: what it is to copy from is not there.
    had_not.admin.execute_command("REPLICAOF", "127.0.0.1", free_port())
    lease = await fl.client().acquire(key, TTL, min_replicas=1, replica_timeout=5)
    assert had.admin.get(key).decode() == lease.token
    server.kill()
    had_not.admin.execute_command("REPLICAOF", "NO", "ONE")
    second = await fl.client(had_not.uri).try_acquire(key, TTL)
    assert lease.valid()
    assert second.valid()


@sync_only
@one_core
async def test_a_replica_that_has_confirmed_keeps_it(fl: Ways, server: Master) -> None:
    key = fl.key()
    lease = await fl.client().acquire(key, TTL, min_replicas=2, replica_timeout=5)
    server.kill()
    for replica in server.replicas:
        replica.admin.execute_command("REPLICAOF", "NO", "ONE")
        client = fl.client(replica.uri)
        assert await client.try_acquire(key, TTL) is None
        assert await (await client.adopt(key, lease.token)).release() is True
