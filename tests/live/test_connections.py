"""The one connection: how it is made, what ends it, and that its end is survived."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
import redis
import redis.asyncio
from _harness import Ways, async_only, clock, native_server, one_server, sync_only
from _servers import Certificates, Server, release_command

import fastlock


async def use(fl: Ways, client: Any, key: str | None = None) -> None:
    """The plain case works."""
    key = key or fl.key()
    lease = await client.acquire(key, ttl=5, timeout=5)
    await lease.extend(5)
    assert await client.try_acquire(key, ttl=5) is None
    assert await lease.release() is True


def named(fl: Ways, name: str) -> list[dict[str, str]]:
    """The server's connections of that client name."""
    return [entry for entry in fl.admin.client_list() if entry["name"] == name]


# ------------------------------------------------------------------ one connection


async def test_thirty_two_callers_share_one_connection(fl: Ways) -> None:
    name = fl.key("name")
    client = fl.client(client_name=name)
    keys = [fl.key() for _ in range(32)]
    counts = set()

    async def work(key: str) -> None:
        for _ in range(5):
            async with client.lock(key, ttl=5):
                counts.add(len(named(fl, name)) if key == keys[0] else 1)

    await fl.together(work(key) for key in keys)
    assert counts == {1}
    (entry,) = named(fl, name)
    assert entry["lib-name"].startswith("fastlock") if "lib-name" in entry else True
    await client.close()
    await fl.until(lambda: not named(fl, name))


async def test_a_client_connects_at_its_first_call_only(fl: Ways) -> None:
    proxy = fl.proxy()
    client = fl.client(proxy.uri)
    client.lock(fl.key())
    assert proxy.connections == 0
    assert 0 < await client.ping() < 60
    assert proxy.connections == 1
    await use(fl, client)
    assert proxy.connections == 1


async def test_callers_that_arrive_together_make_one_connection(fl: Ways) -> None:
    proxy = fl.proxy()
    slow = proxy.fault("delay_reply", verb="HELLO", seconds=0.1)
    client = fl.client(proxy.uri)
    await fl.together(use(fl, client) for _ in range(8))
    await fl.happened(slow)
    assert proxy.connections == 1


@pytest.mark.parametrize("protocol", [2, 3])
async def test_both_protocols(fl: Ways, protocol: int) -> None:
    name = fl.key("name")
    client = fl.client(protocol=protocol, client_name=name)
    await use(fl, client)
    info = await client.server()
    assert info.protocol == protocol
    assert [entry["resp"] for entry in named(fl, name)] == [str(protocol)]


async def test_the_server_is_described(fl: Ways) -> None:
    info = await fl.client().server()
    assert f"{info.name} {info.version}" == fl.server.version
    assert info.connection_id in {int(entry["id"]) for entry in fl.admin.client_list()}
    assert info.release_command == release_command(fl.server.version)


@one_server
async def test_databases_are_kept_apart(fl: Ways) -> None:
    key = fl.key()
    one, two = fl.client(db=1), fl.client(db=2)
    lease = await one.acquire(key, ttl=5)
    other = await two.try_acquire(key, ttl=5)
    assert other is not None
    assert fl.admin.exists(key) == 0
    assert [await lease.release(), await other.release()] == [True, True]


@pytest.mark.smoke
async def test_unix_socket(fl: Ways, own_server: Server) -> None:
    await use(fl, fl.client(own_server.unix_uri))
    await use(fl, fl.client(unix_socket=own_server.socket_path))


# ------------------------------------------------------------------ what ends it


@one_server
async def test_a_server_restart_is_survived(fl: Ways, own_server: Server) -> None:
    client, key = fl.client(own_server.uri), fl.key()
    await use(fl, client)
    lease = await client.acquire(key, ttl=30)
    own_server.restart()
    await use(fl, client)
    # Its data is gone, so the lock is: fastlock says so.
    assert await lease.release() is False
    assert (await client.server()).run_id == own_server.admin.info("server")["run_id"]


@one_server
async def test_a_crash_in_the_middle_of_waiting_is_survived(fl: Ways, own_server: Server) -> None:
    client, key = fl.client(own_server.uri, retry_timeout=20), fl.key()
    own_server.admin.set(key, "taken", px=60_000)
    waiter = fl.spawn(client.acquire(key, ttl=5, timeout=20))
    await fl.sleep(0.1)
    own_server.kill()
    own_server.start()
    lease = await waiter
    assert own_server.admin.get(key).decode() == lease.token
    assert await lease.release() is True


@one_server
async def test_a_frozen_server_is_survived(fl: Ways, own_server: Server) -> None:
    client, key = fl.client(own_server.uri, socket_timeout=0.3, connect_timeout=0.3), fl.key()
    await use(fl, client)
    own_server.freeze()
    attempt = fl.spawn(client.try_acquire(key, ttl=5))
    await fl.sleep(0.4)
    own_server.thaw()
    lease = await attempt
    assert own_server.admin.get(key).decode() == lease.token
    assert await lease.release() is True


async def test_forgotten_scripts_are_sent_again(fl: Ways) -> None:
    client, key = fl.client(), fl.key()
    lease = await client.acquire(key, ttl=5)
    fl.admin.script_flush()
    await lease.extend(5)
    fl.admin.script_flush()
    assert await lease.release() is True
    fl.admin.script_flush()
    async with client.lock_all([key], ttl=5):
        pass


@pytest.mark.parametrize("moment", ["between calls", "while it waits"])
async def test_a_killed_connection_is_survived(fl: Ways, moment: str) -> None:
    name, key = fl.key("name"), fl.key()
    client = fl.client(client_name=name, retry_timeout=20, push=False)
    await use(fl, client)
    (entry,) = named(fl, name)
    if moment == "between calls":
        fl.admin.client_kill_filter(_id=entry["id"])
        await use(fl, client)
    else:
        fl.admin.set(key, "taken", px=60_000)
        waiter = fl.spawn(client.acquire(key, ttl=5, timeout=10))
        await fl.sleep(0.05)
        fl.admin.client_kill_filter(_id=entry["id"])
        await fl.sleep(0.05)
        fl.admin.delete(key)
        assert await (await waiter).release() is True
    (other,) = named(fl, name)
    assert other["id"] != entry["id"]


@sync_only
@one_server
async def test_many_threads_survive_a_cut_together(fl: Ways) -> None:
    proxy = fl.proxy()
    client = fl.client(proxy.uri)
    keys = [fl.key() for _ in range(16)]

    async def work(key: str) -> None:
        for _ in range(40):
            lease = await client.try_acquire(key, ttl=10)
            assert lease is not None
            assert await lease.release() is True

    async def cut() -> None:
        for _ in range(5):
            await fl.sleep(0.03)
            proxy.cut()

    await fl.together([*(work(key) for key in keys), cut()])
    assert fl.admin.exists(*keys) == 0


async def left_behind(fl: Ways) -> tuple[Any, Any, Callable[[], bool]]:
    """A client and its lease; whether what somebody left behind is ended."""
    client, left = [await fl.warm(fl.client()) for _ in range(2)]
    lease = await client.acquire(fl.key("held"), 30)
    server, info = fl.raw(client)._server, fl.raw(left)._server._link.info
    server.strays.append(info)

    def ended() -> bool:
        there = [int(one["id"]) for one in fl.admin.client_list()]
        return server.strays == [] and info.connection_id not in there

    return client, lease, ended


@one_server
@pytest.mark.parametrize("step", ["many", "extend"])
async def test_what_was_left_behind_is_ended_before_anything_is_sent_anew(
    fl: Ways, step: str
) -> None:
    """By a handler, or a task, that used a connection of its own and was interrupted."""
    client, lease, ended = await left_behind(fl)
    if step == "many":
        assert all(await client.try_acquire_many([fl.key("a"), fl.key("b")], 30))
    else:
        await lease.extend(60)
    assert ended()


@one_server
@sync_only
@pytest.mark.parametrize("step", ["try", "acquire", "release"])
async def test_nothing_goes_straight_while_something_is_left_behind(fl: Ways, step: str) -> None:
    client, lease, ended = await left_behind(fl)
    if step == "release":
        assert await lease.release() is True
    else:
        assert await getattr(client, {"try": "try_acquire"}.get(step, step))(fl.key(), 30)
    assert ended()


# ------------------------------------------------------------------ what cannot be reached


@one_server
async def test_nobody_listens(fl: Ways) -> None:
    proxy = fl.proxy()
    proxy.down()
    client = fl.client(proxy.uri, password="open-sesame")
    started = clock()
    for call in (client.ping, lambda: client.try_acquire("k"), lambda: client.locked("k")):
        with pytest.raises(fastlock.TransportError) as caught:
            await call()
        assert caught.value.sent is False
        assert isinstance(caught.value, ConnectionError)
        assert f"localhost:{proxy.port}" in str(caught.value)
        assert "sesame" not in str(caught.value)
    # Refused at once, four times each with back-off in between: not minutes.
    assert clock() - started < 30


@pytest.fixture
def silent_port() -> Iterator[int]:
    """Accepts connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


@one_server
async def test_a_silent_server_is_given_up(fl: Ways, silent_port: int) -> None:
    client = fl.client(f"redis://127.0.0.1:{silent_port}", connect_timeout=0.2, retries=1)
    started = clock()
    with pytest.raises(fastlock.TransportError) as caught:
        await client.try_acquire(fl.key())
    assert caught.value.sent is False
    assert 0.4 <= clock() - started < 10


@pytest.fixture
def talker() -> Iterator[Any]:
    """Answers whatever it hears with a text of the test's choice."""

    class Talker:
        text = b""

        def __init__(self) -> None:
            self.listener = socket.create_server(("127.0.0.1", 0))
            self.port = self.listener.getsockname()[1]
            self.accepted = 0
            self.thread = threading.Thread(target=self.run, name="talker", daemon=True)
            self.thread.start()

        def run(self) -> None:
            with suppress(OSError):
                while True:
                    sock, _ = self.listener.accept()
                    self.accepted += 1
                    with sock, suppress(OSError):
                        sock.settimeout(2)
                        sock.recv(65536)
                        sock.sendall(self.text)
                        while sock.recv(65536):
                            pass

    one = Talker()
    yield one
    one.listener.shutdown(socket.SHUT_RDWR)
    one.listener.close()
    one.thread.join(5)


@one_server
@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize("text", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"220 smtp ready\r\n"])
async def test_a_server_that_speaks_garbage(
    fl: Ways, talker: Any, text: bytes, protocol: int
) -> None:
    talker.text = text
    client = fl.client(f"redis://127.0.0.1:{talker.port}", protocol=protocol, connect_timeout=1)
    with pytest.raises(fastlock.ProtocolError) as caught:
        await client.try_acquire(fl.key())
    assert str(talker.port) in str(caught.value)
    assert talker.accepted == 1  # another try would hear the same


# ------------------------------------------------------------------ who may come in


@one_server
async def test_a_wrong_password_is_told_at_once(fl: Ways, own_server: Server) -> None:
    own_server.admin.config_set("requirepass", "open-sesame")
    for options, code in [
        ({"password": "wrong-word"}, "WRONGPASS"),
        ({"username": "nobody", "password": "wrong-word"}, "WRONGPASS"),
        ({}, "NOAUTH"),
    ]:
        before = own_server.admin.info("stats")["total_connections_received"]
        client = fl.client(own_server.uri, **options)
        with pytest.raises(fastlock.ServerError) as caught:
            await client.try_acquire(fl.key())
        assert caught.value.code == code
        assert "wrong-word" not in repr(caught.value) + str(caught.value)
        assert own_server.admin.info("stats")["total_connections_received"] == before + 1, options
    await use(fl, fl.client(own_server.uri, password="open-sesame"))
    await use(fl, fl.client(own_server.uri, username="default", password="open-sesame"))


WORDS = ("set", "get", "del", "pexpire", "eval", "evalsha", "exists", "hello")


@one_server
async def test_a_user_without_scripts_or_native_commands(fl: Ways, own_server: Server) -> None:
    """A user with SET, GET, DEL and EVAL is enough: what is forbidden is done by script."""
    own_server.admin.acl_setuser(
        "plain", enabled=True, passwords=["+word"], keys=["*"],
        commands=["-@all", *f"+{' +'.join(WORDS)}".split()],
    )  # fmt: skip
    client = fl.client(own_server.uri, username="plain", password="word")
    await use(fl, client)
    keys = [fl.key() for _ in range(5)]
    leases = await client.try_acquire_many(keys, ttl=5)
    assert await client.release_many(leases) == [True] * 5
    async with client.lock_all(keys, ttl=5):
        pass
    assert (await client.server()).release_command == "EVALSHA"


@one_server
async def test_a_key_this_user_may_not_touch(fl: Ways, own_server: Server) -> None:
    own_server.admin.acl_setuser(
        "fenced", enabled=True, passwords=["+word"], keys=["mine:*"], commands=["+@all"]
    )
    client = fl.client(own_server.uri, username="fenced", password="word")
    await use(fl, client, "mine:1")
    for call in (
        lambda: client.try_acquire("theirs:1"),
        lambda: client.acquire("theirs:1"),
        lambda: client.try_acquire_many(["mine:2", "theirs:1"]),
        lambda: client.locked("theirs:1"),
    ):
        with pytest.raises(fastlock.ServerError) as caught:
            await call()
        assert caught.value.code == "NOPERM"
        assert "theirs:1" in str(caught.value)
    await fl.until(lambda: not own_server.admin.exists("mine:2"))


@native_server
async def test_a_user_without_scripts_keeps_the_native_commands(
    fl: Ways, own_server: Server
) -> None:
    """A refusal about one key says nothing about the server's own release command."""
    own_server.admin.acl_setuser(
        "native", enabled=True, passwords=["+word"], keys=["mine:*"],
        commands=["+@all", "-@scripting"],
    )  # fmt: skip
    proxy = fl.proxy(own_server)
    client = fl.client(proxy.uri, username="native", password="word", retries=1)
    lease = await client.acquire("mine:1", ttl=5)
    with pytest.raises(fastlock.ServerError, match="NOPERM"):
        await client.acquire("theirs:1", ttl=5)
    assert (await client.server()).release_command == release_command(own_server.version)
    assert await lease.release() is True
    proxy.fault("lose_reply", times=2)
    with pytest.raises(fastlock.OutcomeUnknown):
        await client.try_acquire("mine:2", ttl=5)
    await fl.until(lambda: not own_server.admin.exists("mine:2"))  # given back without a script


# ------------------------------------------------------------------ TLS


@one_server
@pytest.mark.smoke
async def test_tls(fl: Ways, tls_server: Server, certificates: Certificates) -> None:
    client = fl.client(tls_server.uri, ssl_ca_certs=certificates.ca)
    await use(fl, client)
    keys = [fl.key() for _ in range(300)]
    leases = await client.try_acquire_many(keys, ttl=5)
    assert await client.release_many(leases) == [True] * 300
    with open(certificates.ca) as file:
        await use(fl, fl.client(tls_server.uri, ssl_ca_data=file.read()))


@one_server
async def test_tls_with_many_callers(
    fl: Ways, tls_server: Server, certificates: Certificates
) -> None:
    client = fl.client(tls_server.uri, ssl_ca_certs=certificates.ca, retry_timeout=5)
    key, inside = fl.key(), []

    async def work() -> None:
        for _ in range(3):
            async with client.lock(key, ttl=10):
                inside.append(1)
                assert len(inside) == 1
                inside.pop()
            await use(fl, client)

    await fl.together(work() for _ in range(8))


@one_server
async def test_tls_of_an_unknown_authority_is_refused(
    fl: Ways, tls_server: Server, certificates: Certificates
) -> None:
    for options in ({"ssl_ca_certs": certificates.other_ca}, {}):
        client = fl.client(tls_server.uri, retries=0, **options)
        with pytest.raises(fastlock.TransportError, match=r"(?i)certificate") as caught:
            await client.try_acquire(fl.key())
        assert caught.value.sent is False


@one_server
async def test_tls_for_another_host_is_refused(
    fl: Ways, tls_server: Server, certificates: Certificates
) -> None:
    uri = f"rediss://127.0.0.1:{tls_server.port}"
    client = fl.client(uri, ssl_ca_certs=certificates.ca, retries=0)
    with pytest.raises(fastlock.TransportError, match=r"(?i)certificate") as caught:
        await client.try_acquire(fl.key())
    assert caught.value.sent is False
    lenient = fl.client(uri, ssl_ca_certs=certificates.ca, ssl_check_hostname=False)
    await use(fl, lenient)


@one_server
async def test_tls_survives_a_killed_connection(
    fl: Ways, tls_server: Server, certificates: Certificates
) -> None:
    client, key = fl.client(tls_server.uri, ssl_ca_certs=certificates.ca), fl.key()
    lease = await client.acquire(key, ttl=5)
    number = (await client.server()).connection_id
    tls_server.admin.client_kill_filter(_id=number)
    assert await lease.release() is True
    await use(fl, client, key)


@one_server
async def test_plain_to_a_tls_server_and_tls_to_a_plain_one(
    fl: Ways, tls_server: Server, certificates: Certificates
) -> None:
    port = fl.server.address[1]
    for uri, options in [
        (f"redis://localhost:{tls_server.port}", {}),
        (f"rediss://localhost:{port}", {"ssl_ca_certs": certificates.ca}),
    ]:
        client = fl.client(uri, retries=0, connect_timeout=1, **options)
        with pytest.raises((fastlock.TransportError, fastlock.ProtocolError)) as caught:
            await client.try_acquire(fl.key())
        assert "TLS" in str(caught.value)


# ------------------------------------------------------------------ from_redis


@pytest.mark.parametrize("module", [redis, redis.asyncio], ids=["sync", "asyncio"])
@pytest.mark.parametrize("decode", [False, True], ids=["bytes", "decode_responses"])
async def test_from_redis(fl: Ways, module: Any, decode: bool) -> None:
    host, port = fl.server.address
    theirs = module.Redis(host=host, port=port, decode_responses=decode, db=0, max_connections=1)
    await use(fl, fl.own(fl.client_class.from_redis(theirs)))
    changed = fl.own(fl.client_class.from_redis(theirs, prefix="p:", label="me"))
    assert (changed.config.prefix, changed.config.label) == ("p:", "me")
    await use(fl, changed)


@one_server
async def test_from_redis_over_unix_socket_and_with_a_password(
    fl: Ways, own_server: Server
) -> None:
    own_server.admin.config_set("requirepass", "open-sesame")
    theirs = redis.Redis(unix_socket_path=own_server.socket_path, password="open-sesame", db=2)
    client, key = fl.own(fl.client_class.from_redis(theirs)), fl.key()
    lease = await client.acquire(key, ttl=5)
    assert theirs.exists(key) == 1  # in the same database
    assert await lease.release() is True
    theirs.close()


@one_server
async def test_from_redis_over_tls(
    fl: Ways, tls_server: Server, certificates: Certificates
) -> None:
    theirs = redis.Redis.from_url(tls_server.uri, ssl_ca_certs=certificates.ca)
    client = fl.own(fl.client_class.from_redis(theirs))
    assert client.config.ssl is True
    await use(fl, client)


# ------------------------------------------------------------------ closing


async def test_a_closed_client_says_so(fl: Ways) -> None:
    client, key = fl.client(), fl.key()
    lease = await client.acquire(key, ttl=5)
    assert client.closed is False
    await client.close()
    await client.close()
    assert client.closed is True
    for call in (
        lambda: client.try_acquire(key),
        lambda: client.acquire(key),
        lambda: client.try_acquire_many([key]),
        lambda: client.locked(key),
        lambda: client.ping(),
        lease.release,
        lease.extend,
    ):
        with pytest.raises(fastlock.FastlockError, match="closed"):
            await call()
    fl.admin.delete(key)


async def test_a_client_is_a_context_manager(fl: Ways) -> None:
    async with fl.client() as client:
        await use(fl, client)
    assert client.closed is True


async def test_closing_wakes_those_who_wait_for_a_lock(fl: Ways) -> None:
    client, key = fl.client(retry_timeout=60_000), fl.key()
    fl.admin.set(key, "taken", px=60_000)
    waiter = fl.spawn(client.acquire(key))
    await fl.sleep(0.1)
    await client.close()
    with pytest.raises(fastlock.FastlockError, match="closed"):
        await waiter
    fl.admin.delete(key)


@async_only
@one_server
async def test_a_client_serves_one_loop_after_another_but_not_two(fl: Ways) -> None:
    import asyncio

    client = fl.client_class(fl.server.uri)
    await use(fl, client)

    def elsewhere() -> None:
        asyncio.run(client.ping())

    with pytest.raises(fastlock.FastlockError, match="loop"):
        await asyncio.to_thread(elsewhere)
    await client.close()


@one_server
async def test_the_environment_s_settings(fl: Ways, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("FASTLOCK_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("FASTLOCK_URL", fl.server.uri)
    monkeypatch.setenv("FASTLOCK_LABEL", "from-the-environment")
    client, key = fl.client(fastlock.Config.from_env()), fl.key()
    async with client.lock(key, ttl=5):
        assert await client.holder(key) == "from-the-environment"


@pytest.mark.parametrize("late", ["HELLO", "INFO"])
async def test_all_of_connecting_has_one_deadline(fl: Ways, late: str) -> None:
    """Each answer comes within ``connect_timeout``; all of them together do not."""
    proxy = fl.proxy()
    proxy.fault("delay_reply", verb="HELLO", seconds=0.5)
    proxy.fault("delay_reply", verb="INFO", seconds=0.5 if late == "INFO" else 0.0)
    client = fl.client(proxy.uri, connect_timeout=0.8, retries=0)
    if late == "INFO":
        with pytest.raises(fastlock.TransportError):
            await client.ping()
    else:
        await client.ping()
