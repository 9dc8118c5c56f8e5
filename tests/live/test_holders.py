"""Who holds a lock: holder, locked, force_release, adopt; and what is never shown."""

from __future__ import annotations

import os
import socket

import _servers
import pytest
from _harness import Ways, one_server, remaining_at_most

import fastlock


async def test_the_holder_s_label_is_shown(fl: Ways) -> None:
    key = fl.key()
    client = fl.client()
    assert await client.holder(key) is None
    async with client.lock(key, ttl=5):
        assert await client.holder(key) == f"{socket.gethostname()}:{os.getpid()}"
    named = fl.client(label="report/ü.ß")
    async with named.lock(key, ttl=5):
        assert await client.holder(key) == "report/ü.ß"


async def test_another_library_s_holder_is_unknown(fl: Ways) -> None:
    client, key = fl.client(), fl.key()
    for token in (b"0123456789abcdef", b"secret.with.dots", b"\xff\x00"):
        fl.admin.set(key, token, px=5000)
        assert await client.holder(key) == "unknown"
        assert await client.locked(key) is True
    fl.admin.delete(key)


async def test_force_release_frees_whoever_holds_it(fl: Ways) -> None:
    client, other, key = fl.client(), fl.client(), fl.key()
    lease = await other.acquire(key, ttl=5)
    assert await client.force_release(key) is True
    assert await client.force_release(key) is False
    assert await client.locked(key) is False
    assert await lease.release() is False


async def test_force_release_leaves_alone_what_is_no_lock(fl: Ways) -> None:
    client, key = fl.client(), fl.key()
    fl.admin.rpush(key, "somebody's data")
    with pytest.raises(fastlock.ServerError, match="WRONGTYPE") as caught:
        await client.force_release(key)
    assert repr(key) in str(caught.value)
    assert fl.admin.lrange(key, 0, -1) == [b"somebody's data"]
    fl.admin.delete(key)
    fl.admin.set(key, "")  # nobody's token, but nobody gets the lock either
    assert await client.force_release(key) is True
    assert not fl.admin.exists(key)


# ------------------------------------------------------------------ adopt


async def test_adopt_takes_over_a_lease(fl: Ways) -> None:
    giver, taker, key = fl.client(), fl.client(), fl.key()
    given = await giver.acquire(key, ttl=5)
    lease = await taker.adopt(key, given.token)
    assert (lease.key, lease.token) == (key, given.token)
    remaining_at_most(fl, lease, key)
    assert 4 < lease.ttl <= 5
    await lease.extend(20)
    assert 19_000 < fl.admin.pttl(key) <= 20_000
    assert await lease.release() is True
    assert await given.release() is False


@pytest.mark.parametrize("state", ["free", "held", "another token"])
async def test_adopt_of_what_is_not_held_is_lock_lost(fl: Ways, state: str) -> None:
    client, key = fl.client(), fl.key()
    lease = await client.acquire(key, ttl=5)
    token = lease.token
    await lease.release()
    if state == "held":
        await client.acquire(key, ttl=5)
    elif state == "another token":
        fl.admin.set(key, token + "x", px=5000)
    with pytest.raises(fastlock.LockLost) as caught:
        await client.adopt(key, token)
    assert caught.value.key == key
    assert token not in str(caught.value)
    fl.admin.delete(key)


async def test_adopt_of_a_lock_without_ttl_does_not_end_by_itself(fl: Ways) -> None:
    client, key = fl.client(), fl.key()
    fl.admin.set(key, "redis-py's own token")
    lease = await client.adopt(key, "redis-py's own token")
    assert lease.valid()
    assert lease.remaining() == float("inf")
    assert fl.admin.ttl(key) == -1
    assert await lease.release() is True


@one_server
@pytest.mark.parametrize("token", ["", None, 7, b"bytes"])
async def test_adopt_refuses_what_is_no_token(fl: Ways, token: object) -> None:
    with pytest.raises(fastlock.ConfigError, match="token"):
        await fl.client().adopt(fl.key(), token)


# ------------------------------------------------------------------ secrets


@one_server
async def test_nothing_printed_holds_a_token_or_a_password(fl: Ways) -> None:
    client, key = fl.client(password=None), fl.key()
    lease = await client.acquire(key, ttl=5)
    spec = client.lock(key, ttl=5, timeout=0)
    secret = lease.token.partition(".")[0]
    errors: list[BaseException] = []
    for attempt in (
        lambda: client.acquire(key, timeout=0),
        lambda: client.adopt(key, "wrong"),
        lambda: spec.acquire(timeout=-2),
    ):
        with pytest.raises(Exception) as caught:  # noqa: PT011
            await attempt()
        errors.append(caught.value)
    things = [client, client.config, lease, spec, await client.server(), *errors]
    for text in [form(thing) for thing in things for form in (repr, str)]:
        assert secret not in text
    fl.admin.delete(key)
    with pytest.raises(fastlock.LockLost) as lost:
        await lease.extend()
    assert secret not in repr(lost.value)


@one_server
async def test_reprs_tell_what_a_person_needs(fl: Ways) -> None:
    client, key = fl.client(), fl.key()
    assert client.core == fl.core
    assert f"core={fl.core}" in repr(client)
    assert client.config.address in repr(client)
    lease = await client.acquire(key, ttl=5)
    assert key in repr(lease)
    assert "left" in repr(lease)
    await lease.release()
    assert "over" in repr(lease)
    assert key in repr(client.lock(key))


@one_server
async def test_a_server_that_repeats_what_was_sent_shows_no_token(fl: Ways) -> None:
    """Without scripts and without a native command the release fails, and tells no secret."""
    if _servers.binary_of("redis") is None:
        pytest.skip("redis-server is not installed")
    server = _servers.Server("redis")
    server.command += ["--rename-command", "EVAL", "", "--rename-command", "EVALSHA", ""]
    try:
        server.stop()
        server.start()
        client = fl.client(server.uri)
        lease = await client.acquire(fl.key(), ttl=5)
        with pytest.raises(fastlock.ServerError, match="unknown command") as caught:
            await lease.release()
        assert lease.token not in str(caught.value) + repr(caught.value)
        assert lease.key in str(caught.value)
        await client.close()
    finally:
        server.discard()
