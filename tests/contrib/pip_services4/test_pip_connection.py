"""connection(s) and credential(s): which server, and who we are there (C1 to C7, D1 to D4,
R1, R2).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import _servers
import pytest
from _pip import Pip, config, discovery, references, refused, store
from pip_services4_commons.errors import ConfigException, ConnectionException
from pip_services4_components.config import ConfigParams
from pip_services4_components.context import Context
from pip_services4_components.refer import ReferenceException, References
from pip_services4_config.connect import ConnectionParams

from fastlock.contrib.pip_services4._settings import Settings

SECRET = "s3cret-w0rd"  # of the default user
ACL = "b0b-s3cret"  # of bob


@pytest.fixture(scope="module")
def guarded() -> Iterator[_servers.Server]:
    """A server with a password for the default user, and another user, bob."""
    server = _servers.Server("valkey")
    server.admin.acl_setuser(
        "bob", enabled=True, passwords=[f"+{ACL}"], keys=["*"], commands=["+@all"]
    )
    server.admin.config_set("requirepass", SECRET)
    yield server
    server.discard()


def works(lock: Any, server: Any, key: str) -> None:
    """Its locks are really on that server."""
    if not lock.is_open():
        lock.open(None)
    assert lock.try_acquire_lock(None, key, 5000) is True
    assert server.admin.exists(key) == 1
    lock.release_lock(None, key)
    assert server.admin.exists(key) == 0


def opens(pip: Pip, server: Any, **settings: Any) -> None:
    works(pip.lock(**settings), server, pip.fl.key())


def resolved(**settings: Any) -> Any:
    """The Config that these settings come to, without connecting."""
    wanted = Settings()
    wanted.update(config(**settings))
    return wanted.resolve(None, None)


# ------------------------------------------------------------------ C1, C2


def test_C1_host_and_port_choose_the_server(pip: Pip, own_server: Any) -> None:
    opens(pip, own_server, connection__host="localhost", connection__port=own_server.port)
    opens(pip, own_server, connection__ip="127.0.0.1", connection__port=str(own_server.port))


def test_C1_what_is_absent_has_its_default(pip: Pip, own_server: Any) -> None:
    opens(pip, own_server, connection__port=own_server.port)
    assert resolved(connection__port=6380).host == "localhost"
    assert resolved(connection__host="server").port == 6379


@pytest.mark.parametrize("port", ["abc", "0", "65536", "-1", "6379.5"])
def test_C1_a_port_that_is_none_is_refused(pip: Pip, port: str) -> None:
    lock = pip.lock(connection__host="localhost", connection__port=port)
    error = refused(ConfigException, "WRONG_CONFIG", lock.open, "123")
    assert "port" in str(error)
    assert port in str(error)
    assert error.trace_id == "123"
    assert lock.is_open() is False


def test_C2_of_several_connections_the_first_usable_is_taken(pip: Pip, own_server: Any) -> None:
    port = own_server.port
    opens(pip, own_server, connections__a__host="localhost", connections__a__port=port)
    opens(
        pip, own_server,
        connections__a__note="says not where", connections__b__port=port, connections__c__port=1,
    )  # fmt: skip


def test_C2_connections_go_before_connection(pip: Pip, own_server: Any) -> None:
    opens(
        pip, own_server,
        connection__host="localhost", connection__port=1, connections__a__port=own_server.port,
    )  # fmt: skip


# ------------------------------------------------------------------ C3


def test_C3_a_uri_says_everything(pip: Pip, guarded: Any) -> None:
    port = guarded.port
    opens(pip, guarded, connection__uri=f"redis://:{SECRET}@localhost:{port}")
    opens(pip, guarded, connection__uri=f"redis://bob:{ACL}@localhost:{port}")
    opens(pip, guarded, connection__uri=f"redis://bob:{ACL}@localhost:{port}/0?retries=0")
    opens(pip, guarded, connection__uri=f"unix://bob:{ACL}@{guarded.socket_path}")


def test_C3_its_path_is_the_database(pip: Pip, own_server: Any) -> None:
    lock, key = pip.opened(connection__uri=f"{own_server.uri}/3"), pip.fl.key()
    assert lock.try_acquire_lock(None, key, 5000) is True
    assert own_server.admin.info("keyspace")["db3"]["keys"] == 1
    lock.release_lock(None, key)


def test_C3_rediss_is_tls(pip: Pip, tls_server: Any, certificates: Any) -> None:
    uri = f"rediss://localhost:{tls_server.port}?ssl_ca_certs={certificates.ca}"
    opens(pip, tls_server, connection__uri=uri)


def test_C3_a_file_of_tls_that_cannot_be_used_is_a_wrong_setting(pip: Pip) -> None:
    lock = pip.lock(connection__uri="rediss://localhost?ssl_ca_certs=/nowhere/ca.pem")
    error = refused(ConfigException, "WRONG_CONFIG", lock.open, "123")
    assert (error.details["setting"], error.trace_id) == ("ssl_ca_certs", "123")


def test_C3_a_uri_goes_before_host_and_port(pip: Pip, own_server: Any) -> None:
    opens(pip, own_server, connection__uri=own_server.uri, connection__port=1)
    opens(pip, own_server, connection__uri="", connection__port=own_server.port)


def test_C3_its_password_goes_before_the_credential_s(pip: Pip, guarded: Any) -> None:
    where = f"localhost:{guarded.port}"
    opens(pip, guarded, connection__uri=f"redis://:{SECRET}@{where}", credential__password="no")
    opens(pip, guarded, connection__uri=f"redis://{where}", credential__password=SECRET)
    opens(pip, guarded, connection__uri=f"redis://bob@{where}", credential__password=ACL)


@pytest.mark.parametrize("uri", [f"http://:{SECRET}@h", "localhost:6379", f"redis://x:{SECRET}#h"])
def test_C3_a_uri_that_is_none_is_refused_without_its_secret(pip: Pip, uri: str) -> None:
    error = refused(ConfigException, "WRONG_CONFIG", pip.lock(connection__uri=uri).open, None)
    assert "uri" in str(error)
    assert SECRET not in f"{error} {error.to_json()}"


# ------------------------------------------------------------------ C4, C5, R1


def test_C4_a_discovery_service_says_where(pip: Pip, own_server: Any) -> None:
    lock = pip.lock(connection__discovery_key="locks", connection__port=1)
    lock.set_references(
        references(
            discovery("one", other__port=1),
            discovery("two", locks__port=own_server.port),
            discovery("three", another__port=1),
        )
    )
    works(lock, own_server, pip.fl.key())


def test_C4_what_is_discovered_goes_over_what_is_configured() -> None:
    settings = Settings()
    settings.update(config(connection__discovery_key="k", connection__host="a", connection__port=1))
    found = settings.resolve(None, references(discovery(k__port=2)))
    assert (found.host, found.port) == ("a", 2)


def test_C5_without_a_discovery_key_none_is_needed(pip: Pip, own_server: Any) -> None:
    for found in (References(), references(discovery(locks__port=1))):
        lock = pip.lock(connection__port=own_server.port)
        lock.set_references(found)
        works(lock, own_server, pip.fl.key())


@pytest.mark.parametrize("context", [None, "123", Context.from_trace_id("123")])
def test_C5_with_one_and_no_service_it_is_an_error(pip: Pip, context: Any) -> None:
    for found in (None, References()):
        lock = pip.lock(connection__discovery_key="locks")
        if found is not None:
            lock.set_references(found)
        error = refused(ConfigException, "CANNOT_RESOLVE", lock.open, context)
        assert error.trace_id == ("" if context is None else "123")
        assert lock.is_open() is False


def test_C5_a_key_that_no_service_knows_is_an_error(pip: Pip) -> None:
    lock = pip.lock(connection__discovery_key="locks")
    lock.set_references(references(discovery(other__port=1)))
    error = refused(ConfigException, "NO_CONNECTION", lock.open, "123")
    assert str(error) == "Connection is not configured: no discovery service knows 'locks'"


def test_C5_a_service_that_knows_no_place_is_an_error(pip: Pip) -> None:
    lock = pip.lock(connection__discovery_key="locks")
    lock.set_references(references(discovery(locks__note="says not where")))
    refused(ConfigException, "NO_CONNECTION", lock.open, None)


def test_R1_discovery_services_are_optional_and_found_by_their_descriptor(
    pip: Pip, own_server: Any
) -> None:
    descriptor, service = discovery()
    service.register(None, "late", ConnectionParams.from_tuples("port", own_server.port))
    lock = pip.lock(connection__discovery_key="late")
    lock.set_references(references((descriptor, service)))
    works(lock, own_server, pip.fl.key())


# ------------------------------------------------------------------ C6, C7


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"options__retries": 3},
        {"connection__uri": "", "connection__host": " "},
        {"connection__protocol": "tcp"},
        {"connection__protocol": "tcp", "host": "localhost"},
        {"credential__password": "x"},
    ],
)
def test_C6_nothing_configured_is_an_error(pip: Pip, settings: dict[str, Any]) -> None:
    for lock in (pip.lock(**settings), pip.bare()):
        error = refused(ConfigException, "NO_CONNECTION", lock.open, Context.from_trace_id("123"))
        assert (str(error), error.trace_id) == ("Connection is not configured", "123")
        assert (error.status, error.category) == (500, "Misconfiguration")


def test_C7_bare_keys_count_where_there_is_no_section(pip: Pip, own_server: Any) -> None:
    opens(pip, own_server, host="localhost", port=own_server.port)
    opens(pip, own_server, uri=own_server.uri)
    opens(pip, own_server, host="localhost", port=1, connection__port=own_server.port)


# ------------------------------------------------------------------ D1 to D4, R2


def test_D1_a_password_opens(pip: Pip, guarded: Any) -> None:
    port = guarded.port
    opens(pip, guarded, connection__port=port, credential__password=SECRET)
    opens(pip, guarded, connection__port=port, credential__pass=SECRET)


@pytest.mark.parametrize(
    ("credential", "said"),
    [
        ({"credential__password": "wr0ng-one"}, "WRONGPASS"),
        ({}, "NOAUTH"),
        ({"credential__username": "bob", "credential__password": SECRET}, "WRONGPASS"),
        ({"credential__username": "eve", "credential__password": SECRET}, "WRONGPASS"),
    ],
)
def test_D1_a_wrong_or_missing_one_is_a_connection_error(
    pip: Pip, guarded: Any, credential: dict[str, str], said: str
) -> None:
    lock = pip.lock(connection__port=guarded.port, **credential)
    error = refused(ConnectionException, "CONNECT_FAILED", lock.open, "123")
    assert str(error).startswith(said)
    assert error.trace_id == "123"
    assert lock.is_open() is False
    for secret in (SECRET, "wr0ng-one"):
        assert secret not in f"{error} {error.to_json()} {error.details} {error.cause!r}"


def test_D2_of_several_credentials_the_first_usable_is_taken(pip: Pip, guarded: Any) -> None:
    opens(
        pip, guarded, connection__port=guarded.port,
        credentials__a__username="nobody", credentials__b__password=SECRET,
        credentials__c__password="no",
    )  # fmt: skip


def test_D3_a_credential_store_knows_the_password(pip: Pip, guarded: Any) -> None:
    lock = pip.lock(connection__port=guarded.port, credential__store_key="locks")
    lock.set_references(references(store(locks__username="bob", locks__password=ACL)))
    works(lock, guarded, pip.fl.key())


@pytest.mark.parametrize("context", [None, "123", Context.from_trace_id("123")])
def test_D3_without_a_store_it_is_an_error(pip: Pip, guarded: Any, context: Any) -> None:
    for found in (None, References()):
        lock = pip.lock(connection__port=guarded.port, credential__store_key="locks")
        if found is not None:
            lock.set_references(found)
        error = refused(ReferenceException, "REF_ERROR", lock.open, context)
        assert error.trace_id == ("" if context is None else "123")


def test_D3_a_key_that_the_store_does_not_know_is_an_error(pip: Pip, guarded: Any) -> None:
    lock = pip.lock(connection__port=guarded.port, credential__store_key="locks")
    lock.set_references(references(store(other__password=SECRET)))
    error = refused(ConfigException, "NO_CREDENTIAL", lock.open, "123")
    assert str(error) == "no credential store knows a password for 'locks'"
    assert error.trace_id == "123"


def test_R2_without_a_store_key_no_store_is_asked(pip: Pip, guarded: Any) -> None:
    for found in (References(), references(store(locks__password="no"))):
        lock = pip.lock(connection__port=guarded.port, credential__password=SECRET)
        lock.set_references(found)
        works(lock, guarded, pip.fl.key())


def test_D4_a_user_name_with_a_password_is_an_acl_user(pip: Pip, guarded: Any) -> None:
    for name in ("credential__username", "credential__user"):
        lock = pip.lock(connection__port=guarded.port, credential__password=ACL, **{name: "bob"})
        works(lock, guarded, pip.fl.key())
        assert b"bob" in [one["user"].encode() for one in guarded.admin.client_list()]


def test_D4_a_user_name_alone_breaks_no_login(pip: Pip, own_server: Any) -> None:
    opens(pip, own_server, connection__port=own_server.port, credential__username="bob")


# ------------------------------------------------------------------ configuring again


def test_configuring_again_replaces_the_connection_and_its_credential(
    pip: Pip, guarded: Any, own_server: Any
) -> None:
    lock = pip.lock(connection__port=guarded.port, credential__password=SECRET)
    works(lock, guarded, pip.fl.key())
    lock.configure(config(connection__port=own_server.port))
    works(lock, guarded, pip.fl.key())  # it is still open there
    lock.close(None)
    works(lock, own_server, pip.fl.key())


def test_configuring_again_leaves_what_it_does_not_name() -> None:
    settings = Settings()
    settings.update(config(connection__port=1, credential__password="a", options__retries=7))
    settings.update(config(options__retry_timeout=5))
    found = settings.resolve(None, None)
    assert (found.port, found.password, found.retries, found.retry_timeout) == (1, "a", 7, 5)
    settings.update(config(credential__password="b"))
    assert settings.resolve(None, None).password == "b"
    assert settings.resolve(None, None).port == 1


def test_values_need_not_be_text() -> None:
    raw = ConfigParams()
    raw["connection.port"] = 6380
    raw["options.retries"] = 5
    settings = Settings()
    settings.update(raw)
    found = settings.resolve(None, None)
    assert (found.port, found.retries) == (6380, 5)
