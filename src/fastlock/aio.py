"""Floor 1, asyncio: arguments -> operation -> Lease or error, for the tasks of one loop.

Law: no lock logic here; operations of ``_ops`` decide, ``_aio_driver.py`` carries them out.
Names and arguments are those of ``sync.py``; what talks to the server is awaited.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from . import _args, _fork, _impl, _ops, _ops_each, _ops_many
from ._aio_driver import Driver
from ._aio_lease import Lease, acquire, try_acquire
from ._aio_spec import Lock, LockAll
from ._aio_turns import turns
from ._aio_waiting import Bells
from ._aioasides import AsyncAsides
from ._aiolistener import AsyncListener
from ._aiotopology import AsyncServer
from ._claim import Claim
from ._clock import clock
from ._commands import ServerInfo
from ._config_options import Options, Unpack
from ._metrics import (
    ADOPTED,
    Stats,
    connected,
    count_lost,
    count_released,
    stats_of,
)
from ._ops_fenced import fenced
from ._queue import Queue
from ._renewal import MAX_HOLD, Keeper, terms_of
from ._tokens import TokenSource, label_of
from ._topology import SyncServer, closed_error
from .config import Config
from .errors import ConfigError, ServerError
from .lease import let_go, not_told, own_leases, remember

if TYPE_CHECKING:
    from ._aio_quorum import QuorumClient

__all__ = ["Client", "Lease", "Lock", "LockAll", "QuorumClient"]

R = TypeVar("R")
C = TypeVar("C", bound=Claim[Any])


class Client(Driver):
    """Locks on one server, over one connection shared by all tasks of a loop; or on a cluster.

    Makes no connection before the first call that needs one. While somebody waits for a lock,
    there is a second one, by which the server wakes who waits. An acquire with ``min_replicas``
    has one to itself; up to four of these are kept.

    Args:
        source: a uri (redis://, rediss://, unix://, redis+sentinel://, redis+cluster://), a
            Config, or None.
        options: fields of Config.

    Raises:
        ConfigError: a setting is wrong, unknown or contradictory.

    Every method that talks to the server may raise TransportError (the connection could
    not be made or broke, and ``retries`` were used up), ServerError (the server refused)
    and FastlockError once the client is closed or in another event loop; while connecting
    also ProtocolError (no such server answers) and ConfigError (a TLS file, or no Sentinel
    knows the service). Cancelling any of them is safe: a cancelled acquire leaves the lock not
    held.
    """

    _core = _impl.core

    def __init__(self, source: str | Config | None = None, /, **options: Unpack[Options]) -> None:
        self.config: Config = Config.of(source, options)
        if self.config.cluster is not None:  # of a cluster it is of a subclass of its class
            from ._aio_cluster import Clustered

            self.__class__ = Clustered.of(type(self))
        self._core = _impl.fit(type(self)._core)
        self._prefix = self.config.prefix.encode()
        self._retries = self.config.retries
        self._patience = self.config.socket_timeout
        self._usual: tuple[float, int, float] = (0.0, 0, 0.0)  # see lease.usual_of
        self._loops = self._core.leases(Lease)
        self._meter = self._core.meter()
        self._timed = self._meter if self.config.metrics else None  # what goes straight
        self._tokens = TokenSource(self.config.label, self._core.numbered)
        self._settling: set[asyncio.Task[None]] = set()
        self._deferred: set[asyncio.Future[Any]] = set()  # releases nobody waits for
        self._pausing: set[asyncio.Future[None]] = set()
        # Of those who wait for locks.
        config = self.config
        self._queue = Queue(config.handover_limit, config.handover_time, self._meter)
        self._local = self.config.handover == "local"
        self._batches: set[object] = set()  # one for each release or extension of many under way
        self._bells = Bells()
        self._closed = False
        # Not a method, by which the client would hold on to itself.
        self._connected = functools.partial(
            connected, self._tokens.renew, self._meter, self.config.address
        )
        self._reach()
        remember(self)
        _fork.register(self)

    def _reach(self) -> None:
        """Make what leads to the server."""
        core = self._core
        self._server = AsyncServer(self.config, core, self._connected)
        self._asides = AsyncAsides(self._server)
        self._listener = AsyncListener(self.config, core, self._bells.new)
        # Renewals have a connection of their own: this one's socket belongs to the loop.
        self._renewing = SyncServer(self.config, core, _nothing, lambda: core)
        self._keeper = Keeper(self._renewing, core, self.config)

    @property
    def _kind(self) -> type[Client]:
        """The class that was called to make this."""
        return type(self)

    @classmethod
    def from_redis(cls, redis_client: Any, **options: Unpack[Options]) -> Client:
        """A client with the settings of a redis-py client; ``options`` go on top."""
        return cls(Config.from_redis(redis_client), **options)

    # -- locks

    def lock(
        self,
        key: str | bytes,
        ttl: float = 30.0,
        timeout: float | None = None,
        release: Literal["wait", "deferred"] = "wait",
        *,
        fence: bool = False,
        fair: bool = False,
        min_replicas: int | None = None,
        replica_timeout: float = _args.REPLICA_TIMEOUT,
        auto_renew: bool = False,
        max_hold: float | None = MAX_HOLD,
        on_lost: Callable[[Lease], object] | None = None,
        cancel_on_lost: bool = False,
        if_lost: Literal["raise", "warn", "ignore"] = "raise",
    ) -> Lock:
        """A spec of one lock: async context manager, decorator, ``asyncio.Lock``'s methods.

        Args:
            key: 1 byte to 64 KiB.
            ttl: seconds until the lock ends by itself, 0.01 to 10 years.
            timeout: seconds to wait for it; None for ever.
            release: "wait" for the answer, or "deferred": as ``Lease.release(wait=False)``,
                which spares a round trip; a lease that has expired by then is waited for.
            fence: whether each lease gets a fencing number; see ``acquire``.
            fair: whether it is waited for in a queue at the server; see ``acquire``.
            min_replicas: how many replicas must confirm each lease; see ``acquire``.
            replica_timeout: seconds in which they must; default 0.1.
            auto_renew: renew the lease every third of its ttl, until it is released, lost, or
                its object is gone. A thread with a connection of its own does it for all
                leases, so that a blocked loop does not stop it; with the compiled core over
                TCP or a unix socket that needs no GIL either.
            max_hold: seconds after which it is renewed no more; default 3600; None for ever.
            on_lost: called in the loop with the lease when it turns out that it is lost;
                may be a coroutine function. Needs ``auto_renew``, as nobody else looks.
            cancel_on_lost: then also cancel the task that acquired it. Where that ends the
                block of the lock, LockLost leaves it, whatever ``if_lost`` says.
            if_lost: what leaving the block does when the lock was lost: "raise" LockLost,
                "warn" in the log, or "ignore"; the body's own exception goes first.
        """
        terms = terms_of(auto_renew, max_hold, on_lost, cancel_on_lost, asynchronous=True)
        replicas = (min_replicas, replica_timeout)
        return Lock(self, key, ttl, timeout, release, fence, fair, replicas, terms, if_lost)

    try_acquire = try_acquire
    acquire = acquire

    async def try_acquire_many(
        self,
        keys: Iterable[str | bytes],
        ttl: float = 30.0,
        *,
        fence: bool = False,
        auto_renew: bool = False,
        max_hold: float | None = MAX_HOLD,
        on_lost: Callable[[Lease], object] | None = None,
        cancel_on_lost: bool = False,
    ) -> list[Lease | None]:
        """Try each key once: a Lease or None for each, in order.

        An error about any of them, OutcomeUnknown among these, gives all back.
        ``fence`` as of ``acquire``; the arguments
        about renewal as in ``lock``.
        """
        terms = terms_of(auto_renew, max_hold, on_lost, cancel_on_lost, asynchronous=True)
        claim = self._claim(_args.key_list(keys), ttl)
        if fence is not False:
            claim = fenced(claim, fence)
        return await self._acquire(_ops_many.try_acquire_many, claim, terms=terms)

    async def release_many(self, leases: Iterable[Lease | None]) -> list[bool]:
        """Release each: True or False for each, as ``Lease.release``.

        Takes the list that ``try_acquire_many`` gave: what was not acquired is False.
        OutcomeUnknown, TransportError or ServerError are raised after all were tried; then it
        may be called again.

        Raises:
            ConfigError: not this client's lease.
            LockError: another process's.
        """
        listed = own_leases(self, leases)
        if self._keeper.used:
            let_go(listed)
        results = [False] * len(listed)
        mark = object()
        try:
            self._batches.add(mark)
            op = _ops_each.release_many(listed, results, self._loops, self._retries, self._shares)
            return await self._drive(op)
        finally:
            self._batches.discard(mark)
            pairs = [lease.pair for lease in listed if lease is not None]
            self._queue.freed_all(pairs, clock())
            count_released(self, listed, results)

    async def extend_many(
        self, leases: Iterable[Lease | None], ttl: float | None = None
    ) -> list[bool]:
        """Replace the time to live of each: ``ttl`` seconds from now.

        None: each the same as before. True for each that is still ours, False for what is
        not, None among them. Without ``ttl`` each different ttl takes a write of its own.
        OutcomeUnknown (the leases in question count with the earlier deadline), TransportError
        or ServerError are raised after all were tried.

        Raises:
            ConfigError: not this client's lease.
            LockError: another process's.
        """
        listed = own_leases(self, leases)
        milliseconds = None if ttl is None else _args.milliseconds(ttl)
        async with turns(listed):
            if self._keeper.used:
                listed = not_told(listed)
            for lease in listed:
                if lease is not None:
                    lease._remember()
            op = _ops_each.extend_many(
                listed, milliseconds, self._loops, self._retries, self._shares
            )
            try:
                results = await self._drive(op)
            except BaseException as error:
                if milliseconds is not None and self._keeper.used:
                    for lease in listed:
                        if lease is not None:
                            lease._unheard(error, milliseconds)
                raise
            finally:
                count_lost(listed)
        if self._keeper.used:  # some may have been lost meanwhile
            pairs = zip(not_told(listed), results, strict=True)
            return [lease is not None and extended for lease, extended in pairs]
        return results

    def lock_all(
        self,
        keys: Iterable[str | bytes],
        ttl: float = 30.0,
        timeout: float | None = None,
        *,
        fence: bool = False,
        auto_renew: bool = False,
        max_hold: float | None = MAX_HOLD,
        on_lost: Callable[[Lease], object] | None = None,
        cancel_on_lost: bool = False,
        if_lost: Literal["raise", "warn", "ignore"] = "raise",
    ) -> LockAll:
        """All locks or none, as an async context manager that gives the list of Leases.

        No order of the keys can deadlock two callers: none is held while others are
        waited for. On leaving, all are released. Entering raises AcquireTimeout, or
        OutcomeUnknown when an answer was lost for good. ConfigError: no key, or one twice.
        The other arguments are those of ``lock``; ``on_lost`` is called for each lease that
        is lost.
        """
        terms = terms_of(auto_renew, max_hold, on_lost, cancel_on_lost, asynchronous=True)
        return LockAll(self, keys, ttl, timeout, fence, terms, if_lost)

    async def adopt(self, key: str | bytes, token: str, fence: int | None = None) -> Lease:
        """Take over a lease handed on by another process; LockLost if it holds no longer.

        ``fence`` is its fencing number, if it has one, for ``lease.fence`` here; not checked.
        """
        if not isinstance(token, str) or not token:
            raise ConfigError("token", "it is not a token; pass the other lease's token")
        pair = (_args.wire_key(key, self._prefix), token.encode("utf-8", "surrogateescape"))
        number = None if fence is None else _args.fencing_number(fence)
        lease = await self._drive(_ops.adopt(key, pair, self._retries, self._lease))
        if number is not None:
            lease.number = number
        self._meter.count(ADOPTED)
        return lease

    # -- questions

    async def locked(self, key: str | bytes) -> bool:
        """Whether anybody holds the lock now."""
        return bool(await self._ask("locked", key))

    async def holder(self, key: str | bytes) -> str | None:
        """The label of who holds the lock; None if nobody, "unknown" if another library."""
        token = await self._ask("holder", key)
        return None if token is None else label_of(token)

    async def force_release(self, key: str | bytes) -> bool:
        """Delete the lock, whoever holds it. True if there was one.

        What is no lock, such as a list, stays: ServerError (WRONGTYPE).
        Raises OutcomeUnknown when the answer was lost: it is not repeated, for that could
        take the next holder's lock.
        """
        wire = _args.wire_key(key, self._prefix)
        return await self._drive(_ops.force_release(wire, key, self._retries))

    async def ping(self) -> float:
        """The round-trip time in seconds; connects if there is no connection."""
        if self._server.ready() is None:
            await self._drive(_ops.ask("ping", (), "", self._retries))
        started = clock()
        await self._drive(_ops.ask("ping", (), "", self._retries))
        return clock() - started

    async def server(self) -> ServerInfo:
        """What is at the other end; connects if there is no connection."""
        if self._server.ready() is None:
            try:
                await self.ping()
            except ServerError as error:
                if error.code != "NOPERM":  # which has connected, too
                    raise
        return (await self._server.link(self._patience)).info

    @property
    def core(self) -> str:
        """The core this client runs on: "cython" or "python"."""
        return self._core.name

    def stats(self) -> Stats:
        """What this client has counted and timed; no I/O. Any thread may ask, also after close.

        In a forked child all begins at zero. ConfigError: of a client with ``metrics=False``.
        """
        return stats_of(self, len(self._queue.waiting))

    # -- life

    @property
    def closed(self) -> bool:
        """Whether ``close`` was called."""
        return self._closed

    async def close(self) -> None:
        """Close the connection. Locks still held stay until their ttl ends.

        Calls under way fail; what an acquire among them had already asked for is given
        back before, for which this takes at most a second. Deferred releases, and what is given
        back already, are waited for, at most another; nothing is renewed any more. Where bytes
        cannot be sent, ending the connection takes up to ``socket_timeout`` more, and the end of
        renewals a second.
        """
        self._closed = True
        self._keeper.stop()
        for pause in self._pausing:
            if not pause.done():
                pause.set_exception(closed_error())
        await _over(self._deferred | self._settling)  # before their answers are dismissed
        self._listener.stop()
        self._queue.wake_all()
        self._asides.close()
        self._server.dismiss()
        for _ in range(3):  # turns of the loop until those callers have left
            await asyncio.sleep(0)
        await _over(self._settling)
        await self._listener.close()
        await self._server.close()
        self._renewing.close()
        end = clock() + 1.0
        while not self._keeper.ended() and clock() < end:  # noqa: ASYNC110
            await asyncio.sleep(0.001)

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"<fastlock.aio.Client {self.config.address} core={self.core}>"

    def forked(self) -> None:
        """In a forked child: nothing here is the child's but the settings."""
        self._meter.forked()
        self._tokens.renew()
        self._settling = set()
        self._deferred = set()
        self._pausing = set()
        self._queue.forget()
        self._batches = set()


async def _over(futures: Iterable[asyncio.Future[Any]]) -> None:
    """Wait for those of this loop, a second at most."""
    loop = asyncio.get_running_loop()
    ours = [future for future in futures if future.get_loop() is loop]
    if ours:
        await asyncio.wait(ours, timeout=1.0)


def _nothing(_again: bool) -> None:
    """For a connection that no tokens are drawn for."""


def __getattr__(name: str) -> Any:
    """What is loaded when it is first used."""
    if name != "QuorumClient":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from ._aio_quorum import QuorumClient

    globals()[name] = QuorumClient
    return QuorumClient
