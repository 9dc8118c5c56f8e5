"""Floor 1, asyncio: carries operations out, for the tasks of one loop.

Law: that of ``_sync_driver.py``; what talks to the server is awaited.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from . import _args, _fork, _impl, _ops, _ops_many
from ._aio_lease import Lease
from ._aio_renewal import AsyncRenewal
from ._aio_waiting import Bells, wait_for
from ._aioasides import AsyncAsides
from ._aiolistener import AsyncListener
from ._aiopipe import within
from ._aiotopology import AsyncServer
from ._asides import too_late
from ._background import could_not_give_back
from ._claim import Claim
from ._clock import clock
from ._effects import Call, Confirmed, Distrust, Downgrade, Now, Op, WaitFor
from ._metrics import (
    MeterLike,
    count_acquired,
    count_failure,
    retrying,
)
from ._pause import backoff_pause
from ._queue import Queue
from ._renewal import Keeper, Terms
from ._tokens import Pair, TokenSource
from ._topology import Link, closed_error
from .config import Config
from .errors import FastlockError, TransportError
from .lease import let_go

R = TypeVar("R")
C = TypeVar("C", bound=Claim[Any])


class Driver:
    """What a ``Client`` is, below its calls."""

    config: Config
    _asides: AsyncAsides
    _bells: Bells
    _closed: bool
    _core: _impl.Core
    _deferred: set[asyncio.Future[Any]]
    _keeper: Keeper
    _listener: AsyncListener
    _loops: Any  # makes leases
    _meter: MeterLike
    _patience: float
    _pausing: set[asyncio.Future[None]]
    _prefix: bytes
    _queue: Queue
    _retries: int
    _server: AsyncServer
    _settling: set[asyncio.Task[None]]
    _tokens: TokenSource

    def _lease(self, key: str | bytes, pair: Pair, ttl: int, deadline: float) -> Lease:
        lease: Lease = self._loops.one(self, _fork.generation, key, pair, ttl / 1000, deadline)
        return lease

    def _made(
        self,
        generation: int,
        keys: Sequence[str | bytes],
        pairs: Sequence[Pair],
        replies: Sequence[Any],
        ttl: int,
        deadline: float,
    ) -> list[Lease | None]:
        made: list[Lease | None] = self._loops.make(
            self, generation, keys, pairs, replies, ttl / 1000, deadline
        )
        return made

    def _claim(
        self, keys: list[str | bytes], ttl: float, until: float | None = None
    ) -> Claim[Lease]:
        milliseconds = _args.milliseconds(ttl)
        generation = _fork.generation  # before the tokens, which a child must not use
        pairs = self._tokens.pairs(keys, self._prefix)
        return self._claim_of(keys, pairs, milliseconds, until, generation)

    def _claim_of(
        self,
        keys: Sequence[str | bytes],
        pairs: Sequence[Pair],
        ttl: int,
        until: float | None,
        generation: int,
    ) -> Claim[Lease]:
        return Claim(keys, pairs, ttl, until, self._retries, self._made, generation)

    async def _acquire(
        self,
        operation: Callable[[C], Op[R]],
        claim: C,
        terms: Terms | None = None,
    ) -> R:
        """Carry out an acquiring; whatever leaves it early, nothing stays held, nor renewed."""
        acquired: Any = None
        claim.renewed = terms is not None
        op = operation(claim)
        try:
            acquired = await self._drive(op, generation=claim.generation)
            if terms is not None:
                self._keep(acquired, terms)
            count_acquired(self._meter, acquired)
            result: R = acquired
            return result
        except BaseException:
            if terms is not None:
                let_go(acquired if isinstance(acquired, list) else (acquired,))
            op.close()  # a coroutine that is closed, or a loop stopped by Ctrl-C, ends none
            self._give_back(claim)
            raise

    def _goes_round(self) -> bool:
        """Whether a release goes on to who waits although no way leads straight to a connection."""
        return False

    def _keep(self, acquired: Any, terms: Terms) -> None:
        """Renew it, or each of a list, from now on; None among them."""
        for lease in acquired if isinstance(acquired, list) else (acquired,):
            if lease is not None:
                AsyncRenewal(self._keeper, lease, terms)

    async def _ask(self, verb: str, key: str | bytes) -> Any:
        wire = _args.wire_key(key, self._prefix)
        return await self._drive(_ops.ask(verb, (wire,), key, self._retries))

    async def _drive(
        self,
        op: Op[R],
        interrupt: BaseException | None = None,
        answer: Any = None,
        generation: int | None = None,
    ) -> R:
        """Carry out the operation's effects until it returns or raises.

        ``generation``: of the process that began it; None: of this one.

        Cancellation is thrown into the operation, so that it can leave its lease in a
        truthful state.
        """
        error: BaseException | None = interrupt
        if generation is None:
            generation = _fork.generation
        if interrupt is None:  # else that goes first
            _fork.check(generation)
        try:
            while True:
                if error is None:
                    effect = op.send(answer)
                else:
                    effect = op.throw(error)
                    error = None
                try:
                    kind = type(effect)
                    if kind is Call:
                        answer = await self._call(effect)
                    elif kind is Confirmed:
                        answer = await self._asides.call(effect, self._patience)
                    elif kind is Downgrade:
                        answer = self._downgrade(effect.verb)
                    elif kind is Distrust:
                        answer = self._distrust()
                    else:
                        answer = await self._pause(effect)
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

    @property
    def _shares(self) -> int:
        """How many servers share what goes out together."""
        return 1

    def _home(self, wire: bytes) -> Link | None:
        """The connection by which a command about the key goes straight, if no other one is."""
        return None

    def _astray(self, link: Link, failure: BaseException | None, answer: Any) -> bool:
        """Whether a command that went straight was surely not carried out, and where others are."""
        return False

    async def _call(self, call: Call) -> tuple[float, list[Any]]:
        link: Link | None = self._server.ready()
        if link is None:
            timeout = self._patience
            if call.until is not None:
                timeout = min(timeout, call.until - clock())
            call.left = False
            link = await self._server.link(timeout)
            call.left = True
        if self._server.strays:
            call.left = False
            await self._server.end_strays(link, self._patience)
            call.left = True
        data = link.encode(call)
        sent_at = clock()
        if call.until is not None and sent_at >= call.until:
            raise too_late()
        try:
            answer = link.pipe.call(data, call.count)
            if call.until is None or call.until - sent_at >= self._patience:
                replies = link.heard(await answer)
            else:
                replies = link.heard(await within(answer, call.until - sent_at))
            self._meter.answered(sent_at)
            return sent_at, replies
        except TransportError as error:
            error.sent_at = sent_at
            link.heard(error.replies)
            raise

    async def _pause(self, effect: Any) -> float:
        kind = type(effect)
        if kind is WaitFor:
            return await wait_for(self, effect)
        if kind is not Now:
            pause = backoff_pause(effect.failures)
            if effect.until is not None:
                pause = min(pause, max(0.0, effect.until - clock()))
            retrying(self._meter, effect.failures, pause)
            await self._sleep(pause)
        return clock()

    def _downgrade(self, verb: str) -> float:
        link = self._server.ready()
        if link is not None:
            link.downgrade(verb)
        return clock()

    def _distrust(self) -> float:
        link = self._server.ready()
        if link is not None:
            link.pipe.abort("an answer came that its command cannot have")
        return clock()

    async def _sleep(self, pause: float) -> None:
        """Sleep; FastlockError at once when the client is closed meanwhile."""
        if self._closed:
            raise closed_error()
        loop = asyncio.get_running_loop()
        over = loop.create_future()
        timer = loop.call_later(pause, _wake, over)
        self._pausing.add(over)
        try:
            await over
        finally:
            timer.cancel()
            self._pausing.discard(over)

    # -- releases that nobody waits for

    def _defer(self, lease: Lease, link: Link | None = None) -> None:
        """Send the release at once, over ``link`` if given; see to its answer when it comes."""
        if link is None:
            link = self._server.ready()
        doubt = lease.doubt
        lease.over = lease.freed = True
        try:
            if link is None or doubt:  # another release may free it, and this tell of no loss
                raise TransportError("not over this connection")
            answer = link.pipe.defer(link.commands.release(*lease.pair))
        except TransportError:
            self._give_back_pairs([lease.pair], lease.deadline, lease._generation)
            return
        self._deferred.add(answer)
        answer.add_done_callback(functools.partial(self._mind, lease))

    def _mind(self, lease: Lease, answer: asyncio.Future[Any]) -> None:
        self._deferred.discard(answer)
        if answer.cancelled() or answer.exception() is not None:
            reply: Any = None  # the connection was lost
        else:
            reply = answer.result()
        if reply == 0:
            lease._lost_before()
        elif reply != 1:
            self._give_back_pairs([lease.pair], lease.deadline, lease._generation)

    # -- giving back

    def _give_back(self, claim: Claim[Lease]) -> None:
        """Whatever left the acquire: what the server may hold for it is released.

        At once on the same connection, behind what took it, then confirmed in the
        background until it is certain or the ttl has ended.
        """
        until = claim.last_trace(clock())
        self._give_back_pairs(list(claim.maybe), until, claim.generation, claim.giving_back)

    def _give_back_pairs(
        self, pairs: list[Pair], until: float, generation: int, verb: str = "give_back"
    ) -> None:
        """As of the sync client."""
        if not pairs or generation != _fork.generation:
            return
        self._post_back(pairs, verb, self._server.alive())
        self._queue.freed_all(pairs, clock())
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:  # a coroutine closed after its loop: what was posted must do
            return
        task = loop.create_task(self._settle(pairs, until, verb))
        self._settling.add(task)
        task.add_done_callback(self._settling.discard)

    def _post_back(self, pairs: list[Pair], verb: str, link: Link | None) -> None:
        """As of the sync client."""
        if link is not None:
            with contextlib.suppress(TransportError):  # the background connects anew
                for portion in _ops_many.portions(pairs):
                    call = _ops_many.give_back(portion, verb)
                    link.pipe.post(link.encode(call), call.count)

    async def _settle(self, pairs: list[Pair], until: float, verb: str) -> None:
        try:
            await self._drive(_ops_many.settle(pairs, until, verb))
        except FastlockError as error:
            could_not_give_back(self._meter, len(pairs), error)


def _wake(over: asyncio.Future[None]) -> None:
    if not over.done():
        over.set_result(None)
