"""The stand-in for ``redis.lock.Lock``.

Law: signatures, return values, polling and giving up are redis-py's; what is true of the
lock is decided by ``_ops``. It sleeps on the clock of redis-py's module, whatever that is.
"""

from __future__ import annotations

import logging
from types import TracebackType
from typing import Any, ClassVar, Literal

import redis.lock
from redis.exceptions import LockError, RedisError

from fastlock import _fork, _ops, _ops_extend, sync
from fastlock.errors import FastlockError
from fastlock.lease import add_note

from ._clients import client_of
from ._errors import as_redis, not_ours
from ._held import UNKNOWN, Everywhere, Held, Number, PerThread

_log = logging.getLogger("redis.lock")
_times: Any = redis.lock


class Lock(Held):
    """A lock with the face of ``redis.lock.Lock``; threads may share it.

    Makes no connection before the first call that needs one, and then uses one that all
    Locks of this process with the same server and settings share.

    Args:
        redis: a ``redis.Redis`` of one server, or of Sentinel's master (not a cluster).
        name: the key.
        timeout: seconds until the lock ends by itself; None (or 0): not before release().
        sleep: seconds between two tries while somebody else has it.
        blocking: whether acquire() waits at all.
        blocking_timeout: for how many seconds acquire() tries; None: for ever.
        thread_local: whether each thread sees only the token it acquired.
        raise_on_release_error: whether leaving a ``with`` whose lock was lost raises, or
            logs a warning.

    Raises:
        ConfigError: fastlock cannot stand in for this client.

    Methods that ask the server raise redis.exceptions.ConnectionError or TimeoutError when
    the connection failed and retries were used up, ResponseError when the server refused.
    """

    _client_class: ClassVar[type[sync.Client]] = sync.Client

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
        self._own = self.local if self.thread_local else PerThread()
        self._last_client = client_of(redis, self._client_class)

    def _mine(self) -> Any:
        return self._own

    def _client(self) -> sync.Client:
        if self._last_client.closed:
            self._last_client = client_of(self.redis, self._client_class)
        return self._last_client

    # -- acquire

    def acquire(
        self,
        sleep: Number | None = None,
        blocking: bool | None = None,
        blocking_timeout: Number | None = None,
        token: Any = None,
    ) -> bool:
        """Try until the lock is ours: True. False when it is not to be had in time.

        Arguments that are None have the constructor's values. The first try is made at
        once, and the last one before the next would fall after ``blocking_timeout``.
        ``token`` is stored as it is (str in the client's encoding), and must differ from
        that of any other acquisition: it is what tells holders apart.
        """
        pause = self.sleep if sleep is None else sleep
        waits = self.blocking if blocking is None else blocking
        patience = self.blocking_timeout if blocking_timeout is None else blocking_timeout
        generation = _fork.generation
        raw = self._client()._tokens.next() if token is None else self._encoded(token)
        own, before = self._own, self._own.lease
        own.until = self._until(waits, patience)
        times = _times.mod_time  # looked up each time: it may have been replaced
        end = None if patience is None else times.monotonic() + patience
        try:
            while not self.do_acquire(raw):
                if not waits:
                    return False
                next_try = times.monotonic() + pause
                if end is not None and next_try > end:
                    return False
                times.sleep(pause)
                if generation != _fork.generation and token is None:
                    # Forked by a signal handler: two processes try, each with its own token.
                    generation, raw = _fork.generation, self._client()._tokens.next()
            self.local.token = raw
            return True
        except BaseException:
            if own.lease is not before:
                self._abandon(own.lease)
            raise

    def do_acquire(self, token: bytes) -> bool:
        """One try with this token."""
        client = self._client()
        pair, ms, until = (self._key(), token), self._timeout_ms(), self._own.until
        claim = client._claim_of((self.name,), (pair,), ms, until, _fork.generation)
        try:
            lease = client._acquire(_ops.try_acquire, claim)
        except FastlockError as error:
            raise as_redis(error, self.name) from error
        if lease is not None:
            self._took(lease)
        return lease is not None

    def _abandon(self, lease: Any) -> None:
        """Interrupted just after it had been acquired: nobody knows that it is held."""
        lease._client._give_back_pairs([lease.pair], lease.deadline, lease._generation)
        self._forget(lease.pair[1])

    # -- release

    def release(self) -> None:
        """Free the lock.

        Raises LockError if this thread holds none, LockNotOwnedError if it was lost
        before. After any other error it may be called again.
        """
        unsure = self.local.unsure
        if self.local.token is None and unsure is not None and unsure.freed:
            self._forget(unsure.pair[1])  # by the release that was interrupted
            return
        if self.local.token is None and unsure is not None and not unsure.over:
            token = bytes(unsure.pair[1])
        else:
            token = self._token_to("release")
            self._hide(token)
        try:
            self.do_release(token)
        except LockError:
            self._forget(token)
            raise
        except BaseException:
            self.local.unsure = self._known(token)
            raise
        self._forget(token)

    def do_release(self, expected_token: Any) -> None:
        """Free the lock if it is held with this token, else LockNotOwnedError."""
        if self.lua_release is not None:
            arguments: dict[str, Any] = {"keys": [self.name], "args": [expected_token]}
            if not self.lua_release(**arguments, client=self.redis):
                raise not_ours(self.name, "release")
            return
        client = self._client()
        lease = self._lease_of(expected_token, client)
        try:
            freed = lease.release()
        except FastlockError as error:
            raise as_redis(error, self.name) from error
        except BaseException:  # interrupted, perhaps before anything was sent
            lease.doubt = True
            client._give_back_pairs([lease.pair], self._debt(lease), lease._generation)
            raise
        if not freed:
            raise not_ours(self.name, "release")

    def __enter__(self) -> Lock:
        if self.acquire():
            return self
        raise LockError("Unable to acquire lock within the time specified", lock_name=self.name)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Release. The body's own exception goes first; what release() says is noted there."""
        try:
            self.release()
        except RedisError as failure:
            if isinstance(failure, LockError) and not self.raise_on_release_error:
                _log.warning("%r had ended before its block did: %s", self.name, failure)
            elif error is None:
                raise
            else:
                add_note(error, failure)

    # -- prolong

    def extend(self, additional_time: Number, replace_ttl: bool = False) -> Literal[True]:
        """Add seconds to what is left of the timeout, or with ``replace_ttl`` set them anew.

        A negative addition shortens; what would leave nothing is refused. Raises LockError
        (also for a lock without timeout), LockNotOwnedError if it was lost.
        """
        self._token_to_prolong("extend")
        return self.do_extend(additional_time, replace_ttl)

    def do_extend(self, additional_time: Number, replace_ttl: bool) -> Literal[True]:
        """``extend`` without its first checks."""
        token = self._token_to("extend")
        if self.lua_extend is not None:
            more = self._milliseconds(additional_time, "additional_time")
            return self._by_script("extend", token, [more, "1" if replace_ttl else "0"])
        if replace_ttl:
            ttl = self._positive(additional_time, "additional_time")
            return self._change_ttl("extend", token, _ops.extend, ttl)
        more = self._milliseconds(additional_time, "additional_time")
        return self._change_ttl("extend", token, _ops_extend.extend_by, more)

    def reacquire(self) -> Literal[True]:
        """Set the timeout anew, from now. Raises as ``extend``."""
        self._token_to_prolong("reacquire")
        return self.do_reacquire()

    def do_reacquire(self) -> Literal[True]:
        """``reacquire`` without its first checks."""
        token = self._token_to("reacquire")
        ttl = self._positive(self.timeout, "timeout")
        if self.lua_reacquire is not None:
            return self._by_script("reacquire", token, [ttl])
        return self._change_ttl("reacquire", token, _ops.extend, ttl)

    def _change_ttl(self, verb: str, token: bytes, operation: Any, ms: int) -> Literal[True]:
        lease = self._lease_of(token, self._client())
        if lease.over:
            raise not_ours(self.name, verb)
        try:
            lease._change_ttl(operation, ms)
        except FastlockError as error:
            raise as_redis(error, self.name) from error
        return True

    def _by_script(self, verb: str, token: bytes, args: list[Any]) -> Literal[True]:
        script = getattr(self, f"lua_{verb}")
        self._lease_of(token, self._client()).deadline = UNKNOWN
        if not script(keys=[self.name], args=[token, *args], client=self.redis):
            raise not_ours(self.name, verb)
        return True

    # -- questions

    def locked(self) -> bool:
        """Whether anybody holds the lock now."""
        return self._stored() is not None

    def owned(self) -> bool:
        """Whether this thread's token (see ``thread_local``) holds the lock now."""
        token = self._token()
        return token is not None and self._here(token) and self._stored() == token

    def _stored(self) -> Any:
        client = self._client()
        try:
            return client._drive(_ops.ask("holder", (self._key(),), self.name, client._retries))
        except FastlockError as error:
            raise as_redis(error, self.name) from error
