"""Floor 1, asyncio: carries operations out, for the tasks of one loop.

Law: that of ``_sync_driver.py``; what talks to the server is awaited.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import Callable
from typing import Any, TypeVar

from . import _args, _fork, _ops, _ops_many
from ._aio_lease import Lease
from ._aio_renewal import AsyncRenewal
from ._aio_waiting import Bells, wait_for
from ._aioasides import AsyncAsides
from ._aiolistener import AsyncListener
from ._aiopipe import within
from ._aiotopology import AsyncServer
from ._background import could_not_give_back
from ._claim import Claim
from ._clock import clock
from ._driver_base import DriverBase
from ._effects import Call, Confirmed, Distrust, Downgrade, Now, Op, WaitFor
from ._metrics import count_acquired, count_failure
from ._renewal import Terms
from ._tokens import Pair
from ._topology import Link, closed_error, too_late
from .errors import FastlockError, TransportError
from .lease import let_go

R = TypeVar("R")
C = TypeVar("C", bound=Claim[Any])


class Driver(DriverBase[Lease]):
    """What a ``Client`` is, below its calls."""

    _renewing_by = AsyncRenewal

    _asides: AsyncAsides
    _bells: Bells
    _closed: bool
    _deferred: set[asyncio.Future[Any]]
    _listener: AsyncListener
    _pausing: set[asyncio.Future[None]]
    _server: AsyncServer
    _settling: set[asyncio.Task[None]]

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
            pause = self._retrying(effect)
            await self._sleep(pause)
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
