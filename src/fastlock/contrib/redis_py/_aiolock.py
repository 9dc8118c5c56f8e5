"""The stand-in for ``redis.asyncio.lock.Lock``.

Law: signatures, return values, polling and giving up are redis-py's; what is true of the
lock is decided by ``_ops``. It sleeps on the running loop's clock.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from types import TracebackType
from typing import Any, ClassVar, Literal
from weakref import WeakKeyDictionary

from redis.exceptions import LockError, RedisError

from fastlock import _fork, _ops, _ops_extend, aio
from fastlock._claim import Claim
from fastlock.errors import FastlockError
from fastlock.lease import add_note

from ._clients import aclient_of, check
from ._errors import as_redis, not_ours
from ._held import UNKNOWN, Everywhere, Held, Number, PerThread

_log = logging.getLogger("redis.asyncio.lock")


class AsyncLock(Held):
    """A lock with the face of ``redis.asyncio.lock.Lock``; tasks of a loop may share it.

    Arguments and errors are those of ``Lock``, for a ``redis.asyncio.Redis``. Cancelling any
    of its methods is safe: a cancelled acquire leaves the lock not held, a cancelled release
    is finished in the background.
    """

    _client_class: ClassVar[type[aio.Client]] = aio.Client

    def __init__(
        self,
        redis: Any,
        name: Any,
        timeout: Number | None = None,
        sleep: Number = 0.1,
        blocking: bool = True,
        blocking_timeout: Number | None = None,
        thread_local: bool = True,
        raise_on_release_error: bool = True,
    ) -> None:
        self.redis = redis
        self.name = name
        self.timeout = timeout
        self.sleep = sleep
        self.blocking = blocking
        self.blocking_timeout = blocking_timeout
        self.thread_local: bool = bool(thread_local)
        self.raise_on_release_error = raise_on_release_error
        self.local: Any = PerThread() if self.thread_local else Everywhere()
        self._of_task: WeakKeyDictionary[Any, Everywhere] = WeakKeyDictionary()
        check(redis)

    def _mine(self) -> Any:
        task = asyncio.current_task() or asyncio.get_running_loop()
        mine = self._of_task.get(task)
        if mine is None:
            mine = self._of_task[task] = Everywhere()
        return mine

    async def _client(self) -> aio.Client:
        return await aclient_of(self.redis, self._client_class)

    # -- acquire

    async def acquire(
        self,
        blocking: bool | None = None,
        blocking_timeout: Number | None = None,
        token: Any = None,
    ) -> bool:
        """Try until the lock is ours: True. False when it is not to be had in time.

        As ``Lock.acquire``, which alone takes ``sleep``.
        """
        waits = self.blocking if blocking is None else blocking
        patience = self.blocking_timeout if blocking_timeout is None else blocking_timeout
        raw = (await self._client())._tokens.next() if token is None else self._encoded(token)
        self._mine().until = self._until(waits, patience)
        time = asyncio.get_running_loop().time
        end = None if patience is None else time() + patience
        while not await self.do_acquire(raw):
            if not waits:
                return False
            next_try = time() + self.sleep
            if end is not None and next_try > end:
                return False
            await asyncio.sleep(self.sleep)
        self.local.token = raw
        return True

    async def do_acquire(self, token: bytes) -> bool:
        """One try with this token."""
        generation = _fork.generation
        client = await self._client()
        pair = self._key(), token
        claim = Claim(
            (self.name,), (pair,), self._timeout_ms(), self._mine().until, client._retries,
            client._made, generation,
        )  # fmt: skip
        try:
            lease = await client._drive(_ops.try_acquire(claim), generation=generation)
        except BaseException as error:
            client._give_back(claim)
            if isinstance(error, FastlockError):
                raise as_redis(error, self.name) from error
            raise
        if lease is not None:
            self._took(lease)
        return lease is not None

    # -- release

    async def release(self) -> None:
        """Free the lock.

        Raises LockError if nothing is held through this object, LockNotOwnedError if it
        was lost before. After any other error, and when cancelled, it may be called again.
        """
        token = self._token_to("release")
        try:
            await self.do_release(token)
        except LockError:
            self._forget(token)
            raise
        self._forget(token)

    async def do_release(self, expected_token: Any) -> None:
        """Free the lock if it is held with this token, else LockNotOwnedError."""
        if self.lua_release is not None:
            arguments: dict[str, Any] = {"keys": [self.name], "args": [expected_token]}
            if not await self.lua_release(**arguments, client=self.redis):
                raise not_ours(self.name, "release")
            return
        client = await self._client()
        lease = self._lease_of(expected_token, client)
        try:
            freed = await lease.release()
        except FastlockError as error:
            raise as_redis(error, self.name) from error
        except BaseException:  # cancelled, perhaps before anything was sent
            lease.doubt = True
            client._give_back_pairs([lease.pair], self._debt(lease), lease._generation)
            raise
        if not freed:
            raise not_ours(self.name, "release")

    async def __aenter__(self) -> AsyncLock:
        if await self.acquire():
            return self
        raise LockError("Unable to acquire lock within the time specified", lock_name=self.name)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Release. The body's own exception goes first; what release() says is noted there."""
        try:
            await self.release()
        except RedisError as failure:
            if isinstance(failure, LockError) and not self.raise_on_release_error:
                _log.warning("%r had ended before its block did: %s", self.name, failure)
            elif error is None:
                raise
            else:
                add_note(error, failure)

    # -- prolong

    def extend(
        self, additional_time: Number, replace_ttl: bool = False
    ) -> Coroutine[Any, Any, Literal[True]]:
        """Add seconds to what is left of the timeout, or with ``replace_ttl`` set them anew.

        A negative addition shortens; what would leave nothing is refused. Raises LockError
        (also for a lock without timeout), LockNotOwnedError if it was lost.
        """
        self._token_to_prolong("extend")
        return self.do_extend(additional_time, replace_ttl)

    async def do_extend(self, additional_time: Number, replace_ttl: bool) -> Literal[True]:
        """``extend`` without its first checks."""
        token = self._token_to("extend")
        if self.lua_extend is not None:
            more = self._milliseconds(additional_time, "additional_time")
            return await self._by_script("extend", token, [more, "1" if replace_ttl else "0"])
        if replace_ttl:
            ttl = self._positive(additional_time, "additional_time")
            return await self._change_ttl("extend", token, _ops.extend, ttl)
        more = self._milliseconds(additional_time, "additional_time")
        return await self._change_ttl("extend", token, _ops_extend.extend_by, more)

    def reacquire(self) -> Coroutine[Any, Any, Literal[True]]:
        """Set the timeout anew, from now. Raises as ``extend``."""
        self._token_to_prolong("reacquire")
        return self.do_reacquire()

    async def do_reacquire(self) -> Literal[True]:
        """``reacquire`` without its first checks."""
        token = self._token_to("reacquire")
        ttl = self._positive(self.timeout, "timeout")
        if self.lua_reacquire is not None:
            return await self._by_script("reacquire", token, [ttl])
        return await self._change_ttl("reacquire", token, _ops.extend, ttl)

    async def _change_ttl(self, verb: str, token: bytes, operation: Any, ms: int) -> Literal[True]:
        lease = self._lease_of(token, await self._client())
        if lease.over:
            raise not_ours(self.name, verb)
        try:
            await lease._change_ttl(operation, ms)
        except FastlockError as error:
            raise as_redis(error, self.name) from error
        return True

    async def _by_script(self, verb: str, token: bytes, args: list[Any]) -> Literal[True]:
        script = getattr(self, f"lua_{verb}")
        self._lease_of(token, await self._client()).deadline = UNKNOWN
        if not await script(keys=[self.name], args=[token, *args], client=self.redis):
            raise not_ours(self.name, verb)
        return True

    # -- questions

    async def locked(self) -> bool:
        """Whether anybody holds the lock now."""
        return await self._stored() is not None

    async def owned(self) -> bool:
        """Whether the caller's token holds the lock now."""
        token = self._token()
        return token is not None and self._here(token) and await self._stored() == token

    async def _stored(self) -> Any:
        client = await self._client()
        try:
            return await client._drive(
                _ops.ask("holder", (self._key(),), self.name, client._retries)
            )
        except FastlockError as error:
            raise as_redis(error, self.name) from error
