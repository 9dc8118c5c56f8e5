"""A forked child owns nothing of its parent's."""

from __future__ import annotations

import asyncio
import errno
import multiprocessing
import os
import signal
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
from _proxy import bound

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
@pytest.mark.parametrize("way", ["try_acquire", "acquire"])
@pytest.mark.parametrize(
    ("moment", "options"),
    [
        ("usual_of", {}),
        ("take", {}),
        ("_claim", {"fence": True}),
        ("_claim", {"auto_renew": True}),
        ("_call", {"fence": True}),
        ("leases", {"fence": True}),
    ],
)
async def test_a_handler_that_forks_in_a_try_makes_no_second_holder(
    fl: Ways, moment: str, options: dict[str, Any], way: str
) -> None:
    """The child neither goes on with its parent's try nor uses its token."""
    client = fl.raw(await fl.warm(fl.client()))
    key, parent = fl.key(), os.getpid()
    children: list[int] = []

    def strike(frame: Any, event: str, what: Any) -> None:
        code = getattr(what, "__name__", "") if event.startswith("c_") else frame.f_code.co_name
        if event in ("call" if moment == "usual_of" else "return", "c_return") and code == moment:
            sys.setprofile(None)
            children.append(os.fork())  # as a signal's handler would, here

    sys.setprofile(strike)
    try:
        got = getattr(client, way)(key, 30.0, **options)
    except fastlock.FastlockError as error:
        got = error
    finally:
        sys.setprofile(None)
        if os.getpid() != parent:
            os._exit(0 if "its parent's" in str(got) else 1)
    assert os.waitpid(children.pop(), 0)[1] == 0
    assert got.valid()
    assert fl.admin.get(key) == got.token.encode()
    assert got.release() is True


@async_only
@one_server
@pytest.mark.parametrize("what", ["lock", "lock_all", "lease"])
async def test_a_child_that_drops_its_parents_task_leaves_the_lock(fl: Ways, what: str) -> None:
    """A task inside a block is suspended for ever in the child, and collected there."""
    client, key = await fl.warm(fl.client()), fl.key()
    entered = asyncio.Event()

    async def body() -> None:
        held: Any = {
            "lock": lambda: client.lock(key, 30),
            "lock_all": lambda: client.lock_all([key], 30),
        }.get(what)
        async with held() if held else await client.acquire(key, 30):
            entered.set()
            await asyncio.Event().wait()

    coroutine = body()
    task = asyncio.ensure_future(coroutine)
    await entered.wait()
    token = fl.admin.get(key)
    child = os.fork()
    if child == 0:
        asyncio.events._set_running_loop(None)

        async def close() -> None:
            await client.ping()  # the child's own connection
            coroutine.close()
            await asyncio.sleep(0.2)

        code = 1
        try:
            asyncio.new_event_loop().run_until_complete(close())
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
    assert fl.admin.get(key) == token
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await fl.until(lambda: not fl.admin.exists(key), 15)


@sync_only
@one_server
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_an_interrupted_fork_leaves_the_look_ups_in_order(fl: Ways) -> None:
    """Ctrl-C while a fork waits for another thread's look-up: parent and child can look up."""
    looking, enough = threading.Event(), threading.Event()

    def look_up() -> None:
        with _fork.look_ups.one():
            looking.set()
            enough.wait(10)

    thread = threading.Thread(target=look_up)
    thread.start()
    assert looking.wait(10)
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    began = time.monotonic()
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(5)  # ends it if it waits for ever
        with _fork.look_ups.one():
            os._exit(0)
    assert time.monotonic() - began < _fork.LONGEST_LOOK_UP / 2  # it was interrupted
    signal.signal(signal.SIGALRM, before)
    enough.set()
    thread.join()
    assert os.waitpid(child, 0)[1] == 0
    with _fork.look_ups.one():
        pass
    assert _fork.look_ups._under_way == []


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
    await fl.until(looking.is_set, 10)
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
    with bound(0) as claim:  # keeps the port, lest another test's server gets it in the end
        port = claim.getsockname()[1]
        with bound(port) as listener:
            listener.listen(0)
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
