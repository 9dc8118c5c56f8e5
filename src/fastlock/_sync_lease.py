"""Floor 1, sync: a lease, from the try that takes it to the release that frees it.

Law: a try and a release go straight to a working connection and back, in one function
each; whatever comes but the usual answer is handed to the operation of ``_ops`` as the
outcome of its first Call, so that what an answer means still stands there alone. What
that saves: ``python -m bench instructions`` counts a pair, this way and through ``with``,
which goes through operations.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, overload

from . import _args, _fork, _ops
from ._clock import clock
from ._lost import Lost
from ._ops import Op
from ._renewal import MAX_HOLD, terms_of
from ._resp import Reentered
from .errors import FastlockError, TransportError
from .lease import BaseLease, add_note, in_order, left, lost_at_exit, make

if TYPE_CHECKING:
    from .sync import Client


def prepare(client: Client, ttl: float) -> tuple[float, int, float]:
    """What a try needs of a ttl, for ``Client._usual``: itself, in ms, and until its deadline."""
    milliseconds = _args.milliseconds(ttl)
    client._usual = usual = (ttl, milliseconds, _ops.span(milliseconds))
    return usual


def try_acquire(  # not keyword-only as elsewhere: CPython takes 400 instructions for that
    client: Client,
    key: str | bytes,
    ttl: float = 30.0,
    auto_renew: bool = False,
    max_hold: float | None = MAX_HOLD,
    on_lost: Callable[[Lease], object] | None = None,
) -> Lease | None:
    """Try once, in one round trip: a Lease, or None when somebody else has the lock.

    ``auto_renew``, ``max_hold`` and ``on_lost`` as in ``Client.lock``. Raises
    OutcomeUnknown when the answer was lost and the retries too.
    """
    if auto_renew or on_lost is not None or max_hold is not MAX_HOLD:
        terms = terms_of(auto_renew, max_hold, on_lost)
        return client._try_claim(client._claim([key], ttl, None), terms=terms)
    server = client._server
    link = server._link
    if link is None or server.strays:
        return client._try_claim(client._claim([key], ttl, None))
    usual = client._usual
    if usual[0] is not ttl:
        usual = prepare(client, ttl)
    if type(key) is str and 0 < len(key) <= _args.SURELY_SHORT and key.isascii():
        wire = client._prefix + key.encode()
    else:
        wire = _args.wire_key(key, client._prefix)
    generation = _fork.generation  # before the token, which a child must not use
    token = client._tokens.next()
    pair = (wire, token)
    answer: Any = None
    failure: TransportError | None = None
    sent_at = clock()
    try:
        answer = link.pipe.call(link.commands.acquire(wire, token, usual[1]), 1, client._patience)
        reply = answer[0]
        if reply == b"OK":
            return make(Lease, client, key, pair, usual[1], sent_at + usual[2], generation)
        if reply is None:
            return None
    except Reentered:
        pass
    except TransportError as error:
        _fork.check(generation)
        if error.sent or error.timed_out:
            failure = client._failed(error, link, sent_at, client._patience)
    except BaseException:
        if generation == _fork.generation:
            client._give_back_pairs([pair], clock() + usual[1] / 1000)
        raise
    claim = client._claim_of([key], [pair], usual[1], None, generation)
    if answer is None and failure is None:
        return client._try_claim(claim)
    return client._try_claim(claim, True, failure, (sent_at, answer))


class Lease(BaseLease):
    """A held lock of a sync client; see BaseLease. Any thread may use it."""

    __slots__ = ()
    _client: Client

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
        if self._generation != generation:
            self._check_process()
        if self._turn is not None:
            self._let_go()
        if self.over:
            return False
        client = self._client
        if not wait:
            client._deferred.send(self)
            return None
        server = client._server
        link = server._link
        if self.doubt or link is None or server.strays:
            return client._drive(_ops.release(self, client._retries))
        wire, token = self.pair
        self.doubt = True  # for whoever interrupts from here on
        sent_at = clock()
        answer = None
        failure: TransportError | None = None
        try:
            answer = link.pipe.call(link.commands.release(wire, token), 1, client._patience)
            if answer[0] == 1:
                self.over = self.freed = True
                return True
        except Reentered:
            pass
        except TransportError as error:
            _fork.check(generation)
            if error.sent or error.timed_out:
                failure = client._failed(error, link, sent_at, client._patience)
        self.doubt = False
        op = _ops.release(self, client._retries)
        if answer is None and failure is None:
            return client._drive(op)
        op.send(None)
        return client._drive(op, failure, (sent_at, answer))

    def extend(self, ttl: float | None = None) -> None:
        """Replace the time to live: ``ttl`` seconds from now (None: the same as before).

        Raises LockLost if it is no longer ours, OutcomeUnknown when the answer was lost;
        LockError in a forked child. One extension of a lease at a time.
        """
        self._check_process()
        self._change_ttl(_ops.extend, _args.milliseconds(self.ttl if ttl is None else ttl))

    def _change_ttl(self, operation: Callable[..., Op[None]], milliseconds: int) -> None:
        with self._turn or _first_turn(self):
            if self.over or self._told():
                raise lost_at_exit(self)
            client = self._client
            client._drive(operation(self, milliseconds, client._retries, clock()))
        if self._told():  # while the answer was under way
            raise lost_at_exit(self)

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
        if not self.over and self._generation == _fork.generation:
            self._client._give_back_pairs([self.pair], self.deadline)


@contextmanager
def turns(leases: Iterable[Lease | None]) -> Iterator[None]:
    """Everybody's turn to be extended; taken in one order by all."""
    with ExitStack() as stack:
        for lease in in_order(leases):
            stack.enter_context(lease._turn or _first_turn(lease))
        yield


_turns = threading.RLock()  # guards the making of them; a signal handler may make one, too


def _first_turn(lease: Lease) -> Any:
    with _turns:
        if lease._turn is None:
            lease._turn = threading.RLock()
        return lease._turn
