"""``fastlock status``, ``release`` and ``watch`` on a cluster.

Law: one kind of server, for the nodes of both answer alike to what these ask.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator

import _servers
import pytest
from _cluster import ClusterServers
from _harness import one_server

import fastlock
from fastlock.cli import main
from fastlock.cli._look import wire_keys
from fastlock.cli._servers import Servers
from fastlock.cli.watch import Scene

Say = Callable[..., tuple[int, str, str]]
MASTERS = 3
pytestmark = pytest.mark.parametrize("cluster", one_server.args[1], indirect=True)


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Say:
    """Its exit code, and what it prints."""

    def run(*words: str) -> tuple[int, str, str]:
        code = main(words)
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def client(cluster: ClusterServers) -> Iterator[fastlock.Client]:
    with fastlock.Client(cluster.uri, label="the-holder") as made:
        yield made


def one_at_each(cluster: ClusterServers, name: str) -> list[str]:
    return [cluster.key_at(master, name) for master in cluster.servers[:MASTERS]]


def test_all_nodes_are_looked_at(
    cluster: ClusterServers, client: fastlock.Client, say: Say
) -> None:
    keys = one_at_each(cluster, "cli")
    leases = client.try_acquire_many(keys, ttl=30)
    assert all(leases)
    free = cluster.key_at(cluster.servers[1], "free")
    code, out, err = say("status", "--json", "--url", cluster.uri, *keys, free, *reversed(keys))
    assert (code, err) == (0, "")
    looks = json.loads(out)
    assert [look["key"] for look in looks] == [*keys, free, *reversed(keys)]
    assert {look["holder"] for look in looks if look["key"] != free} == {"the-holder"}
    assert looks[3]["held"] is False
    code, out, err = say("status", "--json", "--url", cluster.uri, "--match", "cli:*")
    assert (code, err) == (0, "")
    assert [look["key"] for look in json.loads(out)] == sorted(keys)
    for key, lease in zip(keys, leases, strict=True):
        assert lease is not None
        code, out, err = say("release", "--force", "--yes", key, "--url", cluster.uri)
        assert (code, out, err) == (0, f"{key!r} was held by the-holder; ended\n", "")
        assert cluster.admin.get(key) is None
        assert lease.release() is False


def test_a_command_runs_under_a_lock_of_each_node(cluster: ClusterServers) -> None:
    """In a process of its own, whose signals are its own."""
    for key in one_at_each(cluster, "runs"):
        words = ("run", key, "--url", cluster.uri, "--ttl", "0.4", "--", "sh", "-c")
        ran = subprocess.run(
            [sys.executable, "-m", "fastlock", *words, "sleep 0.6; exit 3"],
            capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
        assert (ran.returncode, ran.stdout, ran.stderr) == (3, "", "")
        assert cluster.admin.get(key) is None


def test_a_slot_that_moves_is_followed(cluster: ClusterServers, client: fastlock.Client) -> None:
    source, target = cluster.servers[:2]
    key = cluster.key_at(source, "moves")
    slot = cluster.slot(key)
    assert client.try_acquire(key, ttl=30)
    with Servers(fastlock.Config(cluster.uri)) as servers:
        keys = wire_keys([key], "")
        assert servers.look(keys)[0].holder == "the-holder"
        cluster.move(slot, source, target)
        try:
            assert servers.look(keys)[0].holder == "the-holder"
            assert servers.of(keys[0]).call("GET", key) == cluster.admin.get(key)
        finally:
            cluster.move(slot, target, source)


def test_nodes_that_are_down_or_no_cluster(
    cluster: ClusterServers, client: fastlock.Client, say: Say
) -> None:
    (key, *_) = one_at_each(cluster, "seeds")
    assert client.try_acquire(key, ttl=30)
    gone = _servers.free_port()
    uri = f"redis+cluster://127.0.0.1:{gone},127.0.0.1:{cluster.servers[2].port}"
    code, out, err = say("status", "--json", "--url", uri, key)
    assert (code, json.loads(out)[0]["holder"], err) == (0, "the-holder", "")
    code, out, err = say("status", "--url", f"redis+cluster://127.0.0.1:{gone}", key)
    assert (code, out) == (69, "")
    assert "refused the connection" in err
    assert "; try: " in err


def test_the_doctor_asks_a_node_for_a_key_of_its_own(cluster: ClusterServers, say: Say) -> None:
    """Another node's it would send away; and the first one named may be down."""
    gone = _servers.free_port()
    uri = f"redis+cluster://127.0.0.1:{gone},127.0.0.1:{cluster.servers[1].port}"
    for _ in range(4):  # each with a key of another slot
        _, out, err = say("doctor", "--json", "--url", uri)
        assert err == ""
        assert "the server wakes who waits for a lock (CLIENT TRACKING)" in out
        assert "not usable" not in out


def test_all_nodes_are_watched(cluster: ClusterServers, client: fastlock.Client, say: Say) -> None:
    keys = one_at_each(cluster, "seen")
    leases = client.try_acquire_many(keys, ttl=30)
    code, out, err = say("watch", "seen:", "--once", "--json", "--url", cluster.uri)
    assert (code, err) == (0, "")
    assert [lock["key"] for lock in json.loads(out)["locks"]] == sorted(keys)
    port = cluster.servers[0].port
    code, out, err = say("watch", "seen:", "--once", "--json", "--url", f"redis://127.0.0.1:{port}")
    assert (code, err) == (0, "")
    assert [lock["key"] for lock in json.loads(out)["locks"]] == keys[:1]
    assert client.release_many(leases) == [True] * MASTERS
    code, out, err = say("status", keys[1], "--url", f"redis://127.0.0.1:{port}")
    assert (code, out) == (69, "")
    assert "; try: write redis+cluster:// instead of redis://" in err


def scans(cluster: ClusterServers) -> int:
    """How often keys were scanned for, at any node."""
    stats = [server.admin.info("commandstats") for server in cluster.servers]
    return sum(one.get("cmdstat_scan", {"calls": 0})["calls"] for one in stats)


def test_each_node_tells_who_watches(cluster: ClusterServers, client: fastlock.Client) -> None:
    keys = one_at_each(cluster, "told")
    config = fastlock.Config(cluster.uri)
    with Servers(config) as servers:
        scene = Scene(servers, config, "told:", limit=10)
        assert scene.look() == []
        assert scene.told
        before = scans(cluster)
        for _ in range(2):
            leases = client.try_acquire_many(keys, ttl=30)
            seen = scene.look()
            assert {one.look.key for one in seen} == set(keys)
            assert all(one.rate > 0 for one in seen)
            assert client.release_many(leases) == [True] * MASTERS
        assert scans(cluster) == before
