"""``RedisLock``: the framework's Lock, carried out by ``fastlock.Client``.

Law: no lock logic and no words of the server here; what a call does is the client's. This
translates arguments (milliseconds), errors and life cycle, and remembers by key which
lease a release is about, since the framework names locks by their keys alone.
"""

from __future__ import annotations

import contextlib
import threading
import time
from typing import Any, ClassVar

from pip_services4_components.config import ConfigParams, IConfigurable
from pip_services4_components.context import IContext
from pip_services4_components.refer import IReferenceable, IReferences
from pip_services4_components.run import IOpenable
from pip_services4_logic.lock import Lock

from fastlock import _fork
from fastlock._args import LONGEST, SHORTEST_TTL
from fastlock._clock import clock
from fastlock._pause import backoff_pause
from fastlock.errors import FastlockError, LockLost, TransportError
from fastlock.sync import Client, Lease

from ._faults import failed, not_connected, not_opened, wrong
from ._settings import Settings

#: In milliseconds, what the client's own bounds are in seconds.
_SHORTEST_TTL = round(SHORTEST_TTL * 1000)
_LONGEST = round(LONGEST * 1000)
#: So many remembered leases before the expired ones are looked for.
_MANY = 1024


class RedisLock(Lock, IConfigurable, IReferenceable, IOpenable):
    """A distributed lock in Redis or Valkey, as a component of pip-services4.

    Synchronous, as the framework is. One instance serves any number of threads and keys
    over one connection. ``context`` is an IContext, a trace id as str, or None; every
    exception carries its trace id. All times are milliseconds.

    Locks are not re-entrant, and are named by key alone: threads of one instance that use
    the same key share the memory of whose it is, so what one of them releases is the
    lease that this instance acquired last.
    """

    _client_class: ClassVar[type[Client]] = Client

    def __init__(self) -> None:
        super().__init__()
        self._settings = Settings()
        self._references: Any = None
        self._session: _Session | None = None
        self._earlier: dict[str, Lease] = {}  # what was held when a session was closed
        self._life = threading.RLock()  # of open and close
        _fork.register(self)

    # -- life cycle

    def configure(self, config: ConfigParams) -> None:
        """Set ``connection(s)``, ``credential(s)`` and ``options``.

        May be called again: a call that names a connection replaces connection and
        credential, options that it does not name stay. While open, ``retry_timeout``
        counts at once and the rest from the next ``open``. Raises ConfigException for an
        option that is no number or out of range.
        """
        self._settings.update(config)
        super().configure(config)
        session = self._session
        if session is not None and "retry_timeout" in self._settings.options:
            pause = self._settings.retry_timeout
            session.client.config = session.client.config.replace(retry_timeout=pause)

    def set_references(self, references: IReferences) -> None:
        """Where to find discovery services and credential stores; both are optional."""
        self._references = references

    def is_open(self) -> bool:
        """Whether ``open`` succeeded and ``close`` was not called since. No I/O."""
        return self._session is not None

    def open(self, context: IContext | str | None) -> None:
        """Connect, in at most 1 + ``options.retries`` attempts; nothing if it is open already.

        Raises ConfigException (NO_CONNECTION, CANNOT_RESOLVE, NO_CREDENTIAL, WRONG_CONFIG),
        ReferenceException (no credential store) and ConnectionException (CONNECT_FAILED: no
        server, or it refused the login).
        """
        with self._life:
            if self._session is not None:
                return
            settings = self._settings
            client = self._client_class(settings.resolve(context, self._references))
            try:
                _connect(client, settings.opening)
            except FastlockError as error:
                client.close()
                raise not_connected(context, error, client.config.address) from error
            except BaseException:
                client.close()
                raise
            self._session = _Session(client)

    def close(self, context: IContext | str | None) -> None:
        """Close the connection; nothing if it is not open. Waits a second at most.

        Locks still held stay until their ttl ends; after another ``open`` this instance
        can release them.
        """
        with self._life:
            session, self._session = self._session, None
            if session is not None:
                session.client.close()
                left = [*self._earlier.items(), *session.held.items()]
                self._earlier = {key: lease for key, lease in left if not lease.lost}

    # -- locks

    def try_acquire_lock(self, context: IContext | str | None, key: str, ttl: int) -> bool:
        """Try once, in one round trip: whether the lock is ours now, for ``ttl`` ms.

        Raises InvalidStateException (NOT_OPENED), BadRequestException (WRONG_KEY,
        WRONG_TTL), ConnectionException (CONNECT_FAILED; OUTCOME_UNKNOWN when the answer
        was lost: then the lock is not held) and InvocationException (SERVER_ERROR).
        """
        session = self._opened(context)
        _check_key(context, key)
        seconds = _seconds(context, "ttl", ttl, _SHORTEST_TTL)
        try:
            lease = session.client.try_acquire(key, seconds)
        except FastlockError as error:
            raise failed(context, error, key) from error
        if lease is None:
            return False
        session.remember(key, lease)
        return True

    def acquire_lock(
        self, context: IContext | str | None, key: str, ttl: int, timeout: int
    ) -> None:
        """Wait for the lock at most ``timeout`` ms; 0 tries once.

        Raises ConflictException (LOCK_TIMEOUT) when somebody else still holds it then,
        BadRequestException (WRONG_TIMEOUT), and what ``try_acquire_lock`` raises.
        """
        session = self._opened(context)
        _check_key(context, key)
        seconds = _seconds(context, "ttl", ttl, _SHORTEST_TTL)
        patience = _seconds(context, "timeout", timeout, 0)
        try:
            lease = session.client.acquire(key, seconds, patience)
        except FastlockError as error:
            raise failed(context, error, key) from error
        session.remember(key, lease)

    def release_lock(self, context: IContext | str | None, key: str) -> None:
        """Free the lock that this instance acquired last under ``key``.

        One that it does not hold, that has expired or that somebody else holds is left
        alone. After a ConnectionException the call may be repeated. Raises as
        ``try_acquire_lock`` does.
        """
        session = self._opened(context)
        _check_key(context, key)
        lease = session.held.pop(key, None)
        try:
            if lease is None:
                lease = self._of_earlier(session, key)
            if lease is not None:
                lease.release()
        except FastlockError as error:
            if lease is None or not lease.over:  # else it has ended, freed or expired
                raise failed(context, error, key) from error
        finally:
            if lease is not None and not lease.over:
                session.held.setdefault(key, lease)

    # -- inside

    def _opened(self, context: Any) -> _Session:
        session = self._session
        if session is None:
            raise not_opened(context)
        return session

    def _of_earlier(self, session: _Session, key: str) -> Lease | None:
        """The lease under this key from before a close, if it still holds."""
        earlier = self._earlier.get(key)
        if earlier is None:
            return None
        lease = None
        with contextlib.suppress(LockLost):
            lease = session.client.adopt(key, earlier.token)
        self._earlier.pop(key, None)
        return lease

    def forked(self) -> None:
        """In a forked child: the parent's locks are not the child's."""
        self._life = threading.RLock()
        self._earlier = {}
        if self._session is not None:
            self._session = _Session(self._session.client)


class _Session:
    """One opening: its client, and the latest lease under each key. For any thread."""

    __slots__ = ("_many", "_mutex", "client", "held")

    def __init__(self, client: Client) -> None:
        self.client = client
        self.held: dict[str, Lease] = {}
        self._many = _MANY
        self._mutex = threading.RLock()  # of putting in; a signal handler may acquire too

    def remember(self, key: str, lease: Lease) -> None:
        """A release of ``key`` is about this lease from now on."""
        held = self.held
        with self._mutex:
            if len(held) >= self._many:
                self._forget_expired()
            if not lease.valid():  # a thread that was held up must not hide a newer lease
                latest = held.get(key)
                if latest is not None and not latest.lost:
                    return
            held[key] = lease

    def _forget_expired(self) -> None:
        """Nobody releases these; the server has forgotten them for a whole ttl."""
        now = clock()
        for key, lease in list(self.held.items()):
            if now > lease.deadline + lease.ttl:
                self.held.pop(key, None)
        self._many = max(_MANY, 2 * len(self.held))


def _connect(client: Client, seconds: float) -> None:
    """Have a connection made, with a pause before each further attempt.

    Counted here, not by the client, whose own calls know of no time for all of them.
    """
    until = clock() + seconds
    failures = 0
    while True:
        try:
            client._server.link(client._patience)
            return
        except TransportError:
            failures += 1
            pause = backoff_pause(failures)
            if failures > client.config.retries or clock() + pause >= until:
                raise
        time.sleep(pause)


def _check_key(context: Any, key: object) -> None:
    if not isinstance(key, str):
        raise wrong(context, "key", f"{key!r} is not a str")


def _seconds(context: Any, name: str, value: object, least: int) -> float:
    """Milliseconds as seconds."""
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= _LONGEST:
        problem = (
            f"{value!r} is not a whole number (int) of milliseconds from {least} to {_LONGEST}"
        )
        raise wrong(context, name, problem)
    return value / 1000
