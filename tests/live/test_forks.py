"""A forked child owns nothing of its parent's."""

from __future__ import annotations

import asyncio
import errno
import multiprocessing
import os
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable
from multiprocessing import resource_tracker
from typing import Any

import pytest
from _harness import Ways, async_only, one_server, sync_only

import fastlock
from fastlock import _fork


def in_child(body: Callable[[], Any]) -> None:
    """Run ``body`` in a forked child; fail with what it failed with."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            body()
        except BaseException:
            os.write(writer, traceback.format_exc()[-3000:].encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as said:
        failure = said.read()
    os.waitpid(child, 0)
    assert not failure, failure


@pytest.fixture(autouse=True, scope="module")
def _resource_tracker() -> None:
    """multiprocessing keeps a pipe to it; not for the leak check to count."""
    resource_tracker.ensure_running()


def connections(fl: Ways, name: str) -> list[str]:
    return [one["id"] for one in fl.admin.client_list() if one["name"] == name]


# ------------------------------------------------------------------ forks

pytestmark = pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")


@sync_only
async def test_a_child_leaves_its_parent_s_lease_and_connection_alone(fl: Ways) -> None:
    key, own, name = fl.key(), fl.key("own"), f"fork-{fl.key()}"
    client = fl.raw(fl.client(client_name=name))
    lease = client.acquire(key, 30)
    (parent,) = connections(fl, name)

    def child() -> None:
        for call in (lease.release, lease.extend, lambda: client.release_many([lease])):
            with pytest.raises(fastlock.LockError, match="parent process") as caught:
                call()
            assert caught.value.key == key
        assert client.try_acquire(key) is None
        mine = client.acquire(own, 30)
        assert mine.token.partition("-")[0] != lease.token.partition("-")[0]
        assert mine.release() is True
        client.close()

    in_child(child)
    assert connections(fl, name) == [parent]
    assert lease.valid()
    assert fl.admin.get(key) == lease.token.encode()
    lease.extend(20)
    assert lease.release() is True
    assert connections(fl, name) == [parent]


@sync_only
async def test_a_child_that_ends_inside_a_with_block_frees_nothing(fl: Ways) -> None:
    key = fl.key()
    client = fl.raw(fl.client())
    with client.lock(key, ttl=30) as lease:

        def child() -> None:
            with pytest.raises(fastlock.LockError, match="parent process"):
                lease.__exit__(None, None, None)

        in_child(child)
        assert fl.admin.get(key) == lease.token.encode()
    assert fl.admin.exists(key) == 0


@sync_only
async def test_a_token_handed_to_the_child_lets_it_adopt(fl: Ways) -> None:
    key = fl.key()
    client = fl.raw(fl.client())
    lease = client.acquire(key, 30)

    def child() -> None:
        assert client.adopt(key, lease.token).release() is True

    in_child(child)
    assert lease.release() is False


@sync_only
async def test_forking_while_other_threads_are_inside_calls(fl: Ways) -> None:
    client = fl.raw(await fl.warm(fl.client()))
    stop = threading.Event()
    wrong: list[BaseException] = []

    def work(key: str) -> None:
        try:
            while not stop.is_set():
                assert client.try_acquire(key, 30).release() is True
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(fl.key(),)) for _ in range(4)]
    for thread in threads:
        thread.start()
    own = fl.key("own")

    def child() -> None:
        for _ in range(20):
            assert client.acquire(own, 30, 5).release() is True
        client.close()

    for _ in range(5):
        in_child(child)
    stop.set()
    for thread in threads:
        thread.join()
    assert wrong == []


@sync_only
async def test_one_that_cannot_forget_keeps_nobody_else_from_it(fl: Ways) -> None:
    """Clients are told in no certain order: some come before the one that fails, some after."""

    class Stubborn:
        def forked(self) -> None:
            raise LookupError("it cannot forget")

    stubborn = [Stubborn() for _ in range(10)]
    clients = [fl.raw(fl.client()) for _ in range(4)]
    leases = [client.acquire(fl.key(), 30) for client in clients]
    for one in stubborn:
        _fork.register(one)
    shown: list[BaseException | None] = []

    def child() -> None:
        assert [type(error) for error in shown] == [LookupError]
        for client, lease in zip(clients, leases, strict=True):
            assert client._server.ready() is None
            with pytest.raises(fastlock.LockError, match="parent process"):
                lease.release()

    before, sys.unraisablehook = sys.unraisablehook, lambda what: shown.append(what.exc_value)
    try:
        in_child(child)
    finally:
        sys.unraisablehook = before
        for one in stubborn:
            _fork._registered.discard(one)
    assert shown == []
    assert [lease.release() for lease in leases] == [True] * 4


def _worker(uri: str, core: str, key: str, counter: str) -> None:
    import _harness
    import redis

    client = _harness.client_class("sync", core)(uri, retry_timeout=2)
    with redis.Redis.from_url(uri) as admin:
        for _ in range(10):
            with client.lock(key, ttl=20):
                admin.set(counter, int(admin.get(counter) or 0) + 1)
    client.close()


@sync_only
@pytest.mark.parametrize("method", ["fork", "spawn"])
async def test_processes_exclude_each_other(fl: Ways, method: str) -> None:
    key, counter = fl.key(), fl.key("counter")
    context = multiprocessing.get_context(method)
    workers = [
        context.Process(target=_worker, args=(fl.server.uri, fl.core, key, counter))
        for _ in range(3)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    assert int(fl.admin.get(counter)) == 30
    fl.admin.delete(counter)


@async_only
async def test_an_asyncio_child_leaves_everything_alone(fl: Ways) -> None:
    key, own, name = fl.key(), fl.key("own"), f"fork-{fl.key()}"
    client = fl.client(client_name=name)
    lease = await client.acquire(key, 30)
    (parent,) = connections(fl, name)

    def child() -> None:
        with pytest.raises(fastlock.LockError, match="parent process"):
            lease.release().send(None)

        async def fresh() -> None:
            assert await client.try_acquire(key) is None
            assert await (await client.acquire(own, 30)).release() is True
            await client.close()

        asyncio.run(fresh())

    in_child(child)
    assert connections(fl, name) == [parent]
    await lease.extend(20)
    assert await lease.release() is True
    assert connections(fl, name) == [parent]


# ------------------------------------------------------------------ in the middle of connecting


def reaching(port: int) -> int:
    """How many sockets of this process are connected to that port, or about to be somewhere."""
    found = 0
    for name in os.listdir("/proc/self/fd" if os.path.isdir("/proc/self/fd") else "/dev/fd"):
        try:
            sock = socket.socket(fileno=int(name))
        except OSError:  # no socket
            continue
        try:
            found += sock.getpeername()[1:2] == (port,)
        except OSError as error:
            connects = error.errno == errno.ENOTCONN and sock.type == socket.SOCK_STREAM
            found += connects and not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        finally:
            sock.detach()
    return found


def child_reaches(port: int, number: int = 0) -> None:
    def child() -> None:
        assert reaching(port) == number

    in_child(child)


@sync_only
@one_server
async def test_a_fork_waits_until_a_name_is_looked_up(
    fl: Ways, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A child that began in the middle would find the resolver's own locks taken for ever."""
    looking, after = threading.Event(), []
    plain = socket.getaddrinfo

    def slow(*args: Any, **kwargs: Any) -> Any:
        looking.set()
        time.sleep(0.3)
        after.append("looked up")
        return plain(*args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    connecting = fl.spawn(fl.client().ping())
    assert looking.wait(10)
    child = os.fork()
    if child == 0:
        os._exit(0 if after else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert await connecting > 0


@sync_only
@one_server
@pytest.mark.parametrize("moment", ["HELLO", "INFO"])
async def test_forking_while_another_thread_introduces_itself(fl: Ways, moment: str) -> None:
    """The connection is that thread's, which the child has not: no descriptor is left there."""
    proxy = fl.proxy()
    client = fl.client(proxy.uri)
    held = proxy.fault("hold_reply", verb=moment)
    connecting = fl.spawn(client.ping())
    await fl.happened(held)
    assert reaching(proxy.port) == 1
    child_reaches(proxy.port)
    held.go()
    assert await connecting > 0
    assert proxy.connections == 1
    child_reaches(proxy.port)
    assert await client.ping() > 0
    assert proxy.connections == 1


@sync_only
@one_server
async def test_forking_while_another_thread_secures_its_connection(fl: Ways) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        client = fl.client(f"rediss://127.0.0.1:{port}", retries=0, connect_timeout=30)
        connecting = fl.spawn(client.ping())
        peer, _ = listener.accept()
        with peer:
            assert peer.recv(1) == b"\x16"  # the beginning of a TLS handshake
            assert reaching(port) == 1
            child_reaches(port)
    with pytest.raises(fastlock.TransportError):
        await connecting


@sync_only
@one_server
async def test_forking_while_another_thread_reaches_for_the_server(fl: Ways) -> None:
    """Nobody accepts, so that it goes on for long."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        port = listener.getsockname()[1]
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", port))
        before = reaching(port)
        client = fl.client(f"redis://127.0.0.1:{port}", retries=0, connect_timeout=30)
        connecting = fl.spawn(client.ping())
        await fl.until(lambda: reaching(port) == before + 1)
        await fl.sleep(0.05)  # from its making to its connecting
        child_reaches(port, before)
        assert reaching(port) == before + 1
        for filler in fillers:
            filler.close()
    with pytest.raises(fastlock.TransportError):
        await connecting
