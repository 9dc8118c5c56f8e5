"""Config: what is accepted, what is refused and in which words.

Law: every refusal names its field and says what would be right; no secret is ever shown.
"""

from __future__ import annotations

import copy
import dataclasses
import inspect
import math
import pickle
import re
from pathlib import Path
from typing import Any, get_type_hints

import pytest

import fastlock
import fastlock.aio
from fastlock._config_fields import FIELDS
from fastlock.config import Config, Options, Settings
from fastlock.errors import ConfigError

SECRET = "s3sam-Xq"
PEM = "-----BEGIN CERTIFICATE-----\nMA==\n-----END CERTIFICATE-----\n"


class Provider:
    def get_credentials(self) -> tuple[str, str]:
        return "user", SECRET


def refused(field: str, *words: str, **settings: Any) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        Config(**settings)
    assert caught.value.field == field, caught.value
    for word in words:
        assert word in str(caught.value)
    assert SECRET not in repr(caught.value)
    return caught.value


def test_the_defaults_are_those_of_the_table() -> None:
    config = Config()
    assert {name: getattr(config, name) for name in FIELDS} == {
        name: field.default for name, field in FIELDS.items()
    }
    assert (config.host, config.port, config.db, config.retry_timeout) == (
        "localhost",
        6379,
        0,
        100,
    )
    assert config.uri is None
    assert config.address == "redis://localhost:6379/0"


def test_the_class_and_the_table_have_the_same_settings() -> None:
    names = [field.name for field in dataclasses.fields(Config)]
    assert names == ["uri", *FIELDS]
    parameters = inspect.signature(Config).parameters
    assert list(parameters) == names
    assert {n: repr(p.default) for n, p in parameters.items() if n != "uri"} == {
        name: repr(field.default) for name, field in FIELDS.items()
    }


def test_type_checkers_are_told_of_the_same_settings() -> None:
    told = {name: ref.__forward_arg__ for name, ref in Options.__annotations__.items()}
    annotations = {f.name: f.type for f in dataclasses.fields(Config)}
    assert told == annotations
    assert set(Settings.__annotations__) == set(FIELDS)
    assert not Options.__required_keys__


def test_annotations_can_be_read_when_a_program_runs() -> None:
    """Documentation tools and frameworks do."""
    for client in (fastlock.Client, fastlock.aio.Client, fastlock.QuorumClient):
        assert "options" in get_type_hints(client.__init__)
        assert "on_lost" in get_type_hints(client.lock)
    for maker in (Config.replace, Config.from_url, fastlock.Client.from_redis):
        assert "options" in get_type_hints(maker)


def test_it_never_changes() -> None:
    config = Config()
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.port = 1  # type: ignore[misc]
    assert not hasattr(config, "__dict__")


@pytest.mark.parametrize(
    ("field", "value", "word"),
    [
        ("port", 70000, "70000 must be from 1 to 65535"),
        ("port", 0, "0 must be from 1 to 65535"),
        ("port", "abc", "'abc' must be a whole number (int) from 1 to 65535"),
        ("port", "6379", "'6379' must be a whole number (int)"),
        ("port", True, "True must be a whole number"),
        ("port", None, "None must be a whole number"),
        ("db", -1, "-1 must be from 0"),
        ("db", 2**31, "must be from 0 to 2147483647"),
        ("db", 1.0, "1.0 must be a whole number"),
        ("host", "", "must not be empty"),
        ("host", None, "must be text (str), not NoneType"),
        ("host", b"localhost", "must be text (str), not bytes"),
        ("host", "a b", "contains whitespace"),
        ("host", "a\n", "control characters"),
        ("host", "localhost:6379", "a port goes into port"),
        ("host", f"redis://:{SECRET}@h", "a whole uri goes into uri"),
        ("host", "x" * 256, "longer than 255 bytes"),
        ("host", "x" * 64, "no name of a host"),
        ("host", "a..b", "no name of a host"),
        ("host", "ä" * 63, "no name of a host"),
        ("host", "a%b", "no name of a host"),
        ("unix_socket", "", "must not be empty"),
        ("unix_socket", "\0abstract", "NUL"),
        ("unix_socket", "/" + "x" * 107, "longer than 107 bytes"),
        ("username", "", "must not be empty"),
        ("username", "a b", "contains whitespace"),
        ("password", "", "must not be empty"),
        ("password", SECRET.encode(), "must be text (str), not bytes"),
        ("password", 12345, "must be text (str), not int"),
        ("password", "\udc80" + SECRET, "UTF-8"),
        ("credential_provider", "vault", "str has no get_credentials()"),
        ("ssl", "yes", "'yes' must be True or False"),
        ("ssl", 1, "1 must be True or False"),
        ("socket_timeout", 0, "0 must be over 0 and at most 86400 seconds"),
        ("socket_timeout", -1, "-1 must be over 0"),
        ("socket_timeout", math.nan, "nan must be over 0"),
        ("socket_timeout", math.inf, "inf must be over 0"),
        ("socket_timeout", True, "True must be a number of seconds"),
        ("socket_timeout", None, "None must be a number of seconds"),
        ("socket_timeout", 10**400, "at most 86400 seconds"),
        ("connect_timeout", -0.5, "-0.5 must be over 0"),
        ("connect_timeout", "2", "'2' must be a number of seconds"),
        ("client_name", "a b", "contains whitespace"),
        ("client_name", "é", "must be ASCII"),
        ("protocol", 4, "4 must be from 2 to 3"),
        ("protocol", "3", "'3' must be a whole number"),
        ("prefix", b"x", "must be text (str), not bytes"),
        ("prefix", "a\tb", "control characters"),
        ("prefix", None, "must be text (str), not NoneType"),
        ("prefix", "é" * 513, "longer than 1024 bytes"),
        ("label", 5, "must be text (str), not int"),
        ("label", "", "must not be empty"),
        ("label", "a b", "'a b' contains whitespace"),
        ("label", "a\u00a0b", "control characters"),
        ("label", "a\x7f", "control characters"),
        ("label", "x" * 101, "longer than 100 bytes"),
        ("retry_timeout", 0, "0 must be over 0 and at most 3600000 milliseconds"),
        ("retry_timeout", -1, "-1 must be over 0"),
        ("retry_timeout", math.nan, "nan must be over 0"),
        ("retry_timeout", "100", "'100' must be a number of milliseconds"),
        ("retries", -1, "-1 must be from 0 to 1000"),
        ("retries", 1.5, "1.5 must be a whole number"),
        ("retries", False, "False must be a whole number"),
    ],
)
def test_a_wrong_value_is_refused_by_name(field: str, value: Any, word: str) -> None:
    refused(field, word, **{field: value})


@pytest.mark.parametrize(
    ("field", "value", "word"),
    [
        ("ssl_min_version", "TLSv1.1", "'TLSv1.1' must be 'TLSv1.2' or 'TLSv1.3'"),
        ("ssl_min_version", 771, "771 must be 'TLSv1.2' or 'TLSv1.3'"),
        ("ssl_verify", "none", "'none' must be True or False"),
        ("ssl_ca_data", "/etc/ca.pem", "a file's path goes into ssl_ca_certs"),
        ("ssl_ca_certs", "", "must not be empty"),
        ("ssl_ca_certs", PEM.encode(), "must be text (str), not bytes"),
        ("ssl_keyfile_password", "", "must not be empty"),
    ],
)
def test_a_wrong_tls_value_is_refused_by_name(field: str, value: Any, word: str) -> None:
    refused(field, word, ssl=True, **{field: value})


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("hots", "did you mean host?"),
        ("retrys", "did you mean retries or metrics?"),
        ("socket_connect_timeout", "here it is called connect_timeout"),
        ("url", "here it is called uri"),
        ("ssl_cert_reqs", "here it is called ssl_verify"),
        ("zzz", "there are client_name, cluster, connect_timeout,"),
    ],
)
def test_an_unknown_setting_is_refused_with_what_exists(name: str, hint: str) -> None:
    refused(name, "unknown setting", hint, **{name: SECRET})
    for source in (None, "redis://h", Config()):
        with pytest.raises(ConfigError, match=re.escape(hint)) as caught:
            Config.of(source, {name: SECRET})
        assert caught.value.field == name


@pytest.mark.parametrize(
    ("field", "settings"),
    [
        ("host", {"unix_socket": "/s", "host": "localhost"}),
        ("port", {"unix_socket": "/s", "port": 6379}),
        ("ssl", {"unix_socket": "/s", "ssl": True}),
        ("username", {"credential_provider": Provider(), "username": "u"}),
        ("password", {"credential_provider": Provider(), "password": SECRET}),
        ("ssl_ca_certs", {"ssl_ca_certs": "/ca"}),
        ("ssl_ca_certs", {"ssl": False, "ssl_ca_certs": "/ca"}),
        ("ssl_verify", {"ssl_verify": True}),
        ("ssl_check_hostname", {"ssl_check_hostname": True}),
        ("ssl_min_version", {"ssl_min_version": "TLSv1.3"}),
        ("ssl_keyfile", {"ssl": True, "ssl_keyfile": "/key"}),
        ("ssl_keyfile_password", {"ssl": True, "ssl_keyfile_password": SECRET}),
        ("ssl_check_hostname", {"ssl": True, "ssl_verify": False, "ssl_check_hostname": True}),
        ("ssl_ca_certs", {"ssl": True, "ssl_verify": False, "ssl_ca_certs": "/ca"}),
        ("ssl_ca_data", {"ssl": True, "ssl_verify": False, "ssl_ca_data": PEM}),
    ],
)
def test_contradictions_are_refused(field: str, settings: dict[str, Any]) -> None:
    refused(field, **settings)


def test_what_is_right_is_accepted() -> None:
    config = Config(
        host="[::1]",
        port=1,
        db=15,
        username="käthe",
        password=SECRET,
        ssl=True,
        ssl_certfile="/both.pem",  # certificate and key in one file
        ssl_ca_path=Path("/etc/ssl/certs"),  # type: ignore[arg-type]
        ssl_min_version="TLSv1.3",
        socket_timeout=1,
        connect_timeout=0.25,
        protocol=2,
        prefix="my app: ",
        label="node-7/worker:42",
        client_name="orders@node-7",
        retry_timeout=0.5,
        retries=0,
    )
    assert config.host == "::1"
    assert config.address == "rediss://[::1]:1/15"
    assert config.ssl_ca_path == "/etc/ssl/certs"
    assert config.socket_timeout == 1.0
    assert isinstance(config.socket_timeout, float)
    assert isinstance(Config(retry_timeout=100).retry_timeout, int)
    assert Config(ssl=True, ssl_verify=False).ssl_check_hostname is False
    assert Config("redis://[fe80::1%25eth0]").host == "fe80::1%eth0"
    assert Config(host="bücher.example.").host == "bücher.example."
    assert Config(host="fe80::1%eth0").address == "redis://[fe80::1%25eth0]:6379/0"
    assert Config(unix_socket="/run/a b.sock", db=2).address == "unix:///run/a%20b.sock?db=2"


def test_secrets_are_never_shown() -> None:
    provider = Provider()
    for config in (
        Config(f"redis://bob:{SECRET}@h"),
        Config(host="h", password=SECRET, username="bob", label="x"),
        Config(ssl=True, ssl_certfile="/c", ssl_keyfile_password=SECRET),
        Config(f"unix:///s?password={SECRET}"),
        Config(credential_provider=provider),
    ):
        for text in (repr(config), str(config), f"{config}", config.address, str(config.uri)):
            assert SECRET not in text
            assert "s3sam" not in text
            assert repr(provider) not in text
        assert "***" in repr(config)
        public = config.public()
        assert not {"password", "ssl_keyfile_password", "credential_provider"} & set(public)
        assert "s3sam" not in repr(public)
        with pytest.raises(TypeError, match=r"public\(\).*from_env") as caught:
            pickle.dumps(config)
        assert "s3sam" not in str(caught.value)
    assert repr(Config(host="h", username="bob", password=SECRET, retries=5)) == (
        "Config(redis://h:6379/0, username='bob', retries=5, password=***)"
    )


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"uri": "redis://bob@h:7/3?label=x&retries=0"},
        {"uri": "rediss://h", "ssl_ca_certs": "/ca", "ssl_check_hostname": False},
        {"ssl": True, "ssl_verify": False},
        {"unix_socket": "/s", "db": 4, "prefix": "p:"},
    ],
)
def test_the_public_part_makes_it_again(settings: dict[str, Any]) -> None:
    config = Config(**settings)
    for other in (
        Config(**config.public()),
        pickle.loads(pickle.dumps(config)),
        copy.copy(config),
        copy.deepcopy(config),
        config.replace(),
    ):
        assert other == config
        assert hash(other) == hash(config)
        assert other.address == config.address


def test_equality_is_by_setting_and_by_provider_identity() -> None:
    assert Config("redis://h:7/1") == Config(host="h", port=7, db=1)
    assert Config(password="a") != Config(password="b")
    assert Config() != "redis://localhost:6379/0"
    one, two = Provider(), Provider()
    assert Config(credential_provider=one) == Config(credential_provider=one)
    assert Config(credential_provider=one) != Config(credential_provider=two)
    assert len({Config(), Config(port=6379), Config(port=6380)}) == 2


def test_replace_overrides_and_validates_anew() -> None:
    config = Config(f"redis://bob:{SECRET}@h:7/1")
    other = config.replace(host="g", db=2)
    assert other.address == "redis://g:7/2"
    assert other.password == SECRET
    assert config.address == "redis://h:7/1"
    with pytest.raises(ConfigError, match="unix_socket") as caught:
        config.replace(unix_socket="/s")
    assert caught.value.field == "host"


def test_of_takes_what_a_client_takes() -> None:
    config = Config(host="h")
    assert Config.of(config, {}) is config
    assert Config.of(config, {"db": 3}).address == "redis://h:6379/3"
    assert Config.of("redis://g", {"db": 3}).address == "redis://g:6379/3"
    assert Config.of(None, {"port": 7}).address == "redis://localhost:7/0"
    assert Config.of(None, {"uri": "redis://g"}).address == "redis://g:6379/0"
    with pytest.raises(ConfigError, match="given twice"):
        Config.of("redis://g", {"uri": "redis://h"})
    with pytest.raises(ConfigError, match="int"):
        Config.of(5, {})


def test_what_redis_py_clients_know_is_taken_over() -> None:
    import redis
    import redis.asyncio

    for module in (redis, redis.asyncio):
        client: Any = module.Redis(
            host="h", port=7, db=2, username="bob", password=SECRET, client_name="n",
            socket_timeout=3, socket_connect_timeout=4, protocol=2, decode_responses=True,
        )  # fmt: skip
        assert Config.from_redis(client) == Config(
            host="h", port=7, db=2, username="bob", password=SECRET, client_name="n",
            socket_timeout=3, connect_timeout=4, protocol=2,
        )  # fmt: skip
        client = module.Redis.from_url("unix:///s?db=3")
        assert Config.from_redis(client).address == "unix:///s?db=3"
        client = module.Redis(
            host="h", ssl=True, ssl_ca_certs="/ca", ssl_certfile="/c", ssl_keyfile="/k",
            ssl_check_hostname=False,
        )  # fmt: skip
        client.connection_pool.connection_kwargs["ssl_password"] = SECRET
        config = Config.from_redis(client)
        assert (config.ssl, config.ssl_ca_certs, config.ssl_verify) == (True, "/ca", True)
        assert (config.ssl_certfile, config.ssl_keyfile) == ("/c", "/k")
        assert config.ssl_keyfile_password == SECRET
        assert config.ssl_check_hostname is False
        client = module.Redis.from_url("rediss://h?ssl_cert_reqs=none")
        assert Config.from_redis(client).ssl_verify is False
        provider = redis.credentials.UsernamePasswordCredentialProvider("bob", SECRET)
        client = module.Redis(credential_provider=provider)
        assert Config.from_redis(client).credential_provider is provider
        client.connection_pool.connection_kwargs["redis_connect_func"] = print
        with pytest.raises(ConfigError, match="redis_connect_func"):
            Config.from_redis(client)


def test_other_objects_are_no_redis_py_client() -> None:
    import redis.sentinel

    with pytest.raises(ConfigError, match="object is no redis-py client"):
        Config.from_redis(object())
    sentinel = redis.sentinel.Sentinel([("localhost", 1)])
    with pytest.raises(ConfigError, match=r"master_for\(\), not slave_for"):
        Config.from_redis(sentinel.slave_for("main"))


def test_the_documentation_lists_every_setting() -> None:
    page = Path(__file__).parents[2] / "docs" / "configuration.md"
    rows = re.findall(r"^\| `(\w+)` \|(.*?)\|", page.read_text(), re.MULTILINE)
    documented = {name: default.strip() for name, default in rows if name in FIELDS}
    assert list(documented) == list(FIELDS)
    for name, field in FIELDS.items():
        assert documented[name] == ("" if field.default is None else f"`{field.default!r}`"), name
