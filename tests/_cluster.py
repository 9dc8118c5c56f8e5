"""A real cluster for tests: masters and replicas as processes on free loopback ports.

Law: built with redis-py alone; every process is ended by its own id. A node's id never changes,
and neither does its port: a server that was killed comes back as what the others make of it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import redis
from _servers import Server, free_port
from redis.crc import key_slot

SLOTS = 16384
MASTERS = 3

#: Seconds in ms after which a node counts as failed.
NODE_TIMEOUT = 1500


class ClusterServers:
    """Three masters and three replicas; with the part of Server's face that ``fl`` needs.

    ``tls``: of ``Certificates.options``; for localhost, as the nodes then call themselves.
    """

    kind = "cluster"

    def __init__(self, kind: str, tls: dict[str, str] | None = None) -> None:
        options = {
            "cluster_enabled": "yes",
            "cluster_config_file": "nodes.conf",
            # With TLS none is killed, and a busy machine takes long over a handshake.
            "cluster_node_timeout": str(NODE_TIMEOUT if tls is None else 3 * NODE_TIMEOUT),
            "cluster_replica_validity_factor": "0",
            "repl_diskless_sync_delay": "0",
        }
        if tls is not None:
            options |= {
                "tls_cluster": "yes",
                "tls_replication": "yes",
                "cluster_announce_hostname": "localhost",
                "cluster_preferred_endpoint_type": "hostname",
            }
        self.tls = tls
        self.ids: dict[Server, bytes] = {}
        self.servers: list[Server] = []
        self._buses: list[int] = []
        for _ in range(2 * MASTERS):
            self._buses.append(free_port())  # and taken at once
            bus = str(self._buses[-1])
            self.servers.append(Server(kind, tls=tls, **options, cluster_port=bus))
        self.version = self.servers[0].version
        self._join()

    def _join(self) -> None:
        for number, server in enumerate(self.servers, 1):
            server.admin.execute_command("CLUSTER", "SET-CONFIG-EPOCH", number)
            self.ids[server] = server.admin.execute_command("CLUSTER", "MYID")
        masters, replicas = self.servers[:MASTERS], self.servers[MASTERS:]
        for number, server in enumerate(masters):
            first = -(-SLOTS * number // MASTERS)
            last = -(-SLOTS * (number + 1) // MASTERS) - 1
            server.admin.execute_command("CLUSTER", "ADDSLOTSRANGE", first, last)
        for server, bus in zip(self.servers[1:], self._buses[1:], strict=True):
            self.servers[0].admin.execute_command("CLUSTER", "MEET", *server.address, bus)
        until(lambda: all(len(self.nodes(server)) == 6 for server in self.servers))
        for master, replica in zip(masters, replicas, strict=True):
            until(lambda m=master, r=replica: _replicates(r, self.id_of(m)))
        self.settled()

    # -- what is so

    def nodes(self, server: Server) -> dict[str, Any]:
        """As that server sees them: "127.0.0.1:port" -> what it says."""
        found: dict[str, Any] = server.admin.cluster("NODES")
        return found

    def id_of(self, server: Server) -> str:
        return self.ids[server].decode()

    def alive(self) -> list[Server]:
        return [server for server in self.servers if server.process is not None]

    def is_master(self, server: Server) -> bool:
        role = server.admin.execute_command("ROLE")
        return bool(role[0] == b"master")

    def promote(self, replica: Server, master: Server) -> None:
        """In order, under load. A node gives up after 5 s, so it is asked again."""
        asked = 0.0

        def promoted() -> bool:
            nonlocal asked
            if self.is_master(replica):
                return not self.is_master(master)
            if time.monotonic() > asked + 6:
                asked = time.monotonic()
                replica.admin.execute_command("CLUSTER", "FAILOVER")
            return False

        until(promoted, 60)

    def settled(self, timeout: float = 60.0) -> None:
        """Wait until all that run agree that all is well."""
        until(lambda: all(map(_is_well, self.alive())), timeout)

    def master_of(self, key: str) -> Server:
        """Which server serves the key, as most of those that run say."""
        slot, alive = self.slot(key), self.alive()
        for server in alive:
            for first, last, where, *_ in server.admin.execute_command("CLUSTER", "SLOTS"):
                if first <= slot <= last:
                    found = [s for s in alive if self.ids.get(s) == where[2]]
                    if found:
                        return found[0]
        raise AssertionError(f"no server that runs serves {key}")

    @staticmethod
    def slot(key: str) -> int:
        number: int = key_slot(key.encode())
        return number

    def key_at(self, server: Server, name: str) -> str:
        """A key that this server serves."""
        numbers = range(1000)
        keys = (f"{name}:{number}" for number in numbers)
        return next(key for key in keys if self.master_of(key) is server)

    def replica_of(self, master: Server) -> Server:
        """The one that copies this master now."""
        found = [s for s in self.alive() if _is_replica_of(s, master)]
        return found[0]

    def masters(self) -> list[Server]:
        return [server for server in self.alive() if self.is_master(server)]

    # -- the part of Server's face

    @property
    def uri(self) -> str:
        scheme, host = ("redis", "127.0.0.1") if self.tls is None else ("rediss", "localhost")
        nodes = ",".join(f"{host}:{server.port}" for server in self.alive()[:2])
        return f"{scheme}+cluster://{nodes}"

    @property
    def admin(self) -> Admin:
        """How tests see the truth: each key's own node is asked."""
        return Admin(self)

    # -- what tests do to it

    def begin_move(self, slot: int, source: Server, target: Server) -> None:
        """The slot is on its way: keys may be at either."""
        target.admin.execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", self.id_of(source))
        source.admin.execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", self.id_of(target))

    def move_keys(self, slot: int, source: Server, target: Server) -> None:
        """What it holds, until nothing is left at the source."""
        while keys := source.admin.execute_command("CLUSTER", "GETKEYSINSLOT", slot, 100):
            source.admin.execute_command(
                "MIGRATE", "127.0.0.1", target.port, "", 0, 5000, "KEYS", *keys
            )

    def end_move(self, slot: int, source: Server, target: Server) -> None:
        for server in (target, source, *self.alive()):
            if server is target or self.is_master(server):
                with suppress(redis.ResponseError):
                    server.admin.execute_command(
                        "CLUSTER", "SETSLOT", slot, "NODE", self.id_of(target)
                    )

    def move(self, slot: int, source: Server, target: Server) -> None:
        self.begin_move(slot, source, target)
        self.move_keys(slot, source, target)
        self.end_move(slot, source, target)

    def discard(self) -> None:
        for server in self.servers:
            server.discard()


class Admin:
    """redis-py's methods with a key as their first argument."""

    def __init__(self, cluster: ClusterServers) -> None:
        self._cluster = cluster

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return lambda key, *rest: getattr(self._cluster.master_of(key).admin, name)(key, *rest)

    @property
    def connection_pool(self) -> Admin:
        return self

    def disconnect(self) -> None:
        for server in self._cluster.alive():
            server.admin.connection_pool.disconnect()


def until(true: Callable[[], Any], timeout: float = 60.0) -> None:
    end = time.monotonic() + timeout
    while True:
        with suppress(redis.RedisError):
            if true():
                return
        assert time.monotonic() < end, f"the cluster did not come to it in {timeout} s"
        time.sleep(0.02)


def _replicates(replica: Server, master: str) -> bool:
    replica.admin.execute_command("CLUSTER", "REPLICATE", master)
    return True


def _is_replica_of(server: Server, master: Server) -> bool:
    role = server.admin.execute_command("ROLE")
    return bool(role[0] == b"slave" and role[2] == master.port)


def _is_well(server: Server) -> bool:
    info = server.admin.cluster("INFO")
    role = server.admin.execute_command("ROLE")
    linked = role[0] == b"master" or role[3] == b"connected"
    return bool(info["cluster_state"] == "ok" and int(info["cluster_known_nodes"]) == 6 and linked)
