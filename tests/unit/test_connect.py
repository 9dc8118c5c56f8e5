"""Connections to real servers: opened by redis-py, taken over by us.

Law: every case runs synchronously, on asyncio and on uvloop; what the server refuses is
refused at once, with its code, without the password.
"""

from __future__ import annotations

import asyncio
import gc
import socket
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest
from _connecting import SECRET, AsyncTalk, Way, peer
from _servers import Server, binary_of

from fastlock._connect import open_async
from fastlock.config import Config
from fastlock.errors import ConfigError, ServerError, TransportError

USERS = f"""
user default on nopass ~* &* +@all
user bob on >{SECRET} ~* &* +@all
user timid on >{SECRET} ~* &* +get
user gone off >{SECRET} ~* &* +@all
"""


@pytest.fixture(scope="module", params=["valkey", "redis"])
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """A server with users."""
    if binary_of(request.param) is None:
        pytest.skip(f"{request.param}-server is not installed")
    users = tmp_path_factory.mktemp("acl") / "users.acl"
    users.write_text(USERS)
    server = Server(request.param, aclfile=str(users))
    yield server
    server.discard()


# -- what works


@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize("unix", [False, True], ids=["tcp", "unix"])
def test_the_connection_is_as_configured(
    way: Way, server: Server, protocol: int, unix: bool
) -> None:
    where: dict[str, Any] = {"unix_socket": server.socket_path}
    if not unix:
        where = {"host": "localhost", "port": server.port}
    talk = way.open(
        Config(
            **where, username="bob", password=SECRET, db=3, client_name="me@1", protocol=protocol
        )
    )
    info = talk("CLIENT INFO").decode()
    assert " name=me@1 " in info
    assert " db=3 " in info
    assert " user=bob " in info
    assert f" resp={protocol}" in info
    if "lib-name" in info:  # Redis 7.2, Valkey
        assert " lib-name=fastlock " in info
    opened = talk.opened
    assert (opened.protocol, opened.tls) == (protocol, False)
    if protocol == 3:
        assert opened.hello["server"] in ("redis", "valkey")
        assert opened.hello["proto"] == 3
        assert (
            f" id={opened.hello['id']} " in f" {info.partition('id=')[1]}{info.partition('id=')[2]}"
        )
        assert isinstance(opened.hello["version"], str)
    else:
        assert opened.hello == {}
    assert talk("PING") == b"+PONG\r\n"


def test_the_listed_name_shows_from_outside(way: Way, server: Server) -> None:
    config = Config(port=server.port, client_name="visible-name")
    one, two = way.open(config), way.open(config)
    assert one("CLIENT LIST").count(b" name=visible-name ") == 2
    assert two("PING") == b"+PONG\r\n"


def test_the_socket_outlives_redis_pys_connection(way: Way, server: Server) -> None:
    talk = way.open(Config(port=server.port))
    gc.collect()
    time.sleep(0.05)
    assert talk("PING") == b"+PONG\r\n"


def test_small_writes_are_not_delayed_and_dead_peers_noticed(way: Way, server: Server) -> None:
    talk = way.open(Config(port=server.port))
    sock = talk.opened.sock if way.loop is None else talk.opened.transport.get_extra_info("socket")
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    if sys.platform == "linux":
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 30
    if way.loop is None:
        assert type(sock) is socket.socket
        assert sock.gettimeout() is None


def test_nothing_is_lost_between_opening_and_taking_over(server: Server) -> None:
    async def run() -> None:
        opened = await open_async(Config(port=server.port), 5)
        opened.transport.write(b"PING\r\n")
        await asyncio.sleep(0.1)  # the answer arrives before anybody listens
        arrived = asyncio.get_running_loop().create_future()
        lost = asyncio.get_running_loop().create_future()

        class Listener(asyncio.Protocol):
            def data_received(self, data: bytes) -> None:
                arrived.set_result(data)

            def connection_lost(self, exc: Exception | None) -> None:
                lost.set_result(exc)

        opened.transport.set_protocol(Listener())
        opened.transport.resume_reading()
        assert await asyncio.wait_for(arrived, 5) == b"+PONG\r\n"
        opened.transport.abort()
        await lost

    asyncio.run(run())


class Provider:
    """A redis-py credential provider, without its class."""

    def __init__(self, *credentials: Any) -> None:
        self.credentials = credentials
        self.asked = 0

    def get_credentials(self) -> Any:
        self.asked += 1
        return self.credentials

    async def get_credentials_async(self) -> Any:
        return self.get_credentials()


@pytest.mark.parametrize("protocol", [2, 3])
def test_a_credential_provider_is_asked_at_each_connection(
    way: Way, server: Server, protocol: int
) -> None:
    provider = Provider("bob", SECRET)
    config = Config(port=server.port, credential_provider=provider, protocol=protocol)
    for times in (1, 2):
        assert b" user=bob " in way.open(config)("CLIENT INFO")
        assert provider.asked == times


def test_redis_pys_own_credential_provider_works(way: Way, server: Server) -> None:
    from redis.credentials import UsernamePasswordCredentialProvider

    provider = UsernamePasswordCredentialProvider("bob", SECRET)
    talk = way.open(Config(port=server.port, credential_provider=provider))
    assert b" user=bob " in talk("CLIENT INFO")


# -- what the server refuses


@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize(
    ("user", "password", "code"),
    [
        ("bob", SECRET + "x", "WRONGPASS"),
        ("nobody", SECRET, "WRONGPASS"),
        ("gone", SECRET, "WRONGPASS"),
        ("bob", None, "WRONGPASS"),
    ],
)
def test_wrong_credentials_are_refused_at_once(
    way: Way, server: Server, protocol: int, user: str, password: str | None, code: str
) -> None:
    config = Config(port=server.port, username=user, password=password, protocol=protocol)
    text = way.refused(ServerError, config)
    assert text.startswith(f"{code} ")
    assert "check username and password" in text


@pytest.mark.parametrize("protocol", [2, 3])
def test_a_missing_password_is_named(way: Way, server: Server, protocol: int) -> None:
    admin = way.open(Config(port=server.port))
    admin("ACL SETUSER default resetpass")
    try:
        text = way.refused(ServerError, Config(port=server.port, protocol=protocol))
    finally:
        admin("ACL SETUSER default nopass")
    assert text.startswith("NOAUTH ")
    assert "give a password" in text


def test_a_password_where_none_is_set_is_refused_by_resp2(way: Way, server: Server) -> None:
    config = Config(port=server.port, password=SECRET, protocol=2)
    assert "leave the password out" in way.refused(ServerError, config)


def test_an_unknown_database_is_refused(way: Way, server: Server) -> None:
    text = way.refused(ServerError, Config(port=server.port, db=99999))
    assert text.startswith("ERR DB index is out of range")


@pytest.mark.parametrize("protocol", [2, 3])
def test_a_user_with_few_rights_gets_in(way: Way, server: Server, protocol: int) -> None:
    config = Config(port=server.port, username="timid", password=SECRET, protocol=protocol)
    assert way.open(config)("PING").startswith(b"-NOPERM")


def test_what_the_user_may_not_do_is_named(way: Way, server: Server) -> None:
    config = Config(port=server.port, username="timid", password=SECRET, client_name="x")
    assert way.refused(ServerError, config).startswith("NOPERM ")


def test_a_failing_credential_provider_is_named(way: Way, server: Server) -> None:
    class Vault:
        def get_credentials(self) -> Any:
            raise LookupError("no such secret")

    with pytest.raises(TransportError, match="credential provider failed with LookupError") as e:
        way.open(Config(port=server.port, credential_provider=Vault()))
    assert isinstance(e.value.__cause__, LookupError)
    text = way.refused(ConfigError, Config(port=server.port, credential_provider=Provider(1)))
    assert text.startswith("credential_provider: must give (password,)")


OLD = b"-ERR unknown command `HELLO`, with args beginning with: `3`, `AUTH`, `u`, `%b`, \r\n"


def test_a_server_without_hello_is_named_and_its_echo_cut(way: Way) -> None:
    def old(visitor: socket.socket) -> None:
        visitor.recv(4096)
        visitor.sendall(OLD % SECRET.encode())

    with peer(old) as port:
        text = way.refused(ServerError, Config(port=port, username="u", password=SECRET))
    assert text.startswith("ERR unknown command `HELLO` (")
    assert text.endswith("set protocol=2)")


@pytest.mark.parametrize(
    ("said", "shown"), [("ERR what is {}?", "ERR what is ***? ("), ("{}: what?", "***: what? (")]
)
def test_an_echoed_secret_is_blotted_out(way: Way, said: str, shown: str) -> None:
    def echo(visitor: socket.socket) -> None:
        visitor.recv(4096)
        visitor.sendall(b"-" + said.format(SECRET).encode() + b"\r\n")

    with peer(echo) as port:
        for config in (
            Config(port=port, password=SECRET),
            Config(port=port, credential_provider=Provider("u", SECRET)),
        ):
            assert way.refused(ServerError, config).startswith(shown)


@pytest.mark.parametrize("password", ["WRONGPASS", "W", "invalid"])
def test_a_password_that_is_a_word_of_the_refusal_hides_no_code(
    way: Way, server: Server, password: str
) -> None:
    config = Config(port=server.port, username="bob", password=password)
    with pytest.raises(ServerError) as caught:
        way.open(config)
    assert caught.value.code == "WRONGPASS"
    assert str(caught.value).endswith("check username and password)")
    assert password not in str(caught.value).removeprefix("WRONGPASS")


def test_a_password_that_is_a_word_of_the_refusal_hides_no_advice(way: Way) -> None:
    def old(visitor: socket.socket) -> None:
        visitor.recv(4096)
        visitor.sendall(OLD % b"command")

    with peer(old) as port, pytest.raises(ServerError) as caught:
        way.open(Config(port=port, password="command"))
    assert str(caught.value).startswith("ERR unknown *** `HELLO` (")
    assert str(caught.value).endswith("set protocol=2)")


def test_cancelling_leaves_nothing_open(server: Server) -> None:
    """Whenever the cancellation comes, the server sees no connection of ours remain."""

    async def run() -> None:
        watcher = await open_async(Config(port=server.port), 5)
        reader = AsyncTalk(watcher, asyncio.get_running_loop())
        config = Config(port=server.port, db=1, client_name="cancelled")
        for steps in range(12):
            task = asyncio.ensure_future(open_async(config, 5))
            for _ in range(steps):
                await asyncio.sleep(0)
            if task.cancel():
                with pytest.raises(asyncio.CancelledError):
                    await task
        for _ in range(100):
            watcher.transport.write(b"CLIENT LIST\r\n")
            listed = await asyncio.wait_for(reader.arrived.get(), 5)
            if b"name=cancelled" not in listed:
                break
            await asyncio.sleep(0.02)
        assert b"name=cancelled" not in listed
        watcher.transport.abort()
        await reader.lost

    asyncio.run(run())


def test_a_closed_connection_reaches_the_new_protocol(way: Way, server: Server) -> None:
    if way.loop is None:
        talk = way.open(Config(port=server.port))
        way.open(Config(port=server.port))(f"CLIENT KILL ID {talk.opened.hello['id']}")
        talk.opened.sock.settimeout(5)
        assert talk.opened.sock.recv(1) == b""
        return
    killer = way.open(Config(port=server.port))
    opened = way.loop.run_until_complete(open_async(Config(port=server.port), 5))
    killer(f"CLIENT KILL ID {opened.hello['id']}")
    way.loop.run_until_complete(asyncio.sleep(0.05))  # closed before anybody listens
    talk = AsyncTalk(opened, way.loop)
    way.loop.run_until_complete(asyncio.wait_for(talk.lost, 5))
