"""TLS trusts nobody by default: who cannot prove to be the server hears no password.

Law: public API only, with no setting but the uri; the refused server is asked what it heard.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
import redis.asyncio
from _harness import Ways, one_server
from _servers import Certificates, Server, tls_binary
from _spying import PASSWORD

import fastlock

pytestmark = one_server


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A server whose certificate names another host, signed by a known authority."""
    if tls_binary() is None:
        pytest.skip("no server with TLS is installed")
    papers = Certificates(tmp_path_factory.mktemp("elsewhere"), "elsewhere.example")
    server = Server("redis", tls=papers.options())
    server.admin.config_resetstat()
    yield server, papers
    server.discard()


async def refused(fl: Ways, client: Any, server: Server, why: str) -> None:
    """Refused for this reason, before anything was said."""
    before = heard(server)
    for call in (client.try_acquire("k"), client.ping(), client.acquire("k", timeout=1)):
        with pytest.raises(fastlock.TransportError, match="its certificate was refused") as caught:
            await call
        assert why in str(caught.value)
        assert caught.value.sent is False
        assert PASSWORD not in f"{caught.value!r}"
    assert heard(server) == before
    assert not server.admin.exists("k")


def heard(server: Server) -> dict[str, int]:
    """How often each command was called that the tests themselves do not call."""
    stats = server.admin.info("commandstats")
    ours = ("cmdstat_info", "cmdstat_exists", "cmdstat_config|resetstat")
    return {
        name: stat["calls"] for name, stat in stats.items()
        if name not in ours and "client" not in name
    }  # fmt: skip


async def test_a_certificate_of_nobody_known_is_refused(fl: Ways, tls_server: Server) -> None:
    client = fl.client(
        f"rediss://u:{PASSWORD}@localhost:{tls_server.port}", retries=0, connect_timeout=10
    )
    await refused(fl, client, tls_server, "give the authority that signed it as ssl_ca_certs")
    by_name = fl.client(
        host="localhost", port=tls_server.port, ssl=True, retries=0, connect_timeout=10
    )
    await refused(fl, by_name, tls_server, "give the authority that signed it as ssl_ca_certs")


async def test_another_authority_does_not_help(
    fl: Ways, tls_server: Server, certificates: Certificates
) -> None:
    client = fl.client(
        tls_server.uri, ssl_ca_certs=certificates.other_ca, retries=0, connect_timeout=10
    )
    await refused(fl, client, tls_server, "give the authority that signed it as ssl_ca_certs")


async def test_a_certificate_of_another_host_is_refused(fl: Ways, elsewhere: Any) -> None:
    server, papers = elsewhere
    client = fl.client(server.uri, ssl_ca_certs=papers.ca, retries=0, connect_timeout=10)
    await refused(fl, client, server, "use a host that the certificate names")


async def test_an_address_that_the_certificate_does_not_name_is_refused(
    fl: Ways, tls_server: Server, certificates: Certificates
) -> None:
    client = fl.client(
        f"rediss://127.0.0.1:{tls_server.port}", ssl_ca_certs=certificates.ca, retries=0,
        connect_timeout=10,
    )  # fmt: skip
    await refused(fl, client, tls_server, "use a host that the certificate names")


async def test_settings_of_redis_py_verify_too(fl: Ways, tls_server: Server) -> None:
    library: Any = redis if fl.sync else redis.asyncio
    theirs = library.Redis(host="localhost", port=tls_server.port, ssl=True)
    client = fl.own(fl.client_class.from_redis(theirs, retries=0, connect_timeout=10))
    await refused(fl, client, tls_server, "give the authority that signed it as ssl_ca_certs")


async def test_tls_is_never_left_out(fl: Ways, server: Server) -> None:
    """A server that speaks no TLS gets nothing in plain text instead."""
    client = fl.client(
        f"rediss://u:{PASSWORD}@localhost:{server.address[1]}", retries=0, connect_timeout=1
    )
    with pytest.raises(fastlock.TransportError) as caught:
        await client.try_acquire(fl.key())
    assert caught.value.sent is False


async def test_who_can_prove_it_is_trusted(
    fl: Ways, tls_server: Server, certificates: Certificates, elsewhere: Any, tmp_path: Path
) -> None:
    for server, options in (
        (tls_server, {"ssl_ca_certs": certificates.ca}),
        (elsewhere[0], {"ssl_ca_certs": elsewhere[1].ca, "ssl_check_hostname": False}),
        (elsewhere[0], {"ssl_verify": False}),
    ):
        client = fl.client(server.uri, connect_timeout=10, **options)
        lease = await client.acquire(fl.key(), timeout=5)
        assert await lease.release() is True
