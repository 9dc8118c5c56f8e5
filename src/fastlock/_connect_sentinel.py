"""Floor 5: which server is the master, by what Sentinels say, and asking again while that changes.

Law: redis-py's Sentinel judges the answers. Each Sentinel is asked over a connection that is
opened, watched and held as any other, has a share of the time left, and is closed before the
next is asked. What will pass (an election, a master that is gone or demoted and still named) is
asked about until the time is over; what will not is raised at once. redis-py is imported at the
first search.
"""

from __future__ import annotations

import asyncio
import importlib
import ssl
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Any, TypeVar

from . import _fork
from ._config_fields import show, split_address
from ._connect_faults import fault, tls_context
from ._connect_redispy import Guard, NotRESP, async_connection, sync_connection
from ._pause import search_pause
from ._sockets import Held, point_at_nothing
from .config import Config
from .errors import ConfigError, FastlockError, ServerError, TransportError

T = TypeVar("T")

#: What SENTINEL MASTERS may take: about a kilobyte for each master that they watch.
_MAX_BYTES = 2**22
#: The part of all the time that another round must have, to be begun: in less, it would only
#: find out that nobody answers, which says less than what is known.
_LEAST = 1 / 8
#: So many services that a Sentinel does know are told.
_MOST_NAMES = 10
#: What a server that is just becoming something else says while connecting.
_PASSING = ("LOADING", "MASTERDOWN", "BUSY")


def follow(
    config: Config, timeout: float, held: Held, open_at: Callable[[Config, float, Held], T]
) -> T:
    """What ``open_at`` makes of the master's own settings, within ``timeout`` seconds.

    ``held`` has each socket in turn. Raises what ``open_at`` does; TransportError also where no
    Sentinel answers, or no master is named; ConfigError where all who answer know no such
    service.
    """
    search = Search(config, timeout)
    context = _secured(config)
    while True:
        found = search.ask(held, context)
        if isinstance(found, Config):
            try:
                return open_at(found, search.half(), held)
            except FastlockError as error:
                found = search.in_vain(error)
        failure = search.most_said(found)
        pause = search.pause()
        if pause is None or held.over.wait(pause) or search.forked():
            raise failure


async def follow_async(
    config: Config, timeout: float, open_at: Callable[[Config, float], Awaitable[T]]
) -> T:
    """As ``follow``, in the running loop."""
    search = Search(config, timeout)
    context = await asyncio.to_thread(_secured, config) if config.ssl else None
    while True:
        found = await search.ask_async(context)
        if isinstance(found, Config):
            try:
                return await open_at(found, search.half())
            except FastlockError as error:
                found = search.in_vain(error)
        failure = search.most_said(found)
        pause = search.pause()
        if pause is None:
            raise failure
        await asyncio.sleep(pause)
        if search.forked():
            raise failure


class Search:
    """One search for a master: its time, whom it asks, what they said in this round."""

    def __init__(self, config: Config, timeout: float) -> None:
        self.config = config
        self.deadline = monotonic() + timeout
        self._least = timeout * _LEAST
        self.answers: list[dict[str, Any]] = []  # service -> its state
        self.failures: list[FastlockError] = []
        self._sentinels = [_sentinel(config, address) for address in config.sentinels or ()]
        self._rounds = 0
        self._again = False  # whether what has failed may pass
        self._said: FastlockError | None = None
        self._generation = _fork.generation

    # -- time

    def half(self) -> float:
        """Seconds for one server: if it is silent, there is time to ask for another."""
        return max((self.deadline - monotonic()) / 2, 0.001)

    def share(self) -> float:
        """Seconds for the next Sentinel: the others, and the server, have as much."""
        asked = len(self.answers) + len(self.failures)
        return max((self.deadline - monotonic()) / (len(self._sentinels) - asked + 1), 0.001)

    def pause(self) -> float | None:
        """Seconds until the next round; None: there shall be none."""
        self._rounds += 1
        seconds = search_pause(self._rounds)
        if not self._again or monotonic() + seconds + self._least > self.deadline:
            return None
        # Another one first: this one may be the last to learn of it.
        self._sentinels.append(self._sentinels.pop(0))
        return seconds

    def forked(self) -> bool:
        """Whether this is a child, whose parent searches on."""
        return self._generation != _fork.generation

    # -- one round

    def ask(self, held: Held, context: ssl.SSLContext | None) -> Config | FastlockError:
        """The settings of the server that is named, or why there is none."""
        home: Any = importlib.import_module("redis.sentinel")
        sentinel = home.Sentinel([])
        sentinel.sentinels = [_Sync(self, one, context, held) for one in self._begin()]
        try:
            named = sentinel.discover_master(self.config.service)
        except home.MasterNotFoundError:
            named = None
        return self._outcome(named)

    async def ask_async(self, context: ssl.SSLContext | None) -> Config | FastlockError:
        """As ``ask``."""
        home: Any = importlib.import_module("redis.asyncio.sentinel")
        sentinel = home.Sentinel([])
        sentinel.sentinels = [_Async(self, one, context) for one in self._begin()]
        try:
            named = await sentinel.discover_master(self.config.service)
        except home.MasterNotFoundError:
            named = None
        return self._outcome(named)

    def _begin(self) -> list[Config]:
        self.answers, self.failures, self._again = [], [], False
        return self._sentinels

    def _outcome(self, named: tuple[str, int] | None) -> Config | FastlockError:
        if named is not None:
            try:
                return _plain(self.config, host=named[0], port=named[1])
            except ConfigError as error:
                return TransportError(f"{self.config.address} name no usable master: {error}")
        address, service = self.config.address, self.config.service
        for masters in self.answers:
            if service in masters:
                self._again = True
                state = masters[service]
                return TransportError(
                    f"{address}: the master, {state['ip']}:{state['port']}, is down, and no other "
                    "has been promoted yet"
                )
        said = "; ".join(map(str, self.failures))
        if not self.answers:
            refusal = self.failures[0]
            if all(isinstance(failure, ServerError) for failure in self.failures):
                return ServerError(f"{refusal} (asked as a Sentinel of {address})")
            return TransportError(f"{address}: no Sentinel answers: {said}")
        known = sorted({show(name) for masters in self.answers for name in masters})
        listed = ", ".join(known[:_MOST_NAMES] + ["..."] * (len(known) > _MOST_NAMES))
        unknown = f"{service!r} is unknown to those who answer; they know {listed or 'none'}"
        if self.failures:
            return TransportError(f"{address}: {unknown}; of the others: {said}")
        return ConfigError("service", f"{unknown} ({address})")

    def most_said(self, failure: FastlockError) -> FastlockError:
        """What to raise after a round: not what one says that was cut short, if another was not."""
        if self._said is None or self.deadline - monotonic() >= self._least:
            self._said = failure
        return self._said

    def in_vain(self, error: FastlockError) -> FastlockError:
        """What to say when the server that is named cannot be used."""
        address = self.config.address
        if isinstance(error, TransportError):
            self._again = error.__cause__ is None  # else it is the credential provider's
            failure = TransportError(f"{error}; it is the one that {address} names")
            failure.__cause__ = error.__cause__
            return failure
        if isinstance(error, ServerError):
            self._again = error.code in _PASSING
            return ServerError(f"{error}; it is the one that {address} names")
        return error


def _secured(config: Config) -> ssl.SSLContext | None:
    """The TLS settings for all Sentinels; ConfigError as ``tls_context`` says, and no more."""
    try:
        return tls_context(config) if config.ssl else None
    except ConfigError as error:
        failure = ConfigError(error.field, error.problem)
    raise failure


def _plain(config: Config, **options: Any) -> Config:
    """The same settings for one server."""
    none = ("sentinels", "service", "sentinel_username", "sentinel_password")
    return config.replace(**{**dict.fromkeys(none), **options})


def _sentinel(config: Config, address: str) -> Config:
    """How to connect to one Sentinel. In RESP2: no HELLO, which its user would need."""
    host, port = split_address("sentinels", address)
    return _plain(
        config,
        host=host,
        port=port,
        db=0,
        username=config.sentinel_username,
        password=config.sentinel_password,
        credential_provider=None,
        client_name=None,  # it would take a right more
        protocol=2,
    )


# -- what redis-py's Sentinel asks


class _Sentinel:
    """One Sentinel, in the place of redis-py's client of it."""

    def __init__(self, search: Search, config: Config, context: ssl.SSLContext | None) -> None:
        self._search = search
        self._config = config
        self._context = context

    def __repr__(self) -> str:  # redis-py collects these
        return self._config.address

    def _guard(self, held: Held) -> Guard:
        return Guard(self._config, self._search.share(), held, most=_MAX_BYTES)

    def _heard(self, reply: Any) -> Any:
        helpers: Any = importlib.import_module("redis._parsers.helpers")
        masters = helpers.parse_sentinel_masters(reply)
        state = masters.get(self._search.config.service)
        if state is not None and not (
            type(state.get("ip")) is str
            and type(state.get("port")) is int
            and type(state.get("num-other-sentinels")) is int
        ):
            raise NotRESP
        self._search.answers.append(masters)
        return masters

    def _failed(self, failure: FastlockError) -> Exception:
        """Note it; the error that has redis-py go on to the next one."""
        if isinstance(failure, ServerError):
            said = str(failure)
            if "unknown command" in said.lower():
                said += "; this is no Sentinel: check sentinels"
            elif failure.code in ("WRONGPASS", "NOAUTH", "ERR"):
                said += "; here these are sentinel_username and sentinel_password"
            failure = ServerError(said)
        self._search.failures.append(failure)
        errors: Any = importlib.import_module("redis.exceptions")
        passing: Exception = errors.ConnectionError("see the search's failures")
        return passing


class _Sync(_Sentinel):
    def __init__(
        self, search: Search, config: Config, context: ssl.SSLContext | None, held: Held
    ) -> None:
        super().__init__(search, config, context)
        self._held = held

    def sentinel_masters(self) -> Any:
        """What it watches: service -> state, as redis-py reads it."""
        guard = self._guard(self._held)
        limit = guard.remaining()
        try:
            if self._held.halted:
                raise TimeoutError
            return self._heard(self._ask(guard))
        except Exception as error:
            failure = fault(error, self._config, guard, limit)
        raise self._failed(failure)

    def _ask(self, guard: Guard) -> Any:
        connection = sync_connection(self._config, guard, self._context)
        try:
            connection.connect()
            connection.send_command("SENTINEL", "MASTERS")
            return connection.read_response()
        finally:
            connection.disconnect()


class _Async(_Sentinel):
    async def sentinel_masters(self) -> Any:
        """As ``_Sync.sentinel_masters``."""
        guard = self._guard(Held(point_at_nothing))
        limit = guard.remaining()
        try:
            return self._heard(await asyncio.wait_for(self._ask(guard), limit))
        except Exception as error:
            failure = fault(error, self._config, guard, limit)
        raise self._failed(failure)

    async def _ask(self, guard: Guard) -> Any:
        connection = async_connection(self._config, guard, self._context)
        try:
            await connection.connect()
            await connection.send_command("SENTINEL", "MASTERS")
            return await connection.read_response()
        finally:
            writer = connection._writer
            connection._reader = connection._writer = None
            if writer is not None:
                writer.transport.abort()
