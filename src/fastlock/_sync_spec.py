"""Floor 1, sync: specs, which say what to lock and for how long, and are entered or asked.

Law: a spec is given its client and makes none; what talks to the server is the client's.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Coroutine, Iterable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, overload

from . import _args, _ops_many
from ._ops_fenced import fenced
from .errors import AcquireTimeout, FastlockError
from .lease import BaseLock, Entries, add_note, check_colour, left, let_go, policy, until_of

if TYPE_CHECKING:
    from ._renewal import Terms
    from ._sync_lease import Lease
    from .sync import Client

P = ParamSpec("P")
R = TypeVar("R")


class NeedsAioClient:
    """Made by nobody: what type checkers take a coroutine function for that a sync lock decorates.

    It cannot be called, so each call of the function is shown as an error. When the program runs,
    decorating it raises TypeError.
    """


class Lock(BaseLock):
    """A lock spec of a sync client: context manager, decorator, ``threading.Lock``'s methods.

    As a context manager and decorator every thread has a lease of its own, and entering
    gives it; with ``acquire`` and ``release`` the spec itself holds one, which any thread
    may release: after the ttl has ended and another thread has acquired, that one's.
    Not re-entrant.
    """

    _client: Client

    def __enter__(self) -> Lease:
        who = threading.current_thread()
        self._entries.check(who)
        lease = entry = None
        try:
            lease = self._client.acquire(self.key, self.ttl, self.timeout, **self._waiting)
            entry = self._entries.add(who, (lease,))
            return lease
        except BaseException:
            self._entries.drop(entry)
            if lease is not None:
                lease._abandon()
            raise

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        entry = None
        try:
            entry = self._entries.leaving(threading.current_thread())
            entry[1][0]._leave(error, self.deferred, self.if_lost)
        except FastlockError:
            raise
        except BaseException:  # interrupted, perhaps before the release was sent
            entry = entry or self._entries.leaving(threading.current_thread())
            entry[1][0]._abandon()
            raise
        finally:
            self._entries.drop(entry)

    @overload  # the narrower one first: a coroutine function fits the other one too
    def __call__(  # type: ignore[overload-overlap]
        self, function: Callable[P, Coroutine[Any, Any, Any]]
    ) -> NeedsAioClient: ...

    @overload
    def __call__(self, function: Callable[P, R]) -> Callable[P, R]: ...

    def __call__(self, function: Callable[P, R]) -> Callable[P, R] | NeedsAioClient:
        """Hold the lock during every call of ``function``; no generator, no coroutine function."""
        check_colour(function, wanted_async=False)

        @functools.wraps(function)
        def locked(*args: P.args, **kwargs: P.kwargs) -> R:
            with self:
                return function(*args, **kwargs)

        return locked

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """As ``threading.Lock.acquire``: True once held; -1 waits for ever.

        A fair lock that does not block is taken only if nobody waits for it.
        """
        patience = self._wait_of(blocking, timeout)
        lease: Lease | None = None
        try:
            if blocking or self.fair:
                lease = self._client.acquire(self.key, self.ttl, patience, **self._waiting)
            else:
                lease = self._client.try_acquire(self.key, self.ttl, **self._options)
            if lease is not None:
                self._held = [lease]
            return lease is not None
        except AcquireTimeout:
            return False
        except BaseException:  # interrupted with it in hand
            if lease is not None:
                self._held = []
                lease._abandon()
            raise

    def release(self) -> bool:
        """As ``threading.Lock.release``, from any thread; False: it was no longer ours.

        True of a deferred release: it was sent, before the lease's deadline.
        """
        held, lease = self._hand_out()
        try:
            freed: bool = lease.release(lease._waits(self.deferred)) or lease.freed
        except BaseException:
            held.append(lease)
            raise
        return freed

    def locked(self) -> bool:
        """Whether anybody holds the lock now; asks the server."""
        return self._client.locked(self.key)


class LockAll:
    """Several locks or none, as a context manager; made by ``Client.lock_all``."""

    def __init__(
        self,
        client: Client,
        keys: Iterable[str | bytes],
        ttl: float,
        timeout: float | None,
        fence: bool,
        terms: Terms | None,
        if_lost: str,
    ) -> None:
        self._client = client
        self._terms = terms
        self._if_lost = policy(if_lost)
        self.keys: list[str | bytes] = _args.distinct(_args.key_list(keys))
        self.ttl = ttl
        self._timeout = timeout
        self._fence = _args.flag("fence", fence)
        self._entries = Entries(self.keys[0])
        _args.milliseconds(ttl)
        _args.wait(timeout)

    def __enter__(self) -> list[Lease]:
        who = threading.current_thread()
        self._entries.check(who)
        claim = self._client._claim(self.keys, self.ttl, until_of(self._timeout))
        if self._fence:
            claim = fenced(claim, True)
        leases: list[Lease] = []
        entry = None
        try:
            leases = self._client._acquire(_ops_many.acquire_all, claim, self._terms)
            entry = self._entries.add(who, leases)
            return leases
        except BaseException:
            self._entries.drop(entry)
            let_go(leases)
            self._client._give_back(claim)
            raise

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        entry = None
        leases: Sequence[Lease] = ()
        try:
            entry = self._entries.leaving(threading.current_thread())
            leases = entry[1]
            results = self._client.release_many(leases)
            if error is None:
                for lease, freed in zip(leases, results, strict=True):
                    left(lease, freed, self._if_lost)
        except FastlockError as failure:
            if error is None:
                raise
            add_note(error, failure)
        except BaseException:
            for lease in leases:
                lease._abandon()
            raise
        finally:
            self._entries.drop(entry)
