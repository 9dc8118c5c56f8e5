"""Floor 1, asyncio: a lease, from its acquiring to the release that frees it.

Law: names and arguments are those of ``_sync_lease.py``; what talks to the server is the client's.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Literal, overload

from . import _args, _ops
from ._aio_renewal import AsyncLost, AsyncRenewal
from ._clock import clock
from ._ops import Op
from .errors import FastlockError
from .lease import BaseLease, add_note, in_order, left, lost_at_exit

if TYPE_CHECKING:
    from .aio import Client


class Lease(BaseLease):
    """A held lock of an asyncio client; see BaseLease. Any task of the loop may use it."""

    __slots__ = ()
    _client: Client

    @property
    def lost(self) -> AsyncLost:
        """Whether the lock was lost: true or false, and to wait for; see AsyncLost."""
        return AsyncLost(self)

    @overload
    async def release(self, wait: Literal[True] = True) -> bool: ...

    @overload
    async def release(self, wait: bool) -> bool | None: ...

    async def release(self, wait: bool = True) -> bool | None:
        """Free the lock. True: freed by us. False: it was no longer ours.

        With ``wait=False`` the release is sent and not waited for, which spares a round
        trip: None, unless it is over already. From then on the lease counts as freed; if
        it turns out that it was lost before, that is logged and ``lost`` becomes True.
        A lost connection is mended in the background until the deadline.

        Raises OutcomeUnknown when neither can be known, TransportError when the server
        was not reached; then it may be called again. LockError in a forked child.
        """
        self._check_process()
        self._let_go()
        if self.over:
            return False
        if not wait:
            self._client._defer(self)
            return None
        return await self._client._drive(_ops.release(self, self._client._retries))

    async def extend(self, ttl: float | None = None) -> None:
        """Replace the time to live: ``ttl`` seconds from now (None: the same as before).

        Raises LockLost if it is no longer ours, OutcomeUnknown when the answer was lost;
        LockError in a forked child. One extension of a lease at a time.
        """
        self._check_process()
        await self._change_ttl(_ops.extend, _args.milliseconds(self.ttl if ttl is None else ttl))

    async def _change_ttl(self, operation: Callable[..., Op[None]], milliseconds: int) -> None:
        async with _turn(self):
            if self.over or self._told():
                raise lost_at_exit(self)
            client = self._client
            await client._drive(operation(self, milliseconds, client._retries, clock()))
        if self._told():  # while the answer was under way
            raise lost_at_exit(self)

    async def __aenter__(self) -> Lease:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Release. LockLost if it was lost before; the body's own exception goes first."""
        if kind is GeneratorExit:  # a coroutine that is being closed cannot wait
            self._abandon()
            return
        await self._leave(error)

    async def _leave(
        self, error: BaseException | None, deferred: bool = False, if_lost: str = "raise"
    ) -> None:
        cut_short = await self._cut_short(error)
        try:
            freed = await self.release(self._waits(deferred))
            if error is None and not cut_short:
                left(self, bool(freed), if_lost)
        except FastlockError as failure:
            if cut_short:
                raise lost_at_exit(self) from error
            if error is None:
                raise
            add_note(error, failure)
        except BaseException:
            self._abandon()
            raise
        if cut_short:
            raise lost_at_exit(self) from error

    async def _cut_short(self, error: BaseException | None) -> bool:
        """Whether the block was cancelled because the lock was lost, and for no other reason."""
        renewal = self._renewal
        if renewal is None:
            return False
        self._let_go()
        return isinstance(renewal, AsyncRenewal) and await renewal.take_back(error)

    def _abandon(self) -> None:
        """Nobody waits for its release: let the background see to it."""
        self._let_go()
        if not self.over:
            self._client._give_back_pairs([self.pair], self.deadline)


def _turn(lease: Lease) -> asyncio.Lock | AsyncRenewal:
    if lease._turn is None:
        lease._turn = asyncio.Lock()
    turn: asyncio.Lock | AsyncRenewal = lease._turn
    return turn


@asynccontextmanager
async def turns(leases: Iterable[Lease | None]) -> AsyncIterator[None]:
    """Everybody's turn to be extended; taken in one order by all."""
    async with AsyncExitStack() as stack:
        for lease in in_order(leases):
            await stack.enter_async_context(_turn(lease))
        yield
