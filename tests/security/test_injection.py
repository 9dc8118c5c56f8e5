"""Keys of any bytes are keys and nothing else: no byte of one becomes a command or an answer.

Law: the server is asked what it has and what it was told, and says it of these keys alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from _harness import client_class
from _servers import Server
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import fastlock
from fastlock import _impl
from fastlock._slots import companion
from fastlock.errors import ConfigError

FRAGMENTS = [
    b"\r\n", b"\n", b"\0", b"*1\r\n$8\r\nFLUSHALL\r\n", b"\r\n*1\r\n$8\r\nFLUSHALL\r\n",
    b"FLUSHALL\r\n", b"+OK\r\n", b"$-1\r\n", b"-ERR\r\n", b":1\r\n", b">2\r\n", b"*", b"$", b"%b",
    b"{}", b"{x}", b"' or 1", b"\\r\\n", b"\xff\xfe", b"\xc3", "\u2028".encode(), b"return 1 --",
    b"KEYS[1]", b"]]", b" NX PX 1", b"%s%d%n",
]  # fmt: skip
raw = st.lists(st.one_of(st.sampled_from(FRAGMENTS), st.binary(max_size=20)), min_size=1)
keys = st.one_of(
    raw.map(b"".join).filter(len),
    st.text(min_size=1, max_size=30).filter(lambda text: text.isprintable() or "\r" in text),
)
#: What Config takes for them: printable text.
words = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), max_size=20)

CORES = ("python",) if _impl.core.name == "python" else ("cython", "python")
#: Commands that our calls are made of; others must not have been heard.
OURS = {
    "set", "get", "del", "delifeq", "delex", "exists", "pttl", "pexpire", "eval", "evalsha",
    "msetex", "info", "hello", "ping", "command|info", "client|id", "client|setinfo",
    "client|kill", "config|resetstat", "keys", "flushdb", "dbsize",
}  # fmt: skip


@pytest.fixture(scope="module", params=["valkey", "redis"])
def own(request: pytest.FixtureRequest) -> Iterator[Server]:
    from _servers import binary_of

    if binary_of(request.param) is None:
        pytest.skip(f"{request.param}-server is not installed")
    server = Server(request.param)
    yield server
    server.discard()


def wire(key: str | bytes, prefix: str) -> bytes:
    return prefix.encode() + (key.encode() if isinstance(key, str) else key)


many = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
everything: Callable[..., Any] = given(
    some=st.lists(keys, min_size=1, max_size=5, unique_by=lambda key: wire(key, "")),
    prefix=words,
    label=words,
)
hostile: Callable[..., Any] = example(
    some=[b"k\r\n*1\r\n$8\r\nFLUSHALL\r\n", "k\r\n", b"\0", b"\xff"], prefix="p%s", label="l%b.x-"
)


def check(server: Server, some: list[Any], prefix: str, found: dict[bytes, bytes]) -> None:
    """The server has exactly these keys, and has heard nothing but our commands."""
    assert set(server.admin.keys()) == {wire(key, prefix) for key in some}
    assert {key: server.admin.get(key) for key in found} == found
    heard = {name.removeprefix("cmdstat_") for name in server.admin.info("commandstats")}
    assert heard <= OURS


def begin(server: Server) -> None:
    server.admin.flushdb()
    server.admin.config_resetstat()


def options(server: Server, prefix: str, label: str) -> dict[str, Any]:
    return {"port": server.port, "prefix": prefix, "label": label or None, "retry_timeout": 1}


@pytest.mark.parametrize("core", CORES)
@many
@everything
@hostile
def test_keys_of_any_bytes(
    core: str, own: Server, some: list[Any], prefix: str, label: str
) -> None:
    begin(own)
    with client_class("sync", core)(**options(own, prefix, label)) as client:
        leases = [client.try_acquire(key) for key in some]
        check(
            own,
            some,
            prefix,
            {wire(k, prefix): lease.pair[1] for k, lease in zip(some, leases, strict=True)},
        )
        for key, lease in zip(some, leases, strict=True):
            assert lease.key == key
            assert lease.pair[0] == wire(key, prefix)
            assert client.try_acquire(key) is None
            assert client.locked(key) is True
            if label:
                assert client.holder(key) == label
            adopted = client.adopt(key, lease.token)
            adopted.extend(60)
            assert own.admin.pttl(wire(key, prefix)) > 50_000
            with pytest.raises(fastlock.AcquireTimeout):
                client.acquire(key, timeout=0)
            assert lease.release() is True
        assert own.admin.dbsize() == 0
        held = client.try_acquire_many(some)
        assert all(held)
        assert all(client.extend_many(held))
        check(own, some, prefix, {lease.pair[0]: lease.pair[1] for lease in held})
        assert all(client.release_many(held))
        with client.lock_all(some) as leases:
            check(own, some, prefix, {lease.pair[0]: lease.pair[1] for lease in leases})
        lease = client.acquire(some[0])
        lease.release(wait=False)
        client.ping()
        client.try_acquire(some[0])
        assert client.force_release(some[0]) is True
        assert own.admin.dbsize() == 0


@pytest.mark.parametrize("core", CORES)
@many
@everything
@hostile
def test_keys_of_any_bytes_in_asyncio(
    core: str, own: Server, some: list[Any], prefix: str, label: str
) -> None:
    async def body() -> None:
        async with client_class("async", core)(**options(own, prefix, label)) as client:
            leases = [await client.try_acquire(key) for key in some]
            check(own, some, prefix, {lease.pair[0]: lease.pair[1] for lease in leases})
            for key, lease in zip(some, leases, strict=True):
                assert await client.try_acquire(key) is None
                if label:
                    assert await client.holder(key) == label
                await lease.extend(60)
                assert await lease.release() is True
            async with client.lock_all(some) as leases:
                check(own, some, prefix, {lease.pair[0]: lease.pair[1] for lease in leases})
            assert own.admin.dbsize() == 0

    begin(own)
    asyncio.run(body())


@pytest.mark.parametrize("core", CORES)
@pytest.mark.parametrize("api", ["sync", "async"])
@many
@everything
@hostile
def test_companions_of_keys_of_any_bytes(
    api: str, core: str, own: Server, some: list[Any], prefix: str, label: str
) -> None:
    """With fencing numbers each lock has a second key, and nothing else has been made of it."""

    async def body() -> None:
        client: Any = Calls(client_class(api, core)(**options(own, prefix, label)))
        leases = [await client.try_acquire(key, fence=True) for key in some]
        wires = [wire(key, prefix) for key in some]
        assert [lease.pair[0] for lease in leases] == wires
        companions = {companion(key) for key in wires}
        assert set(own.admin.keys()) == companions.union(wires)
        assert [own.admin.get(lease.pair[0]) for lease in leases] == [
            lease.pair[1] for lease in leases
        ]
        assert await client.try_acquire(some[0], fence=True) is None
        assert all(await client.release_many(leases))
        again = await client.try_acquire_many(some, fence=True)
        assert all(b.fence > a.fence for a, b in zip(leases, again, strict=True))
        assert all(await client.release_many(again))
        assert set(own.admin.keys()) == companions
        await client.close()
        heard = {name.removeprefix("cmdstat_") for name in own.admin.info("commandstats")}
        assert heard <= OURS | {"time"}

    begin(own)
    asyncio.run(body())


class Calls:
    """A client of either API, whose every call is awaited."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def __getattr__(self, name: str) -> Any:
        async def call(*args: Any, **options: Any) -> Any:
            answer = getattr(self._client, name)(*args, **options)
            return await answer if asyncio.iscoroutine(answer) else answer

        return call


@pytest.mark.parametrize("core", CORES)
def test_a_key_of_the_longest_kind(core: str, own: Server) -> None:
    begin(own)
    key = (b"\r\n*1\r\n$8\r\nFLUSHALL\r\n" * 4000)[: 64 * 1024]
    with client_class("sync", core)(port=own.port) as client:
        lease = client.try_acquire(key)
        check(own, [key], "", {key: lease.pair[1]})
        assert lease.release() is True
        with pytest.raises(ConfigError):
            client.try_acquire(key + b"x")


@pytest.mark.parametrize("text", ["a\r\nb", "a\nb", "a\0b", "a\tb", "\x1b[2J", "\u2028", "\ud800"])
def test_prefixes_and_labels_are_one_printable_line(text: str) -> None:
    for field in ("prefix", "label", "client_name", "username"):
        with pytest.raises(ConfigError, match=f"^{field}: "):
            fastlock.Config(**{field: text})


def test_a_label_of_somebody_else_is_shown_only_if_it_is_one_line(own: Server) -> None:
    begin(own)
    with fastlock.Client(port=own.port) as client:
        lease = client.acquire("k")
        secret = lease.pair[1].partition(b".")[0]
        for label, shown in ((b"host:1", "host:1"), (b"\x1b[2J", "unknown"), (b"a\nb", "unknown")):
            own.admin.set("k", secret + b"." + label)
            assert client.holder("k") == shown
            with pytest.raises(fastlock.AcquireTimeout, match=f"held by {shown} when"):
                client.acquire("k", timeout=0.01)
