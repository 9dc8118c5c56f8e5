"""docs/security.md says what the server's user must be allowed: that, neither less nor more.

Law: the page is read and its lines are applied to a real server, as a reader would do.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from _harness import Ways
from _servers import Server, at_least, has_msetex, release_command
from _waiting import queue_of

import fastlock
from fastlock.errors import FastlockError, ServerError

PAGE = Path(__file__).parents[2] / "docs/security.md"
PASSWORD = secrets.token_hex(8)
Call = Callable[[Ways, Any], Awaitable[None]]


# ------------------------------------------------------------------ what the page says


def applies(where: str, version: str) -> bool:
    """Whether "Valkey 8.1" of the page is the line for that server."""
    lines = [("valkey", 9, 1), ("valkey", 9, 0), ("valkey", 8, 1), ("redis", 8, 4)]
    best = next((line for line in lines if at_least(version, *line)), None)
    if where in ("any", "any other"):
        return where == "any" or best is None
    name, _, number = where.lower().partition(" ")
    parts = tuple(map(int, number.split(".")))
    return best is not None and best[0] == name and best[1 : 1 + len(parts)] == parts


def rows() -> list[tuple[str, list[str], list[str]]]:
    """(what to call, on which servers, what it takes) of the page's table."""
    text = PAGE.read_text().partition("| to call | on | it takes |")[2]
    found = []
    for line in text.splitlines()[2:]:
        if not line.startswith("|"):
            break
        call, where, takes = re.split(r" (?<!\\)\| ", line.strip("| "))
        permissions = takes.strip("`").replace("\\|", "|").split()
        found.append((call if call != "the same" else found[0][0], where.split(", "), permissions))
    assert len(found) == 16
    return found


def wanted(version: str) -> dict[str, list[str]]:
    """What to call -> what it takes on that server."""
    found: dict[str, list[str]] = {}
    for call, where, takes in rows():  # "any other" is the last of a call's
        if call not in found and (
            where == ["any other"] or any(applies(w, version) for w in where)
        ):
            found[call] = takes
    return found


def setuser(version: str) -> str:
    """The page's line for that server."""
    lines = re.findall(r"^(\S.*?)  +(ACL SETUSER locks reset .*)$", PAGE.read_text(), re.MULTILINE)
    assert len(lines) == 5
    (line,) = [line for where, line in lines if applies(where, version)]
    return line


# ------------------------------------------------------------------ every call


async def locks(fl: Ways, client: Any) -> None:
    """All that takes, frees and prolongs, also where another holds the lock."""
    key = "locks"
    fl.admin.set("locks:taken", "another's")
    lease = await client.try_acquire(key)
    assert await client.try_acquire("taken") is None
    with pytest.raises(fastlock.AcquireTimeout):
        await client.acquire("taken", timeout=0.1)
    await lease.extend(60)
    assert await lease.release() is True
    async with client.lock(key, ttl=5, timeout=1):
        pass
    lease = await client.acquire(key, timeout=1)
    await lease.release(wait=False)
    await fl.until(lambda: not fl.admin.exists("locks:locks"))
    leases = await client.try_acquire_many(["a", "b", "taken"])
    assert await client.extend_many(leases) == [True, True, False]
    assert await client.release_many(leases) == [True, True, False]


async def lock_all(fl: Ways, client: Any) -> None:
    fl.admin.set("locks:taken", "another's")
    async with client.lock_all(["a", "b"], timeout=1):
        pass
    with pytest.raises(fastlock.AcquireTimeout):
        async with client.lock_all(["a", "taken"], timeout=0.1):
            pass


async def fence(fl: Ways, client: Any) -> None:
    fl.admin.set("locks:taken", "another's")
    first = await client.acquire("fence", timeout=1, fence=True)
    assert await first.release() is True
    second = await client.try_acquire("fence", fence=True)
    assert second.fence > first.fence
    with pytest.raises(fastlock.AcquireTimeout):
        await client.acquire("taken", timeout=0.1, fence=True)
    assert await client.try_acquire_many(["taken"], fence=True) == [None]


async def fair(fl: Ways, client: Any) -> None:
    """Waiting, being first, being second, giving up a place, being passed over."""
    queue = queue_of("locks:taken")
    fl.admin.set("locks:taken", "another's", px=300)
    lease = await client.acquire("taken", timeout=5, fair=True)
    for timeout in (0, 0.1):
        with pytest.raises(fastlock.AcquireTimeout):
            await client.acquire("taken", timeout=timeout, fair=True)
    assert await lease.release() is True
    fl.admin.zadd(queue, {"agone": -9, "dgone": 1})
    lease = await client.acquire("taken", timeout=5, fair=True)
    assert await lease.release() is True
    assert fl.admin.exists("locks:taken", queue) == 0
    if not fl.sync:  # what is given back by a task that was cancelled
        fl.admin.set("locks:taken", "another's")
        waiter = fl.spawn(client.acquire("taken", fair=True))
        await fl.until(lambda: fl.admin.exists(queue))
        waiter.cancel()
        await fl.until(lambda: not fl.admin.exists(queue), 2)


async def replicas(fl: Ways, client: Any) -> None:
    """There are none; that is found out by asking."""
    with pytest.raises(fastlock.NotReplicated):
        await client.try_acquire("replicas", min_replicas=1, replica_timeout=0.01)
    assert fl.admin.exists("locks:replicas") == 0


async def locked(fl: Ways, client: Any) -> None:
    assert await client.locked("nothing") is False


async def holder(fl: Ways, client: Any) -> None:
    fl.admin.set("locks:taken", "another's")
    assert await client.holder("taken") == "unknown"


async def adopt(fl: Ways, client: Any) -> None:
    fl.admin.set("locks:taken", "another's", ex=100)
    assert (await client.adopt("taken", "another's")).valid()


async def force_release(fl: Ways, client: Any) -> None:
    fl.admin.set("locks:taken", "another's")
    assert await client.force_release("taken") is True


async def ping(fl: Ways, client: Any) -> None:
    assert await client.ping() > 0


LOCKS = "`acquire`, `release`, `extend`, with `_many` or not"
CALLS: dict[str, Call] = {
    LOCKS: locks,
    "`lock_all` besides": lock_all,
    "`fence=True` besides": fence,
    "`fair=True` besides": fair,
    "`min_replicas=` besides": replicas,
    "`locked`": locked,
    "`holder`": holder,
    "`adopt`": adopt,
    "`force_release`": force_release,
    "`ping`": ping,
}
#: Which settings a row is about that is no call.
SETTINGS = {
    "a `db` other than 0": {"db": 3},
    "with a `client_name`": {"client_name": "me"},
}


class Users:
    """Makes users of one server, and clients of theirs."""

    def __init__(self, fl: Ways, server: Server) -> None:
        self.fl = fl
        self.fl.server = server

    def client(self, permissions: list[str], **options: Any) -> Any:
        """A client of a user who has only these, on a server without keys and scripts."""
        admin = self.fl.admin
        admin.flushall()
        admin.script_flush()
        words = ["reset", "on", f">{PASSWORD}", "~locks:*", *permissions]
        admin.execute_command("ACL", "SETUSER", "locks", *words)
        where = {"host": "localhost", "port": self.fl.server.port, **options}
        return self.fl.client(
            username="locks", password=PASSWORD, prefix="locks:", retry_timeout=20, retries=0,
            **where,
        )  # fmt: skip


def test_the_page_knows_every_call() -> None:
    assert {call for call, _, _ in rows()} == CALLS.keys() | SETTINGS.keys()
    public = {"acquire", "release", "extend", "lock_all", "adopt", "holder", "locked", "ping"}
    text = " ".join(call for call, _, _ in rows())
    assert all(f"`{name}`" in text for name in public | {"force_release"})


async def test_the_page_s_user_can_do_everything(fl: Ways, own_server: Server) -> None:
    """Each call works, and nothing is done in a roundabout way."""
    version = own_server.version
    words = setuser(version).split()
    assert words[:7] == ["ACL", "SETUSER", "locks", "reset", "on", ">PASSWORD", "~locks:*"]
    client = Users(fl, own_server).client(words[7:])
    for call in CALLS.values():
        await call(fl, client)
    info = await client.server()
    assert f"{info.name} {info.version}" == version
    assert info.release_command == release_command(version)
    assert info.connection_id is not None
    assert info.run_id
    outside = fl.client(own_server.uri, username="locks", password=PASSWORD)
    with pytest.raises(ServerError) as caught:
        await outside.try_acquire("elsewhere")
    assert caught.value.code == "NOPERM"
    needed = {permission for takes in wanted(version).values() for permission in takes}
    needed |= {"+info", "+client|id", "+client|kill", "+client|tracking", "+client|caching"}
    assert set(words[7:]) == needed - {"+select", "+client|setname"}


async def test_who_may_not_ping_learns_what_the_server_is(fl: Ways, own_server: Server) -> None:
    client = Users(fl, own_server).client(["+set", "+info"])
    info = await client.server()
    assert f"{info.name} {info.version}" == own_server.version


@pytest.mark.parametrize("name", CALLS)
async def test_each_call_takes_what_the_page_says(fl: Ways, own_server: Server, name: str) -> None:
    """It works with that, and with any one of it missing it does not."""
    version = own_server.version
    takes = wanted(version)
    permissions = sorted({*takes[name], *(takes[LOCKS] if name.endswith("besides") else [])})
    users = Users(fl, own_server)
    await CALLS[name](fl, users.client(permissions))
    spared = set()
    for permission in takes[name]:
        client = users.client([p for p in permissions if p != permission])
        try:
            await CALLS[name](fl, client)
        except (FastlockError, AssertionError):
            continue
        spared.add(permission)
    # One of the two will do where only one lock is freed at a time; DEL is for what an earlier
    # try of ours took of which the rest is another's by now.
    fine = {
        "`lock_all` besides": {"+msetex", "+del", "+evalsha"},
        "`fence=True` besides": {"+evalsha"},
        "`fair=True` besides": {"+evalsha", "+del"},
    }
    assert spared <= fine.get(name, set()), spared
    assert has_msetex(version) is ("+msetex" in takes["`lock_all` besides"])


@pytest.mark.parametrize("name", SETTINGS)
async def test_settings_that_take_a_permission(fl: Ways, own_server: Server, name: str) -> None:
    takes = wanted(own_server.version)
    users = Users(fl, own_server)
    for given, works in ((takes[name], True), ([], False)):
        client = users.client([*takes[LOCKS], *given], **SETTINGS[name])
        if works:
            await client.try_acquire("k")
            continue
        with pytest.raises(ServerError) as caught:
            await client.try_acquire("k")
        assert caught.value.code == "NOPERM"


@pytest.mark.parametrize("missing", [None, "+client|id", "+client|kill", "+info"])
async def test_a_broken_connection_is_ended_if_that_is_allowed(
    fl: Ways, own_server: Server, missing: str | None
) -> None:
    words = setuser(own_server.version).split()[7:]
    users = Users(fl, own_server)
    proxy = fl.proxy(own_server)
    client = users.client([word for word in words if word != missing], port=proxy.port)
    client = fl.own(fl.client_class(fl.raw(client).config, retries=2))
    await client.ping()
    before = own_server.admin.info("stats")["total_connections_received"]
    lost = proxy.fault("lose_reply")
    lease = await client.acquire("k", timeout=5)
    lost.wait()
    assert lease.valid()
    assert own_server.admin.info("stats")["total_connections_received"] == before + 1
    killed = [words for words in proxy.commands if words[:2] == [b"CLIENT", b"KILL"]]
    assert len(killed) == (missing in (None, "+client|kill"))
    assert await lease.release() is True
