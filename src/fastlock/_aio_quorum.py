"""Floor 1, asyncio: locks on a majority of independent servers, for the tasks of one loop.

Law: that of ``quorum.py``, whose names and arguments these are; what talks to the servers is
awaited.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

from . import _args, _fork, _impl, _ops_quorum
from ._aio_lease import Lease
from ._aio_quorum_nodes import AsyncNodes
from ._aio_renewal import AsyncRenewal
from ._aio_spec import Lock
from ._clock import clock
from ._config_options import Options, Unpack
from ._effects import Now, Op
from ._metrics import Stats, count_acquired, count_failure, retrying, stats_of
from ._ops_quorum import QuorumClaim
from ._quorum_base import (
    NODE_TIMEOUT,
    GivesBack,
    Waits,
    blank,
    configs_of,
    described,
    no_pickling,
    node_timeout_of,
    pause_of,
    refuse,
    time_poll,
)
from ._quorum_nodes import Nodes
from ._quorum_polls import GiveBack, Lacking, Pause, Poll
from ._quorum_renewal import QuorumKeeper
from ._renewal import MAX_HOLD, Terms, terms_of
from ._tokens import TokenSource
from ._topology import closed_error
from .aio import Client
from .config import Config
from .errors import FastlockError
from .lease import until_of
from .quorum import node_clients

R = TypeVar("R")


class QuorumClient:
    """Locks on several independent servers: held by whoever has more than half of them.

    As ``fastlock.QuorumClient``, whose arguments these are, for the tasks of an event loop.
    Renewals have connections of their own, and a thread: a blocked loop does not stop them.
    Cancelling any call is safe: a cancelled acquire leaves the lock not held.
    """

    _core = _impl.core

    def __init__(
        self,
        sources: Iterable[str | Config],
        /,
        *,
        node_timeout: float = NODE_TIMEOUT,
        **options: Unpack[Options],
    ) -> None:
        self.configs: tuple[Config, ...] = configs_of(sources, options)
        self.node_timeout: float = node_timeout_of(node_timeout)
        first = self.configs[0]
        self._core = _impl.fit(type(self)._core)
        self._retries = first.retries
        self._retry_timeout = first.retry_timeout
        self._tokens = TokenSource(first.label, self._core.numbered)
        self._meter = self._core.meter()
        self._timed = self._meter if first.metrics else None  # else there is no stats()
        self._waits = Waits(self._meter)
        self._closed = False
        self._over: asyncio.Future[None] | None = None  # done once it is closed; of the loop
        self._under_way = 0  # operations
        on_core = _on(self._core)
        clients = [on_core(config) for config in self.configs]
        self._node_meters = [client._meter for client in clients]
        self._nodes = AsyncNodes(clients, self.node_timeout)
        self._renewing = Nodes(node_clients(self), self.node_timeout, lambda: self.closed)
        self._keeper = QuorumKeeper(self._renewing, len(self.configs), beside=True)
        _fork.register(self)

    # -- locks

    def lock(
        self,
        key: str | bytes,
        ttl: float = 30.0,
        timeout: float | None = None,
        *,
        auto_renew: bool = False,
        max_hold: float | None = MAX_HOLD,
        on_lost: Callable[[QuorumLease], object] | None = None,
        cancel_on_lost: bool = False,
        if_lost: Literal["raise", "warn", "ignore"] = "raise",
    ) -> QuorumLock:
        """A spec of one lock: async context manager, decorator, ``asyncio.Lock``'s methods.

        The arguments are those of ``aio.Client.lock``, but for what a quorum has not;
        a lease is renewed on a majority.
        """
        terms = terms_of(auto_renew, max_hold, on_lost, cancel_on_lost, asynchronous=True)
        none = (None, _args.REPLICA_TIMEOUT)
        return QuorumLock(self, key, ttl, timeout, "wait", False, False, none, terms, if_lost)

    async def try_acquire(
        self,
        key: str | bytes,
        ttl: float = 30.0,
        *,
        fence: Literal[False] = False,
        auto_renew: bool = False,
        max_hold: float | None = MAX_HOLD,
        on_lost: Callable[[QuorumLease], object] | None = None,
        cancel_on_lost: bool = False,
    ) -> QuorumLease | None:
        """Try once: a lease, or None; see ``fastlock.QuorumClient.try_acquire``."""
        refuse(fence, False)
        terms = terms_of(auto_renew, max_hold, on_lost, cancel_on_lost, asynchronous=True)
        claim = self._claim(key, ttl, None)
        op = _ops_quorum.try_acquire(claim)
        return await self._acquire(op, claim, terms)

    async def acquire(
        self,
        key: str | bytes,
        ttl: float = 30.0,
        timeout: float | None = None,
        *,
        fence: Literal[False] = False,
        fair: Literal[False] = False,
        auto_renew: bool = False,
        max_hold: float | None = MAX_HOLD,
        on_lost: Callable[[QuorumLease], object] | None = None,
        cancel_on_lost: bool = False,
    ) -> QuorumLease:
        """Wait for the lock, at most ``timeout`` seconds (None: for ever).

        See ``fastlock.QuorumClient.acquire``.
        """
        refuse(fence, fair)
        terms = terms_of(auto_renew, max_hold, on_lost, cancel_on_lost, asynchronous=True)
        claim = self._claim(key, ttl, until_of(timeout))
        return await self._acquire(_ops_quorum.acquire(claim), claim, terms)

    # -- questions

    async def locked(self, key: str | bytes) -> bool:
        """Whether a majority of the servers has the key now."""
        _args.wire_key(key, b"")
        return await self._drive(_ops_quorum.locked(key, len(self.configs)))

    @property
    def core(self) -> str:
        """The core this client runs on: "cython" or "python"."""
        return self._core.name

    def stats(self) -> Stats:
        """What this client has counted and timed; see ``fastlock.QuorumClient.stats``.

        No I/O. Any thread may ask, also after close.
        """
        return stats_of(self, len(self._waits), self._node_meters)

    # -- life

    @property
    def closed(self) -> bool:
        """Whether ``close`` was called."""
        return self._closed

    async def close(self) -> None:
        """Close the connections. Locks still held stay until their ttl ends.

        Calls under way fail; what they had asked for is given back before, for which this takes
        at most a second or two. Nothing is renewed any more.
        """
        self._closed = True
        self._keeper.stop()
        loop = asyncio.get_running_loop()
        over = self._over
        if over is not None and over.get_loop() is loop and not over.done():
            over.set_result(None)
        end = loop.time() + 1.0
        while self._under_way and loop.time() < end:  # noqa: ASYNC110 - it is a matter of turns
            await asyncio.sleep(0)
        await self._nodes.close()
        self._renewing.close(0.0)
        end = loop.time() + 1.0
        while not (self._keeper.ended() and self._renewing.idle()) and loop.time() < end:  # noqa: ASYNC110
            await asyncio.sleep(0.001)

    async def __aenter__(self) -> QuorumClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def __repr__(self) -> str:
        return described("aio.QuorumClient", self.configs, self.core)

    def forked(self) -> None:
        """In a forked child: nothing here is the child's but the settings."""
        self._meter.forked()
        self._waits.forked()
        self._tokens.renew()
        self._nodes.forked()
        self._renewing.forked()
        self._over = None
        self._under_way = 0

    # -- carrying operations out

    def _claim(self, key: str | bytes, ttl: float, until: float | None) -> QuorumClaim[QuorumLease]:
        _args.wire_key(key, b"")
        generation = _fork.generation
        make = functools.partial(blank, QuorumLease, self, generation)
        return QuorumClaim(
            key, _args.milliseconds(ttl), until, len(self.configs), self._tokens.next, make,
            generation,
        )  # fmt: skip

    async def _acquire(self, op: Op[R], claim: QuorumClaim[Any], terms: Terms | None) -> R:
        """Carry out an acquiring; whatever leaves it early, nothing stays held, nor renewed."""
        lease: Any = None
        try:
            lease = await self._drive(op, claim.generation)
            if lease is not None and terms is not None:
                keeper: Any = self._keeper
                AsyncRenewal(keeper, lease, terms)
            self._waits.end(claim)
            count_acquired(self._meter, lease)
            result: R = lease
            return result
        except BaseException:
            try:
                if lease is not None:
                    lease._let_go()
                op.close()  # a coroutine that is closed, or a loop stopped by Ctrl-C, ends none
                if claim.touched:
                    self._nodes.give_back(claim.trace(clock()))
            finally:
                self._waits.end(claim)
            raise

    async def _drive(self, op: Op[R], generation: int | None = None) -> R:
        """Carry out the operation's effects until it returns or raises.

        Cancellation is thrown into the operation, so that it can leave its lease in a truthful
        state. ``generation``: of the process that began it; None: of this one.
        """
        error: BaseException | None = None
        answer: Any = None
        if generation is None:
            generation = _fork.generation
        self._under_way += 1
        try:
            while True:
                effect = op.send(answer) if error is None else op.throw(error)
                error = None
                try:
                    answer = await self._carry_out(effect)
                    _fork.check(generation)  # a signal handler's, meanwhile
                except (FastlockError, asyncio.CancelledError) as failure:
                    error = failure
        except StopIteration as end:
            _fork.check(generation)
            result: R = end.value
            return result
        except FastlockError as failure:
            count_failure(self._meter, failure)
            raise
        finally:
            if generation == _fork.generation:
                self._under_way -= 1

    async def _carry_out(self, effect: Any) -> Any:
        kind = type(effect)
        if kind is Poll:
            told = await self._nodes.poll(effect, self._open())
            time_poll(self._meter, effect, *told)
            return told
        if kind is GiveBack:
            self._nodes.give_back(effect)
        elif kind is Lacking:
            self._nodes.downgrade(effect)
        elif kind is not Now:
            over = self._open()
            pause = pause_of(effect, self._retry_timeout, clock())
            if kind is Pause:
                self._waits.begin(effect.whose)
            else:
                retrying(self._meter, effect.failures, pause)
            await asyncio.wait([over], timeout=pause)
            if over.done():
                raise closed_error()
        return clock()

    def _open(self) -> asyncio.Future[None]:
        """What is done once the client is closed; FastlockError if it is."""
        if self._closed:
            raise closed_error()
        loop = asyncio.get_running_loop()
        if self._over is None or self._over.get_loop() is not loop:
            self._over = loop.create_future()
        return self._over


class QuorumLease(GivesBack, Lease):
    """A lock held on a majority; see BaseLease. Any task of the loop may use it.

    It has no fencing number: ``fence`` is None.
    """

    __slots__ = ("votes",)
    _client: Any
    doubt: int

    @overload
    async def release(self, wait: Literal[True] = True) -> bool: ...

    @overload
    async def release(self, wait: bool) -> bool | None: ...

    async def release(self, wait: bool = True) -> bool | None:
        """Free the lock on every server; see ``fastlock.quorum.QuorumLease.release``."""
        self._check_process()
        self._let_go()
        if self.over or not wait:
            over = self.over
            self.over = True
            self._give_back()
            if over:
                return False
            self.freed = True
            self._ended(True)
            return None
        client = self._client
        op = _ops_quorum.release(self, client._retries)
        try:
            freed: bool = await client._drive(op)
            return self._ended(freed)
        except FastlockError:
            raise
        except BaseException:
            op.close()  # a coroutine that is closed, or a loop stopped by Ctrl-C, ends none
            self._give_back()
            raise

    async def extend(self, ttl: float | None = None) -> None:
        """Replace the time to live on a majority; see ``fastlock.quorum.QuorumLease.extend``."""
        self._check_process()
        ms = _args.milliseconds(self.ttl if ttl is None else ttl)
        await self._change_ttl(_ops_quorum.extend, ms)


class QuorumLock(Lock):
    """A lock spec of a quorum's client; see Lock. It cannot be pickled."""

    if TYPE_CHECKING:

        async def __aenter__(self) -> QuorumLease: ...

    def __reduce__(self) -> Any:
        raise no_pickling(self)


class NodeClient(Client):
    """One server of a quorum; unpickled specs of others do not bind to it."""


@functools.cache
def _on(core: _impl.Core) -> type[NodeClient]:
    return type("NodeClient", (NodeClient,), {"_core": core})
