"""A cluster that speaks TLS alone: between client and nodes, and from node to node.

Law: that of ``test_cluster.py``. The certificate names localhost, and not 127.0.0.1.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import _servers
import pytest
from _cluster import ClusterServers, until
from _four import WAYS, Four
from _harness import Ways

import fastlock

TTL = 20


@pytest.fixture(scope="module")
def cluster(certificates: _servers.Certificates, met: dict[str, str]) -> Iterator[ClusterServers]:
    """Of whichever server has TLS."""
    if _servers.tls_binary() is None:
        pytest.skip("no server with TLS is installed")
    found = ClusterServers("redis", certificates.options())
    met["tls cluster"] = f"{found.version} as a cluster with TLS"
    yield found
    found.discard()


def trusting(fl: Ways, certificates: _servers.Certificates, **options: Any) -> Any:
    """A client that knows who signed the nodes' certificate."""
    return fl.client(ssl_ca_certs=certificates.ca, connect_timeout=10, **options)


async def test_locks_of_all_nodes(
    fl: Ways, cluster: ClusterServers, certificates: _servers.Certificates
) -> None:
    client = trusting(fl, certificates)
    keys = [cluster.key_at(master, fl.key()) for master in cluster.masters()]
    for key in keys:
        lease = await client.acquire(key, TTL, min_replicas=1, replica_timeout=5)
        assert fl.admin.get(key) == lease.token.encode()
        assert await client.try_acquire(key, TTL) is None
        await lease.extend(TTL)
        assert await lease.release() is True
    leases = await client.try_acquire_many(keys, TTL, fence=True)
    assert await client.release_many(leases) == [True] * 3
    async with client.lock_all(keys, TTL, auto_renew=True):
        assert all(map(fl.admin.exists, keys))
    assert not any(map(fl.admin.exists, keys))


async def test_who_waits_is_woken(
    fl: Ways, cluster: ClusterServers, certificates: _servers.Certificates
) -> None:
    holder, waiter = (trusting(fl, certificates, retry_timeout=60_000) for _ in range(2))
    key = fl.key()
    lease = await holder.acquire(key, TTL)
    waiting = fl.spawn(waiter.acquire(key, TTL, 20))
    admin = cluster.master_of(key).admin
    await fl.until(lambda: admin.info("clients")["tracking_clients"])
    assert await lease.release() is True
    assert await (await waiting).release() is True


async def test_a_slot_that_moves(
    fl: Ways, cluster: ClusterServers, certificates: _servers.Certificates
) -> None:
    client, key = trusting(fl, certificates), fl.key()
    source = cluster.master_of(key)
    slot, target = cluster.slot(key), next(s for s in cluster.masters() if s is not source)
    lease = await client.acquire(key, TTL, auto_renew=True)
    cluster.begin_move(slot, source, target)
    cluster.move_keys(slot, source, target)
    assert await client.try_acquire(key) is None  # by ASK
    cluster.end_move(slot, source, target)
    assert await client.try_acquire(key) is None  # by MOVED
    assert target.admin.get(key) == lease.token.encode()
    assert await lease.release() is True
    lease = await client.acquire(key, TTL)
    assert target.admin.get(key) == lease.token.encode()
    cluster.move(slot, target, source)
    assert await lease.release() is True
    assert source.admin.exists(key) == 0


@pytest.mark.alone  # beside others the nodes are too slow to hand over in their 5 s
def test_a_replica_that_takes_over(
    cluster: ClusterServers, certificates: _servers.Certificates
) -> None:
    """In order, under load of four ways at once: nobody loses a lock, and no error is raised.

    A master answers nobody while it hands over, for 5 s at most: less than the ttl of what is held.
    """
    master = cluster.master_of("{handed}")
    replica = cluster.replica_of(master)
    rounds = dict.fromkeys(WAYS, 0)
    over = False

    async def body(fl: Ways) -> None:
        client = trusting(fl, certificates)
        name = f"{{handed}}{fl.api}:{fl.core}"
        async with client.lock(f"{name}:held", 12.0, auto_renew=True) as held:
            while not over:
                async with client.lock(name, TTL, timeout=20):
                    assert not held.lost
                rounds[fl.api, fl.core] += 1
                await fl.sleep(0.002)

    def all_went_on(since: dict[Any, int]) -> bool:
        return all(rounds[way] > since[way] + 5 for way in WAYS)

    four = Four(cluster, body)
    try:
        until(lambda: four.check() or all_went_on(dict.fromkeys(WAYS, 0)))
        cluster.promote(replica, master)
        until(lambda since=dict(rounds): four.check() or all_went_on(since))  # type: ignore[misc]
    finally:
        over = True
        four.join()
        cluster.settled()


@contextmanager
def announcing(cluster: ClusterServers, kind: str) -> Iterator[None]:
    """What the nodes say of where they are."""
    for server in cluster.servers:
        server.admin.config_set("cluster-preferred-endpoint-type", kind)
    try:
        yield
    finally:
        for server in cluster.servers:
            server.admin.config_set("cluster-preferred-endpoint-type", "hostname")


def test_addresses_that_the_certificate_does_not_name(
    cluster: ClusterServers, certificates: _servers.Certificates
) -> None:
    """Nodes announce addresses unless told otherwise: nobody is trusted for that."""
    key = "addresses"

    async def body(fl: Ways) -> None:
        client = trusting(fl, certificates, retries=0, socket_timeout=2)
        with pytest.raises(fastlock.TransportError, match="use a host that the certificate names"):
            await client.try_acquire(key, TTL)
        client = trusting(fl, certificates, ssl_check_hostname=False)
        assert await (await client.acquire(fl.key(), TTL)).release() is True

    with announcing(cluster, "ip"):
        Four(cluster, body).join()
    assert cluster.admin.exists(key) == 0


async def test_nodes_that_do_not_say_where_they_are(
    fl: Ways, cluster: ClusterServers, certificates: _servers.Certificates
) -> None:
    """They are where they were reached, by the name that they were reached by."""
    client, key = trusting(fl, certificates), fl.key()
    source = cluster.master_of(key)
    slot, target = cluster.slot(key), next(s for s in cluster.masters() if s is not source)
    with announcing(cluster, "unknown-endpoint"):
        assert await (await client.acquire(key, TTL)).release() is True
        cluster.move(slot, source, target)
        assert await (await client.acquire(key, TTL)).release() is True  # by MOVED
    cluster.move(slot, target, source)
