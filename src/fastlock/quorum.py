"""Floor 1, sync: locks on a majority of independent servers (Redlock), for any number of threads.

Law: no lock logic here; operations of ``_ops_quorum`` decide, this carries their effects out.
What a majority promises, and what not: docs/quorum.md.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

from . import _args, _fork, _impl, _ops_quorum
from ._clock import clock
from ._config_options import Options, Unpack
from ._effects import Now, Op
from ._event import Event
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
from ._renewal import MAX_HOLD, Renewal, Terms, terms_of
from ._sync_lease import Lease
from ._sync_spec import Lock
from ._tokens import TokenSource
from ._topology import closed_error
from ._turns import Turns
from .config import Config
from .errors import FastlockError
from .lease import until_of
from .sync import Client

__all__ = ["QuorumClient", "QuorumLease", "QuorumLock"]

R = TypeVar("R")


class QuorumClient:
    """Locks on several independent servers: held by whoever has more than half of them.

    Makes no connection before the first call that needs one; then one to each server, shared
    by all threads.

    Args:
        sources: an odd number of uris or Configs, at least three, each another master.
        node_timeout: seconds that one server's answer is waited for, 0.001 to 60, default 0.2;
            never more than a quarter of the ttl.
        options: fields of Config, for all of them.

    Raises:
        ConfigError: too few servers, an even number, one twice, or a setting is wrong.

    Every method that talks to the servers may raise TransportError (no majority could be
    reached), ServerError (a majority refused), ConfigError (two of them turned out to be the
    same server) and FastlockError once the client is closed.
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
        self._closing = Event()
        self._turns = Turns()
        clients = node_clients(self)
        self._node_meters = [client._meter for client in clients]
        self._nodes = Nodes(clients, self.node_timeout, lambda: self.closed)
        self._keeper = QuorumKeeper(self._nodes, len(self.configs))
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
        if_lost: Literal["raise", "warn", "ignore"] = "raise",
    ) -> QuorumLock:
        """A spec of one lock: context manager, decorator, ``threading.Lock``'s methods.

        The arguments are those of ``Client.lock``, but for what a quorum has not. A lease
        is renewed on a majority every third of its ttl, by a thread of the client's.
        """
        terms = terms_of(auto_renew, max_hold, on_lost)
        none = (None, _args.REPLICA_TIMEOUT)
        return QuorumLock(self, key, ttl, timeout, "wait", False, False, none, terms, if_lost)

    def try_acquire(
        self,
        key: str | bytes,
        ttl: float = 30.0,
        *,
        fence: Literal[False] = False,
        auto_renew: bool = False,
        max_hold: float | None = MAX_HOLD,
        on_lost: Callable[[QuorumLease], object] | None = None,
    ) -> QuorumLease | None:
        """Try once: a lease, or None when a majority could not be had, as of a held lock.

        Two who try at the same moment may both get None. Raises OutcomeUnknown when too few
        answers came to know; nothing is held then, and what may have arrived is given back.
        There is no ``fence``: see docs/quorum.md.
        """
        refuse(fence, False)
        terms = terms_of(auto_renew, max_hold, on_lost)
        claim = self._claim(key, ttl, None)
        op = _ops_quorum.try_acquire(claim)
        return self._acquire(op, claim, terms)

    def acquire(
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
    ) -> QuorumLease:
        """Wait for the lock, at most ``timeout`` seconds (None: for ever).

        It is tried for after random pauses of up to ``retry_timeout``; servers that cannot be
        reached may come back meanwhile. The last try is sent when the timeout ends; its answers
        may take the node timeout more. Raises AcquireTimeout when a majority answered by then,
        else OutcomeUnknown or TransportError; nothing is held then. There is no ``fence`` and
        no ``fair``: see docs/quorum.md.
        """
        refuse(fence, fair)
        terms = terms_of(auto_renew, max_hold, on_lost)
        claim = self._claim(key, ttl, until_of(timeout))
        return self._acquire(_ops_quorum.acquire(claim), claim, terms)

    # -- questions

    def locked(self, key: str | bytes) -> bool:
        """Whether a majority of the servers has the key now."""
        _args.wire_key(key, b"")
        return self._drive(_ops_quorum.locked(key, len(self.configs)))

    @property
    def core(self) -> str:
        """The core this client runs on: "cython" or "python"."""
        return self._core.name

    def stats(self) -> Stats:
        """What this client has counted and timed; no I/O. Any thread may ask, also after close.

        Each call counts once, whatever number of servers it asks; ``connections``,
        ``reconnects``, ``retries`` and ``left_behind`` are of all servers together. In a forked
        child all begins at zero. ConfigError: ``metrics`` is False in the first server's
        settings.
        """
        return stats_of(self, len(self._waits), self._node_meters)

    # -- life

    @property
    def closed(self) -> bool:
        """Whether ``close`` was called."""
        return self._closing.is_set()

    def close(self) -> None:
        """Close the connections. Locks still held stay until their ttl ends.

        Calls under way in other threads fail. What is given back in the background is waited
        for, at most a second for each server. Nothing is renewed any more.
        """
        self._closing.set()
        self._keeper.stop()
        self._nodes.close(1.0)
        self._keeper.join(1.0)

    def __enter__(self) -> QuorumClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return described("QuorumClient", self.configs, self.core)

    def forked(self) -> None:
        """In a forked child: nothing here is the child's but the settings."""
        self._meter.forked()
        self._waits.forked()
        self._tokens.renew()
        self._turns.forked()
        self._nodes.forked()
        closing, self._closing = self._closing.is_set(), Event()
        if closing:
            self._closing.set()

    # -- carrying operations out

    def _claim(self, key: str | bytes, ttl: float, until: float | None) -> QuorumClaim[QuorumLease]:
        _args.wire_key(key, b"")
        generation = _fork.generation
        make = functools.partial(blank, QuorumLease, self, generation)
        return QuorumClaim(
            key, _args.milliseconds(ttl), until, len(self.configs), self._tokens.next, make,
            generation,
        )  # fmt: skip

    def _acquire(self, op: Op[R], claim: QuorumClaim[Any], terms: Terms | None) -> R:
        """Carry out an acquiring; whatever leaves it early, nothing stays held, nor renewed."""
        lease: Any = None
        try:
            lease = self._drive(op, generation=claim.generation)
            if lease is not None and terms is not None:
                keeper: Any = self._keeper
                Renewal(keeper, lease, terms)
            self._waits.end(claim)
            count_acquired(self._meter, lease)
            result: R = lease
            return result
        except BaseException:
            try:
                if lease is not None:
                    lease._let_go()
                if claim.touched:
                    self._nodes.give_back(claim.trace(clock()))
            finally:
                self._waits.end(claim)
            raise

    def _drive(
        self, op: Op[R], interrupt: BaseException | None = None, generation: int | None = None
    ) -> R:
        """Carry out the operation's effects until it returns or raises.

        Whatever interrupts in between is thrown into the operation, so that it can leave its
        lease in a truthful state. ``generation``: of the process that began it.
        """
        error, answer = interrupt, None
        if generation is None:
            generation = _fork.generation
        try:
            while True:
                effect = op.send(answer) if error is None else op.throw(error)
                error = None
                try:
                    answer = self._carry_out(effect)
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
            return self._drive(op, caught, generation)

    def _carry_out(self, effect: Any) -> Any:
        kind = type(effect)
        if kind is Poll:
            if self._closing.is_set():
                raise closed_error()
            told = self._nodes.poll(effect)
            time_poll(self._meter, effect, *told)
            return told
        if kind is GiveBack:
            self._nodes.give_back(effect)
        elif kind is Lacking:
            self._nodes.downgrade(effect)
        elif kind is not Now:
            pause = pause_of(effect, self._retry_timeout, clock())
            if kind is Pause:
                self._waits.begin(effect.whose)
            else:
                retrying(self._meter, effect.failures, pause)
            if self._closing.wait(pause):
                raise closed_error()
        return clock()


class QuorumLease(GivesBack, Lease):
    """A lock held on a majority; see BaseLease. Any thread may use it.

    It has no fencing number: ``fence`` is None.
    """

    __slots__ = ("votes",)
    _client: Any
    doubt: int

    @overload
    def release(self, wait: Literal[True] = True) -> bool: ...

    @overload
    def release(self, wait: bool) -> bool | None: ...

    def release(self, wait: bool = True) -> bool | None:
        """Free the lock wherever it may be. True: freed by us on a majority. False: not ours.

        Servers that gave no answer are told again in the background, until the lease's end.
        With ``wait=False`` all are told and none is waited for: None, unless it is over
        already; whether it was still ours then nobody learns. Interrupted, it goes on in the
        background.

        Raises OutcomeUnknown when too few answered to know. LockError in a forked child.
        """
        self._check_process()
        self._let_go()
        if self.over or not wait:
            over = self.over
            if not over:
                self.over = True
            self._give_back()
            if not over:
                self.freed = True
                self._ended(True)
            return False if over else None
        client = self._client
        try:
            freed: bool = client._drive(_ops_quorum.release(self, client._retries))
            return self._ended(freed)
        except FastlockError:
            raise
        except BaseException:
            self._give_back()
            raise

    def extend(self, ttl: float | None = None) -> None:
        """Replace the time to live on a majority: ``ttl`` seconds from now (None: as before).

        Raises LockLost if no majority has it, or none is known to have it and its deadline has
        passed meanwhile; OutcomeUnknown when too few answered to know: the lease then counts
        with the earlier deadline; TransportError when nothing was sent. LockError as of
        ``Lease.extend``. One extension of a lease at a time.
        """
        self._check_process()
        ms = _args.milliseconds(self.ttl if ttl is None else ttl)
        self._change_ttl(_ops_quorum.extend, ms)


class QuorumLock(Lock):
    """A lock spec of a quorum's client; see Lock. It cannot be pickled."""

    if TYPE_CHECKING:

        def __enter__(self) -> QuorumLease: ...

    def __reduce__(self) -> Any:
        raise no_pickling(self)


class NodeClient(Client):
    """One server of a quorum; unpickled specs of others do not bind to it."""


@functools.cache
def _on(core: _impl.Core) -> type[NodeClient]:
    return type("NodeClient", (NodeClient,), {"_core": core})


def node_clients(quorum: Any) -> list[Client]:
    """A client for each of its servers, on its core."""
    return [_on(quorum._core)(config) for config in quorum.configs]
