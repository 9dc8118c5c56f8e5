"""TLS: whom we trust, whom we refuse, and what each refusal says.

Law: synchronously, on asyncio and on uvloop alike.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import trustme
from _connecting import SECRET, Way
from _servers import Server, tls_binary

from fastlock.config import Config
from fastlock.errors import ConfigError, TransportError


class Secured(Server):
    """A server that speaks TLS only, with what a client needs to trust it."""

    def __init__(self, home: Path, name: str = "localhost", **more: Any) -> None:
        authority = trustme.CA()
        mine = authority.issue_cert(name, **more)
        self.authority = home / "ca.pem"
        authority.cert_pem.write_to_path(str(self.authority))
        chain, key = home / "chain.pem", home / "key.pem"
        mine.cert_chain_pems[0].write_to_path(str(chain))
        mine.private_key_pem.write_to_path(str(key))
        self.other_authority = home / "other.pem"
        trustme.CA().cert_pem.write_to_path(str(self.other_authority))
        visitor = authority.issue_cert("visitor@example.org")
        self.visitor = home / "visitor.pem"
        visitor.private_key_and_cert_chain_pem.write_to_path(str(self.visitor))
        options = {"tls-cert-file": str(chain), "tls-key-file": str(key)}
        options |= {"tls-ca-cert-file": str(self.authority), "tls-auth-clients": "optional"}
        super().__init__("redis", tls=options)


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    if tls_binary() is None:
        pytest.skip("no server with TLS is installed")
    server = Secured(tmp_path_factory.mktemp("tls"))
    yield server
    server.discard()


@pytest.mark.parametrize("protocol", [2, 3])
def test_tls_with_the_right_authority(way: Way, secured: Secured, protocol: int) -> None:
    uri = f"rediss://localhost:{secured.port}/2?ssl_ca_certs={secured.authority}"
    talk = way.open(Config(uri, protocol=protocol))
    assert talk.opened.tls is True
    assert talk("PING") == b"+PONG\r\n"
    assert b" db=2 " in talk("CLIENT INFO")
    assert talk(f"ECHO {'x' * 40000}").startswith((b"$40000\r\n", b"$40000"))


def test_tls_authority_as_text_and_as_directory(way: Way, secured: Secured, tmp_path: Path) -> None:
    text = secured.authority.read_text()
    talk = way.open(
        Config(port=secured.port, ssl=True, ssl_ca_data=text, ssl_min_version="TLSv1.3")
    )
    assert talk("PING") == b"+PONG\r\n"
    run = subprocess.run(
        ["openssl", "x509", "-hash", "-noout", "-in", str(secured.authority)],
        capture_output=True, check=True, text=True,
    )  # fmt: skip
    (tmp_path / f"{run.stdout.strip()}.0").write_text(text)
    talk = way.open(Config(port=secured.port, ssl=True, ssl_ca_path=str(tmp_path)))
    assert talk("PING") == b"+PONG\r\n"


def test_tls_with_a_certificate_of_our_own(way: Way, secured: Secured) -> None:
    talk = way.open(
        Config(
            port=secured.port,
            ssl=True,
            ssl_ca_certs=str(secured.authority),
            ssl_certfile=str(secured.visitor),  # holds the key, too
        )
    )
    assert talk("PING") == b"+PONG\r\n"


def test_tls_with_the_wrong_authority(way: Way, secured: Secured) -> None:
    for authority in (str(secured.other_authority), None):  # None: the system's
        config = Config(
            port=secured.port, ssl=True, ssl_ca_certs=authority, username="bob", password=SECRET
        )
        text = way.refused(TransportError, config)
        assert "its certificate was refused: " in text
        assert "as ssl_ca_certs" in text


def test_tls_with_an_address_that_the_certificate_does_not_name(way: Way, secured: Secured) -> None:
    settings: dict[str, Any] = {"host": "127.0.0.1", "port": secured.port, "ssl": True}
    settings["ssl_ca_certs"] = str(secured.authority)
    text = way.refused(TransportError, Config(**settings))
    assert "its certificate was refused: IP address mismatch" in text
    assert "ssl_check_hostname=False" in text
    assert way.open(Config(**settings, ssl_check_hostname=False))("PING") == b"+PONG\r\n"


@pytest.mark.parametrize(
    ("name", "expired", "reason", "advice"),
    [
        ("elsewhere.example", False, "Hostname mismatch", "ssl_check_hostname=False"),
        ("localhost", True, "certificate has expired", "renew it"),
    ],
)
def test_tls_with_a_certificate_that_is_not_right(
    way: Way, secured: Secured, tmp_path: Path, name: str, expired: bool, reason: str, advice: str
) -> None:
    more = {"not_after": datetime(2020, 1, 1), "not_before": datetime(2019, 1, 1)}
    server = Secured(tmp_path, name, **(more if expired else {}))
    try:
        config = Config(port=server.port, ssl=True, ssl_ca_certs=str(server.authority))
        text = way.refused(TransportError, config)
    finally:
        server.discard()
    assert f"its certificate was refused: {reason}" in text
    assert advice in text


def test_tls_without_verification(way: Way, secured: Secured) -> None:
    talk = way.open(Config(host="127.0.0.1", port=secured.port, ssl=True, ssl_verify=False))
    assert talk("PING") == b"+PONG\r\n"


def test_plain_client_at_a_tls_port(way: Way, secured: Secured) -> None:
    for protocol in (2, 3):
        config = Config(host="127.0.0.1", port=secured.port, password=SECRET, protocol=protocol)
        text = way.refused(TransportError, config)
        assert "write rediss:// or give ssl=True" in text


def test_tls_client_at_a_plain_port(way: Way, server: Any) -> None:
    config = Config(host="127.0.0.1", port=server.address[1], ssl=True, password=SECRET)
    text = way.refused(TransportError, config, 0.5)
    assert "does that port speak TLS" in text


def test_unusable_tls_files_are_named(way: Way, secured: Secured, tmp_path: Path) -> None:
    (tmp_path / "empty.pem").write_text("")
    empty, missing = str(tmp_path / "empty.pem"), str(tmp_path / "missing.pem")
    good = str(secured.authority)
    pem = "-----BEGIN CERTIFICATE-----\nno\n-----END CERTIFICATE-----\n"
    for field, settings in (
        ("ssl_ca_certs", {"ssl_ca_certs": missing}),
        ("ssl_ca_certs", {"ssl_ca_certs": empty}),
        ("ssl_ca_certs", {"ssl_ca_certs": empty, "ssl_ca_data": secured.authority.read_text()}),
        ("ssl_ca_path", {"ssl_ca_path": good}),
        ("ssl_ca_data", {"ssl_ca_data": pem}),
        ("ssl_certfile", {"ssl_ca_certs": good, "ssl_certfile": missing}),
        ("ssl_certfile", {"ssl_ca_certs": good, "ssl_certfile": good}),  # no key in it
        (
            "ssl_certfile",
            {"ssl_ca_certs": good, "ssl_certfile": good, "ssl_keyfile": str(secured.visitor)},
        ),
    ):
        config = Config(port=secured.port, ssl=True, password=SECRET, **settings)
        assert way.refused(ConfigError, config).startswith(f"{field}: "), settings


def test_an_encrypted_key(way: Way, secured: Secured, tmp_path: Path) -> None:
    from cryptography.hazmat.primitives import serialization

    pem = secured.visitor.read_bytes()
    key = serialization.load_pem_private_key(pem, None)
    locked = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(SECRET.encode()),
    )
    (tmp_path / "key.pem").write_bytes(locked)
    settings: dict[str, Any] = {
        "port": secured.port, "ssl": True, "ssl_ca_certs": str(secured.authority),
        "ssl_certfile": str(secured.visitor), "ssl_keyfile": str(tmp_path / "key.pem"),
    }  # fmt: skip
    assert way.open(Config(**settings, ssl_keyfile_password=SECRET))("PING") == b"+PONG\r\n"
    way.refused(ConfigError, Config(**settings, ssl_keyfile_password="wrong"))
    way.refused(ConfigError, Config(**settings))  # must not ask at the terminal
