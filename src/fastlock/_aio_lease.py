"""Floor 1, asyncio: a lease, from its acquiring to the release that frees it.

Law: that of ``_sync_lease.py``, names and arguments too: a try and a release go straight to a
working connection; whatever comes but the usual answer is handed to the operation of ``_ops``
as the outcome of its first Call.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast, overload

from . import _args, _fork, _ops
from ._aio_renewal import AsyncLost, AsyncRenewal
from ._aio_turns import turn
from ._aio_waiting import wait_for
from ._aiopipe import within
from ._args import REPLICA_TIMEOUT
from ._claim import Claim
from ._clock import clock
from ._doubt import UNDER_WAY, interrupted
from ._effects import Op
from ._handover import HANDED, Giving
from ._metrics import HANDED_OVER, count_acquired
from ._ops_fair import acquire_fair, in_queue
from ._ops_fenced import fenced
from ._ops_handover import hand_over
from ._ops_replicas import replicated
from ._renewal import MAX_HOLD, terms_of
from .errors import FastlockError, LockLost, TransportError
from .lease import BaseLease, add_note, left, lost_at_exit, until_of, usual_of

if TYPE_CHECKING:
    from ._queue import Queue
    from .aio import Client


F = TypeVar("F", bound=Callable[..., Any])


# As in ``_sync_lease.py``: a call without keyword-only arguments goes straight.
def _straight_try(full: F) -> F:
    @functools.wraps(full)
    async def try_acquire(
        client: Client, key: str | bytes, ttl: float = 30.0, **options: Any
    ) -> Any:
        if options:
            return await full(client, key, ttl, **options)
        return await _take(client, key, ttl, _ops.try_acquire, None)

    return cast(F, try_acquire)


def _straight_acquire(full: F) -> F:
    @functools.wraps(full)
    async def acquire(
        client: Client,
        key: str | bytes,
        ttl: float = 30.0,
        timeout: float | None = None,
        **options: Any,
    ) -> Any:
        if options:
            return await full(client, key, ttl, timeout, **options)
        if client._queue.lets_others_first(_args.wire_key(key, client._prefix), clock()):
            return await _in_turn(client, client._claim([key], ttl, until_of(timeout)))
        return await _take(client, key, ttl, _ops.acquire, until_of(timeout))

    return cast(F, acquire)


@_straight_try
async def try_acquire(
    client: Client,
    key: str | bytes,
    ttl: float = 30.0,
    *,
    fence: bool = False,
    min_replicas: int | None = None,
    replica_timeout: float = REPLICA_TIMEOUT,
    auto_renew: bool = False,
    max_hold: float | None = MAX_HOLD,
    on_lost: Callable[[Lease], object] | None = None,
    cancel_on_lost: bool = False,
) -> Lease | None:
    """Try once, in one round trip: a Lease, or None when somebody else has the lock.

    ``fence``, ``min_replicas`` and ``replica_timeout`` as of ``acquire``; the arguments about
    renewal as in ``Client.lock``. Raises OutcomeUnknown when the answer was lost and the retries
    too.
    """
    if (
        fence is False
        and min_replicas is None
        and not auto_renew
        and on_lost is None
        and max_hold is MAX_HOLD
        and not cancel_on_lost
    ):
        return await try_acquire(client, key, ttl)
    terms = terms_of(auto_renew, max_hold, on_lost, cancel_on_lost, asynchronous=True)
    claim = client._claim([key], ttl)
    if fence is not False:
        claim = fenced(claim, fence)
    if min_replicas is not None:
        claim = replicated(claim, min_replicas, replica_timeout)
    return await client._acquire(_ops.try_acquire, claim, terms=terms)


@_straight_acquire
async def acquire(
    client: Client,
    key: str | bytes,
    ttl: float = 30.0,
    timeout: float | None = None,
    *,
    fence: bool = False,
    fair: bool = False,
    min_replicas: int | None = None,
    replica_timeout: float = REPLICA_TIMEOUT,
    auto_renew: bool = False,
    max_hold: float | None = MAX_HOLD,
    on_lost: Callable[[Lease], object] | None = None,
    cancel_on_lost: bool = False,
) -> Lease:
    """Wait for the lock, at most ``timeout`` seconds (None: for ever).

    The last try is sent when the timeout ends; its answer may take a second more.
    The arguments about renewal as in ``Client.lock``.

    Args:
        key: 1 byte to 64 KiB.
        ttl: seconds until the lock ends by itself, 0.01 to 10 years.
        timeout: seconds to wait for it; None for ever.
        fence: whether the lease gets a fencing number in the same step: ``lease.fence``, higher
            than that of every earlier lease of the key. See ``fastlock.fencing``.
        fair: whether all who ask so get it in the order in which they came, through a queue at
            the server; with ``timeout=0`` it is got only if nobody waits.
        min_replicas: how many replicas must confirm that they have it, 1 to 1000; None and 0:
            none. Not with ``fair=True``.
        replica_timeout: seconds in which they must, default 0.1; shorter than the ttl; at most
            until half a second after the timeout.

    Raises:
        AcquireTimeout: somebody else had it until then.
        OutcomeUnknown: an answer was lost for good.
        NotReplicated: too few replicas confirmed it, and it was released again.
    """
    if (
        fence is False
        and fair is False
        and min_replicas is None
        and not auto_renew
        and on_lost is None
        and max_hold is MAX_HOLD
        and not cancel_on_lost
    ):
        return await acquire(client, key, ttl, timeout)
    terms = terms_of(auto_renew, max_hold, on_lost, cancel_on_lost, asynchronous=True)
    claim = client._claim([key], ttl, until_of(timeout))
    if fence is not False:
        claim = fenced(claim, fence)
    if min_replicas is not None:
        claim = replicated(claim, min_replicas, replica_timeout, fair)
    if fair is not False:
        return await client._acquire(acquire_fair, in_queue(claim, fair), terms=terms)
    in_turn = client._queue.lets_others_first(_args.wire_key(key, client._prefix), clock())
    operation = _ops.acquire_in_turn if in_turn else _ops.acquire
    return await client._acquire(operation, claim, terms=terms)


async def _take(
    client: Client,
    key: str | bytes,
    ttl: float,
    operation: Callable[[Claim[Lease]], Op[Any]],
    until: float | None,
) -> Any:
    """The operation's first try; all the rest of it only if that gets an unusual answer."""
    generation = _fork.generation  # before the link and the token, which a child must not use
    wire = _args.wire_key(key, client._prefix)
    link = client._server.link_of_this_loop()
    if link is None:
        link = client._home(wire)
        if link is None:
            return await client._acquire(operation, client._claim([key], ttl, until))
    usual = client._usual
    if usual[0] is not ttl:
        usual = usual_of(client, ttl)
    pair = (wire, client._tokens.next())
    answer: Any = None
    failure: TransportError | None = None
    claim: Claim[Lease] | None = None
    op: Op[Any] | None = None
    astray = False
    sent_at = clock()
    try:
        try:
            sending = link.pipe.one(link.commands.acquire(wire, pair[1], usual[1]))
            if until is None or until + _ops.GRACE - sent_at >= client._patience:
                reply = await sending
            else:
                reply = await within(sending, max(0.0, until - sent_at) + _ops.GRACE)
        except TransportError as error:
            failure = error
            failure.sent_at = sent_at
        else:
            if generation == _fork.generation:
                if reply == b"OK":
                    lease: Lease = client._loops.one(
                        client, generation, key, pair, usual[1] / 1000, sent_at + usual[2], sent_at
                    )
                    if client._timed is not None:
                        client._timed.took(sent_at)
                    return lease
                if reply is None and operation is _ops.try_acquire:
                    if client._timed is not None:
                        client._timed.refused(sent_at)
                    return None
            client._meter.answered(sent_at)
            answer = link.heard([reply])
        _fork.check(generation)
        astray = client._astray(link, failure, answer)
        if astray:
            return await client._acquire(operation, client._claim([key], ttl, until))
        claim = client._claim_of([key], [pair], usual[1], until, generation)
        claim.possible = 1  # for whoever interrupts before the operation says so
        op = operation(claim)
        op.send(None)
        acquired = await client._drive(op, failure, (sent_at, answer), generation)
        count_acquired(client._meter, acquired)
        return acquired
    except BaseException:
        if astray:  # nothing of this token can be there, and what came after gave back its own
            raise
        if op is not None:  # a coroutine that is closed, or a loop stopped by Ctrl-C, ends none
            op.close()
        if claim is not None:
            client._give_back(claim)
        else:
            client._give_back_pairs([pair], clock() + usual[1] / 1000, generation)
        raise


async def _in_turn(client: Client, claim: Claim[Lease]) -> Lease:
    """The operation's first wait; all the rest of it only if that does not bring the lock."""
    generation = claim.generation
    op = _ops.acquire_in_turn(claim)
    try:
        _fork.check(generation)
        wait = op.send(None)
        now: float | None = None
        failure: BaseException | None = None
        try:
            now = await wait_for(client, wait)
        except (FastlockError, asyncio.CancelledError) as error:
            failure = error
        verdict = wait.verdict
        if failure is not None or verdict is None or verdict.kind not in HANDED:
            lease: Lease = await client._drive(op, failure, now, generation)
        else:
            _fork.check(generation)
            lease = _end(op, now)
        count_acquired(client._meter, lease)
        return lease
    except BaseException:
        op.close()  # a coroutine that is closed, or a loop stopped by Ctrl-C, ends none
        client._give_back(claim)
        raise


def _end(op: Op[Lease], answer: Any) -> Lease:
    """What an operation returns that needs nothing more than this."""
    try:
        op.send(answer)
    except StopIteration as end:
        lease: Lease = end.value
        return lease
    raise AssertionError("it had more to do")


class Lease(BaseLease):
    """A held lock of ``fastlock.aio.Client``. Any task of the loop may use it; see BaseLease."""

    __slots__ = ()
    _client: Client
    doubt: int

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
        generation = _fork.generation
        if self._generation != generation:
            self._check_process()
        if self._turn is not None:
            self._let_go()
        if self.over:
            return False
        client = self._client
        queue = client._queue
        if not wait:
            client._defer(self)
            self._ended(self.freed)
            queue.freed(self.pair[0], clock())
            return None
        link = client._server.link_of_this_loop()
        if self.doubt or link is None:
            link = None if self.doubt else client._home(self.pair[0])
            if link is None:
                return await self._go_round(queue)
        if not queue.quiet and queue.lines and client._bells.are_of(link.pipe.loop):
            passed = await self._pass_on(clock())
            if passed is not None:
                return self._ended(passed)
        self.doubt = UNDER_WAY
        try:
            answer: Any = None
            failure: BaseException | None = None
            sent_at = clock()
            try:
                reply = await link.pipe.one(link.commands.release(*self.pair))
                if reply == 1 and generation == _fork.generation:
                    self.over = self.freed = True
                    if client._timed is not None:
                        client._timed.freed(self, sent_at)
                    queue.left, queue.left_at = self.pair[0], sent_at
                    if not queue.quiet:
                        queue.freed(self.pair[0], clock())
                    return True
                client._meter.answered(sent_at)
                answer = link.heard([reply])
            except TransportError as error:
                failure = error
                error.sent_at = sent_at
            _fork.check(generation)
            if client._astray(link, failure, answer):
                if self.doubt is UNDER_WAY:
                    self.doubt = False
                ours = await client._drive(_ops.release(self, client._retries))
            else:
                op = _ops.release(self, client._retries, begun=True)
                op.send(None)
                ours = await client._drive(op, failure, (sent_at, answer))
            queue.freed(self.pair[0], clock())
            return self._ended(ours)
        except FastlockError:
            raise
        except BaseException:
            interrupted(self)
            raise

    async def _go_round(self, queue: Queue) -> bool:
        """Release it where no way leads straight to a connection, or a release is in doubt."""
        client = self._client
        if queue.lines and not self.doubt and client._goes_round():
            passed = await self._pass_on(clock())
            if passed is not None:
                return self._ended(passed)
        ours = await client._drive(_ops.release(self, client._retries))
        queue.freed(self.pair[0], clock())
        return self._ended(ours)

    async def _pass_on(self, now: float) -> bool | None:
        """Release it to the first who waits, as ``release``; None: do that without."""
        client = self._client
        queue = client._queue
        giving = Giving()
        op: Op[bool] | None = None
        try:
            if not queue.gives(self, now, giving):
                return None
            if client._local and giving.kept(self, now, client._batches):
                client._meter.count(HANDED_OVER)
                return True
            op = hand_over(self, giving, client._retries, now)
            ours = await client._drive(op)
            queue.took(clock() - now)
            if giving.done:
                client._meter.count(HANDED_OVER)
            else:
                queue.freed(self.pair[0], clock())
            return ours
        except FastlockError:
            raise
        except BaseException:
            if op is not None:  # a coroutine that is closed ends none
                op.close()
            interrupted(self)
            raise
        finally:
            try:
                giving.end(client, clock())
            except BaseException:  # an interrupt: the waiter must not wait for ever
                giving.end(client, clock())
                raise

    async def extend(self, ttl: float | None = None) -> None:
        """Replace the time to live: ``ttl`` seconds from now (None: the same as before).

        Raises LockLost if it is no longer ours, OutcomeUnknown when the answer was lost;
        LockError in a forked child. One extension of a lease at a time.
        """
        self._check_process()
        await self._change_ttl(_ops.extend, _args.milliseconds(self.ttl if ttl is None else ttl))

    async def _change_ttl(self, operation: Callable[..., Op[None]], milliseconds: int) -> None:
        async with turn(self):
            if self.over or self._told():
                raise lost_at_exit(self)
            client = self._client
            self._remember()
            try:
                await client._drive(operation(self, milliseconds, client._retries, clock()))
            except BaseException as error:
                self._unheard(error, milliseconds)
                if isinstance(error, LockLost):
                    self._count_lost()
                raise
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
        cut_short = False
        try:
            cut_short = await self._cut_short(error)
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
            self.doubt = True  # what comes of it nobody hears
        if not self.over:  # as it is if it was handed over at this moment
            self._client._give_back_pairs([self.pair], self.deadline, self._generation)
