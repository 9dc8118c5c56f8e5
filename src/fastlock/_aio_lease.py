"""Floor 1, asyncio: a lease, from its acquiring to the release that frees it.

Law: that of ``_sync_lease.py``, names and arguments too: a try and a release go straight to a
working connection; whatever comes but the usual answer is handed to the operation of ``_ops``
as the outcome of its first Call.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, overload

from . import _args, _fork, _ops
from ._clock import clock
from ._ops import Claim, Op
from ._ops_fenced import fenced
from .errors import FastlockError, TransportError
from .lease import BaseLease, add_note, in_order, lost_at_exit, until_of, usual_of

if TYPE_CHECKING:
    from .aio import Client


async def try_acquire(
    client: Client, key: str | bytes, ttl: float = 30.0, *, fence: bool = False
) -> Lease | None:
    """Try once, in one round trip: a Lease, or None when somebody else has the lock.

    Raises OutcomeUnknown when the answer was lost and the retries too. ``fence`` as of
    ``acquire``.
    """
    if fence is not False:
        return await client._acquire(_ops.try_acquire, fenced(client._claim([key], ttl), fence))
    lease: Lease | None = await _take(client, key, ttl, _ops.try_acquire, None)
    return lease


async def acquire(
    client: Client,
    key: str | bytes,
    ttl: float = 30.0,
    timeout: float | None = None,
    *,
    fence: bool = False,
) -> Lease:
    """Wait for the lock, at most ``timeout`` seconds (None: for ever).

    The last try is sent when the timeout ends; its answer may take a second more.
    Raises AcquireTimeout, or OutcomeUnknown when an answer was lost for good.

    With ``fence=True`` the lease gets a fencing number in the same step: ``lease.fence``,
    higher than that of every earlier lease of the key. See ``fastlock.fencing``.
    """
    if fence is not False:
        claim = fenced(client._claim([key], ttl, until_of(timeout)), fence)
        return await client._acquire(_ops.acquire, claim)
    lease: Lease = await _take(client, key, ttl, _ops.acquire, until_of(timeout))
    return lease


async def _take(
    client: Client,
    key: str | bytes,
    ttl: float,
    operation: Callable[[Claim[Lease]], Op[Any]],
    until: float | None,
) -> Any:
    """The operation's first try; all the rest of it only if that gets an unusual answer."""
    generation = _fork.generation  # before the link and the token, which a child must not use
    link = client._server.link_of_this_loop()
    if link is None:
        return await client._acquire(operation, client._claim([key], ttl, until))
    usual = client._usual
    if usual[0] is not ttl:
        usual = usual_of(client, ttl)
    wire = _args.wire_key(key, client._prefix)
    pair = (wire, client._tokens.next())
    answer: Any = None
    failure: TransportError | None = None
    claim: Claim[Lease] | None = None
    sent_at = clock()
    try:
        try:
            sending = link.pipe.one(link.commands.acquire(wire, pair[1], usual[1]))
            if until is None or until + _ops.GRACE - sent_at >= client._patience:
                reply = await sending
            else:
                reply = await client._within(sending, until + _ops.GRACE - sent_at)
        except TransportError as error:
            failure = error
            failure.sent_at = sent_at
        else:
            if generation == _fork.generation:
                if reply == b"OK":
                    lease: Lease = client._loops.one(
                        client, generation, key, pair, usual[1] / 1000, sent_at + usual[2]
                    )
                    return lease
                if reply is None and operation is _ops.try_acquire:
                    return None
            answer = [reply]
        _fork.check(generation)
        claim = client._claim_of([key], [pair], usual[1], until, generation)
        claim.possible = 1  # for whoever interrupts before the operation says so
        op = operation(claim)
        op.send(None)
        return await client._drive(op, failure, (sent_at, answer))
    except BaseException:
        if claim is not None:
            client._give_back(claim)
        else:
            client._give_back_pairs([pair], clock() + usual[1] / 1000, generation)
        raise


class Lease(BaseLease):
    """A held lock of an asyncio client; see BaseLease. Any task of the loop may use it."""

    __slots__ = ()
    _client: Client

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
        generation = _fork.generation
        if self._generation != generation:
            self._check_process()
        if self.over:
            return False
        client = self._client
        if not wait:
            client._defer(self)
            return None
        link = client._server.link_of_this_loop()
        if self.doubt or link is None:
            return await client._drive(_ops.release(self, client._retries))
        self.doubt = True  # for whoever interrupts from here on
        answer: Any = None
        failure: BaseException | None = None
        sent_at = clock()
        try:
            reply = await link.pipe.one(link.commands.release(*self.pair))
            if reply == 1 and generation == _fork.generation:
                self.over = self.freed = True
                return True
            answer = [reply]
        except TransportError as error:
            failure = error
            error.sent_at = sent_at
        _fork.check(generation)
        op = _ops.release(self, client._retries, doubt=False)
        op.send(None)
        return await client._drive(op, failure, (sent_at, answer))

    async def extend(self, ttl: float | None = None) -> None:
        """Replace the time to live: ``ttl`` seconds from now (None: the same as before).

        Raises LockLost if it is no longer ours, OutcomeUnknown when the answer was lost;
        LockError in a forked child. One extension of a lease at a time.
        """
        self._check_process()
        await self._change_ttl(_ops.extend, _args.milliseconds(self.ttl if ttl is None else ttl))

    async def _change_ttl(self, operation: Callable[..., Op[None]], milliseconds: int) -> None:
        async with _turn(self):
            if self.over:
                raise lost_at_exit(self)
            client = self._client
            await client._drive(operation(self, milliseconds, client._retries, clock()))

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

    async def _leave(self, error: BaseException | None, deferred: bool = False) -> None:
        try:
            freed = await self.release(self._waits(deferred)) or self.freed
            if not freed and error is None:
                raise lost_at_exit(self)
        except FastlockError as failure:
            if error is None:
                raise
            add_note(error, failure)
        except BaseException:
            self._abandon()
            raise

    def _abandon(self) -> None:
        """Nobody waits for its release: let the background see to it."""
        if not self.over:
            self._client._give_back_pairs([self.pair], self.deadline, self._generation)


def _turn(lease: Lease) -> asyncio.Lock:
    if lease._turn is None:
        lease._turn = asyncio.Lock()
    turn: asyncio.Lock = lease._turn
    return turn


@asynccontextmanager
async def turns(leases: Iterable[Lease | None]) -> AsyncIterator[None]:
    """Everybody's turn to be extended; taken in one order by all."""
    async with AsyncExitStack() as stack:
        for lease in in_order(leases):
            await stack.enter_async_context(_turn(lease))
        yield
