"""Who is found through Sentinels, who is refused, and what errors say.

Law: one master, one replica and one Sentinel serve the module; a test that changes them puts
them back. What happens when a master dies stands in ``test_sentinel_failover.py``.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from _harness import CORES, SERVERS, Ways, async_only, needs, sync_only
from _program import TESTS, program
from _sentinel import SERVICE, SentinelServer, Watched, wait_until
from _servers import Certificates, Server, free_port, tls_binary
from redis.sentinel import Sentinel

from fastlock.contrib import redis_py
from fastlock.errors import ConfigError, FastlockError, ServerError, TransportError

SECRET = "s3sam-Xq"
GREEN = str(TESTS / "_green.py")


@pytest.fixture(scope="module")
def server(server_of: Any) -> Iterator[Watched]:
    server_of(SERVERS[0])  # for the sum at the end
    watched = Watched(SERVERS[0], replicas=1, sentinels=1)
    yield watched
    watched.discard()


@contextmanager
def demoted(watched: Watched) -> Iterator[Server]:
    """The master follows another server, and its Sentinel has not heard of it yet.

    That asks every ten seconds.
    """
    master, other = watched.servers
    other.admin.replicaof("NO", "ONE")
    master.admin.replicaof("127.0.0.1", str(other.port))
    assert watched.named() == {master.port}
    try:
        yield master
    finally:
        master.admin.replicaof("NO", "ONE")
        other.admin.replicaof("127.0.0.1", str(master.port))
        wait_until(lambda: watched._follows(other, master))


def connections(watched: Watched) -> set[str]:
    """Those of clients that are called "renewing", by number."""
    found = watched.servers[0].admin.client_list()
    return {client["id"] for client in found if client["name"] == "renewing"}


def silent() -> tuple[socket.socket, str]:
    """A listener that takes visitors and says nothing, and its address."""
    listener = socket.create_server(("127.0.0.1", 0))
    return listener, f"127.0.0.1:{listener.getsockname()[1]}"


# -- what works


async def test_the_master_is_found(fl: Ways, server: Watched) -> None:
    options: dict[str, Any]
    for options in ({}, {"protocol": 2}):
        client = fl.client(f"{server.uri}/1", **options)
        key = fl.key()
        lease = await client.acquire(key, ttl=5)
        assert server.master.admin.execute_command("DBSIZE") == 0  # it is in another database
        assert await client.locked(key)
        assert await lease.release() is True
        assert client.config.address in repr(fl.raw(client))


async def test_sentinels_that_are_down_or_silent_are_passed_over(fl: Ways, server: Watched) -> None:
    listener, mute = silent()
    with listener:
        for first in (f"127.0.0.1:{free_port()}", mute):
            client = fl.client(server.uri.replace("://", f"://{first},"), retries=0)
            lease = await client.try_acquire(fl.key(), ttl=5)
            assert await lease.release() is True


async def test_users_of_the_servers_and_of_the_sentinels(fl: Ways, server: Watched) -> None:
    master, (sentinel,) = server.master, server.sentinels
    for commands in ("+@all", "-@dangerous"):
        master.admin.execute_command(
            "ACL", "SETUSER", "bob", "on", f">{SECRET}", "~*", "&*", commands
        )
    sentinel("ACL", "SETUSER", "eve", "on", f">{SECRET}e", "+sentinel|masters")
    uri = server.uri.replace("://", f"://bob:{SECRET}@")
    eve = {"sentinel_username": "eve", "sentinel_password": f"{SECRET}e"}
    client = fl.client(uri, **eve)
    lease = await client.try_acquire(fl.key(), ttl=5)
    assert await lease.release() is True

    for wrong, options, code, words in (
        (uri, {**eve, "sentinel_password": f"{SECRET}x"}, "WRONGPASS", "these are sentinel_user"),
        (uri, {"sentinel_username": "bob", "sentinel_password": SECRET}, "WRONGPASS", "sentinel_p"),
        (uri.replace(SECRET, f"{SECRET}y"), eve, "WRONGPASS", f"127.0.0.1:{master.port}/0"),
        # Without HELLO the role is asked for, which takes a right of its own.
        (uri, {**eve, "protocol": 2}, "NOPERM", "'role'"),
    ):
        with pytest.raises(ServerError) as caught:
            await fl.client(wrong, **options).try_acquire(fl.key(), ttl=1)
        assert caught.value.code == code
        assert words in str(caught.value)
        assert server.uri in str(caught.value)
        assert SECRET not in str(caught.value)
    sentinel("ACL", "DELUSER", "eve")


# -- errors say what was tried


async def test_all_sentinels_are_down(fl: Ways, server: Watched) -> None:
    listener, mute = silent()
    with listener:
        nobody = f"127.0.0.1:{free_port()}"
        client = fl.client(
            f"redis+sentinel://{nobody},{mute}/{SERVICE}", retries=0, connect_timeout=0.3
        )
        with pytest.raises(TransportError) as caught:
            await client.try_acquire(fl.key(), ttl=1)
    said = str(caught.value)
    assert caught.value.sent is False
    assert said.startswith(f"{client.config.address}: no Sentinel answers: ")
    assert f"redis://{nobody}/0 refused the connection: is the server running" in said
    assert f"no answer from redis://{mute}/0 within 0.1" in said


async def test_a_service_that_they_do_not_know(fl: Ways, server: Watched) -> None:
    client = fl.client(server.uri.replace(SERVICE, "other"))
    with pytest.raises(ConfigError) as caught:
        await client.try_acquire(fl.key(), ttl=1)
    assert caught.value.field == "service"
    assert "'other' is unknown to those who answer; they know 'main'" in str(caught.value)
    assert client.config.address in str(caught.value)
    # One that could know it did not answer.
    client = fl.client(
        client.config.address.replace("://", f"://127.0.0.1:{free_port()},"), retries=0
    )
    with pytest.raises(TransportError, match=r"'other' is unknown .* of the others: .* refused"):
        await client.try_acquire(fl.key(), ttl=1)


async def test_a_server_is_no_sentinel(fl: Ways, server: Watched) -> None:
    client = fl.client(f"redis+sentinel://127.0.0.1:{server.master.port}/{SERVICE}")
    with pytest.raises(ServerError, match="this is no Sentinel: check sentinels"):
        await client.try_acquire(fl.key(), ttl=1)


# -- a master that was demoted


async def test_a_demoted_master_is_refused_though_it_is_named(fl: Ways, server: Watched) -> None:
    hasty = [
        fl.client(server.uri, retries=0, protocol=protocol, connect_timeout=0.6)
        for protocol in (2, 3)
    ]
    patient = fl.client(server.uri, retries=0)
    with demoted(server) as master:
        for client in hasty:
            with pytest.raises(TransportError) as caught:
                await client.acquire(fl.key(), ttl=1, timeout=5)
            assert caught.value.sent is False
            assert f"redis://127.0.0.1:{master.port}/0 is no master now" in str(caught.value)
            assert f"it is the one that {client.config.address} names" in str(caught.value)
        waiting = fl.spawn(patient.acquire(fl.key(), ttl=5, timeout=5))  # asks again and again
        await fl.sleep(0.3)
        assert not waiting.done()
    assert await (await waiting).release() is True


async def test_what_a_demoted_master_refuses_is_asked_of_the_next(
    fl: Ways, server: Watched
) -> None:
    """Each of these finds out on a connection that is still up."""
    client = await fl.warm(fl.client(server.uri, handover_limit=0))
    held = [await client.acquire(fl.key(), ttl=20) for _ in range(7)]
    keys = [fl.key() for _ in range(3)]

    async def lock_all() -> list[Any]:
        async with client.lock_all(keys, ttl=5, timeout=5) as leases:
            return list(leases)

    for refused in (
        lambda: client.try_acquire(fl.key(), ttl=5),
        lambda: client.acquire(fl.key(), ttl=5, timeout=5),
        lambda: client.acquire(fl.key(), ttl=5, timeout=5, fence=True),
        lambda: client.acquire(fl.key(), ttl=5, timeout=5, fair=True),
        lambda: client.try_acquire_many([fl.key(), fl.key()], ttl=5),
        lock_all,
        held[0].release,
        held[1].extend,
        lambda: client.release_many(held[2:4]),
        lambda: client.extend_many(held[4:6], 9),
        lambda: client.force_release(held[6].key),
    ):
        with demoted(server):
            result = fl.spawn(refused())
            await fl.sleep(0.05)
            assert not result.done()  # neither refused for good nor done
        assert await result not in (False, [None, None], [False, False])
    assert await client.locked(held[4].key)


async def test_what_waits_for_replicas_goes_on_at_the_next_master(
    fl: Ways, server: Watched
) -> None:
    """Demoted, a server ends the waiting for its replicas, and forgets the lock."""
    client, key = await fl.warm(fl.client(server.uri)), fl.key()
    master, other = server.servers
    other.admin.replicaof("NO", "ONE")  # so that nobody acknowledges
    options = {"min_replicas": 1, "replica_timeout": 10}
    taking = fl.spawn(client.acquire(key, ttl=30, timeout=15, **options))
    await fl.until(lambda: master.admin.exists(key))
    with demoted(server):
        await fl.sleep(0.2)
        assert not taking.done()
    lease = await taking
    assert other.admin.get(key) == lease.token.encode()
    assert await lease.release() is True


async def test_a_renewal_that_is_refused_goes_to_the_next(fl: Ways, server: Watched) -> None:
    client = fl.client(server.uri, client_name="renewing")
    lease = await client.acquire(fl.key(), ttl=0.9, auto_renew=True)
    await fl.until(lambda: len(connections(server)) == (1 if fl.sync else 2))
    before = connections(server)
    with demoted(server):
        await fl.sleep(0.4)  # one is due at 0.3
    await fl.sleep(0.7)
    assert connections(server) - before, "it was sent over the same connection again and again"
    assert lease.valid()
    assert not lease.lost
    assert await lease.release() is True


# -- as with one server


@sync_only
async def test_closing_ends_a_search(fl: Ways, server: Watched) -> None:
    """Whether a Sentinel is silent, or it is asked again and again."""
    listener, mute = silent()
    with listener, demoted(server):
        for uri in (f"redis+sentinel://{mute}/{SERVICE}", server.uri):
            client = fl.client(uri, connect_timeout=20, socket_timeout=20)
            waiting = fl.spawn(client.acquire(fl.key(), ttl=1))
            await fl.sleep(0.3)
            begun = time.monotonic()
            await client.close()
            with pytest.raises(FastlockError, match="the client is closed"):
                await waiting
            assert time.monotonic() - begun < 5


@contextmanager
def struck(handler: Callable[[], object]) -> Iterator[None]:
    """The handler runs in this thread, in a quarter of a second."""
    before = signal.signal(signal.SIGALRM, lambda *_: handler())
    signal.setitimer(signal.ITIMER_REAL, 0.25)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@sync_only
@pytest.mark.parametrize("asking", ["a silent one", "again and again"])
async def test_signals_during_a_search(fl: Ways, server: Watched, asking: str) -> None:
    """One may end it; one whose handler calls in has a search of its own."""
    listener, mute = silent()

    def end() -> None:
        raise KeyboardInterrupt

    with listener, demoted(server):
        uri = server.uri if asking != "a silent one" else f"redis+sentinel://{mute}/{SERVICE}"
        client = fl.client(uri, connect_timeout=20, socket_timeout=20)
        with struck(end), pytest.raises(KeyboardInterrupt):
            await client.acquire(fl.key(), ttl=1)
    client = fl.client(server.uri.replace("://", f"://{mute.rpartition(':')[0]}:{free_port()},"))
    taken: list[Any] = []

    def take() -> None:
        server.servers[0].admin.replicaof("NO", "ONE")
        taken.append(fl.raw(client).try_acquire(fl.key("inside"), ttl=5))

    with demoted(server), struck(take):
        lease = await client.acquire(fl.key(), ttl=5)
    assert await lease.release() is True
    assert taken[0].release() is True


@async_only
async def test_a_cancelled_search_leaves_nothing(fl: Ways, server: Watched) -> None:
    listener, mute = silent()
    with listener:
        client = fl.client(f"redis+sentinel://{mute}/{SERVICE}", connect_timeout=20)
        waiting = fl.spawn(client.acquire(fl.key(), ttl=1))
        await fl.sleep(0.2)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await client.close()


@sync_only
async def test_a_fork_in_the_middle_of_a_search(fl: Ways, server: Watched) -> None:
    """The child has no share in it, and finds the master by itself."""
    listener, mute = silent()
    with listener:
        client = fl.client(server.uri.replace("://", f"://{mute},"), connect_timeout=2)
        waiting = fl.spawn(client.acquire(fl.key(), ttl=9))
        visitor, _ = listener.accept()
        key = fl.key("child")
        child = os.fork()
        if not child:
            try:
                taken = fl.raw(client).try_acquire(key, ttl=9) is not None
                os._exit(0 if taken else 1)
            finally:
                os._exit(2)
        with visitor:
            visitor.settimeout(10)
            while visitor.recv(4096):  # the end comes though the child lives
                pass
        assert await (await waiting).release() is True
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert await client.locked(key)


@sync_only
@pytest.mark.parametrize("core", ["python"], indirect=True)  # the only one that yields
@pytest.mark.parametrize("library", ["gevent", "eventlet"])
async def test_green_threads_go_on_during_a_search(fl: Ways, server: Watched, library: str) -> None:
    needs(library)
    with demoted(server), program(GREEN, library, "searching", server.uri, fl.key()) as process:
        assert process.said() == "others run"
        server.servers[0].admin.replicaof("NO", "ONE")
        assert process.said() == "True"
        code, out, err = process.ended()
    err = "".join(line for line in err.splitlines(True) if "RLock(s) were not greened" not in line)
    assert (code, out, err) == (0, "", "")


@pytest.fixture(scope="module")
def secured(certificates: Certificates) -> Iterator[tuple[Server, SentinelServer]]:
    """A master and its Sentinel, both with TLS only."""
    if tls_binary() is None:
        pytest.skip("no server with TLS is installed")
    tls = {**certificates.options(), "tls-replication": "yes"}
    master = Server("redis", tls=tls)
    sentinel = SentinelServer("redis", master.port, 1, tls=tls)
    yield master, sentinel
    sentinel.discard()
    master.discard()


@sync_only
@pytest.mark.parametrize("core", CORES[:1], indirect=True)
async def test_the_drop_in_for_redis_py_s_lock(fl: Ways, server: Watched) -> None:
    port = server.sentinels[0].port
    with Sentinel([("127.0.0.1", port)]).master_for(SERVICE) as theirs:
        with redis_py.Lock(theirs, fl.key(), timeout=5) as lock:
            assert server.admin.get(lock.name) == lock.local.token
        assert not server.admin.exists(lock.name)
        redis_py.close()


async def test_tls_to_both(
    fl: Ways, secured: tuple[Server, SentinelServer], certificates: Certificates
) -> None:
    _, sentinel = secured
    uri = f"rediss+sentinel://localhost:{sentinel.port}/{SERVICE}"
    trust = {"ssl_ca_certs": certificates.ca}
    # The certificate names localhost; what Sentinel names is an address.
    client = fl.client(uri, **trust, ssl_check_hostname=False)
    lease = await client.try_acquire(fl.key(), ttl=5)
    assert await lease.release() is True
    with pytest.raises(TransportError, match=r"127\.0\.0\.1.* certificate was refused"):
        await fl.client(uri, **trust, retries=0, connect_timeout=1.5).ping()
    stranger = fl.client(uri, ssl_ca_certs=certificates.other_ca, retries=0)
    with pytest.raises(TransportError, match=r"no Sentinel answers: .* certificate was refused"):
        await stranger.ping()
