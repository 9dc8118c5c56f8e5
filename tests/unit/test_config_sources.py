"""Config from a uri, from the environment and from a mapping.

Law: what is written in two places must agree; errors name the place as it was written; no
part of a uri that could be a password is ever shown.
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fastlock._config_fields import FIELDS
from fastlock.config import Config
from fastlock.errors import ConfigError

SECRET = "s3sam"


def settings(config: Config, *names: str) -> tuple[Any, ...]:
    return tuple(getattr(config, name) for name in names)


# -- uris


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("redis://", {}),
        ("redis://h", {"host": "h"}),
        ("REDIS://h", {"host": "h"}),
        ("redis://h/", {"host": "h"}),
        ("redis://h:7", {"host": "h", "port": 7}),
        ("redis://h:7/3", {"host": "h", "port": 7, "db": 3}),
        ("redis://:7", {"port": 7}),
        ("redis:///2", {"db": 2}),
        ("redis://h?db=2", {"host": "h", "db": 2}),
        ("redis://h/2?db=2", {"host": "h", "db": 2}),
        ("redis://[::1]", {"host": "::1"}),
        (
            "redis://u:p@[::1]:7/3",
            {"username": "u", "password": "p", "host": "::1", "port": 7, "db": 3},
        ),
        ("redis://:pw@host", {"password": "pw", "host": "host"}),
        ("redis://user@host", {"username": "user", "host": "host"}),
        ("redis://user:@host", {"username": "user", "host": "host"}),
        (
            "redis://a%40b:c%3A%2F%23%3F%25%20@h",
            {"username": "a@b", "password": "c:/#?% ", "host": "h"},
        ),
        ("redis://:%C3%A9@h", {"password": "é", "host": "h"}),
        ("rediss://h", {"host": "h", "ssl": True}),
        (
            "rediss://h?ssl_ca_certs=/ca.pem&ssl_check_hostname=no&ssl_min_version=TLSv1.3",
            {
                "host": "h",
                "ssl": True,
                "ssl_ca_certs": "/ca.pem",
                "ssl_check_hostname": False,
                "ssl_min_version": "TLSv1.3",
            },
        ),
        (
            "redis://h?socket_timeout=1.5&connect_timeout=.5&retry_timeout=20&retries=0&protocol=2",
            {
                "host": "h",
                "socket_timeout": 1.5,
                "connect_timeout": 0.5,
                "retry_timeout": 20,
                "retries": 0,
                "protocol": 2,
            },
        ),
        (
            "redis://h?client_name=n&prefix=a%3Ab+c&label=l",
            {"host": "h", "client_name": "n", "prefix": "a:b c", "label": "l"},
        ),
        (
            "unix:///run/a.sock?db=2&username=u&password=p",
            {"unix_socket": "/run/a.sock", "db": 2, "username": "u", "password": "p"},
        ),
        ("redis+cluster://h:1,[::1]:2,i", {"cluster": ["h:1", "[::1]:2", "i:6379"]}),
        ("rediss+cluster://u@h:1/0", {"username": "u", "cluster": "h:1", "ssl": True}),
        ("unix://u:p@/run/a%20b", {"username": "u", "password": "p", "unix_socket": "/run/a b"}),
    ],
)
def test_a_uri_gives_settings(uri: str, expected: dict[str, Any]) -> None:
    assert Config(uri) == Config.from_url(uri) == Config(uri=uri) == Config(**expected)


@pytest.mark.parametrize(
    ("uri", "field", "word"),
    [
        (f"http://u:{SECRET}@h", "uri", "scheme 'http' is not supported: a uri begins with"),
        ("redis+cluster://", "cluster", "write redis+cluster://host1:7000,host2:7000"),
        ("redis+cluster://h:0", "cluster", "'h:0' must be host:port, the port from 1 to 65535"),
        (f"redis+cluster://h:{SECRET}", "cluster", "each must be host:port, the port"),
        ("redis+cluster://::1", "cluster", "an IPv6 address is written [address]:port"),
        ("redis+cluster://h/1", "db", "a cluster is used with database 0 alone"),
        ("valkey://h", "uri", "write redis:// instead of valkey://"),
        ("localhost:6379", "uri", "is not one: a uri begins with"),
        ("", "uri", "is not one"),
        ("redis://h:70000", "port", "70000 must be from 1 to 65535"),
        ("redis://h:0", "port", "0 must be from 1 to 65535"),
        (f"redis://h:{SECRET}", "port", "must be a number from 1 to 65535"),
        ("redis://h:", "port", "must be a number from 1 to 65535"),
        ("redis://h:1:2", "host", "[address]:port"),
        ("redis://::1", "host", "[address]:port"),
        ("redis://[::1", "host", "[address]:port"),
        ("redis://[::1]7", "host", "[address]:port"),
        ("redis://[zz::]", "host", "'zz::' is no name and no IPv6 address"),
        ("redis://h/abc", "db", "'abc' in the uri must be a whole number"),
        ("redis://h/-1", "db", "'-1' in the uri must be a whole number"),
        ("redis://h/1/2", "db", "'1/2' in the uri must be a whole number"),
        ("redis://h/9999999999", "db", "9999999999 must be from 0 to 2147483647"),
        ("redis://h/1?db=2", "db", "given twice with different values (1 and 2)"),
        ("redis://h?db=1&db=2", "db", "given twice with different values (1 and 2)"),
        ("redis://h?db=x", "db", "'x' must be a whole number"),
        ("redis://h?db=", "db", "is empty in the uri's query"),
        ("redis://h?db", "uri", "must be name=value"),
        ("redis://h?retries=1_0", "retries", "'1_0' must be a whole number"),
        ("redis://h?socket_timeout=nan", "socket_timeout", "'nan' must be a number over 0"),
        ("redis://h?socket_timeout=-1", "socket_timeout", "-1 must be over 0"),
        ("redis://h?socket_conect_timeout=1", "socket_conect_timeout", "did you mean"),
        ("redis://h?socket_connect_timeout=1", "socket_connect_timeout", "called connect_timeout"),
        ("rediss://h?ssl_cert_reqs=none", "ssl_cert_reqs", "called ssl_verify"),
        ("rediss://h?ssl_verify=none", "ssl_verify", "'none' must be true or false"),
        ("redis://h?host=g", "host", "cannot be given in a uri's query"),
        ("redis://h?unix_socket=/s", "unix_socket", "cannot be given in a uri's query"),
        ("redis://h?ssl=true", "ssl", "cannot be given in a uri's query"),
        (f"rediss://h?ssl_keyfile_password={SECRET}", "ssl_keyfile_password", "cannot be given"),
        (f"redis://h?password={SECRET}", "password", "goes before the host"),
        ("redis://h?ssl_ca_certs=/ca", "ssl_ca_certs", "needs TLS"),
        (f"unix://u:{SECRET}@/s?password=other", "password", "given twice with different values:"),
        ("unix://", "uri", "write unix:///absolute/path.sock"),
        ("unix://s.sock", "uri", "write unix:///absolute/path.sock"),
        (f"unix://u:{SECRET}@h/s", "uri", "write unix:///absolute/path.sock"),
        (f"redis://u:{SECRET}#x@h", "uri", "%23"),
        (f"redis://u:{SECRET}/x@h", "port", "%2F"),
        (f"redis://u:1/{SECRET}@h", "db", "%2F"),
        (f"redis://u:x?{SECRET}=1@h", "uri", "%3F"),
        (f"redis://u:{SECRET}@x@h", "uri", "%40"),
        (f"redis://u:{SECRET}:x@h", "uri", "%3A"),
        (f"redis://u:{SECRET} @h", "uri", "contains whitespace"),
        (f"redis://u:{SECRET}%ff@h", "password", "is not UTF-8"),
        ("redis://h?label=%ff", "uri", "in UTF-8"),
    ],
)  # fmt: skip
def test_a_wrong_uri_is_refused(uri: str, field: str, word: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Config(uri)
    assert caught.value.field == field, caught.value
    assert word in str(caught.value)
    assert SECRET not in str(caught.value)
    assert caught.value.__context__ is None or SECRET not in repr(caught.value.__context__)


@pytest.mark.parametrize("uri", [None, 5, b"redis://h"])
def test_a_uri_is_text(uri: Any) -> None:
    with pytest.raises(ConfigError, match="uri: must be text"):
        Config.from_url(uri)


@pytest.mark.parametrize(
    ("uri", "field", "value"),
    [
        ("redis://h", "host", "g"),
        ("redis://h:7", "port", 8),
        ("redis://h/1", "db", 2),
        ("redis://:a@h", "password", SECRET),
        ("redis://u@h", "username", "v"),
        ("rediss://h", "ssl", False),
        ("redis://h", "ssl", True),
        ("redis://h", "unix_socket", "/s"),
        ("unix:///s", "unix_socket", "/t"),
        ("unix:///s", "host", "h"),
        ("unix:///s", "ssl", True),
        ("redis://h?retries=1", "retries", 2),
    ],
)
def test_uri_and_settings_must_agree(uri: str, field: str, value: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        Config(uri, **{field: value})
    expected = "host" if (uri, field) == ("redis://h", "unix_socket") else field
    assert caught.value.field == expected, caught.value
    assert SECRET not in str(caught.value)


def test_the_same_value_twice_is_fine() -> None:
    assert Config("redis://:a@h:7/1", host="h", port=7, db=1, password="a", ssl=False).port == 7
    assert Config("redis://h", port=7, db=2, password="x").address == "redis://h:7/2"
    assert Config("redis://u:p@h:7").uri == "redis://h:7/0"


# -- the environment


def test_the_environment_gives_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    environ = {
        "FASTLOCK_URL": " redis://h:7/1 ",
        "FASTLOCK_USERNAME": "bob",
        "FASTLOCK_PASSWORD": f" {SECRET} ",
        "FASTLOCK_RETRIES": " 5 ",
        "FASTLOCK_SOCKET_TIMEOUT": "1e1",
        "FASTLOCK_PREFIX": "app: ",
        "FASTLOCK_LABEL": "",
        "FASTLOCK_CORE": "python",
        "FASTLOCK_BUILD": "pure",
        "FASTLOCK_PYTHON": "python3",
        "FASTLOCK_DEBUG": "1",
        "FASTLOCK_HIREDIS": "system",
        "FASTLOCK_HIREDIS_SDIST": "/x",
        "FASTLOCK_TEST_URL": "redis://elsewhere",
        "FASTLOCK_TEST_SERVERS": "redis-7=/bin/redis-server",
        "FASTLOCK_KEY": "job",
        "FASTLOCK_FENCE": "7",
        "FASTLOCK_TOKEN": SECRET,
        "PATH": "/bin",
    }
    expected = Config(
        "redis://h:7/1",
        username="bob",
        password=f" {SECRET} ",
        retries=5,
        socket_timeout=10.0,
        prefix="app: ",
    )
    assert Config.from_env(environ) == expected
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    assert Config.from_env() == expected
    assert Config.from_env({"APP_HOST": "g", "FASTLOCK_HOST": "h"}, "APP_") == Config(host="g")
    assert Config.from_env({}) == Config()


@pytest.mark.parametrize(
    ("environ", "field", "word"),
    [
        ({"FASTLOCK_PORT": "abc"}, "FASTLOCK_PORT", "'abc' must be a whole number"),
        ({"FASTLOCK_PORT": "70000"}, "FASTLOCK_PORT", "70000 must be from 1 to 65535"),
        ({"FASTLOCK_PROTOCL": "3"}, "FASTLOCK_PROTOCL", "did you mean FASTLOCK_PROTOCOL"),
        ({"FASTLOCK_port": "3"}, "FASTLOCK_port", "did you mean FASTLOCK_PORT"),
        ({"FASTLOCK_USER": "bob"}, "FASTLOCK_USER", "here it is called FASTLOCK_USERNAME"),
        ({"FASTLOCK_SSL": "maybe"}, "FASTLOCK_SSL", "'maybe' must be true or false"),
        ({"FASTLOCK_CREDENTIAL_PROVIDER": "x"}, "FASTLOCK_CREDENTIAL_PROVIDER", "is an object"),
        ({"FASTLOCK_URL": f"http://:{SECRET}@h"}, "FASTLOCK_URL", "'http' is not supported"),
        ({"FASTLOCK_URL": "redis://h", "FASTLOCK_URI": "redis://g"}, "FASTLOCK_URL", "differs"),
        ({"FASTLOCK_URL": "redis://h", "FASTLOCK_HOST": "g"}, "FASTLOCK_HOST", "'h' and 'g'"),
        (
            {"FASTLOCK_URL": "redis://:a@h", "FASTLOCK_PASSWORD": SECRET},
            "FASTLOCK_PASSWORD",
            "given in the uri and separately with different values; keep one",
        ),
        ({"FASTLOCK_PASSWORD": f"{SECRET}\udcff"}, "FASTLOCK_PASSWORD", "UTF-8"),
    ],
)
def test_a_wrong_variable_is_refused_by_name(
    environ: dict[str, str], field: str, word: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        Config.from_env(environ)
    assert caught.value.field == field, caught.value
    assert word in str(caught.value)
    assert SECRET not in str(caught.value)


# -- mappings

EXPECTED = Config(host="h", port=7, username="bob", password="pw", retries=5, retry_timeout=20)


@pytest.mark.parametrize(
    "mapping",
    [
        {
            "host": "h",
            "port": 7,
            "username": "bob",
            "password": "pw",
            "retries": 5,
            "retry_timeout": 20,
        },
        {
            "ip": "h",
            "port": "7",
            "user": "bob",
            "pass": "pw",
            "retries": "5",
            "retry_timeout": "20",
        },
        {
            "connection.host": "h",
            "connection.port": "7",
            "credential.username": "bob",
            "credential.password": "pw",
            "options.retries": "5",
            "options.retry_timeout": "20",
        },
        {
            "connection": {"ip": "h", "port": "7"},
            "credential": {"user": "bob", "pass": "pw"},
            "options": {"retries": "5", "retry_timeout": 20},
        },
        {
            "connections": {"main": {"host": "h", "port": 7}},
            "credentials": {"x": {"username": "bob", "password": "pw"}},
            "option": {"retries": 5, "retry_timeout": 20},
        },
        {
            "connections.empty.port": 1,
            "connections.main.host": "h",
            "connections.main.port": 7,
            "connections.spare.host": "g",
            "credentials.main.user": "bob",
            "credentials.main.pass": "pw",
            "retries": 5,
            "options": {"retry_timeout": 20, "label": None, "client_name": ""},
        },
        {
            "connections": [{"host": "h", "port": 7}],
            "credentials": {"username": "bob", "password": "pw"},
            "options": {"retries": 5, "retry_timeout": 20},
        },
        {
            "connection": {"uri": "redis://h:7"},
            "credential": {"username": "bob", "password": "pw", "store_key": ""},
            "options": {"retries": 5, "retry_timeout": 20},
        },
    ],
)
def test_a_mapping_gives_settings(mapping: dict[str, Any]) -> None:
    assert Config.from_mapping(mapping) == EXPECTED


def test_text_becomes_what_is_meant() -> None:
    config = Config.from_mapping(
        {"url": "rediss://h", "ssl_verify": "No", "socket_timeout": "2", "prefix": "a ", "db": "3"}
    )
    assert settings(config, "ssl", "ssl_verify", "socket_timeout", "prefix", "db") == (
        True,
        False,
        2.0,
        "a ",
        3,
    )


@pytest.mark.parametrize(
    ("mapping", "field", "word"),
    [
        ({"connection": {"port": "70000"}}, "connection.port", "70000 must be from 1 to 65535"),
        ({"connection.port": "x"}, "connection.port", "'x' must be a whole number"),
        ({"connections": {"a": {"hots": "h"}}}, "connections.a.hots", "did you mean host?"),
        ({"hots": "h"}, "hots", "did you mean host?"),
        ({"connektion": {"host": "h"}}, "connektion.host", "unknown setting"),
        ({"options": {"a": {"retries": 1}}}, "options.a.retries", "unknown setting"),
        ({"options.timeout": 30000}, "options.timeout", "here it is called socket_timeout"),
        ({"credential.host": "h"}, "credential.host", "put it under connection or options"),
        ({"credential.store_key": "k"}, "credential.store_key", "looks nothing up"),
        ({"connections.a.discovery_key": "k"}, "connections.a.discovery_key", "looks nothing up"),
        ({"host": "h", "connection.host": "g"}, "connection.host", "differs from host"),
        ({"host": "h", "ip": "g"}, "ip", "differs from host"),
        ({"connection.host": "h", "connections.a.host": "h"}, "connections", "both connection and"),
        ({"connections.port": 7, "connections.a.host": "h"}, "connections.port", "one style"),
        ({"password": 12345}, "password", "must be text (str), not int"),
        ({"credential": {"pass": SECRET.encode()}}, "credential.pass", "not bytes"),
        ({"connection.ssl": "perhaps"}, "connection.ssl", "'perhaps' must be true or false"),
        (
            {"connection.uri": "redis://:a@h", "credential.password": SECRET},
            "credential.password",
            "given in the uri and separately",
        ),
        ({5: "h"}, "mapping", "key 5 must be text"),
        ([("host", "h")], "mapping", "must be a mapping, not list"),
        (None, "mapping", "must be a mapping, not NoneType"),
    ],
)
def test_a_wrong_mapping_is_refused_by_key(mapping: Any, field: str, word: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Config.from_mapping(mapping)
    assert caught.value.field == field, caught.value
    assert word in str(caught.value)
    assert SECRET not in str(caught.value)


# -- anything at all


@given(st.text(alphabet="redis://@:?&=[]%#0a1. ") | st.text(), st.sampled_from(["", "unix://"]))
@example("redis://[", "")
@example("redis://%", "")
@example("redis://h/٣", "")
def test_any_text_is_a_uri_or_refused(rest: str, scheme: str) -> None:
    for uri in (rest, (scheme or "redis://") + rest):
        try:
            config = Config(uri)
        except ConfigError:
            continue
        assert Config(config.uri).address == config.address


_values = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary()


@given(st.dictionaries(st.sampled_from(["uri", *FIELDS]), _values, max_size=4))
def test_any_settings_are_accepted_or_refused(settings_: dict[str, Any]) -> None:
    makers: list[Any] = [lambda: Config(**settings_), lambda: Config.from_mapping(settings_)]
    makers.append(lambda: Config.from_mapping({"connections": {"a": settings_}}))
    texts = {f"FASTLOCK_{n.upper()}": str(v) for n, v in settings_.items()}
    makers.append(lambda: Config.from_env(texts))
    for make in makers:
        try:
            config = make()
        except ConfigError:
            continue
        assert Config(**config.public()).address == config.address


def test_nodes_of_a_cluster_are_a_list_in_a_mapping_too() -> None:
    for nodes in (["a:1", "b:2"], ("a:1", "b:2"), "a:1,b:2"):
        assert Config.from_mapping({"cluster": nodes}) == Config("redis+cluster://a:1,b:2")
