"""One test body for both APIs: write it as a coroutine against ``fl``, run it four ways.

Law: no lock logic, no mercy. In sync mode no event loop exists: the facade's awaits are
all over at once, so a coroutine is driven by one ``send``, and ``fl.spawn`` starts a thread.
In async mode the facade is absent: bodies meet the real ``fastlock.aio`` objects.

    async def test_release_tells_the_truth(fl):
        client = fl.client()
        lease = await client.try_acquire(fl.key(), ttl=5)
        assert await lease.release() is True
"""

from __future__ import annotations

import asyncio
import functools
import gc
import inspect
import os
import sys
import sysconfig
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from contextlib import suppress
from importlib.util import find_spec
from itertools import count
from typing import Any

import _servers
import pytest
from _proxy import Proxy

import fastlock
import fastlock.aio
from fastlock import _impl
from fastlock._clock import clock

#: FASTLOCK_CORE=python says that there may be no compiled core: then it is not tested.
CORES = ("python",) if os.environ.get("FASTLOCK_CORE") == "python" else ("cython", "python")
APIS = ("sync", "async")
SERVERS = ("given",) if _servers.GIVEN_URL else tuple(_servers.NAMED) or ("valkey", "redis")
#: Whether this CPython runs without the GIL, unless something switches it on.
FREE_THREADED = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))

#: For tests that are about one API, or for which the session's server makes no difference.
sync_only = pytest.mark.parametrize("api", ["sync"], indirect=True)
async_only = pytest.mark.parametrize("api", ["async"], indirect=True)
#: Versions that were named are there to find a difference.
one_server = pytest.mark.parametrize(
    "server", SERVERS if _servers.NAMED else SERVERS[:1], indirect=True
)
#: For tests of a server's own compare-and-delete.
native_server = pytest.mark.parametrize("server", _servers.NATIVE or SERVERS[:1], indirect=True)

__all__ = [
    "APIS", "CORES", "FREE_THREADED", "SERVERS", "Sync", "Ways", "async_only", "client_class",
    "clock", "drive", "gil", "leftovers", "native_server", "needs", "one_server",
    "remaining_at_most", "sync_only",
]  # fmt: skip


def gil() -> str:
    """How the GIL is now: "built in"; without it "off", or "on" where something wanted it."""
    if not FREE_THREADED:
        return "built in"
    return "on" if sys._is_gil_enabled() else "off"


def needs(library: str) -> None:
    """Skip a test where that library is left out, which it is without the GIL alone."""
    if find_spec(library) is None:
        skip = pytest.skip if FREE_THREADED else pytest.fail
        skip(f"{library} is not installed, and the GIL is {gil()}")


# ------------------------------------------------------------------ classes on a given core


def __getattr__(name: str) -> Any:
    """SyncCython, SyncPython, AsyncCython, AsyncPython: importable, so that specs pickle."""
    for api in APIS:
        for core in ("cython", "python"):
            if name == f"{api.title()}{core.title()}":
                return client_class(api, core)
    raise AttributeError(name)


@functools.cache
def client_class(api: str, core: str) -> Any:
    """fastlock.Client or fastlock.aio.Client on that core."""
    base: Any = fastlock.Client if api == "sync" else fastlock.aio.Client
    name = f"{api.title()}{core.title()}"
    return type(name, (base,), {"_core": _impl.load(core), "__module__": __name__})


# ------------------------------------------------------------------ sync objects, awaited


def drive(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine that never waits for a loop."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        return end.value
    coroutine.close()
    raise AssertionError("a sync test body awaited something that is not of the facade")


#: What is awaited in the asyncio API.
_IO = frozenset(
    "acquire try_acquire try_acquire_many release_many extend_many adopt locked holder "  # noqa: SIM905
    "force_release ping close release extend wait".split()
)


class Sync:
    """A sync object with the asyncio twin's face. ``raw`` is the object itself."""

    def __init__(self, raw: Any) -> None:
        self.raw = raw

    def __getattr__(self, name: str) -> Any:
        if name == "server":
            return self._server
        value = getattr(self.raw, name)
        if not callable(value):
            return _wrap(value)
        if name not in _IO:
            return lambda *args, **kwargs: _wrap(value(*args, **kwargs))

        async def awaited(*args: Any, **kwargs: Any) -> Any:
            return _wrap(value(*map(_unwrap, args), **kwargs))

        return awaited

    async def _server(self) -> Any:
        return self.raw.server

    async def __aenter__(self) -> Any:
        return _wrap(self.raw.__enter__())

    async def __aexit__(self, *error: Any) -> Any:
        return self.raw.__exit__(*error)

    def __call__(self, function: Callable[..., Coroutine[Any, Any, Any]]) -> Any:
        """As a decorator: the coroutine function becomes a plain one for the time."""
        decorated = self.raw(lambda *args, **kwargs: drive(function(*args, **kwargs)))

        async def awaited(*args: Any, **kwargs: Any) -> Any:
            return decorated(*args, **kwargs)

        return awaited

    def __bool__(self) -> bool:
        return bool(self.raw)

    def __repr__(self) -> str:
        return repr(self.raw)

    def __str__(self) -> str:
        return str(self.raw)


_WRAPPED = ("Client", "Lease", "Lock", "LockAll", "Lost")


def _wrap(value: Any) -> Any:
    if isinstance(value, list):
        return [_wrap(item) for item in value]
    names = {base.__name__ for base in type(value).__mro__}
    ours = type(value).__module__.startswith(("fastlock", __name__))
    return Sync(value) if ours and names & {*_WRAPPED} else value


def _unwrap(value: Any) -> Any:
    if isinstance(value, Sync):
        return value.raw
    if isinstance(value, list):
        return [_unwrap(item) for item in value]
    return value


class _Thread:
    """What ``spawn`` gives in sync mode: a thread to be awaited like a task."""

    def __init__(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        self._coroutine = coroutine
        self._result: Any = None
        self._error: BaseException | None = None
        self.thread = threading.Thread(target=self._run, name="body", daemon=True)
        self.thread.start()

    def _run(self) -> None:
        try:
            self._result = drive(self._coroutine)
        except BaseException as error:
            self._error = error

    def done(self) -> bool:
        return not self.thread.is_alive()

    def __await__(self) -> Any:
        self.thread.join(60)
        assert self.done(), "a thread of the test hangs"
        if self._error is not None:
            raise self._error
        return self._result
        yield


# ------------------------------------------------------------------ what tests are given


_serial = count(1)


class Ways:
    """``fl``: one of the four ways, sync or async on one of the cores, and one server."""

    def __init__(self, api: str, core: str, server: Any) -> None:
        self.api = api
        self.core = core
        self.server = server
        self.clients: list[Any] = []
        self.proxies: list[Proxy] = []
        self._keys = count(1)
        self._name = f"fl:{os.getpid()}:{next(_serial)}"

    @property
    def sync(self) -> bool:
        return self.api == "sync"

    @property
    def admin(self) -> Any:
        """redis-py on the same server, to see the truth there."""
        return self.server.admin

    @property
    def client_class(self) -> Any:
        return client_class(self.api, self.core)

    def key(self, name: str = "k") -> str:
        """A key that no other test uses."""
        return f"{self._name}:{name}:{next(self._keys)}"

    def client(self, source: Any = None, /, **options: Any) -> Any:
        """A client, closed at the end of the test; of ``server`` unless told otherwise."""
        if source is None and not {"host", "unix_socket", "port"} & options.keys():
            source = self.server.uri
        return self.own(self.client_class(source, **options))

    def own(self, client: Any) -> Any:
        """Close this client at the end of the test."""
        client = Sync(client) if self.sync else client
        self.clients.append(client)
        return client

    def raw(self, thing: Any) -> Any:
        """The real object behind the facade."""
        return _unwrap(thing)

    def proxy(self, server: Any = None) -> Proxy:
        """A proxy before the server, closed at the end of the test."""
        proxy = Proxy((server or self.server).address)
        self.proxies.append(proxy)
        return proxy

    async def warm(self, client: Any) -> Any:
        """Connect, and let the server learn the scripts; what follows is the plain case."""
        key = self.key("warm")
        lease = await client.acquire(key, ttl=5)
        await lease.extend(5)
        assert await lease.release() is True
        return client

    # -- doing several things at once

    def spawn(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Start it beside this body (a thread or a task); await the result for its value."""
        return _Thread(coroutine) if self.sync else asyncio.ensure_future(coroutine)

    async def together(self, coroutines: Iterable[Coroutine[Any, Any, Any]]) -> list[Any]:
        """All at once; their values in order."""
        started = [self.spawn(coroutine) for coroutine in coroutines]
        return [await one for one in started]

    async def sleep(self, seconds: float) -> None:
        """Let others run."""
        if self.sync:
            time.sleep(seconds)
        else:
            await asyncio.sleep(seconds)

    async def until(self, true: Callable[[], Any], timeout: float = 30.0) -> None:
        """Until ``true()`` is; fails after ``timeout`` seconds."""
        end = time.monotonic() + timeout
        while not true():
            assert time.monotonic() < end, f"not true within {timeout} s: {_source(true)}"
            await self.sleep(0.005)

    async def happened(self, fault: Any) -> None:
        """Until the proxy's fault has happened."""
        await self.until(fault.happened.is_set)

    # -- running

    def run(self, body: Coroutine[Any, Any, Any]) -> Any:
        """Run the body, close what it made, and see that nothing stayed behind."""
        before = leftovers()
        result = drive(self._inside(body)) if self.sync else asyncio.run(self._inside(body))
        self._check(before)
        return result

    async def _inside(self, body: Awaitable[Any]) -> Any:
        try:
            return await body
        finally:
            for proxy in self.proxies:
                for fault in proxy._faults:
                    fault.go()
            for client in self.clients:
                await client.close()
            for proxy in self.proxies:
                proxy.close()
            if not self.sync:
                await self._no_tasks()

    async def _no_tasks(self) -> None:
        me = asyncio.current_task()
        end = time.monotonic() + 2
        while tasks := [task for task in asyncio.all_tasks() if task is not me]:
            assert sys.exc_info()[0] or time.monotonic() < end, f"tasks were left: {tasks}"
            if time.monotonic() >= end:
                return
            await asyncio.sleep(0.005)

    def _check(self, before: tuple[int, list[str]]) -> None:
        self.admin.connection_pool.disconnect()  # it has grown with the threads that used it
        end = time.monotonic() + 5
        while True:
            sockets, threads = leftovers()
            fine = sockets <= before[0] and not set(threads) - set(before[1])
            if fine:
                return
            if time.monotonic() >= end:
                break
            gc.collect()
            time.sleep(0.005)
        assert threads == before[1], f"threads were left: {threads}"
        assert sockets <= before[0], f"{sockets - before[0]} sockets were left open"


def leftovers() -> tuple[int, list[str]]:
    """How many sockets and event queues this process has open; its threads."""
    kinds = ("socket:", "anon_inode:[eventpoll]", "pipe:")
    found = 0
    for number in os.listdir("/proc/self/fd") if os.path.isdir("/proc/self/fd") else ():
        with suppress(OSError):  # the listing's own descriptor
            found += os.readlink(f"/proc/self/fd/{number}").startswith(kinds)
    return found, sorted(thread.name for thread in threading.enumerate())


def _source(function: Callable[[], Any]) -> str:
    try:
        return inspect.getsource(function).strip()
    except (OSError, TypeError):
        return repr(function)


def remaining_at_most(fl: Ways, lease: Any, key: str | bytes) -> None:
    """The lease's deadline is not later than the server's own expiry of the key."""
    left, asked = lease.remaining(), clock()
    at_server = fl.admin.pttl(key) / 1000 + (clock() - asked) + 0.001
    assert 0 < left <= at_server, (left, at_server)
