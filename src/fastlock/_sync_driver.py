"""Floor 1, sync: carries operations out, for any number of threads.

Law: no lock logic and no user's arguments here. Each effect of an operation of ``_ops`` is carried
out, and what comes of it, or whatever interrupts, is handed back to it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from . import _args, _fork, _ops, _ops_many
from ._asides import Asides
from ._background import Background
from ._claim import Claim
from ._clock import clock
from ._driver_base import DriverBase
from ._effects import Call, Confirmed, Distrust, Downgrade, Now, Op, WaitFor
from ._event import Event
from ._listener import Listener
from ._metrics import count_acquired, count_failure
from ._renewal import Renewal, Terms
from ._resp import Reentered
from ._sync_lease import Lease
from ._tokens import Pair
from ._topology import Link, SyncServer, closed_error, too_late
from ._waiting import wait_for
from .errors import FastlockError, TransportError
from .lease import let_go

R = TypeVar("R")
C = TypeVar("C", bound=Claim[Any])


class Driver(DriverBase[Lease]):
    """What a ``Client`` is, below its calls."""

    _renewing_by = Renewal

    _asides: Asides
    _background: Background
    _closed: Event
    _closing: Event
    _listener: Listener
    _server: SyncServer

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
        return self._beside(self._server, timeout, lambda link: (link.encode(call), call.count))

    def _beside(
        self, server: SyncServer, timeout: float, words: Callable[[Link], tuple[bytes, int]]
    ) -> tuple[float, list[Any]]:
        """Send bytes that so many replies answer over a connection of its own.

        One on which an answer is missing becomes a stray, to be ended before anything is sent anew.
        """
        link = server.spare(timeout)
        sent_at = clock()
        try:
            return sent_at, link.heard(link.pipe.call(*words(link), timeout))
        except TransportError as error:
            error.sent_at = sent_at
            server.strays.append(link.info)
            raise
        except BaseException:
            server.strays.append(link.info)
            raise
        finally:
            link.pipe.close()

    def _pause(self, effect: Any) -> float:
        kind = type(effect)
        if kind is WaitFor:
            return wait_for(self, effect)
        if kind is not Now:
            pause = self._retrying(effect)
            over = self._closed if self._background.runs_here() else self._closing
            if over.wait(pause):
                raise closed_error()
        return clock()

    # -- giving back

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
