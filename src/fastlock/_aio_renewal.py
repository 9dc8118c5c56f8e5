"""Floor 1, asyncio: renewing leases by themselves, beside a loop that may be blocked.

Law: that of ``_renewal.py``, whose threads renew; what concerns tasks is done in the loop that
acquired the lease. Names and arguments are those of ``_renewal.py`` and ``_lost.py``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from typing import Any
from weakref import WeakKeyDictionary

from ._clock import clock
from ._logs import WARNING, failed, tell
from ._lost import Lost
from ._renewal import Keeper, Renewal, Terms, run_callback

#: Seconds between two looks whether a renewal under way has been answered.
SOON = 0.002


class AsyncRenewal(Renewal):
    """One lease's renewal, and its turn; see Renewal. All but ``lose`` runs in the loop."""

    __slots__ = ("_cancelled", "_cancelling", "_loop", "_task", "_turn", "_waiting")

    def __init__(self, keeper: Keeper, lease: Any, terms: Terms) -> None:
        self._loop = asyncio.get_running_loop()
        self._turn = asyncio.Lock()
        self._waiting: set[asyncio.Future[None]] = set()
        self._cancelled = False  # the task, by us
        self._task = asyncio.current_task() if terms.cancel_on_lost else None
        # How often somebody else had asked the task to end (Python 3.11).
        self._cancelling = self._by_others()
        super().__init__(keeper, lease, terms)

    # -- in the loop, after it was lost

    def _announce(self, lease: Any) -> None:
        try:
            self._loop.call_soon_threadsafe(self._deliver, lease)
        except RuntimeError:  # the loop is closed: nobody is left to be told
            tell(WARNING, "lost", "%r was lost after its event loop was closed", lease.key,
                 key=lease.key, reason=self.reason)  # fmt: skip

    def _deliver(self, lease: Any) -> None:
        self.ended.set()
        for future in self._waiting:
            _wake(future)
        if self.terms.on_lost is not None:
            result = run_callback(self.terms.on_lost, lease)
            if asyncio.iscoroutine(result):
                task = self._loop.create_task(_log_failure(result, lease))
                _callbacks.add(task)
                task.add_done_callback(_callbacks.discard)
        if self._task is not None and not self.left and not self._task.done():
            self._cancelled = True
            _ours[self._task] = _ours.get(self._task, 0) + 1
            self._task.cancel(f"{lease.key!r} was lost")

    def end(self) -> None:
        super().end()
        for future in self._waiting:
            _wake(future)

    async def take_back(self, error: BaseException | None) -> bool:
        """Leaving the block with ``error``: whether it is a cancellation by us alone.

        One by us that has not struck yet does so here, and no further.
        """
        task = self._task
        if not self._cancelled or task is None or task is not asyncio.current_task():
            return False
        self._cancelled = False
        struck = isinstance(error, asyncio.CancelledError)
        if not struck:
            try:
                await asyncio.sleep(0)
            except asyncio.CancelledError:
                struck = error is None
        _ours[task] -= 1
        if hasattr(task, "uncancel"):
            task.uncancel()
        others = self._by_others() > self._cancelling
        if others and error is None:
            raise asyncio.CancelledError
        return struck and not others

    def _by_others(self) -> int:
        """How often somebody who is no lease has asked the task to end; 0 in Python 3.10."""
        task = self._task
        asked = getattr(task, "cancelling", None)
        return 0 if task is None or asked is None else asked() - _ours.get(task, 0)

    # -- by hand

    async def __aenter__(self) -> None:
        await self._turn.acquire()
        try:
            while not self.beat.pause(0.0):  # noqa: ASYNC110 - no thread of ours tells it
                await asyncio.sleep(SOON)
        except BaseException:
            await self.__aexit__()
            raise

    async def __aexit__(self, *_: object) -> None:
        try:
            self.resume()
        finally:
            self._turn.release()

    async def wait(self, seconds: float) -> None:
        """Until it is lost, ``seconds`` at most."""
        future = asyncio.get_running_loop().create_future()
        timer = future.get_loop().call_later(seconds, _wake, future)
        self._waiting.add(future)
        try:
            if not self.ended.is_set():
                await future
        finally:
            timer.cancel()
            self._waiting.discard(future)


class AsyncLost(Lost):
    """``Lease.lost``: see Lost; what waits is awaited, also by ``await lease.lost``."""

    __slots__ = ()

    async def wait(self, timeout: float | None = None) -> bool:  # type: ignore[override]
        """Wait until the lease is lost (True) or released (False), ``timeout`` seconds at most."""
        end = None if timeout is None else clock() + timeout
        while (pause := self._pause(end)) is not None:
            watched = self._lease._watched()
            await (watched.wait(pause) if watched else asyncio.sleep(pause))
        return self.is_set()

    def __await__(self) -> Generator[Any, None, bool]:
        return self.wait().__await__()


_callbacks: set[asyncio.Task[None]] = set()
#: How often lost leases have cancelled a task, and have not taken it back.
_ours: WeakKeyDictionary[asyncio.Task[Any], int] = WeakKeyDictionary()


async def _log_failure(running: Any, lease: Any) -> None:
    try:
        await running
    except Exception:
        failed("on_lost_failed", "on_lost of %r failed", lease.key, key=lease.key)


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
