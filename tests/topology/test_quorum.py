"""Locks on a majority: what a quorum of 3 and of 5 does while some of its servers are gone.

Law: servers are killed and frozen for real; what a call has left behind is looked up on each
server that is up.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
from _harness import Ways, async_only, remaining_at_most, sync_only
from _quorum import TTL, Masters, masters, quorum

import fastlock
from fastlock import ConfigError


@pytest.fixture(scope="module", params=[3, 5])
def started(request: pytest.FixtureRequest, met: dict[str, str]) -> Iterator[Masters]:
    with masters(request.param) as found:
        met[f"quorum of {request.param}"] = f"quorum of {found.versions}"
        yield found


#: For tests in which the number of servers makes no difference.
three = pytest.mark.parametrize("started", [3], indirect=True)


@pytest.fixture
def server(started: Masters) -> Any:
    return started[0]


def minority(nodes: Masters) -> range:
    return range(len(nodes) // 2)


def majority(nodes: Masters) -> range:
    return range(len(nodes) // 2 + 1)


# ------------------------------------------------------------------ all are up


async def test_one_token_on_every_server(fl: Ways, nodes: Masters) -> None:
    client, key = quorum(fl, nodes.uris), fl.key()
    lease = await client.try_acquire(key, ttl=TTL)
    assert nodes.held(key) == [lease.token.encode()] * len(nodes)
    assert (lease.key, lease.ttl, lease.fence) == (key, TTL, None)
    assert lease.valid()
    assert not lease.lost
    assert lease.state == "held"
    for node in nodes.all:
        left = node.admin.pttl(key) / 1000
        assert 0 < lease.remaining() < left <= TTL
    assert await client.try_acquire(key, ttl=TTL) is None
    assert await client.locked(key) is True
    assert nodes.held(key) == [lease.token.encode()] * len(nodes)
    assert await lease.release() is True
    assert nodes.free(key)
    assert await client.locked(key) is False
    assert await lease.release() is False
    assert not lease.valid()
    assert lease.state == "released"


@three
async def test_extending_counts_from_before_the_first_write(fl: Ways, nodes: Masters) -> None:
    client, key = quorum(fl, nodes.uris), fl.key()
    lease = await client.acquire(key, ttl=5)
    await lease.extend(20)
    assert lease.ttl == 20
    assert 19 < lease.remaining() < 19.8
    for node in nodes.all:
        assert node.admin.pttl(key) > 19_000
    remaining_at_most(fl, lease, key)
    await lease.extend()
    assert lease.ttl == 20
    assert await lease.release() is True


@three
async def test_a_block_a_decorator_and_a_spec(fl: Ways, nodes: Masters) -> None:
    client, key = quorum(fl, nodes.uris), fl.key()
    lock = client.lock(key, ttl=TTL, timeout=5)
    async with lock as lease:
        assert nodes.held(key) == [lease.token.encode()] * len(nodes)
        assert await lock.locked() is True
        with pytest.raises(fastlock.LockError, match="not re-entrant"):
            async with lock:
                pass
    assert nodes.free(key)

    @lock
    async def inside() -> bool:
        return not nodes.free(key)

    assert await inside() is True
    assert nodes.free(key)
    assert await lock.acquire() is True
    assert await client.lock(key, ttl=TTL).acquire(timeout=0.05) is False
    assert await lock.release() is True
    assert nodes.free(key)


@three
async def test_waiting_goes_on_until_it_is_free(fl: Ways, nodes: Masters) -> None:
    client, key = quorum(fl, nodes.uris, retry_timeout=20), fl.key()
    rival = quorum(fl, nodes.uris, retry_timeout=20)
    lease = await client.acquire(key, ttl=TTL)
    with pytest.raises(fastlock.AcquireTimeout):
        await rival.acquire(key, ttl=TTL, timeout=0.1)
    waiting = fl.spawn(rival.acquire(key, ttl=TTL, timeout=10))
    await fl.sleep(0.05)
    assert await lease.release() is True
    other = await waiting  # perhaps before the release came to the last of them
    assert nodes.held(key).count(other.token.encode()) >= len(majority(nodes))
    assert await other.release() is True


async def test_rivals_do_not_split_the_votes_for_ever(fl: Ways, nodes: Masters) -> None:
    key, count, inside = fl.key(), 12, []

    async def pairs(client: Any) -> int:
        for _ in range(count):
            async with client.lock(key, ttl=TTL, timeout=30):
                inside.append(client)
                assert inside == [client]
                inside.remove(client)
        return count

    clients = [quorum(fl, nodes.uris, retry_timeout=10) for _ in range(4)]
    assert await fl.together([pairs(client) for client in clients]) == [count] * 4
    await fl.until(lambda: nodes.free(key))


@three
async def test_without_waiting_every_server_is_told(fl: Ways, nodes: Masters) -> None:
    client, key = quorum(fl, nodes.uris), fl.key()
    lease = await client.acquire(key, ttl=TTL)
    assert await lease.release(wait=False) is None
    await fl.until(lambda: nodes.free(key))
    assert lease.freed
    assert await lease.release() is False


# ------------------------------------------------------------------ a minority is down


async def test_a_dead_minority_changes_nothing(fl: Ways, nodes: Masters) -> None:
    client, key = quorum(fl, nodes.uris), fl.key()
    lease = await client.acquire(key, ttl=TTL)
    nodes.kill(*minority(nodes))
    await lease.extend(20)
    assert await lease.release() is True
    assert nodes.free(key)
    begun = time.monotonic()
    for _ in range(20):
        async with client.lock(key, ttl=TTL, timeout=5):
            assert await client.try_acquire(key, ttl=TTL) is None
    # A connection that is refused costs no node timeout (2 s).
    assert time.monotonic() - begun < 20 * 2.0
    assert nodes.free(key)


@three
async def test_a_client_made_while_a_minority_is_dead(fl: Ways, nodes: Masters) -> None:
    nodes.kill(*minority(nodes))
    client, key = quorum(fl, nodes.uris), fl.key()
    async with client.lock(key, ttl=TTL, timeout=5) as lease:
        assert nodes.held(key) == [lease.token.encode()] * len(majority(nodes))
    assert nodes.free(key)


@three
async def test_a_dead_server_that_is_back_votes_again(fl: Ways, nodes: Masters) -> None:
    client, key = quorum(fl, nodes.uris), fl.key()
    nodes.kill(0)
    assert await (await client.acquire(key, ttl=TTL)).release() is True
    nodes.start(0)
    end = time.monotonic() + 10
    while True:
        lease = await client.acquire(key, ttl=TTL, timeout=5)
        voted = nodes.held(key)[0] is not None
        assert await lease.release() is True
        if voted:
            break
        assert time.monotonic() < end, "it was left out for ever"
        await fl.sleep(0.02)
    assert nodes.free(key)


@three
async def test_a_silent_server_is_waited_for_once(fl: Ways, nodes: Masters) -> None:
    client, key = quorum(fl, nodes.uris, node_timeout=0.5), fl.key()
    assert await (await client.acquire(key, ttl=TTL)).release() is True
    nodes.freeze(0)
    begun = time.monotonic()
    for _ in range(20):
        lease = await client.acquire(key, ttl=TTL, timeout=5)
        assert await lease.release() is True
    assert time.monotonic() - begun < 10 * 0.5
    nodes.mend()
    await fl.until(lambda: nodes.free(key))


# ------------------------------------------------------------------ a majority is down


async def test_without_a_majority_an_acquire_fails_at_its_deadline(
    fl: Ways, nodes: Masters
) -> None:
    client, key = quorum(fl, nodes.uris, retry_timeout=30), fl.key()
    assert await (await client.acquire(key, ttl=TTL)).release() is True
    nodes.kill(*majority(nodes))
    begun = time.monotonic()
    with pytest.raises(fastlock.FastlockError) as caught:
        await client.acquire(key, ttl=TTL, timeout=0.5)
    assert 0.5 <= time.monotonic() - begun < 5
    assert type(caught.value) in (fastlock.TransportError, fastlock.OutcomeUnknown)
    await fl.until(lambda: nodes.free(key))
    with pytest.raises(fastlock.TransportError):
        await client.try_acquire(key, ttl=TTL)
    await fl.until(lambda: nodes.free(key))
    with pytest.raises(fastlock.TransportError):
        await client.locked(key)


async def test_an_acquire_goes_on_when_a_majority_is_back(fl: Ways, nodes: Masters) -> None:
    client, key = quorum(fl, nodes.uris, retry_timeout=30), fl.key()
    nodes.kill(*majority(nodes))
    waiting = fl.spawn(client.acquire(key, ttl=TTL, timeout=20))
    await fl.sleep(0.2)
    assert not waiting.done()
    nodes.mend()
    lease = await waiting
    assert lease.valid()
    assert await lease.release() is True


async def test_a_silent_majority_leaves_nothing_behind(fl: Ways, nodes: Masters) -> None:
    client, key = quorum(fl, nodes.uris, node_timeout=0.1), fl.key()
    assert await (await client.acquire(key, ttl=TTL)).release() is True
    nodes.freeze(*majority(nodes))
    with pytest.raises(fastlock.OutcomeUnknown):
        await client.acquire(key, ttl=TTL, timeout=0.3)
    await fl.until(lambda: nodes.free(key))
    nodes.mend()  # what had been written to them arrives now, and is taken back
    await fl.until(lambda: nodes.free(key), 10)
    lease = await client.acquire(key, ttl=TTL, timeout=10)
    assert await lease.release() is True


async def test_a_release_that_no_majority_heard_is_unknown(fl: Ways, nodes: Masters) -> None:
    client, key = quorum(fl, nodes.uris, node_timeout=0.1, retries=1), fl.key()
    lease = await client.acquire(key, ttl=TTL)
    nodes.freeze(*majority(nodes))
    with pytest.raises(fastlock.OutcomeUnknown):
        await lease.release()
    assert not lease.valid()
    assert nodes.free(key)
    nodes.mend()
    await fl.until(lambda: nodes.free(key), 10)
    assert await lease.release() is True  # what went unheard had freed it


async def test_an_extension_that_no_majority_heard_is_unknown(fl: Ways, nodes: Masters) -> None:
    client, key = quorum(fl, nodes.uris, node_timeout=0.1, retries=1), fl.key()
    lease = await client.acquire(key, ttl=TTL)
    nodes.freeze(*majority(nodes))
    with pytest.raises(fastlock.OutcomeUnknown):
        await lease.extend(10)
    assert lease.valid()
    assert lease.remaining() < 10  # the earliest that may have been left
    nodes.mend()
    await lease.extend(TTL)
    assert lease.remaining() > 20
    assert await lease.release() is True


@three
async def test_an_extension_within_the_validity_or_lost(fl: Ways, nodes: Masters) -> None:
    client, key = quorum(fl, nodes.uris, node_timeout=0.1), fl.key()
    lease = await client.acquire(key, ttl=0.4)
    nodes.freeze(*majority(nodes))
    with pytest.raises(fastlock.LockLost):
        await lease.extend(0.4)
    assert not lease.valid()
    assert lease.lost


# ------------------------------------------------------------------ it was not ours


async def test_a_majority_that_has_lost_it(fl: Ways, nodes: Masters) -> None:
    client, key = quorum(fl, nodes.uris), fl.key()
    lease = await client.acquire(key, ttl=TTL)
    for number in majority(nodes):
        nodes[number].admin.delete(key)
    with pytest.raises(fastlock.LockLost):
        await lease.extend(TTL)
    assert lease.lost
    assert not lease.valid()
    await fl.until(lambda: nodes.free(key))  # the others are not kept from the next
    assert await lease.release() is False
    lease = await client.acquire(key, ttl=TTL)
    for number in majority(nodes):
        nodes[number].admin.set(key, "somebody else")
    assert await lease.release() is False
    assert nodes.held(key) == [b"somebody else"] * len(majority(nodes)) + [None] * len(
        minority(nodes)
    )
    for node in nodes.all:
        node.admin.delete(key)


async def test_a_majority_is_enough(fl: Ways, nodes: Masters) -> None:
    client, key = quorum(fl, nodes.uris), fl.key()
    for number in minority(nodes):
        nodes[number].admin.set(key, "somebody else", px=60_000)
    lease = await client.acquire(key, ttl=TTL, timeout=5)
    await lease.extend(TTL)
    assert await lease.release() is True
    assert nodes.held(key) == [b"somebody else"] * len(minority(nodes)) + [None] * len(
        majority(nodes)
    )
    nodes[len(nodes) - 1].admin.set(key, "somebody else", px=60_000)
    assert await client.try_acquire(key, ttl=TTL) is None
    await fl.until(lambda: nodes.held(key).count(None) == len(minority(nodes)))
    for node in nodes.all:
        node.admin.delete(key)


async def test_a_server_that_refuses_is_no_vote(fl: Ways, nodes: Masters) -> None:
    client, key = quorum(fl, nodes.uris), fl.key()
    for number in minority(nodes):
        nodes[number].admin.hset(key, "a", "b")
    lease = await client.acquire(key, ttl=TTL, timeout=5)
    assert await lease.release() is True
    for number in majority(nodes):
        nodes[number].admin.config_set("maxmemory", "1")
        nodes[number].admin.config_set("maxmemory-policy", "noeviction")
    try:
        with pytest.raises(fastlock.ServerError, match="OOM"):
            await client.acquire(key, ttl=TTL, timeout=5)
    finally:
        for number in majority(nodes):
            nodes[number].admin.config_set("maxmemory", "0")
        for node in nodes.all:
            node.admin.delete(key)


@three
async def test_scripts_that_a_server_has_forgotten(fl: Ways, nodes: Masters) -> None:
    client, key = quorum(fl, nodes.uris), fl.key()
    for node in nodes.all:
        node.admin.script_flush()
    lease = await client.acquire(key, ttl=TTL)
    await lease.extend(TTL)
    for node in nodes.all:
        node.admin.script_flush()
    assert await lease.release() is True
    assert nodes.free(key)


# ------------------------------------------------------------------ what makes no quorum


@three
@pytest.mark.parametrize("count", [0, 1, 2, 4])
async def test_an_odd_number_from_three_on(fl: Ways, count: int) -> None:
    uris = [f"redis://localhost:{7000 + number}" for number in range(count)]
    with pytest.raises(ConfigError, match="odd number"):
        quorum(fl, uris)


@three
async def test_no_server_twice(fl: Ways, nodes: Masters) -> None:
    first, second = nodes.uris[:2]
    for twin in (first, f"{first}/5", fastlock.Config(first)):
        with pytest.raises(ConfigError, match="twice"):
            quorum(fl, [first, second, twin])
    for several in ("redis+cluster://h:7000", "redis+sentinel://h:26379/main"):
        with pytest.raises(ConfigError, match="is not one server"):
            quorum(fl, [first, second, several])
    for wrong in (first, None, [first, second, None], 5):
        with pytest.raises(ConfigError):
            quorum(fl, wrong)
    with pytest.raises(ConfigError, match="node_timeout"):
        quorum(fl, nodes.uris, node_timeout=0)


@three
async def test_one_server_under_two_names_is_found_out(fl: Ways, nodes: Masters) -> None:
    uris = [nodes.uris[0], f"redis://127.0.0.1:{nodes[0].port}", nodes.uris[1]]
    client, key = quorum(fl, uris), fl.key()
    for _ in range(2):
        with pytest.raises(ConfigError, match="same server"):
            await client.try_acquire(key, ttl=TTL)
    assert nodes.free(key)


@three
async def test_what_servers_cannot_give_together(fl: Ways, nodes: Masters) -> None:
    client, key = quorum(fl, nodes.uris), fl.key()
    with pytest.raises(ConfigError, match="common counter"):
        await client.acquire(key, ttl=TTL, fence=True)
    with pytest.raises(ConfigError, match="common queue"):
        await client.acquire(key, ttl=TTL, fair=True)
    assert nodes.free(key)


@three
async def test_secrets_are_not_shown(fl: Ways, nodes: Masters) -> None:
    uris = [f"redis://me:secret@localhost:{7000 + number}" for number in range(3)]
    client = quorum(fl, uris)
    assert "secret" not in repr(client)
    assert "localhost:7002" in repr(client)
    lease = await quorum(fl, nodes.uris).acquire(fl.key(), ttl=TTL)
    assert lease.token[:22] not in repr(lease)
    assert await lease.release() is True


@three
async def test_each_server_has_a_prefix_of_its_own(fl: Ways, nodes: Masters) -> None:
    configs = [fastlock.Config(uri, prefix=f"{n}:") for n, uri in enumerate(nodes.uris)]
    client, key = quorum(fl, configs), fl.key()
    async with client.lock(key, ttl=TTL) as lease:
        for number, node in enumerate(nodes.all):
            assert node.admin.get(f"{number}:{key}") == lease.token.encode()
    assert await client.locked(key) is False


@three
async def test_a_closed_client_says_so(fl: Ways, nodes: Masters) -> None:
    client, key = quorum(fl, nodes.uris), fl.key()
    lease = await client.acquire(key, ttl=TTL)
    await client.close()
    assert client.closed
    for call in (client.try_acquire(key, ttl=TTL), lease.release(), client.locked(key)):
        with pytest.raises(fastlock.FastlockError, match="closed"):
            await call
    for node in nodes.all:
        node.admin.delete(key)


@three
@sync_only
async def test_threads_share_one_connection_to_each(fl: Ways, nodes: Masters) -> None:
    name = f"q-{fl.key()}".replace(":", "-")
    client = quorum(fl, nodes.uris, client_name=name, node_timeout=5.0)

    async def pairs(number: int) -> int:
        freed = 0
        for turn in range(25):
            lease = await client.try_acquire(f"{fl._name}:{number}:{turn}", ttl=TTL)
            freed += await lease.release()
        return freed

    assert await fl.together([pairs(number) for number in range(8)]) == [25] * 8
    for node in nodes.all:
        assert [one["name"] for one in node.admin.client_list()].count(name) == 1


@three
@async_only
async def test_tasks_at_once(fl: Ways, nodes: Masters) -> None:
    client = quorum(fl, nodes.uris, node_timeout=5.0)

    async def pair(number: int) -> bool:
        lease = await client.try_acquire(f"{fl._name}:{number}", ttl=TTL)
        return bool(await lease.release())

    assert await fl.together([pair(number) for number in range(200)]) == [True] * 200


@three
async def test_a_password_that_most_refuse_is_told_at_once(fl: Ways, nodes: Masters) -> None:
    def of(*wrong: int) -> list[str]:
        return [
            f"redis://:wrong@localhost:{node.port}" if number in wrong else node.uri
            for number, node in enumerate(nodes.all)
        ]

    key = fl.key()
    for node in nodes.all:
        node.admin.config_set("requirepass", "right")
        node.admin.execute_command("AUTH", "right")
    try:
        begun = time.monotonic()
        with pytest.raises(fastlock.ServerError, match="password"):
            await quorum(fl, of(0, 1)).acquire(key, ttl=TTL, timeout=20)
        assert time.monotonic() - begun < 10
    finally:
        for node in nodes.all:
            node.admin.config_set("requirepass", "")
    user = ("ACL", "SETUSER", "someone", "on", ">right", "~*", "&*", "+@all", "-delifeq")
    nodes[0].admin.execute_command(*user[: None if nodes[0].kind == "valkey" else -1])
    uris = [f"redis://someone:right@localhost:{nodes[0].port}", *nodes.uris[1:]]
    client = quorum(fl, uris)
    for _ in range(2):  # a script stands for the command that this user may not use
        lease = await client.acquire(key, ttl=TTL, timeout=5)
        assert nodes.held(key) == [lease.token.encode()] * 3
        assert await lease.release() is True
        assert nodes.free(key)
    nodes[0].admin.execute_command("ACL", "DELUSER", "someone")
