"""The methods: M1 to M9."""

from __future__ import annotations

import signal
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import _servers
import pytest
from _pip import Pip, config, refused, until
from pip_services4_commons.errors import (
    BadRequestException,
    ConfigException,
    ConflictException,
    ConnectionException,
    InvalidStateException,
    InvocationException,
)
from pip_services4_components.context import Context
from pip_services4_components.refer import References

from fastlock._clock import clock


@pytest.fixture
def silent() -> Iterator[int]:
    """The port of a peer that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


# ------------------------------------------------------------------ M1 to M4, M6


def test_M1_close_frees_what_was_used(pip: Pip) -> None:
    before = len(pip.fl.admin.client_list())
    lock = pip.opened()
    assert len(pip.fl.admin.client_list()) == before + 1
    assert lock.close(None) is None
    assert lock.is_open() is False
    until(lambda: len(pip.fl.admin.client_list()) == before)


def test_M1_closing_what_is_not_open_does_nothing(pip: Pip) -> None:
    lock = pip.bare()
    lock.close(None)
    lock.configure(config(connection__uri=pip.fl.server.uri))
    lock.close("123")
    lock.open(None)
    lock.close(None)
    lock.close(None)
    assert lock.is_open() is False


def test_M1_without_its_server_it_closes_too(pip: Pip, own_server: Any) -> None:
    lock = pip.opened(connection__uri=own_server.uri)
    own_server.kill()
    lock.close(None)
    assert lock.is_open() is False


def test_M1_closing_ends_the_waiting_of_others(pip: Pip) -> None:
    lock, key, errors = pip.opened(), pip.fl.key(), []
    assert lock.try_acquire_lock(None, key, 60_000) is True

    def wait() -> None:
        args = ("123", key, 60_000, 60_000)
        errors.append(refused(InvalidStateException, "NOT_OPENED", lock.acquire_lock, *args))

    waiting = threading.Thread(target=wait)
    waiting.start()
    time.sleep(0.02)
    lock.close(None)
    waiting.join(30)
    assert [error.trace_id for error in errors] == ["123"]
    pip.fl.admin.delete(key)


def test_M2_configure_takes_ConfigParams_before_open(pip: Pip) -> None:
    lock = pip.bare()
    assert lock.configure(config(connection__uri=pip.fl.server.uri)) is None
    lock.open(None)
    assert lock.is_open() is True


def test_M3_is_open_tells_what_was_called(pip: Pip) -> None:
    lock, key = pip.lock(connection__uri=pip.fl.server.uri), pip.fl.key()
    for _ in range(2):
        assert lock.is_open() is False
        assert lock.open(None) is None
        assert lock.is_open() is True
        assert lock.try_acquire_lock(None, key, 5000) is True
        lock.release_lock(None, key)
        lock.close(None)
    assert lock.is_open() is False


def test_M4_opening_again_changes_nothing(pip: Pip) -> None:
    before = len(pip.fl.admin.client_list())
    lock, key = pip.opened(), pip.fl.key()
    assert lock.try_acquire_lock(None, key, 60_000) is True
    lock.open(None)
    lock.release_lock(None, key)
    assert pip.fl.admin.exists(key) == 0
    assert len(pip.fl.admin.client_list()) == before + 1


def test_M4_opened_by_many_threads_it_is_opened_once(pip: Pip) -> None:
    before = len(pip.fl.admin.client_list())
    lock = pip.lock(connection__uri=pip.fl.server.uri)
    threads = [threading.Thread(target=lock.open, args=(None,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert lock.is_open() is True
    assert len(pip.fl.admin.client_list()) == before + 1


def test_M4_a_server_that_is_not_there_is_a_connection_error(pip: Pip) -> None:
    port = _servers.free_port()
    lock = pip.lock(connection__port=port)
    error = refused(ConnectionException, "CONNECT_FAILED", lock.open, Context.from_trace_id("7"))
    assert "refused the connection" in str(error)
    assert error.details["server"] == f"redis://localhost:{port}/0"
    assert (error.status, error.category, error.trace_id) == (500, "NoResponse", "7")
    assert lock.is_open() is False


@pytest.mark.parametrize("wanted", ["connect_timeout", "timeout"])
def test_M4_a_server_that_is_silent_is_one_too(pip: Pip, silent: int, wanted: str) -> None:
    """Within the configured time: by the default it would take eight seconds."""
    options = {
        "connect_timeout": {"options__connect_timeout": 100, "options__retries": 1},
        "timeout": {"options__timeout": 100},
    }[wanted]
    lock = pip.lock(connection__host="127.0.0.1", connection__port=silent, **options)
    began = clock()
    error = refused(ConnectionException, "CONNECT_FAILED", lock.open, None)
    assert "no answer" in str(error)
    assert clock() - began < 4


def test_M4_an_interrupted_open_leaves_nothing_open(pip: Pip, silent: int) -> None:
    lock = pip.lock(connection__host="127.0.0.1", connection__port=silent)
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        with pytest.raises(KeyboardInterrupt):
            lock.open(None)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert lock.is_open() is False


def test_M6_references_are_optional_and_taken_before_open(pip: Pip) -> None:
    lock = pip.lock(connection__uri=pip.fl.server.uri)
    assert lock.set_references(References()) is None
    lock.open(None)
    assert lock.is_open() is True


# ------------------------------------------------------------------ M5


def test_M5_releasing_frees_at_once(pip: Pip) -> None:
    lock, key = pip.opened(), pip.fl.key()
    assert lock.try_acquire_lock(None, key, 60_000) is True
    assert lock.release_lock(None, key) is None
    assert pip.fl.admin.exists(key) == 0


def test_M5_what_is_not_held_is_left_alone(pip: Pip) -> None:
    lock, other, key = pip.opened(), pip.opened(), pip.fl.key()
    assert lock.release_lock(None, key) is None
    assert other.try_acquire_lock(None, key, 60_000) is True
    token = pip.fl.admin.get(key)
    assert lock.release_lock(None, key) is None
    assert pip.fl.admin.get(key) == token
    other.release_lock(None, key)
    assert other.release_lock(None, key) is None


def test_M5_what_has_expired_is_left_alone(pip: Pip) -> None:
    lock, other, key = pip.opened(), pip.opened(), pip.fl.key()
    assert lock.try_acquire_lock(None, key, 20) is True
    until(lambda: not pip.fl.admin.exists(key))
    assert other.try_acquire_lock(None, key, 60_000) is True
    token = pip.fl.admin.get(key)
    assert lock.release_lock(None, key) is None
    assert pip.fl.admin.get(key) == token
    other.release_lock(None, key)


def test_M5_many_threads_releasing_free_nothing_of_others(pip: Pip) -> None:
    lock, other = pip.opened(), pip.opened()
    foreign = [pip.fl.key("foreign") for _ in range(8)]
    for key in foreign:
        assert other.try_acquire_lock(None, key, 60_000) is True
    tokens = pip.fl.admin.mget(foreign)
    errors: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for _ in range(40):
                own = pip.fl.key()
                lock.acquire_lock(None, own, 60_000, 0)
                lock.release_lock(None, foreign[number])
                lock.release_lock(None, own)
                assert pip.fl.admin.exists(own) == 0
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert errors == []
    assert pip.fl.admin.mget(foreign) == tokens
    for key in foreign:
        other.release_lock(None, key)


def test_M5_a_lock_outlives_close_and_can_be_released_after_open(pip: Pip) -> None:
    lock, key, gone = pip.opened(), pip.fl.key(), pip.fl.key()
    assert lock.try_acquire_lock(None, key, 60_000) is True
    assert lock.try_acquire_lock(None, gone, 60_000) is True
    lock.close(None)
    assert pip.fl.admin.exists(key) == 1
    pip.fl.admin.set(gone, "somebody else's")
    lock.open(None)
    assert lock.try_acquire_lock(None, key, 60_000) is False
    for _ in range(2):
        lock.release_lock(None, key)
        lock.release_lock(None, gone)
    assert pip.fl.admin.exists(key) == 0
    assert pip.fl.admin.get(gone) == b"somebody else's"
    pip.fl.admin.delete(gone)


@pytest.mark.parametrize("opened_before", [False, True])
def test_M5_M7_M8_not_open_is_an_error(pip: Pip, opened_before: bool) -> None:
    lock = pip.lock(connection__uri=pip.fl.server.uri)
    if opened_before:
        lock.open(None)
        lock.close(None)
    for call, args in (
        (lock.try_acquire_lock, ("k", 3000)),
        (lock.acquire_lock, ("k", 3000, 1000)),
        (lock.release_lock, ("k",)),
    ):
        error = refused(InvalidStateException, "NOT_OPENED", call, "123", *args)
        assert (str(error), error.trace_id) == ("Connection is not opened", "123")
        assert (error.status, error.category) == (500, "InvalidState")


# ------------------------------------------------------------------ M7


def test_M7_trying_is_one_command(pip: Pip) -> None:
    proxy = pip.fl.proxy()
    lock, key = pip.opened(connection__uri=proxy.uri), pip.fl.key()
    proxy.commands.clear()
    assert lock.try_acquire_lock(None, key, 3000) is True
    assert lock.try_acquire_lock(None, key, 3000) is False
    assert [args[0] for args in proxy.commands] == [b"SET", b"SET"]
    assert proxy.commands[0][1] == key.encode()
    assert proxy.commands[0][3:] == [b"NX", b"PX", b"3000"]
    assert 0 < pip.fl.admin.pttl(key) <= 3000
    assert pip.fl.admin.type(key) == b"string"
    lock.release_lock(None, key)


def test_M7_a_lock_ends_by_itself(pip: Pip) -> None:
    lock, key = pip.opened(), pip.fl.key()
    assert lock.try_acquire_lock(None, key, 30) is True
    until(lambda: lock.try_acquire_lock(None, key, 60_000))
    lock.release_lock(None, key)
    assert pip.fl.admin.exists(key) == 0


@pytest.mark.parametrize("ttl", [0, -5, 9, None, 1.5, 3000.0, "1000", True, 10**15, [5]], ids=repr)
def test_M7_M8_a_ttl_that_is_none_is_refused(pip: Pip, ttl: Any) -> None:
    lock, key = pip.opened(), pip.fl.key()
    for call, args in ((lock.try_acquire_lock, ()), (lock.acquire_lock, (1000,))):
        error = refused(BadRequestException, "WRONG_TTL", call, "123", key, ttl, *args)
        assert str(error).startswith(f"ttl: {ttl!r} is not a whole number (int) of milliseconds")
        assert (error.status, error.trace_id) == (400, "123")
    assert pip.fl.admin.exists(key) == 0


@pytest.mark.parametrize("key", ["", None, 7, b"k", "k" * 65537, "\ud800"], ids=str)
def test_M5_M7_M8_a_key_that_is_none_is_refused(pip: Pip, key: Any) -> None:
    lock = pip.opened()
    refused(BadRequestException, "WRONG_KEY", lock.try_acquire_lock, None, key, 3000)
    refused(BadRequestException, "WRONG_KEY", lock.acquire_lock, None, key, 3000, 100)


# ------------------------------------------------------------------ M8


def test_M8_a_free_lock_is_had_at_once(pip: Pip) -> None:
    proxy = pip.fl.proxy()
    lock, key = pip.opened(connection__uri=proxy.uri), pip.fl.key()
    proxy.commands.clear()
    assert lock.acquire_lock(None, key, 3000, 0) is None
    assert proxy.verbs() == ["SET"]
    assert 0 < pip.fl.admin.pttl(key) <= 3000
    lock.release_lock(None, key)


def test_M8_a_waiter_gets_what_is_released(pip: Pip) -> None:
    holder, waiter, key = pip.opened(), pip.opened(options__retry_timeout=50), pip.fl.key()
    holder.acquire_lock(None, key, 60_000, 0)
    waiting = threading.Thread(target=waiter.acquire_lock, args=(None, key, 60_000, 60_000))
    waiting.start()
    time.sleep(0.1)
    assert waiting.is_alive()
    holder.release_lock(None, key)
    waiting.join(30)
    assert not waiting.is_alive()
    assert holder.try_acquire_lock(None, key, 60_000) is False
    waiter.release_lock(None, key)
    assert pip.fl.admin.exists(key) == 0


def test_M8_a_timeout_is_a_conflict_that_says_which_lock(pip: Pip) -> None:
    lock, key = pip.opened(options__retry_timeout=5000), pip.fl.key()
    lock.acquire_lock(None, key, 60_000, 0)
    began = clock()
    context = Context.from_trace_id("123")
    error = refused(ConflictException, "LOCK_TIMEOUT", lock.acquire_lock, context, key, 60_000, 300)
    assert 0.3 <= clock() - began <= 5.3
    assert str(error) == f"Acquiring lock {key} failed on timeout"
    assert (error.status, error.category) == (409, "Conflict")
    assert (error.details["key"], error.trace_id) == (key, "123")
    lock.release_lock(None, key)
    assert pip.fl.admin.exists(key) == 0


@pytest.mark.parametrize("timeout", [-1, None, 1.5, "1000", True, 10**15], ids=repr)
def test_M8_a_timeout_that_is_none_is_refused(pip: Pip, timeout: Any) -> None:
    lock, key = pip.opened(), pip.fl.key()
    error = refused(
        BadRequestException, "WRONG_TIMEOUT", lock.acquire_lock, None, key, 3000, timeout
    )
    assert str(error).startswith(f"timeout: {timeout!r} is not a whole number (int)")
    assert pip.fl.admin.exists(key) == 0


def test_M8_a_key_that_holds_something_else_is_the_server_s_error(pip: Pip) -> None:
    lock, key = pip.opened(options__retry_timeout=5), pip.fl.key()
    pip.fl.admin.rpush(key, "not a lock")
    args = ("123", key, 3000, 60_000)
    error = refused(InvocationException, "SERVER_ERROR", lock.acquire_lock, *args)
    assert str(error).startswith("WRONGTYPE")
    assert (error.details["key"], error.trace_id) == (key, "123")
    pip.fl.admin.delete(key)


# ------------------------------------------------------------------ M9


@pytest.mark.parametrize(
    ("context", "trace_id"),
    [
        (Context.from_trace_id("123"), "123"),
        (Context.from_tuples("traceId", "123"), "123"),
        ("123", "123"),
        (None, ""),
        ("", ""),
        (object(), ""),
    ],
    ids=["Context", "traceId", "str", "None", "empty", "object"],
)
def test_M9_errors_carry_the_trace_id(pip: Pip, context: Any, trace_id: str) -> None:
    lock, key = pip.bare(), pip.fl.key()
    errors = [
        refused(ConfigException, "NO_CONNECTION", lock.open, context),
        refused(InvalidStateException, "NOT_OPENED", lock.try_acquire_lock, context, key, 9),
    ]
    lock.configure(config(connection__port=_servers.free_port(), options__retries=0))
    errors.append(refused(ConnectionException, "CONNECT_FAILED", lock.open, context))
    lock.configure(config(connection__uri=pip.fl.server.uri))
    lock.open(context)
    lock.acquire_lock(context, key, 60_000, 0)
    errors += [
        refused(ConflictException, "LOCK_TIMEOUT", lock.acquire_lock, context, key, 60_000, 0),
        refused(BadRequestException, "WRONG_TTL", lock.try_acquire_lock, context, key, 0),
        refused(BadRequestException, "WRONG_KEY", lock.release_lock, context, 7),
    ]
    lock.release_lock(context, key)
    lock.close(context)
    assert [error.trace_id for error in errors] == [trace_id] * 6


# ------------------------------------------------------------------ what is remembered


def test_keys_that_nobody_releases_are_forgotten(pip: Pip) -> None:
    lock, keys = pip.opened(), [pip.fl.key() for _ in range(3000)]
    for key in keys:
        assert lock.try_acquire_lock(None, key, 10) is True
    assert len(lock._session.held) < 2048  # type: ignore[union-attr]


def test_a_thread_that_was_held_up_hides_no_newer_lease(pip: Pip) -> None:
    """It learns of its lock only when that has expired and another thread has the next."""
    lock, key = pip.opened(), pip.fl.key()
    session: Any = lock._session
    late = session.client.acquire(key, ttl=0.02, timeout=0)
    until(lambda: not pip.fl.admin.exists(key) and late.lost)
    assert lock.try_acquire_lock(None, key, 60_000) is True
    session.remember(key, late)
    lock.release_lock(None, key)
    assert pip.fl.admin.exists(key) == 0
