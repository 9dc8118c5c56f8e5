"""Bad input is refused at the door: the same error on every way, and nothing is sent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from _harness import Ways, one_server

import fastlock

pytestmark = one_server

NAN, INFINITE = float("nan"), float("inf")
TTLS = [0, 0.0, -1, 0.009, NAN, INFINITE, -INFINITE, 1e12, 10**400, True, "5", None, b"5", [5]]
TIMEOUTS = [-1, -0.001, NAN, INFINITE, 1e12, True, "5", [5]]
KEYS: list[Any] = ["", b"", 7, None, 1.5, b"k" * 65537, "ü" * 32769, ["k"], bytearray(b"k")]
KEYS.append("\ud800")  # has no UTF-8 form
TTL_TEXT = "ttl: {!r} is not a number of seconds from 0.01 to 10 years"
TIMEOUT_TEXT = "timeout: {!r} is neither None nor a number of seconds from 0 to 10 years"


async def refused(call: Callable[[], Any]) -> fastlock.ConfigError:
    with pytest.raises(fastlock.ConfigError) as caught:
        made = call()
        if hasattr(made, "__await__"):
            await made
    assert isinstance(caught.value, ValueError)
    return caught.value


@pytest.mark.parametrize("ttl", TTLS, ids=repr)
async def test_ttl(fl: Ways, ttl: Any) -> None:
    client, key = fl.client(), fl.key()
    for call in (
        lambda: client.try_acquire(key, ttl=ttl),
        lambda: client.acquire(key, ttl=ttl),
        lambda: client.lock(key, ttl=ttl),
        lambda: client.try_acquire_many([key], ttl=ttl),
        lambda: client.lock_all([key], ttl=ttl),
    ):
        error = await refused(call)
        assert error.field == "ttl"
        assert str(error) == TTL_TEXT.format(ttl)
    assert fl.admin.exists(key) == 0


@pytest.mark.parametrize("timeout", TIMEOUTS, ids=repr)
async def test_timeout(fl: Ways, timeout: Any) -> None:
    client, key = fl.client(), fl.key()
    for call in (
        lambda: client.acquire(key, timeout=timeout),
        lambda: client.lock(key, timeout=timeout),
        lambda: client.lock_all([key], timeout=timeout),
    ):
        error = await refused(call)
        assert error.field == "timeout"
        assert str(error) == TIMEOUT_TEXT.format(timeout)
    assert fl.admin.exists(key) == 0


@pytest.mark.parametrize("key", KEYS, ids=lambda key: f"{type(key).__name__}-{repr(key)[:6]}")
async def test_key(fl: Ways, key: Any) -> None:
    client = fl.client()
    texts = set()
    for call in (
        lambda: client.try_acquire(key),
        lambda: client.acquire(key),
        lambda: client.lock(key),
        lambda: client.try_acquire_many([key]),
        lambda: client.lock_all([key]),
        lambda: client.locked(key),
        lambda: client.holder(key),
        lambda: client.force_release(key),
        lambda: client.adopt(key, "token"),
    ):
        error = await refused(call)
        assert error.field == "key"
        assert len(str(error)) < 200_000
        texts.add(str(error))
    assert len(texts) == 1


async def test_the_prefix_counts_as_part_of_the_key(fl: Ways) -> None:
    client = fl.client(prefix="p" * 100)
    error = await refused(lambda: client.try_acquire("k" * 65500))
    assert str(error) == "key: it has 65600 bytes; a key has 1 byte to 64 KiB"


async def test_too_many_keys(fl: Ways) -> None:
    client = fl.client()
    keys = ["k"] * (10**6 + 1)
    error = await refused(lambda: client.try_acquire_many(keys))
    assert error.field == "keys"
    assert "10**6" in str(error)


@pytest.mark.parametrize("keys", ["abc", b"abc", None, 7], ids=repr)
async def test_one_key_is_not_a_list_of_letters(fl: Ways, keys: Any) -> None:
    client = fl.client()
    for call in (lambda: client.try_acquire_many(keys), lambda: client.lock_all(keys)):
        assert (await refused(call)).field == "keys"


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"host": "localhost", "port": 70000}, "port"),
        ({"host": "localhost", "port": 0}, "port"),
        ({"host": "localhost", "prot": 6379}, "prot"),
        ({"retries": -1}, "retries"),
        ({"retry_timeout": 0}, "retry_timeout"),
        ({"socket_timeout": NAN}, "socket_timeout"),
        ({"protocol": 4}, "protocol"),
        ({"label": "two words"}, "label"),
        ({"host": "a", "unix_socket": "/b"}, "host"),
    ],
)
async def test_options(fl: Ways, options: dict[str, Any], field: str) -> None:
    with pytest.raises(fastlock.ConfigError) as caught:
        fl.client_class(**options)
    assert caught.value.field == field
    assert str(caught.value).startswith(f"{field}: ")


@pytest.mark.parametrize("uri", ["http://localhost", "localhost:6379", "", "redis://h:70000"])
async def test_uris(fl: Ways, uri: str) -> None:
    with pytest.raises(fastlock.ConfigError):
        fl.client_class(uri)


async def test_a_redis_client_is_pointed_to_from_redis(fl: Ways) -> None:
    with pytest.raises(fastlock.ConfigError, match="from_redis"):
        fl.client_class(fl.admin)


async def test_a_client_made_of_nonsense_leaves_nothing_open(fl: Ways) -> None:
    """And one that was never used closes quietly."""
    client = fl.client("redis://nowhere.invalid:1")
    await client.close()
    await client.close()
