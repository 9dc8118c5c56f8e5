"""Floor 1, sync: a lease, from the try that takes it to the release that frees it.

Law: a try and a release go straight to a working connection and back (``_straight.pyx``,
``_pystraight.py``); whatever comes but the usual answer is handed to the operation of
``_ops`` as the outcome of its first Call, so that what an answer means still stands there
alone. What that saves: ``python -m bench instructions`` counts a pair.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast, overload

from . import _args, _fork, _ops
from ._args import REPLICA_TIMEOUT
from ._claim import Claim
from ._clock import clock
from ._doubt import UNDER_WAY, interrupted
from ._effects import Op
from ._handover import Giving
from ._lost import Lost
from ._metrics import HANDED_OVER, REFUSED, count_acquired
from ._ops_fair import acquire_fair, in_queue
from ._ops_fenced import fenced
from ._ops_handover import hand_over
from ._ops_replicas import replicated
from ._renewal import MAX_HOLD, terms_of
from ._tokens import Pair
from .errors import FastlockError, LockLost
from .lease import BaseLease, add_note, left, lost_at_exit, until_of, usual_of

if TYPE_CHECKING:
    from ._impl import StraightLike
    from ._topology import Link
    from .sync import Client


F = TypeVar("F", bound=Callable[..., Any])

# CPython looks the default of each keyword-only argument up in a dict, which takes a twentieth of
# a pair: a call without any goes straight, and ``full`` is what it looks like.


def _straight_try(full: F) -> F:
    @functools.wraps(full)
    def try_acquire(client: Client, key: str | bytes, ttl: float = 30.0, **options: Any) -> Any:
        if options:
            return full(client, key, ttl, **options)
        return _take(client, key, ttl, _ops.try_acquire, None)

    return cast(F, try_acquire)


def _straight_acquire(full: F) -> F:
    @functools.wraps(full)
    def acquire(
        client: Client,
        key: str | bytes,
        ttl: float = 30.0,
        timeout: float | None = None,
        **options: Any,
    ) -> Any:
        if options:
            return full(client, key, ttl, timeout, **options)
        if _comes_in_turn(client, key):
            claim = client._claim([key], ttl, until_of(timeout))
            return client._acquire(_ops.acquire_in_turn, claim)
        return _take(client, key, ttl, _ops.acquire, until_of(timeout))

    return cast(F, acquire)


@_straight_try
def try_acquire(
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
) -> Lease | None:
    """Try once, in one round trip: a Lease, or None when somebody else has the lock.

    ``fence``, ``min_replicas`` and ``replica_timeout`` as of ``acquire``; ``auto_renew``,
    ``max_hold`` and ``on_lost`` as in ``Client.lock``. Raises OutcomeUnknown when the answer was
    lost and the retries too.
    """
    if (
        fence is False
        and min_replicas is None
        and not auto_renew
        and on_lost is None
        and max_hold is MAX_HOLD
    ):
        return try_acquire(client, key, ttl)
    terms = terms_of(auto_renew, max_hold, on_lost)
    claim = client._claim([key], ttl)
    if fence is not False:
        claim = fenced(claim, fence)
    if min_replicas is not None:
        claim = replicated(claim, min_replicas, replica_timeout)
    return client._acquire(_ops.try_acquire, claim, terms=terms)


@_straight_acquire
def acquire(
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
) -> Lease:
    """Wait for the lock, at most ``timeout`` seconds (None: for ever).

    The last try is sent when the timeout ends; its answer may take a second more.
    ``auto_renew``, ``max_hold`` and ``on_lost`` as in ``Client.lock``.

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
    ):
        return acquire(client, key, ttl, timeout)
    terms = terms_of(auto_renew, max_hold, on_lost)
    claim = client._claim([key], ttl, until_of(timeout))
    if fence is not False:
        claim = fenced(claim, fence)
    if min_replicas is not None:
        claim = replicated(claim, min_replicas, replica_timeout, fair)
    if fair is not False:
        return client._acquire(acquire_fair, in_queue(claim, fair), terms=terms)
    in_turn = _comes_in_turn(client, key)
    operation = _ops.acquire_in_turn if in_turn else _ops.acquire
    return client._acquire(operation, claim, terms=terms)


def _comes_in_turn(client: Client, key: str | bytes) -> bool:
    """As its ``Queue`` says, which hears of the releases that have gone straight only here."""
    queue, now = client._queue, clock()
    wire = _args.wire_key(key, client._prefix)
    link = client._server._link
    if link is None:
        link = client._home(wire)
    way = None if link is None else link.way
    if way is not None and way.freed_at > queue.left_at:
        queue.left, queue.left_at = way.freed, way.freed_at
    return queue.lets_others_first(wire, now)


def _take(
    client: Client,
    key: str | bytes,
    ttl: float,
    operation: Callable[[Claim[Lease]], Op[Any]],
    until: float | None,
) -> Any:
    """The operation's first try; all the rest of it only if that gets an unusual answer."""
    generation = _fork.generation  # before the link, whose tokens a child must not use
    server = client._server
    link = server._link
    if link is None or server.strays:
        link = client._home(_args.wire_key(key, client._prefix))
        if link is None:
            return client._acquire(operation, client._claim([key], ttl, until))
    whose, milliseconds, span = client._usual
    if whose is not ttl:
        _, milliseconds, span = usual_of(client, ttl)
    patience = client._patience
    if until is not None:
        begun_at = clock()
        patience = min(patience, max(0.0, until - begun_at) + _ops.GRACE)
    trace: list[Pair] = []
    claim: Claim[Lease] | None = None
    try:
        way = link.way
        if way is None:
            way = _way(client, link)
        taken = way.take(key, milliseconds, span, generation, patience, trace)
        if generation != _fork.generation:
            _fork.check(generation)
        if type(taken) is Lease:
            return taken
        if taken is None and operation is _ops.try_acquire:
            client._meter.count(REFUSED)
            return None
        begun, failure, answer = True, None, (0.0 if until is None else begun_at, [None])
        if taken is not None:
            begun, failure, answer = client._outcome(link, taken, patience)
        if taken is not None and begun:
            claim = client._claim_of([key], [taken[0]], milliseconds, until, generation)
            claim.possible = 1  # for whoever interrupts before the operation says so
        else:  # nothing of the old token can be there
            claim = client._claim([key], ttl, until)
        op = operation(claim)
        if begun:
            op.send(None)
        acquired = client._drive(op, failure, answer, claim.generation)
        count_acquired(client._meter, acquired)
        return acquired
    except BaseException:
        if claim is not None:
            client._give_back(claim)
        else:  # perhaps with its lease on the way
            client._give_back_pairs(trace, clock() + milliseconds / 1000, generation)
        raise


def _way(client: Client, link: Link) -> StraightLike:
    commands = link.commands
    way = client._core.straight(
        client,
        client._loops,
        link.pipe,
        commands.acquiring,
        commands.releasing,
        client._tokens.source,
        client._prefix,
        client._timed,
    )
    link.way = way
    return way


class Lease(BaseLease):
    """A held lock of ``fastlock.Client``. Any thread may use it; see BaseLease."""

    __slots__ = ()
    _client: Client
    doubt: int

    @property
    def lost(self) -> Lost:
        """Whether the lock was lost: true or false, and to wait for; see Lost."""
        return Lost(self)

    @overload
    def release(self, wait: Literal[True] = True) -> bool: ...

    @overload
    def release(self, wait: bool) -> bool | None: ...

    def release(self, wait: bool = True) -> bool | None:
        """Free the lock. True: freed by us. False: it was no longer ours.

        With ``wait=False`` the release is sent and not waited for, which spares a round
        trip: None, unless it is over already. From then on the lease counts as freed; if
        it turns out that it was lost before, that is logged and ``lost`` becomes True.
        A lost connection is mended in the background until the deadline.

        Raises OutcomeUnknown when neither can be known, TransportError when the server
        was not reached; then it may be called again. LockError in a forked child.
        """
        generation = _fork.generation
        client = self._client
        server = client._server
        link = server._link
        if link is None or server.strays:
            link = client._home(self.pair[0])
            way = None if link is None else link.way
        else:
            way = link.way
        freed = None
        if self._turn is not None:
            self._check_process()
            self._let_go()
        queue = client._queue
        try:
            if (
                wait
                and not queue.quiet
                and queue.lines
                and server.ready() is not None
                and not server.strays
            ):
                passed = self._pass_on(clock())
                if passed is not None:
                    return self._ended(passed)
            if wait and way is not None:
                freed = way.free(self, generation, client._patience)
                if freed is True:
                    if not queue.quiet:
                        queue.freed(self.pair[0], clock())
                    return True
            if self._generation != generation:
                self._check_process()
            if freed is None and self.over:
                return False
            if not wait:
                client._deferred.send(self)
                self._ended(self.freed)
                queue.freed(self.pair[0], clock())
                return None
            begun, failure, answer = False, None, None
            if freed is not None and link is not None:
                _fork.check(generation)
                begun, failure, answer = client._outcome(link, freed, client._patience)
                if not begun and self.doubt is UNDER_WAY:
                    self.doubt = False  # it was not sent
            op = _ops.release(self, client._retries, begun)
            if begun:
                op.send(None)
            ours = client._drive(op, failure, answer)
            queue.freed(self.pair[0], clock())
            return self._ended(ours)
        except FastlockError:
            raise
        except BaseException:
            interrupted(self)
            raise

    def _pass_on(self, now: float) -> bool | None:
        """Release it to the first who waits, as ``release``; None: do that without."""
        client = self._client
        queue = client._queue
        giving = Giving()
        try:
            if not queue.gives(self, now, giving):
                return None
            if client._local and giving.kept(self, now, client._batches):
                client._meter.count(HANDED_OVER)
                return True
            ours = client._drive(hand_over(self, giving, client._retries, now))
            queue.took(clock() - now)
            if giving.done:
                client._meter.count(HANDED_OVER)
            else:
                queue.freed(self.pair[0], clock())
            return ours
        finally:
            try:
                giving.end(client, clock())
            except BaseException:  # an interrupt: the waiter must not wait for ever
                giving.end(client, clock())
                raise

    def extend(self, ttl: float | None = None) -> None:
        """Replace the time to live: ``ttl`` seconds from now (None: the same as before).

        Raises LockLost if it is no longer ours, OutcomeUnknown when the answer was lost;
        LockError in a forked child, and in a signal's handler that has come into the middle of
        another extension. One extension of a lease at a time.
        """
        self._check_process()
        self._change_ttl(_ops.extend, _args.milliseconds(self.ttl if ttl is None else ttl))

    def _change_ttl(self, operation: Callable[..., Op[None]], milliseconds: int) -> None:
        self._client._turns.alone(self, lambda: self._send_ttl(operation, milliseconds))
        if self._told():  # while the answer was under way
            raise lost_at_exit(self)

    def _send_ttl(self, operation: Callable[..., Op[None]], milliseconds: int) -> None:
        if self.over or self._told():
            raise lost_at_exit(self)
        client = self._client
        self._remember()
        try:
            client._drive(operation(self, milliseconds, client._retries, clock()))
        except BaseException as error:
            self._unheard(error, milliseconds)
            if isinstance(error, LockLost):
                self._count_lost()
            raise

    def __enter__(self) -> Lease:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Release. LockLost if it was lost before; the body's own exception goes first."""
        self._leave(error)

    def _leave(
        self, error: BaseException | None, deferred: bool = False, if_lost: str = "raise"
    ) -> None:
        try:
            freed = self.release(self._waits(deferred))
            if error is None:
                left(self, bool(freed), if_lost)
        except FastlockError as failure:
            if error is None:
                raise
            add_note(error, failure)
        except BaseException:
            self._abandon()
            raise

    def _abandon(self) -> None:
        """Interrupted while releasing: let the background see to it."""
        self._let_go()
        if not self.over:
            self.doubt = True  # what comes of it nobody hears
        if not self.over:  # as it is if it was handed over at this moment
            self._client._give_back_pairs([self.pair], self.deadline, self._generation)
