"""Floor 1, sync: carries operations out, for any number of threads.

Law: no lock logic and no user's arguments here. Each effect of an operation of ``_ops`` is carried
out, and what comes of it, or whatever interrupts, is handed back to it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from . import _args, _fork, _impl, _ops, _ops_many
from ._asides import Asides
from ._background import Background
from ._claim import Claim
from ._clock import clock
from ._effects import Call, Confirmed, Distrust, Downgrade, Now, Op, WaitFor
from ._event import Event
from ._listener import Listener
from ._metrics import (
    MeterLike,
    count_acquired,
    count_failure,
    retrying,
)
from ._pause import backoff_pause
from ._queue import Queue
from ._renewal import Keeper, Renewal, Terms
from ._resp import Reentered
from ._sync_lease import Lease
from ._tokens import Pair, TokenSource
from ._topology import Link, SyncServer, closed_error, too_late
from ._waiting import wait_for
from .config import Config
from .errors import FastlockError, TransportError
from .lease import let_go

R = TypeVar("R")
C = TypeVar("C", bound=Claim[Any])


class Driver:
    """What a ``Client`` is, below its calls."""

    config: Config
    _asides: Asides
    _background: Background
    _closed: Event
    _closing: Event
    _core: _impl.Core
    _keeper: Keeper
    _listener: Listener
    _loops: Any  # makes leases
    _meter: MeterLike
    _patience: float
    _prefix: bytes
    _queue: Queue
    _retries: int
    _server: SyncServer
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

    def _acquire(
        self,
        operation: Callable[[C], Op[R]],
        claim: C,
        terms: Terms | None = None,
    ) -> R:
        """Carry out an acquiring; whatever leaves it early, nothing stays held, nor renewed."""
        acquired: Any = None
        claim.renewed = terms is not None
        try:
            acquired = self._drive(operation(claim), generation=claim.generation)
            if terms is not None:
                self._keep(acquired, terms)
            count_acquired(self._meter, acquired)
            result: R = acquired
            return result
        except BaseException:
            if terms is not None:
                let_go(acquired if isinstance(acquired, list) else (acquired,))
            self._give_back(claim)
            raise

    def _keep(self, acquired: Any, terms: Terms) -> None:
        """Renew it, or each of a list, from now on; None among them."""
        for lease in acquired if isinstance(acquired, list) else (acquired,):
            if lease is not None:
                Renewal(self._keeper, lease, terms)

    def _ask(self, verb: str, key: str | bytes) -> Any:
        wire = _args.wire_key(key, self._prefix)
        return self._drive(_ops.ask(verb, (wire,), key, self._retries))

    def _drive(
        self,
        op: Op[R],
        interrupt: BaseException | None = None,
        answer: Any = None,
        generation: int | None = None,
    ) -> R:
        """Carry out the operation's effects until it returns or raises.

        ``generation``: of the process that began it; None: of this one.

        Whatever interrupts in between is thrown into the operation, so that it can
        leave its lease in a truthful state.
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
                        answer = self._call(effect)
                    elif kind is Confirmed:
                        answer = self._asides.call(effect, self._patience)
                    elif kind is Downgrade:
                        answer = self._downgrade(effect.verb)
                    elif kind is Distrust:
                        answer = self._distrust()
                    else:
                        answer = self._pause(effect)
                    _fork.check(generation)  # a signal handler's, meanwhile
                except FastlockError as failure:
                    error = failure
        except StopIteration as end:
            _fork.check(generation)
            result: R = end.value
            return result
        except BaseException as caught:
            if op.gi_frame is None:  # type: ignore[attr-defined]
                count_failure(self._meter, caught)
                raise
            return self._drive(op, caught, None, generation)

    def _call(self, call: Call) -> tuple[float, list[Any]]:
        timeout = self._patience
        if call.until is not None:
            timeout = min(timeout, call.until - clock())
        generation = _fork.generation
        try:
            call.left = False
            if self._server.strays:
                self._server.end_strays(timeout)
            link = self._server.link(timeout)
            _fork.check(generation)
            call.left = True
            data = link.encode(call)
            sent_at = clock()
            if call.until is not None:
                timeout = min(self._patience, call.until - sent_at)
                if timeout <= 0:
                    raise too_late()
            replies = link.heard(link.pipe.call(data, call.count, timeout))
            self._meter.answered(sent_at)
            return sent_at, replies
        except Reentered:
            call.left = True
            return self._call_aside(call, timeout)
        except TransportError as error:
            _fork.check(generation)
            if error.sent or error.timed_out:
                self._failed(error, link, sent_at, timeout)
            raise

    @property
    def _shares(self) -> int:
        """How many servers share what goes out together."""
        return 1

    def _home(self, wire: bytes) -> Link | None:
        """The connection by which a command about the key goes straight, if no other one is."""
        return None

    def _outcome(
        self, link: Link, said: tuple[Any, ...], timeout: float
    ) -> tuple[bool, TransportError | None, Any]:
        """Of a command that went straight: whether it left at all, and what came of it."""
        *_, sent_at, reply = said
        if isinstance(reply, TransportError):
            if reply.sent or reply.timed_out:
                return True, self._failed(reply, link, sent_at, timeout), None
        elif not isinstance(reply, Reentered):
            self._meter.answered(sent_at)
            return True, None, (sent_at, link.heard([reply]))
        return False, None, None

    def _failed(
        self, error: TransportError, link: Link, sent_at: float, timeout: float
    ) -> TransportError:
        """Note when the failed command was sent; end a connection that keeps silent."""
        error.sent_at = sent_at
        link.heard(error.replies)
        if error.timed_out and timeout >= self._patience:
            link.pipe.abort(f"no answer for {self._patience} s")
        return error

    def _call_aside(self, call: Call, timeout: float) -> tuple[float, list[Any]]:
        """For a signal handler that has interrupted the shared connection's own code."""
        link = self._server.spare(timeout)
        sent_at = clock()
        try:
            return sent_at, link.heard(link.pipe.call(link.encode(call), call.count, timeout))
        except TransportError as error:
            error.sent_at = sent_at
            self._server.strays.append(link.info)
            raise
        except BaseException:
            self._server.strays.append(link.info)
            raise
        finally:
            link.pipe.close()

    def _pause(self, effect: Any) -> float:
        kind = type(effect)
        if kind is WaitFor:
            return wait_for(self, effect)
        if kind is not Now:
            pause = backoff_pause(effect.failures)
            if effect.until is not None:
                pause = min(pause, max(0.0, effect.until - clock()))
            retrying(self._meter, effect.failures, pause)
            over = self._closed if self._background.runs_here() else self._closing
            if over.wait(pause):
                raise closed_error()
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
        """None of a process of another ``generation``: they are that one's, and may be held."""
        if not pairs or generation != _fork.generation:
            return
        self._post_back(pairs, verb, self._server.ready())
        self._queue.freed_all(pairs, clock())
        self._background.add(pairs, until, verb)

    def _post_back(self, pairs: list[Pair], verb: str, link: Link | None) -> None:
        """Send it over a connection that works, without waiting for the answers."""
        if link is None:
            return
        try:
            for portion in _ops_many.portions(pairs):
                call = _ops_many.give_back(portion, verb)
                link.pipe.post(link.encode(call), call.count)
        except TransportError:
            pass  # the background connects anew
