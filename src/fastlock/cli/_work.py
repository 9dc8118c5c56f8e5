"""The demo's work: many workers increment counters on the server, each under a lock.

Law: the increment itself is unprotected (read, add one, write), so every hole in a lock
shows as a lost update; a worker counts an increment when the server has confirmed it. All
contestants do the same work with the same pause between tries.

Half of the workers share the HOT keys, the others have a key each.
"""

from __future__ import annotations

import asyncio
import importlib
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from time import monotonic, perf_counter, sleep
from typing import Any

import fastlock
from fastlock._config_fields import split_address
from fastlock.config import Config
from fastlock.errors import AcquireTimeout, FastlockError, LockLost

from ._wire import AsyncWire, Wire, pack

HOT = 2
#: Milliseconds between tries for a lock that somebody else holds.
RETRY = 2
#: Seconds after which the server forgets a counter, should we be killed.
KEEP = 7200
#: Seconds: a lock's time to live; how long one wait for it lasts before the worker looks
#: whether it is to stop; how long workers may take to stop.
TTL, PATIENCE, STOPPING = 30.0, 0.5, 15.0

#: Of redis-py, which takes one for each thread, and refuses more than 100 unless told otherwise.
MOST_CONNECTIONS = 1000

Take = Callable[[], Any]
Free = Callable[[Any], Any]
#: Called with the lock's key; gives what takes it (None: not yet) and what frees it.
Grip = Callable[[str], tuple[Take, Free]]


class Failed(FastlockError):
    """A lock, or a worker, did what it must not."""


@dataclass
class Worker:
    """One worker's key and what it has done."""

    key: str
    hot: bool
    done: int = 0
    #: Seconds for taking and freeing together, waiting included; one for each increment.
    times: list[float] = field(default_factory=list)


@dataclass
class Row:
    """One contestant's result."""

    name: str
    pairs: int
    seconds: float
    times: dict[bool, list[float]]  #: in seconds, sorted, of hot (True) and cold keys
    connections: int | None
    lost: int

    @property
    def rate(self) -> float:
        """Pairs of taking and freeing a lock, a second."""
        return self.pairs / self.seconds

    def hot(self, percent: int) -> float | None:
        """That percentile of the time for a pair on a hot key, in milliseconds."""
        return _percentile(self.times[True], percent)

    def cold(self, percent: int) -> float | None:
        """As ``hot``, of a key that nobody else wants; None if there was none."""
        return _percentile(self.times[False], percent)


def _percentile(ordered: list[float], percent: int) -> float | None:
    if not ordered:
        return None
    return round(1000 * ordered[min(len(ordered) - 1, len(ordered) * percent // 100)], 3)


def _worker(kind: str, number: int, of: int) -> Worker:
    hot = number < (of + 1) // 2
    return Worker(f"hot:{number % HOT}" if hot else f"cold:{kind}:{number}", hot)


class Contest:
    """One row of the table: workers of one kind, or of both, at the same counters.

    ``threads`` and ``tasks`` are how many; without ``locks`` nobody takes any; the ``rival``
    takes redis-py's (threads only). The main thread calls the methods.
    """

    def __init__(
        self,
        name: str,
        config: Config,
        prefix: str,
        *,
        threads: int = 0,
        tasks: int = 0,
        locks: bool = True,
        rival: bool = False,
    ) -> None:
        self.name = name
        self.client_name = "".join(c if c.isalnum() else "-" for c in f"{prefix}{name}")
        self._config = config.replace(client_name=self.client_name)
        # Not fastlock's connections: they only count.
        self._aside = config.replace(client_name=f"{self.client_name}-counters")
        self._prefix = f"{prefix}{name.replace(' ', '-')}:"
        self._threads = [_worker("thread", n, threads) for n in range(threads)]
        self._tasks = [_worker("task", n, tasks) for n in range(tasks)]
        self._locks, self._rival = locks, rival
        self._running: list[threading.Thread] = []
        self._ready = threading.Semaphore(0)
        self._go = threading.Event()
        self._stop = False
        self._error: BaseException | None = None
        self._clients: list[Any] = []

    @property
    def _workers(self) -> list[Worker]:
        return self._threads + self._tasks

    def _counter(self, worker: Worker) -> str:
        return f"{self._prefix}counter:{worker.key}"

    def _lock(self, worker: Worker) -> str:
        return f"{self._prefix}lock:{worker.key}"

    def all_keys(self) -> list[str]:
        """Every key that the work may leave on the server."""
        counters = {self._counter(worker) for worker in self._workers}
        return sorted(counters | {self._lock(worker) for worker in self._workers})

    # -- running

    def run(self, admin: Wire, seconds: float, progress: Callable[[float], None]) -> Row:
        """Work for that long. ``progress`` is told the share of it that is over.

        Raises what the first worker to fail raised; Failed if one does not end.
        """
        admin.call("MSET", *[word for key in self._counters() for word in (key, 0)])
        try:
            self._start()
            started = perf_counter()
            end = monotonic() + seconds
            while (left := end - monotonic()) > 0 and self._error is None:
                progress(1 - left / seconds)
                sleep(min(left, 0.05))
            connections = self._connections(admin)
            self._end()
            took = perf_counter() - started
        finally:
            self._end()
            for client in self._clients:
                client.close()
        if self._error is not None:
            raise self._error
        return self._row(admin, took, connections)

    def _counters(self) -> list[str]:
        return sorted({self._counter(worker) for worker in self._workers})

    def _start(self) -> None:
        """Let everybody connect, then start all at once."""
        if self._threads:
            grip = self._grip()
            for worker in self._threads:
                self._thread(self._work_in_thread, worker, grip)
        if self._tasks:
            self._thread(self._work_in_loop)
        for _ in self._running:
            while not self._ready.acquire(timeout=0.05):
                if self._error is not None:
                    break
        self._go.set()

    def _thread(self, target: Callable[..., None], *args: Any) -> None:
        def run() -> None:
            try:
                target(*args)
            except BaseException as error:
                if self._error is None:
                    self._error = error
                self._stop = True
            finally:
                self._ready.release()

        thread = threading.Thread(target=run, name="fastlock-demo", daemon=True)
        thread.start()
        self._running.append(thread)

    def _end(self) -> None:
        self._stop = True
        self._go.set()
        end = monotonic() + STOPPING
        for thread in self._running:
            thread.join(max(0.0, end - monotonic()))
            if thread.is_alive() and self._error is None:
                self._error = Failed(f"{self.name}: a worker did not end within {STOPPING:g} s")

    def _connections(self, admin: Wire) -> int | None:
        """How many there are of this contestant; None if this user may not ask."""
        try:
            listed = admin.call("CLIENT", "LIST")
        except FastlockError:
            return None
        mark = f" name={self.client_name} "
        return sum(mark in f"{line} " for line in listed.decode().splitlines())

    def _row(self, admin: Wire, took: float, connections: int | None) -> Row:
        done: dict[str, int] = {}
        for worker in self._workers:
            key = self._counter(worker)
            done[key] = done.get(key, 0) + worker.done
        finals = admin.call("MGET", *done)
        lost = sum(
            abs(count - int(final or 0)) for count, final in zip(done.values(), finals, strict=True)
        )
        times: dict[bool, list[float]] = {False: [], True: []}
        if self._locks:
            for worker in self._workers:
                times[worker.hot] += worker.times
        for listed in times.values():
            listed.sort()
        return Row(self.name, sum(done.values()), took, times, connections, lost)

    # -- threads

    def _grip(self) -> Grip:
        if not self._locks:
            return lambda _key: (lambda: True, lambda _held: None)
        if self._rival:
            return self._redis_py()
        client = fastlock.Client(self._config)
        self._clients.append(client)
        client.ping()
        return lambda key: (lambda: _take(client, key), lambda lease: _freed(lease, key))

    def _redis_py(self) -> Grip:
        client = redis_client(self._config)
        self._clients.append(client)

        def grip(key: str) -> tuple[Take, Free]:
            lock = client.lock(key, timeout=TTL, sleep=RETRY / 1000, blocking_timeout=PATIENCE)
            return lambda: lock.acquire() or None, lambda _held: lock.release()

        return grip

    def _work_in_thread(self, worker: Worker, grip: Grip) -> None:
        take, free = grip(self._lock(worker))
        key, get = self._counter(worker), pack("GET", self._counter(worker))
        with Wire(self._aside) as wire:
            exchange = wire.exchange
            self._warm_up(take, free)
            self._ready.release()
            self._go.wait()
            while not self._stop:
                started = perf_counter()
                held = take()
                while held is None and not self._stop:
                    held = take()
                if held is None:
                    return
                taken = perf_counter()
                value = int(exchange(get))
                exchange(pack("SET", key, value + 1, "EX", KEEP))
                worker.done += 1
                freeing = perf_counter()
                free(held)
                worker.times.append(perf_counter() - freeing + taken - started)

    def _warm_up(self, take: Take, free: Free) -> None:
        """Open the connection and let the server learn the scripts."""
        held = None
        while held is None and not self._stop:
            held = take()
        if held is not None:
            free(held)

    # -- tasks

    def _work_in_loop(self) -> None:
        asyncio.run(self._work_in_tasks())

    async def _work_in_tasks(self) -> None:
        wire = await AsyncWire.open(self._aside)
        try:
            async with fastlock.aio.Client(self._config) as client:
                if self._locks:
                    await client.ping()
                self._ready.release()
                await asyncio.to_thread(self._go.wait)
                tasks = [asyncio.ensure_future(self._task(w, wire, client)) for w in self._tasks]
                try:
                    await asyncio.gather(*tasks)
                except BaseException:
                    self._stop = True
                    await asyncio.wait(tasks, timeout=STOPPING)
                    raise
        finally:
            wire.close()

    async def _task(self, worker: Worker, wire: AsyncWire, client: fastlock.aio.Client) -> None:
        lock, key = self._lock(worker), self._counter(worker)
        get, exchange, locks = pack("GET", key), wire.exchange, self._locks
        while not self._stop:
            started = perf_counter()
            lease = await _take_async(client, lock) if locks else None
            while locks and lease is None and not self._stop:
                lease = await _take_async(client, lock)
            if locks and lease is None:
                return
            taken = perf_counter()
            value = int(await exchange(get))
            await exchange(pack("SET", key, value + 1, "EX", KEEP))
            worker.done += 1
            freeing = perf_counter()
            if lease is not None:
                await _freed_async(lease, lock)
            worker.times.append(perf_counter() - freeing + taken - started)


def _take(client: fastlock.Client, key: str) -> fastlock.Lease | None:
    try:
        return client.acquire(key, ttl=TTL, timeout=PATIENCE)
    except AcquireTimeout:
        return None


def _freed(lease: fastlock.Lease, key: str) -> None:
    if not lease.release():
        raise LockLost(f"{key}: the lock was lost while held", key)


async def _take_async(client: fastlock.aio.Client, key: str) -> fastlock.aio.Lease | None:
    try:
        return await client.acquire(key, ttl=TTL, timeout=PATIENCE)
    except AcquireTimeout:
        return None


async def _freed_async(lease: fastlock.aio.Lease, key: str) -> None:
    if not await lease.release():
        raise LockLost(f"{key}: the lock was lost while held", key)


def redis_client(config: Config) -> Any:
    """redis-py's client with the same settings."""
    import redis

    options = {**redis_options(config), "max_connections": MOST_CONNECTIONS}
    if config.sentinels is None:
        return redis.Redis(**options)
    where = [split_address("sentinels", address) for address in config.sentinels]
    asked = {name: options[name] for name in options if name.startswith(("ssl", "socket_"))}
    asked |= {"username": config.sentinel_username, "password": config.sentinel_password}
    home: Any = importlib.import_module("redis.sentinel")  # it has no types
    return home.Sentinel(where, sentinel_kwargs=asked).master_for(config.service, **options)


def redis_options(config: Config) -> dict[str, Any]:
    """The same settings for redis-py's client. Holds the password."""
    options: dict[str, Any] = {
        name: getattr(config, name)
        for name in (
            "db", "username", "password", "credential_provider", "client_name", "protocol",
            "socket_timeout",
        )
    }  # fmt: skip
    options["socket_connect_timeout"] = config.connect_timeout
    if config.unix_socket is not None:
        return {**options, "unix_socket_path": config.unix_socket}
    if config.sentinels is None:
        options |= {"host": config.host, "port": config.port}
    if config.ssl:
        import ssl

        options |= {
            name: getattr(config, name)
            for name in (
                "ssl", "ssl_ca_certs", "ssl_ca_path", "ssl_ca_data", "ssl_certfile",
                "ssl_keyfile", "ssl_check_hostname",
            )
        }  # fmt: skip
        options["ssl_password"] = config.ssl_keyfile_password
        options["ssl_cert_reqs"] = "required" if config.ssl_verify else "none"
        if config.ssl_min_version is not None:
            name = config.ssl_min_version.replace(".", "_")
            options["ssl_min_version"] = getattr(ssl.TLSVersion, name)
    return options
