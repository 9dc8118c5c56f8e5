"""Which commands each version of a server is sent, as the server itself has counted them.

Law: nothing is asked of fastlock that the server can tell: its INFO commandstats, reset for
what is counted, must hold these commands and no other; its count of reads is the count of
round trips. What is expected stands in docs/servers.md, by version (``_servers``).
"""

from __future__ import annotations

from collections import Counter
from itertools import permutations
from typing import Any

import pytest
from _harness import SERVERS, Ways
from _servers import GIVEN_URL, Server, binary_of, has_ifeq, has_msetex, release_command

import fastlock

#: Kinds that can be started; a server that was given cannot be replaced.
KINDS = ("valkey", "redis") if GIVEN_URL else SERVERS
MANY = 5
#: What makes the difference between dialects.
TELLING = {"set", "delifeq", "delex", "evalsha", "evalsha failed", "eval", "eval failed"}


class Count:
    """What the server was told since then; its own account of it."""

    def __init__(self, server: Server, anew: bool = True) -> None:
        self._admin = server.admin
        if anew:
            self.again()

    def again(self) -> None:
        self._admin.config_resetstat()

    def __call__(self) -> tuple[dict[str, int], int]:
        """Calls by command ("x failed": how many of x were refused), and the round trips.

        Without the asking itself. All that a client sends at once is read at once here: it
        is short, and comes over loopback.
        """
        info = self._admin.info("all")
        trips = info["total_reads_processed"] - 1
        found = {}
        for name, stats in info.items():
            command = name.removeprefix("cmdstat_")
            if command == "info":
                trips -= stats["calls"]
            if command == name or command.startswith(("config", "info")):
                continue
            found[command] = stats["calls"]
            if refused := stats["failed_calls"] + stats["rejected_calls"]:
                found[f"{command} failed"] = refused
        return found, trips

    def commands(self) -> dict[str, int]:
        """The former of the two."""
        return self()[0]


def released(server: Server, times: int = 1) -> dict[str, int]:
    """The commands of so many releases of held locks; a script's own are counted as well."""
    command = release_command(server.version).lower()
    script = {"get": times, "del": times} if command == "evalsha" else {}
    return {command: times, **script}


def extended(server: Server, times: int = 1) -> dict[str, int]:
    """The commands of so many extensions."""
    if has_ifeq(server.version):
        return {"set": times}
    return {"evalsha": times, "get": times, "pexpire": times}


def numbered(times: int = 1, scripts: int | None = None) -> dict[str, int]:
    """The commands of so many locks taken with numbers, by as many scripts; the same anywhere."""
    return {"evalsha": scripts or times, "get": 2 * times, "time": times, "set": 2 * times}


def spelled_out(command: dict[str, int], first: int = 1) -> dict[str, int]:
    """The same after the server forgot the scripts: ``first`` refused, one by its text."""
    if "evalsha" not in command:
        return command
    again = command["evalsha"] - 1
    return {**command, "eval": 1, "evalsha": first + again, "evalsha failed": first}


def without(commands: dict[str, int], name: str) -> dict[str, int]:
    """What a script leaves out that finds another token."""
    return {command: calls for command, calls in commands.items() if command != name}


def version(info: fastlock.ServerInfo) -> str:
    return f"{info.name} {info.version}"


# ------------------------------------------------------------------ each version's own words


async def test_one_lock(fl: Ways, own_server: Server) -> None:
    client, key = await fl.warm(fl.client(own_server.uri)), fl.key()
    count = Count(own_server)
    lease = await client.try_acquire(key, ttl=5)
    assert count() == ({"set": 1}, 1)
    count.again()
    await lease.extend(5)
    assert count() == (extended(own_server), 1)
    count.again()
    assert await lease.release() is True
    assert count() == (released(own_server), 1)
    count.again()
    async with client.lock(key, ttl=5):
        pass
    assert count() == ({"set": 1, **released(own_server)}, 2)
    assert (await client.server()).release_command == release_command(own_server.version)
    assert version(await client.server()) == own_server.version


async def test_a_lock_that_is_no_longer_ours(fl: Ways, own_server: Server) -> None:
    client, one, two = await fl.warm(fl.client(own_server.uri)), fl.key(), fl.key()
    extending = await client.acquire(one, ttl=5)
    releasing = await client.acquire(two, ttl=5)
    for key in (one, two):
        own_server.admin.set(key, "somebody else's", px=60_000)
    count = Count(own_server)
    with pytest.raises(fastlock.LockLost):
        await extending.extend(5)
    assert count() == (without(extended(own_server), "pexpire"), 1)
    count.again()
    assert await releasing.release() is False
    assert count() == (without(released(own_server), "del"), 1)
    assert own_server.admin.mget(one, two) == [b"somebody else's"] * 2


async def test_many_locks(fl: Ways, own_server: Server) -> None:
    client = await fl.warm(fl.client(own_server.uri))
    count = Count(own_server)
    leases = await client.try_acquire_many([fl.key() for _ in range(MANY)], ttl=5)
    assert count() == ({"set": MANY}, 1)
    count.again()
    assert await client.extend_many(leases, 5) == [True] * MANY
    assert count() == (extended(own_server, MANY), 1)
    count.again()
    assert await client.release_many(leases) == [True] * MANY
    assert count() == (released(own_server, MANY), 1)


async def test_all_locks_or_none(fl: Ways, own_server: Server) -> None:
    client = await fl.warm(fl.client(own_server.uri))
    keys = [fl.key() for _ in range(MANY)]
    async with client.lock_all(keys, ttl=5):
        pass  # where it takes a script, the server has learnt it
    count = Count(own_server)
    async with client.lock_all(keys, ttl=5):
        script = {"evalsha": 1, "get": MANY, "set": MANY}
        assert count() == ({"msetex": 1} if has_msetex(own_server.version) else script, 1)
        count.again()
    assert count() == (released(own_server, MANY), 1)


async def test_a_second_try_asks_who_has_it(fl: Ways, own_server: Server) -> None:
    client, key = await fl.warm(fl.client(own_server.uri, retry_timeout=1000, push=False)), fl.key()
    own_server.admin.set(key, "somebody else's", px=60_000)

    async def wait() -> None:
        with pytest.raises(fastlock.AcquireTimeout):
            await client.acquire(key, ttl=5, timeout=0.3)

    await wait()
    count = Count(own_server)
    await wait()
    script = {} if has_ifeq(own_server.version) else {"evalsha": 1, "get": 1}
    assert count() == ({"set": 2, **script}, 2)


async def test_a_release_that_nobody_waits_for(fl: Ways, own_server: Server) -> None:
    client, key = await fl.warm(fl.client(own_server.uri)), fl.key()
    lease = await client.acquire(key, ttl=5)
    count = Count(own_server)
    await lease.release(wait=False)
    await client.ping()  # behind it, on the same connection
    assert count.commands() == {**released(own_server), "ping": 1}
    assert not lease.lost


async def test_locks_with_numbers(fl: Ways, own_server: Server) -> None:
    client, key = await fl.warm(fl.client(own_server.uri)), fl.key()
    keys = [fl.key() for _ in range(MANY)]
    assert await (await client.acquire(key, ttl=5, fence=True)).release() is True
    async with client.lock_all(keys, ttl=5, fence=True):
        pass  # the server has learnt both scripts
    count = Count(own_server)
    lease = await client.try_acquire(key, ttl=5, fence=True)
    assert count() == (numbered(), 1)
    count.again()
    assert await client.try_acquire(key, ttl=5, fence=True) is None
    assert count() == ({"evalsha": 1, "get": 1}, 1)
    count.again()
    assert await lease.release() is True
    assert count() == (released(own_server), 1)
    count.again()
    leases = await client.try_acquire_many(keys, ttl=5, fence=True)
    assert count() == (numbered(MANY), 1)
    assert await client.release_many(leases) == [True] * MANY
    count.again()
    async with client.lock_all(keys, ttl=5, fence=True):
        assert count() == (numbered(MANY, scripts=1), 1)


async def test_fair_locks(fl: Ways, own_server: Server) -> None:
    client, key = await fl.warm(fl.client(own_server.uri)), fl.key()
    assert await (await client.acquire(key, ttl=5, fair=True)).release() is True
    count = Count(own_server)
    lease = await client.acquire(key, ttl=5, timeout=5, fair=True)
    assert count() == ({"evalsha": 1, "get": 1, "zrange": 1, "set": 1}, 1)
    count.again()
    with pytest.raises(fastlock.AcquireTimeout):
        await client.acquire(key, ttl=5, timeout=0, fair=True)
    assert count() == ({"evalsha": 1, "get": 1, "zrange": 1, "zrem": 1, "del": 1}, 1)
    count.again()
    assert await lease.release() is True
    assert count() == (released(own_server), 1)


# ------------------------------------------------------------------ forgotten scripts


async def test_a_forgotten_script_costs_one_round_trip(fl: Ways, own_server: Server) -> None:
    client, key = await fl.warm(fl.client(own_server.uri)), fl.key()
    scripts = release_command(own_server.version) == "EVALSHA"
    lease = await client.acquire(key, ttl=5)

    own_server.admin.script_flush()
    count = Count(own_server)
    await lease.extend(5)
    wanted = spelled_out(extended(own_server))
    assert count() == (wanted, 1 + ("eval" in wanted))
    assert own_server.admin.pttl(key) > 0

    own_server.admin.script_flush()
    count.again()
    assert await lease.release() is True
    assert count() == (spelled_out(released(own_server)), 1 + scripts)
    assert own_server.admin.exists(key) == 0

    lease = await client.acquire(key, ttl=5)
    count.again()
    assert await lease.release() is True
    assert count() == (released(own_server), 1)  # it has been learnt again


async def test_the_answer_is_right_when_the_script_was_forgotten(
    fl: Ways, own_server: Server
) -> None:
    client, key = await fl.warm(fl.client(own_server.uri)), fl.key()
    scripts = release_command(own_server.version) == "EVALSHA"
    lease = await client.acquire(key, ttl=5)
    own_server.admin.set(key, "somebody else's", px=60_000)
    own_server.admin.script_flush()
    count = Count(own_server)
    assert await lease.release() is False
    wanted = spelled_out(without(released(own_server), "del"))
    assert count() == (wanted, 1 + scripts)
    assert own_server.admin.get(key) == b"somebody else's"


async def test_many_locks_and_a_forgotten_script(fl: Ways, own_server: Server) -> None:
    client = await fl.warm(fl.client(own_server.uri))
    scripts = release_command(own_server.version) == "EVALSHA"
    leases = await client.try_acquire_many([fl.key() for _ in range(MANY)], ttl=5)
    own_server.admin.script_flush()
    count = Count(own_server)
    assert await client.extend_many(leases, 5) == [True] * MANY
    wanted = spelled_out(extended(own_server, MANY), MANY)
    assert count() == (wanted, 1 + ("eval" in wanted))
    own_server.admin.script_flush()
    count.again()
    assert await client.release_many(leases) == [True] * MANY
    assert count() == (spelled_out(released(own_server, MANY), MANY), 1 + scripts)


async def test_locks_with_numbers_and_a_forgotten_script(fl: Ways, own_server: Server) -> None:
    client, keys = await fl.warm(fl.client(own_server.uri)), [fl.key() for _ in range(MANY)]
    await client.acquire(keys[0], ttl=5, fence=True)
    own_server.admin.script_flush()
    count = Count(own_server)
    await client.acquire(fl.key(), ttl=5, fence=True)
    assert count() == ({**numbered(), "eval": 1, "evalsha failed": 1}, 2)
    own_server.admin.script_flush()
    count.again()
    leases = await client.try_acquire_many(keys[1:], ttl=5, fence=True)
    others = {**numbered(MANY - 1), "eval": MANY - 1, "evalsha failed": MANY - 1}
    assert count() == (others, 2)
    assert [lease.key for lease in leases] == keys[1:]


async def test_a_release_that_nobody_waits_for_and_a_forgotten_script(
    fl: Ways, own_server: Server
) -> None:
    client, key = await fl.warm(fl.client(own_server.uri)), fl.key()
    lease = await client.acquire(key, ttl=5)
    own_server.admin.script_flush()
    count = Count(own_server)
    await lease.release(wait=False)
    await fl.until(lambda: not own_server.admin.exists(key))
    await client.close()
    assert not lease.lost
    heard, said = count.commands(), spelled_out(released(own_server))
    assert TELLING & heard.keys() == TELLING & said.keys()


# ------------------------------------------------------------------ another version follows


following = pytest.mark.parametrize(
    ("server", "follower"), list(permutations(KINDS, 2)), indirect=["server"]
)


def follow(server: Server, follower: str) -> None:
    """The server at this address crashes; another kind is there before anybody looks."""
    if binary_of(follower) is None:
        pytest.skip(f"{follower}-server is not installed")
    server.become(follower)


async def plain_case(fl: Ways, client: Any, server: Server) -> None:
    """What is said from now on is said in the server's own words."""
    assert version(await client.server()) == server.version
    assert (await client.server()).release_command == release_command(server.version)
    await fl.warm(client)
    count = Count(server)
    lease = await client.acquire(fl.key(), ttl=5)
    await lease.extend(5)
    assert await lease.release() is True
    wanted = Counter({"set": 1})
    wanted.update(extended(server))
    wanted.update(released(server))
    assert count() == (wanted, 3)


@following
async def test_it_is_decided_anew_for_another_version(
    fl: Ways, own_server: Server, follower: str
) -> None:
    """Between two calls of a lease that the follower knows, as a replica of the first would."""
    client, key = fl.client(own_server.uri), fl.key()
    await plain_case(fl, client, own_server)
    lease = await client.acquire(key, ttl=30)
    follow(own_server, follower)
    own_server.admin.set(key, lease.token, px=10_000)
    await lease.extend(30)
    assert own_server.admin.pttl(key) > 20_000
    assert await lease.release() is True
    assert own_server.admin.exists(key) == 0
    # A command that it does not know would have been followed by a script's text at once.
    heard = Count(own_server, anew=False).commands()
    said = Counter({"set": 1})
    for wanted in (extended(own_server), released(own_server)):
        said.update(spelled_out(wanted))
    assert {word: heard[word] for word in TELLING & heard.keys()} == {
        word: said[word] for word in TELLING & said.keys()
    }
    await plain_case(fl, client, own_server)


@following
async def test_it_is_decided_anew_in_the_middle_of_waiting(
    fl: Ways, own_server: Server, follower: str
) -> None:
    client, key = fl.client(own_server.uri, retry_timeout=20, retries=50, push=False), fl.key()
    own_server.admin.set(key, "taken", px=60_000)
    waiter = fl.spawn(client.acquire(key, ttl=30, timeout=30))
    await fl.until(lambda: own_server.admin.info("commandstats")["cmdstat_set"]["calls"] > 3)
    follow(own_server, follower)
    lease = await waiter
    assert own_server.admin.get(key).decode() == lease.token
    assert await lease.release() is True
    await plain_case(fl, client, own_server)
