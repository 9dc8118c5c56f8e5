"""Keys beside locks, and servers that have a say in keys: a cluster's slots, a user's permissions.

Law: which slot a key has, and what a user may do, the server says.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from _harness import Ways, one_server
from _servers import GIVEN_URL, Server, free_port
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import fastlock
from fastlock._slots import queue, turns
from fastlock.fencing import companion

TTL = 5
PAGE = Path(__file__).parents[2] / "docs" / "fencing.md"
ODD_KEYS = [
    b"{", b"}", b"{}", b"}{", b"a{", b"a}", b"{}a", b"a{}b{c}", b"{{", b"}}", b"{{a}", b"a}b{",
    b"{a}", b"a{b}c", b"{a}{b}", b"a{b}c}", b"}a{b}", b"\x00\xff{", b"\r\n}", b" ", b"*", b"\x00",
    "grün:{ß}".encode(), b"k" * 65536, b"}" * 65536,
]  # fmt: skip


@pytest.fixture(scope="module")
def cluster_of() -> Iterator[Any]:
    """kind -> a cluster of one node, which has all slots."""
    started: dict[str, Server] = {}

    def get(kind: str) -> Server:
        if kind not in started:
            options = {"cluster_enabled": "yes", "cluster_port": str(free_port())}
            node = started[kind] = Server(kind, **options)
            node.admin.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
            node.admin.config_set("cluster-require-full-coverage", "no")
        return started[kind]

    yield get
    for node in started.values():
        node.discard()


@pytest.fixture
def cluster(server: Any, cluster_of: Any) -> Server:
    """A cluster of the kind that the test is run with."""
    node: Server = cluster_of("valkey" if GIVEN_URL else server.kind)
    return node


def slot_of(cluster: Server, key: bytes) -> int:
    slot: int = cluster.admin.execute_command("CLUSTER", "KEYSLOT", key)
    return slot


# ------------------------------------------------------------------ a cluster's slots


@given(key=st.binary(min_size=1, max_size=30) | st.text("{}ab", min_size=1).map(str.encode))
@example(key=ODD_KEYS[0])
@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_a_cluster_puts_lock_and_companion_into_one_slot(cluster: Server, key: bytes) -> None:
    assert slot_of(cluster, key) == slot_of(cluster, companion(key)) == slot_of(cluster, queue(key))


@pytest.mark.parametrize("key", ODD_KEYS, ids=lambda key: repr(key)[:12])
def test_odd_keys_and_their_companions_are_in_one_slot(cluster: Server, key: bytes) -> None:
    assert slot_of(cluster, key) == slot_of(cluster, companion(key)) == slot_of(cluster, queue(key))


async def test_a_node_of_a_cluster_gives_numbers_for_any_key(fl: Ways, cluster: Server) -> None:
    client = fl.client(cluster.uri)
    await fl.until(lambda: b"cluster_state:ok" in _cluster_info(cluster), 20)
    for key in ODD_KEYS:
        lease = await client.acquire(key, ttl=TTL, fence=True)
        number, _, token = cluster.admin.get(companion(key)).decode().partition(" ")
        assert (int(number), token) == (lease.fence, lease.token)
        with pytest.raises(fastlock.AcquireTimeout):
            await client.acquire(key, ttl=TTL, timeout=0.05, fair=True)
        assert await lease.release() is True
        async with client.lock(key, ttl=TTL, fair=True, fence=True) as later:
            assert later.fence > lease.fence
    keys = [b"{one slot}:%d" % number for number in range(5)]
    async with client.lock_all(keys, ttl=TTL, fence=True) as leases:
        assert [cluster.admin.get(companion(key)).split()[0] for key in keys] == [
            b"%d" % lease.fence for lease in leases
        ]


async def test_a_node_of_a_cluster_tells_fair_waiters_of_any_key_in_turn(
    fl: Ways, cluster: Server
) -> None:
    """Two of them: the second has a key of its own, until the first has come and gone."""
    await fl.until(lambda: b"cluster_state:ok" in _cluster_info(cluster), 20)
    fl.server = cluster
    holding, waiting = fl.client(), [fl.client(), fl.client()]

    def has_places(key: bytes, number: int) -> bool:
        return fl.admin.zcard(queue(key)) == 2 * number

    async def wait(client: Any, key: bytes) -> None:
        lease = await client.acquire(key, TTL, 20, fair=True)
        assert await lease.release() is True

    for key in ODD_KEYS:
        holder = await holding.acquire(key, TTL)
        waiters = []
        for number, client in enumerate(waiting, 1):
            waiters.append(fl.spawn(wait(client, key)))
            await fl.until(partial(has_places, key, number))
        turns_of = [one for one in fl.admin.scan_iter() if one.startswith(turns(key))]
        assert len(turns_of) == 1
        assert slot_of(cluster, turns_of[0]) == slot_of(cluster, key)
        assert await holder.release() is True
        for waiter in waiters:
            await waiter
        assert fl.admin.exists(key, queue(key), turns_of[0]) == 0


def _cluster_info(cluster: Server) -> bytes:
    info = cluster.admin.execute_command("CLUSTER INFO")
    return info if isinstance(info, bytes) else repr(info).replace("': '", ":").encode()


@one_server
async def test_keys_of_any_bytes_have_numbers_of_their_own(fl: Ways) -> None:
    client, stem = fl.client(), fl.key().encode()
    keys = [stem + key for key in ODD_KEYS if len(key) < 100]
    keys += [key + stem for key in ODD_KEYS if len(key) < 100]
    leases = await client.try_acquire_many(keys, ttl=TTL, fence=True)
    values = fl.admin.mget([companion(key) for key in keys])
    assert values == [f"{lease.fence} {lease.token}".encode() for lease in leases]
    assert len(set(values)) == len(keys)
    assert await client.release_many(leases) == [True] * len(keys)


# ------------------------------------------------------------------ a user's permissions

WORDS = ["+evalsha", "+eval", "+get", "+set", "+time", "+del"]


def on_the_page() -> str:
    (line,) = re.findall(r"^ACL SETUSER .*$", PAGE.read_text(), re.MULTILINE)
    return str(line)


def user(server: Server, *words: str, keys: str = "~orders:*") -> None:
    """A user of that name and password, who may do just this."""
    server.admin.execute_command(
        "ACL", "SETUSER", "worker", "reset", "on", ">secret", keys, "-@all", *words
    )


async def every_way(client: Any, key: str) -> None:
    """Take it in every way, and release it."""
    lease = await client.acquire(key, ttl=TTL, fence=True)
    assert await lease.release() is True
    leases = await client.try_acquire_many([key, f"{key}:2"], ttl=TTL, fence=True)
    assert leases[0].fence > lease.fence
    assert await client.release_many(leases) == [True, True]
    async with client.lock_all([key, f"{key}:2"], ttl=TTL, fence=True) as both:
        assert both[0].fence > leases[0].fence


async def test_the_page_s_user_may_do_all_it_takes(fl: Ways, own_server: Server) -> None:
    assert on_the_page().split()[-len(WORDS) :] == WORDS
    own_server.admin.execute_command(*on_the_page().split())
    await every_way(fl.client(own_server.uri, username="worker", password="secret"), "orders:42")
    own_server.admin.script_flush()
    await every_way(fl.client(own_server.uri, username="worker", password="secret"), "orders:{4}2")


@pytest.mark.parametrize("missing", ["eval", "get", "set", "time"])
async def test_and_less_is_not_enough(fl: Ways, own_server: Server, missing: str) -> None:
    user(own_server, *(word for word in WORDS if word != f"+{missing}"))
    client = fl.client(own_server.uri, username="worker", password="secret")

    async def together() -> None:
        async with client.lock_all(["orders:42"], ttl=TTL, fence=True):
            raise AssertionError("it was entered")

    for call in (
        lambda: client.try_acquire("orders:42", ttl=TTL, fence=True),
        lambda: client.acquire("orders:42", ttl=TTL, fence=True),
        together,
    ):
        with pytest.raises(fastlock.ServerError) as caught:
            await call()
        said = str(caught.value)
        assert missing in said.lower()
        assert "'orders:42'" in said
        assert repr(companion(b"orders:42")) in said
    assert own_server.admin.keys() == []
    own_server.admin.execute_command("ACL", "SETUSER", "worker", f"+{missing}")
    await every_way(client, "orders:42")


async def test_a_user_who_may_not_use_the_companion(fl: Ways, own_server: Server) -> None:
    user(own_server, *WORDS, keys="~orders:??")
    client = fl.client(own_server.uri, username="worker", password="secret")
    lease = await client.acquire("orders:42", ttl=TTL)
    assert await lease.release() is True
    with pytest.raises(fastlock.ServerError) as caught:
        await client.acquire("orders:42", ttl=TTL, fence=True)
    assert caught.value.code == "NOPERM"
    assert repr(companion(b"orders:42")) in str(caught.value)
    assert own_server.admin.keys() == []


async def test_a_replica_gives_neither_lock_nor_number(fl: Ways, own_server: Server) -> None:
    client = fl.client(own_server.uri)
    before = await client.acquire("orders:42", ttl=TTL, fence=True)
    assert await before.release() is True
    own_server.admin.execute_command("REPLICAOF", "127.0.0.1", free_port())
    with pytest.raises(fastlock.ServerError) as caught:
        await client.acquire("orders:42", ttl=TTL, fence=True)
    assert caught.value.code == "READONLY"
    own_server.admin.execute_command("REPLICAOF", "NO", "ONE")
    async with client.lock("orders:42", ttl=TTL, fence=True) as lease:
        assert lease.fence > before.fence
