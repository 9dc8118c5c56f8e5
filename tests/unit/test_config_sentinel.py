"""Settings of a master that Sentinels name, from every source.

Law: as of ``test_config.py``: what is wrong is refused by name, and no secret is shown.
"""

from __future__ import annotations

import pickle
from typing import Any

import pytest
import redis.asyncio.sentinel
import redis.sentinel

from fastlock import Client
from fastlock.config import Config
from fastlock.errors import ConfigError

SECRET = "s3same"
URI = "redis+sentinel://h1:26379,h2:26380/main/3"
SAME: dict[str, Any] = {"sentinels": ["h1", "h2:26380"], "service": "main", "db": 3}


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        (URI, SAME),
        (URI, {**SAME, "sentinels": ("h1:26379", "h2:26380")}),
        (URI, {**SAME, "sentinels": "h1, h2:26380"}),
        ("redis+sentinel://h1,h2:26380/main/3", SAME),
        ("redis+sentinel://h/main", {"sentinels": "h:26379", "service": "main", "db": 0}),
        (
            f"rediss+sentinel://bob:{SECRET}@[::1]:7,h/a.b-c_1?retries=9&sentinel_username=eve",
            {
                "sentinels": ["[::1]:7", "h"],
                "service": "a.b-c_1",
                "ssl": True,
                "username": "bob",
                "password": SECRET,
                "retries": 9,
                "sentinel_username": "eve",
            },
        ),
    ],
)
def test_a_uri_says_what_settings_say(uri: str, expected: dict[str, Any]) -> None:
    assert Config(uri) == Config(**expected)
    assert hash(Config(uri)) == hash(Config(**expected))


def test_every_other_source() -> None:
    assert Config.from_env(
        {"FASTLOCK_SENTINELS": "h1,h2:26380", "FASTLOCK_SERVICE": "main", "FASTLOCK_DB": "3"}
    ) == Config(URI)
    assert Config.from_env({"FASTLOCK_URL": URI}) == Config(URI)
    mapping = {"sentinels": ["h1", "h2:26380"], "service": "main", "db": "3"}
    assert Config.from_mapping(mapping) == Config(URI)
    assert Config.from_mapping({"connection": mapping}) == Config(URI)
    assert Config.from_mapping({"connections": {"a": {"db": 1}, "b": mapping}}) == Config(URI)
    assert Config.from_mapping({**mapping, "sentinels": "h1,h2:26380"}) == Config(URI)
    assert Config("redis+sentinel://h1,h2:26380/main", db=3, service="main") == Config(URI)


@pytest.mark.parametrize("home", [redis.sentinel, redis.asyncio.sentinel])
def test_a_redis_py_client_of_a_master(home: Any) -> None:
    asked = {"username": "eve", "password": SECRET}
    theirs = home.Sentinel([("h1", 26379), ("h2", 26380)], sentinel_kwargs=asked)
    config = Config.from_redis(theirs.master_for("main", db=3, username="bob", password="x"))
    assert config == Config(
        URI, username="bob", password="x", sentinel_username="eve", sentinel_password=SECRET
    )
    assert Client.from_redis(theirs.master_for("main", db=3)).config.service == "main"
    secured = home.Sentinel([("h", 1)], sentinel_kwargs={"ssl": True})
    assert Config.from_redis(secured.master_for("main", ssl=True)).address == (
        "rediss+sentinel://h:1/main/0"
    )


@pytest.mark.parametrize("home", [redis.sentinel, redis.asyncio.sentinel])
def test_what_cannot_be_taken_over(home: Any) -> None:
    one = [("h", 1)]
    for client, word in (
        (home.Sentinel(one).slave_for("main"), "master_for(), not slave_for()"),
        (home.Sentinel(one).master_for("main", ssl=True), "the same for the Sentinels"),
        (home.Sentinel(one, min_other_sentinels=1).master_for("main"), "cannot be taken over"),
        (home.Sentinel(one, force_master_ip="x").master_for("main"), "cannot be taken over"),
    ):
        with pytest.raises(ConfigError) as caught:
            Config.from_redis(client)
        assert word in str(caught.value)
    theirs = home.Sentinel([("h", 1), ("h", 2)])
    theirs.sentinels[1].connection_pool.connection_kwargs["password"] = SECRET
    with pytest.raises(ConfigError, match="sentinel_password: differs") as caught:
        Config.from_redis(theirs.master_for("main"))
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "field", "word"),
    [
        ({"sentinels": "h"}, "service", "is missing: the name by which the Sentinels know"),
        ({"service": "main"}, "service", "needs sentinels"),
        ({"sentinel_username": "eve"}, "sentinel_username", "needs sentinels"),
        ({"sentinel_password": SECRET}, "sentinel_password", "needs sentinels"),
        ({**SAME, "host": "h"}, "host", "contradicts sentinels"),
        ({**SAME, "port": 6379}, "port", "contradicts sentinels"),
        ({**SAME, "unix_socket": "/s"}, "unix_socket", "contradicts sentinels"),
        ({**SAME, "cluster": "h:7000"}, "cluster", "contradicts sentinels"),
        ({"sentinels": []}, "sentinels", "must not be empty"),
        ({"sentinels": ""}, "sentinels", "names no host"),
        ({"sentinels": "h,,g"}, "sentinels", "names no host"),
        ({"sentinels": ":26379"}, "sentinels", "names no host"),
        ({"sentinels": 26379}, "sentinels", "must be a list of 'host:port', or text with commas"),
        ({"sentinels": [("h", 1)]}, "sentinels", "('h', 1) must be text such as 'host:26379'"),
        ({"sentinels": "h:0"}, "sentinels", "the port of 'h' must be a number from 1 to 65535"),
        ({"sentinels": f"h:{SECRET}"}, "sentinels", "must be a number from 1 to 65535"),
        ({"sentinels": f"bob:{SECRET}@h"}, "sentinels", "must be a number"),
        ({"sentinels": f"u:{SECRET}@h:26379"}, "sentinels", "[address]:port"),
        ({"sentinels": "::1"}, "sentinels", "write an IPv6 address as [address]:port"),
        ({"sentinels": "[zz::]:1"}, "sentinels", "is no name and no IPv6 address"),
        ({"sentinels": "h,h:26379"}, "sentinels", "'h:26379' is given twice"),
        ({"sentinels": ["h"] * 101}, "sentinels", "are more than 100"),
        ({**SAME, "service": "a b"}, "service", "whitespace"),
        ({**SAME, "service": "a/b"}, "service", "'a/b' is no name that a master can have"),
        ({**SAME, "service": ""}, "service", "must not be empty"),
        ({**SAME, "sentinel_password": ""}, "sentinel_password", "must not be empty"),
        ({"uri": "redis+sentinel:///main"}, "sentinels", "are missing; write redis+sentinel://"),
        ({"uri": "redis+sentinel://h"}, "service", "is missing"),
        ({"uri": "redis+sentinel://h/main/x"}, "db", "'x' in the uri must be a whole number"),
        ({"uri": URI, "service": "other"}, "service", "'main' and 'other'; keep one"),
        ({"uri": "redis://h?service=main"}, "service", "cannot be given in a uri's query"),
        ({"uri": "redis://h?sentinels=h"}, "sentinels", "cannot be given in a uri's query"),
        ({"uri": f"{URI}?sentinel_password={SECRET}"}, "sentinel_password", "cannot be given"),
        ({"uri": "redis://h", "master_name": "x"}, "master_name", "here it is called service"),
    ],
)
def test_what_is_wrong_is_refused(settings: dict[str, Any], field: str, word: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Config(**settings)
    assert caught.value.field == field
    assert word in str(caught.value)
    assert SECRET not in str(caught.value)


def test_nothing_printed_or_pickled_holds_a_secret() -> None:
    config = Config(URI, sentinel_username="eve", sentinel_password=SECRET)
    assert repr(config) == f"Config({URI}, sentinel_username='eve', sentinel_password=***)"
    assert config.address == URI
    assert SECRET not in str(config.public())
    assert Config(**config.public(), sentinel_password=SECRET) == config
    with pytest.raises(TypeError, match="holds sentinel_password is not pickled"):
        pickle.dumps(config)
    bare = config.replace(sentinel_password=None)
    assert pickle.loads(pickle.dumps(bare)) == bare
    assert bare.sentinels == ("h1:26379", "h2:26380")
