"""Floor 1, asyncio: specs, which say what to lock and for how long, and are entered or asked.

Law: a spec is given its client and makes none; what talks to the server is the client's.
Names and arguments are those of ``_sync_spec.py``.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from . import _args, _ops_many
from ._ops_fenced import fenced
from .errors import AcquireTimeout, FastlockError
from .lease import (
    BaseLock,
    Entries,
    add_note,
    check_colour,
    left,
    let_go,
    lost_at_exit,
    policy,
    until_of,
)

if TYPE_CHECKING:
    from ._renewal import Terms
    from .aio import Client, Lease

P = ParamSpec("P")
R = TypeVar("R")


class Lock(BaseLock):
    """A lock spec of an asyncio client: async context manager, decorator, ``acquire``.

    As a context manager and decorator every task has a lease of its own, and entering
    gives it; with ``acquire`` and ``release`` the spec itself holds one, which any task
    may release: after the ttl has ended and another task has acquired, that one's.
    Not re-entrant.
    """

    _client: Client

    async def __aenter__(self) -> Lease:
        who = asyncio.current_task()
        self._entries.check(who)
        lease = await self._client.acquire(self.key, self.ttl, self.timeout, **self._waiting)
        self._entries.add(who, (lease,))
        return lease

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        entry = self._entries.leaving(_task())
        self._entries.drop(entry)
        lease: Lease = entry[1][0]
        if kind is GeneratorExit:  # a coroutine that is being closed cannot wait
            lease._abandon()
        else:
            await lease._leave(error, self.deferred, self.if_lost)

    def __call__(self, function: Callable[P, Awaitable[R]]) -> Callable[P, Coroutine[Any, Any, R]]:
        """Hold the lock during every call of the coroutine function ``function``."""
        check_colour(function, wanted_async=True)

        @functools.wraps(function)
        async def locked(*args: P.args, **kwargs: P.kwargs) -> R:
            async with self:
                return await function(*args, **kwargs)

        return locked

    async def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """As ``threading.Lock.acquire``: True once held; -1 waits for ever.

        A fair lock that does not block is taken only if nobody waits for it.
        """
        patience = self._wait_of(blocking, timeout)
        try:
            if blocking or self.fair:
                lease: Lease | None = await self._client.acquire(
                    self.key, self.ttl, patience, **self._waiting
                )
            else:
                lease = await self._client.try_acquire(self.key, self.ttl, **self._options)
        except AcquireTimeout:
            return False
        if lease is not None:
            self._held = [lease]
        return lease is not None

    async def release(self) -> bool:
        """As ``threading.Lock.release``, from any task; False: it was no longer ours.

        True of a deferred release: it was sent, before the lease's deadline.
        """
        held, lease = self._hand_out()
        try:
            freed: bool = await lease.release(lease._waits(self.deferred)) or lease.freed
        except BaseException:
            held.append(lease)
            raise
        return freed

    async def locked(self) -> bool:
        """Whether anybody holds the lock now; asks the server."""
        return await self._client.locked(self.key)


class LockAll:
    """Several locks or none, as an async context manager; made by ``Client.lock_all``."""

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

    async def __aenter__(self) -> list[Lease]:
        who = asyncio.current_task()
        self._entries.check(who)
        claim = self._client._claim(self.keys, self.ttl, until_of(self._timeout))
        if self._fence:
            claim = fenced(claim, True)
        leases: list[Lease] = await self._client._acquire(_ops_many.acquire_all, claim, self._terms)
        self._entries.add(who, leases)
        return leases

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        entry = self._entries.leaving(_task())
        self._entries.drop(entry)
        leases: Sequence[Lease] = entry[1]
        if kind is GeneratorExit:  # a coroutine that is being closed cannot wait
            self._abandon(leases)
            return
        cut_short: list[Lease] = []
        try:
            cut_short = [lease for lease in leases if await lease._cut_short(error)]
            results = await self._client.release_many(leases)
            if error is None and not cut_short:
                for lease, freed in zip(leases, results, strict=True):
                    left(lease, freed, self._if_lost)
        except FastlockError as failure:
            if cut_short:
                raise lost_at_exit(cut_short[0]) from error
            if error is None:
                raise
            add_note(error, failure)
        except BaseException:
            self._abandon(leases)
            raise
        if cut_short:
            raise lost_at_exit(cut_short[0]) from error

    def _abandon(self, leases: Sequence[Lease]) -> None:
        """Nobody waits for their release: let the background see to it."""
        let_go(leases)
        held = [lease for lease in leases if not lease.over]
        for lease in held:
            lease.doubt = True  # what comes of it nobody hears
        if held:
            until = max(lease.deadline for lease in held)
            pairs = [lease.pair for lease in held]
            self._client._give_back_pairs(pairs, until, held[0]._generation)


def _task() -> asyncio.Task[Any] | None:
    """The running task; None where a coroutine is closed after its loop."""
    try:
        return asyncio.current_task()
    except RuntimeError:
        return None
