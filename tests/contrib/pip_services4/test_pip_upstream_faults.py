"""What upstream's RedisLock gets wrong, and this one must not. The numbers P1 to P17 are of
upstream's faults in Python; N is for those that its Node.js twin shares or has alone.
"""

from __future__ import annotations

import os
import threading
import time
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
)
from pip_services4_components.refer import References

from fastlock import FastlockError
from fastlock._clock import clock


def test_P1_a_uri_works(pip: Pip, own_server: Any) -> None:
    lock, key = pip.opened(connection__uri=own_server.uri), pip.fl.key()
    assert lock.try_acquire_lock(None, key, 3000) is True
    assert own_server.admin.exists(key) == 1
    lock.release_lock(None, key)


def test_P2_retry_timeout_is_read(pip: Pip) -> None:
    proxy, key = pip.fl.proxy(), pip.fl.key()
    lock = pip.opened(connection__uri=proxy.uri, options__retry_timeout=10_000)
    pip.fl.admin.set(key, "taken", px=60_000)
    proxy.commands.clear()
    refused(ConflictException, "LOCK_TIMEOUT", lock.acquire_lock, None, key, 3000, 250)
    assert len(proxy.verbs()) == 2  # at once, and when the timeout ends
    pip.fl.admin.delete(key)


@pytest.mark.parametrize("attempts", [1, 3])
def test_P3_retries_are_counted_not_redis_py_s(pip: Pip, attempts: int) -> None:
    proxy = pip.fl.proxy()
    proxy.target = ("127.0.0.1", _servers.free_port())
    uri = f"redis://127.0.0.1:{proxy.port}"
    lock = pip.lock(connection__uri=uri, options__retries=attempts - 1)
    refused(ConnectionException, "CONNECT_FAILED", lock.open, None)
    assert proxy.connections == attempts


def test_P4_close_closes(pip: Pip, own_server: Any) -> None:
    proxy = pip.fl.proxy(own_server)
    lock = pip.opened(connection__uri=proxy.uri)
    lock.close(None)
    until(lambda: not proxy._pairs)
    assert proxy.connections == 1
    lock.open(None)
    own_server.kill()
    lock.close(None)
    assert lock.is_open() is False


def test_P5_release_before_open_is_NOT_OPENED(pip: Pip) -> None:
    error = refused(InvalidStateException, "NOT_OPENED", pip.bare().release_lock, "123", "k")
    assert error.trace_id == "123"


def test_P6_an_empty_configuration_is_NO_CONNECTION(pip: Pip) -> None:
    refused(ConfigException, "NO_CONNECTION", pip.lock().open, None)
    refused(ConfigException, "NO_CONNECTION", pip.lock(connection__note="x").open, None)


def test_P7_discovery_without_references_is_CANNOT_RESOLVE(pip: Pip) -> None:
    refused(ConfigException, "CANNOT_RESOLVE", pip.lock(connection__discovery_key="k").open, None)


def test_P8_no_lock_is_without_expiry(pip: Pip) -> None:
    lock, key = pip.opened(), pip.fl.key()
    refused(BadRequestException, "WRONG_TTL", lock.try_acquire_lock, None, key, None)
    refused(BadRequestException, "WRONG_TTL", lock.acquire_lock, None, key, None, 100)
    assert pip.fl.admin.exists(key) == 0
    lock.acquire_lock(None, key, 10_000, 100)
    assert pip.fl.admin.pttl(key) > 0
    lock.release_lock(None, key)


def test_P9_the_user_name_is_used(pip: Pip, own_server: Any) -> None:
    own_server.admin.acl_setuser(
        "bob", enabled=True, passwords=["+b0b"], keys=["*"], commands=["+@all"]
    )
    login = {"credential__username": "bob", "credential__password": "b0b"}
    lock = pip.opened(connection__port=own_server.port, **login)
    assert "bob" in [one["user"] for one in own_server.admin.client_list()]
    assert lock.is_open() is True


def test_P10_a_lock_taken_over_during_its_release_is_left_alone(pip: Pip) -> None:
    proxy = pip.fl.proxy()
    lock, key = pip.opened(connection__uri=proxy.uri), pip.fl.key()
    assert lock.try_acquire_lock(None, key, 60_000) is True
    fault = proxy.fault("hold_command")
    releasing = threading.Thread(target=lock.release_lock, args=(None, key))
    releasing.start()
    fault.wait()
    pip.fl.admin.set(key, "somebody else's")
    fault.go()
    releasing.join(30)
    assert pip.fl.admin.get(key) == b"somebody else's"
    pip.fl.admin.delete(key)


def test_P11_values_that_are_no_text_are_somebody_else_s(pip: Pip) -> None:
    lock, key = pip.opened(options__retry_timeout=5), pip.fl.key()
    assert lock.try_acquire_lock(None, key, 60_000) is True
    pip.fl.admin.set(key, b"\xff\xfe")
    lock.release_lock(None, key)
    assert lock.try_acquire_lock(None, key, 60_000) is False
    refused(ConflictException, "LOCK_TIMEOUT", lock.acquire_lock, None, key, 60_000, 20)
    assert pip.fl.admin.get(key) == b"\xff\xfe"
    pip.fl.admin.delete(key)


def test_P12_a_lost_reply_is_no_refusal(pip: Pip) -> None:
    proxy = pip.fl.proxy()
    lock, key = pip.opened(connection__uri=proxy.uri), pip.fl.key()
    fault = proxy.fault("lose_reply", "SET")
    assert lock.try_acquire_lock(None, key, 60_000) is True
    assert fault.happened.is_set()
    assert pip.fl.admin.exists(key) == 1
    fault = proxy.fault("lose_reply")
    lock.release_lock(None, key)
    assert fault.happened.is_set()
    assert pip.fl.admin.exists(key) == 0


def test_P12_what_cannot_be_known_is_said_and_given_back(pip: Pip) -> None:
    proxy = pip.fl.proxy()
    lock = pip.opened(connection__uri=proxy.uri, options__retries=0)
    key = pip.fl.key()
    fault = proxy.fault("lose_reply", "SET")
    args = ("123", key, 60_000)
    error = refused(ConnectionException, "OUTCOME_UNKNOWN", lock.try_acquire_lock, *args)
    assert fault.happened.is_set()
    assert (error.details["key"], error.trace_id) == (key, "123")
    until(lambda: not pip.fl.admin.exists(key))


def test_P12_a_release_whose_answer_is_lost_may_be_repeated(pip: Pip) -> None:
    proxy = pip.fl.proxy()
    lock = pip.opened(connection__uri=proxy.uri, options__retries=0)
    key = pip.fl.key()
    assert lock.try_acquire_lock(None, key, 60_000) is True
    fault = proxy.fault("cut_before")
    refused(ConnectionException, "OUTCOME_UNKNOWN", lock.release_lock, "123", key)
    assert fault.happened.is_set()
    assert pip.fl.admin.exists(key) == 1
    lock.release_lock(None, key)
    assert pip.fl.admin.exists(key) == 0


def test_P12_a_release_of_unknown_outcome_is_over_with_its_ttl(pip: Pip) -> None:
    """Freed or expired: to who wants it free, that is the same."""
    proxy = pip.fl.proxy()
    lock, key = pip.opened(connection__uri=proxy.uri), pip.fl.key()
    assert lock.try_acquire_lock(None, key, 200) is True
    faults = [proxy.fault("lose_reply"), proxy.fault("delay_reply", seconds=0.3)]
    assert lock.release_lock(None, key) is None
    for fault in faults:  # a delayed reply is passed on before the fault counts as happened
        fault.wait()
    assert pip.fl.admin.exists(key) == 0


def test_P13_tokens_are_of_one_acquisition(pip: Pip) -> None:
    lock, key, tokens = pip.opened(), pip.fl.key(), set()
    for _ in range(20):
        lock.acquire_lock(None, key, 60_000, 0)
        tokens.add(pip.fl.admin.get(key))
        lock.release_lock(None, key)
    assert len(tokens) == 20


def test_P13_a_stale_holder_frees_nothing_of_a_newer_one(pip: Pip) -> None:
    stale, newer, key = pip.opened(), pip.opened(), pip.fl.key()
    assert stale.try_acquire_lock(None, key, 20) is True
    until(lambda: newer.try_acquire_lock(None, key, 60_000))
    token = pip.fl.admin.get(key)
    stale.release_lock(None, key)
    assert pip.fl.admin.get(key) == token
    newer.release_lock(None, key)
    assert pip.fl.admin.exists(key) == 0


def test_P13_within_one_instance_a_release_is_about_the_latest(pip: Pip) -> None:
    """Locks are named by key alone: this is the framework's interface."""
    lock, key = pip.opened(), pip.fl.key()
    assert lock.try_acquire_lock(None, key, 20) is True
    until(lambda: lock.try_acquire_lock(None, key, 60_000))
    lock.release_lock(None, key)
    assert pip.fl.admin.exists(key) == 0


def test_P14_waiting_starts_no_thread(pip: Pip) -> None:
    lock, key = pip.opened(options__retry_timeout=5), pip.fl.key()
    lock.acquire_lock(None, key, 60_000, 0)
    before = set(threading.enumerate())
    waiting = threading.Thread(target=lock.acquire_lock, args=(None, key, 60_000, 60_000))
    waiting.start()
    seen: set[threading.Thread] = set()
    end = time.monotonic() + 0.2
    while time.monotonic() < end:
        seen |= set(threading.enumerate())
    assert seen - before == {waiting}
    lock.release_lock(None, key)
    waiting.join(30)
    lock.release_lock(None, key)


def test_P15_a_text_as_context_is_a_trace_id_on_error_paths_too(pip: Pip) -> None:
    lock = pip.lock(connection__discovery_key="k", credential__store_key="s")
    lock.set_references(References())
    error = refused(ConfigException, "CANNOT_RESOLVE", lock.open, "123")
    assert error.trace_id == "123"


def test_P16_nothing_but_the_framework_s_errors_comes_out(pip: Pip, own_server: Any) -> None:
    options = {"options__retries": 0, "options__retry_timeout": 5}
    lock = pip.opened(connection__uri=own_server.uri, **options)
    held = pip.fl.key()
    assert lock.try_acquire_lock(None, held, 60_000) is True
    own_server.kill()
    calls: list[tuple[Any, ...]] = [
        (lock.release_lock, held),
        (lock.try_acquire_lock, pip.fl.key(), 3000),
        (lock.acquire_lock, pip.fl.key(), 3000, 60_000),
        (lock.release_lock, held),
    ]
    for call, key, *args in calls:
        with pytest.raises(ConnectionException) as caught:
            call("123", key, *args)
        error = caught.value
        assert (error.trace_id, error.details["key"]) == ("123", key)
        assert isinstance(error.cause, FastlockError)
    own_server.start()
    assert lock.try_acquire_lock(None, held, 60_000) is True
    lock.release_lock(None, held)


def test_P16_a_server_that_hangs_is_a_connection_error_in_time(pip: Pip, own_server: Any) -> None:
    lock = pip.opened(
        connection__uri=own_server.uri, options__retries=0,
        options__socket_timeout=100, options__connect_timeout=100,
    )  # fmt: skip
    own_server.freeze()
    began = clock()
    with pytest.raises(ConnectionException):
        lock.try_acquire_lock(None, pip.fl.key(), 3000)
    assert clock() - began < 4  # by the default it would take five seconds
    own_server.thaw()


@pytest.mark.parametrize("ttl", [1.5, "1000", 0, -5])
def test_P17_a_ttl_is_a_whole_number_of_milliseconds(pip: Pip, ttl: Any) -> None:
    lock = pip.opened()
    refused(BadRequestException, "WRONG_TTL", lock.try_acquire_lock, None, pip.fl.key(), ttl)


# ------------------------------------------------------------------ N: and its twin's


def test_N3_concurrent_releases_free_each_their_own(pip: Pip) -> None:
    lock, keys = pip.opened(), [pip.fl.key() for _ in range(64)]
    for key in keys:
        assert lock.try_acquire_lock(None, key, 60_000) is True
    pip.fl.admin.mset(dict.fromkeys(keys[::2], "somebody else's"))
    threads = [threading.Thread(target=lock.release_lock, args=(None, key)) for key in keys]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert pip.fl.admin.mget(keys) == [b"somebody else's", None] * 32
    pip.fl.admin.delete(*keys)


def test_N5_a_restart_of_the_server_is_survived(pip: Pip, own_server: Any) -> None:
    lock, key = pip.opened(connection__uri=own_server.uri), pip.fl.key()
    assert lock.try_acquire_lock(None, key, 60_000) is True
    own_server.restart()
    assert lock.is_open() is True
    assert lock.try_acquire_lock(None, key, 60_000) is True  # a restart loses keys
    lock.release_lock(None, key)
    assert own_server.admin.exists(key) == 0


def test_N10_configuring_again_replaces(pip: Pip, own_server: Any) -> None:
    lock = pip.lock(connection__port=_servers.free_port())
    lock.configure(config(connection__port=own_server.port))
    lock.open(None)
    assert len(own_server.admin.client_list()) == 2


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_forked_child_owns_none_of_its_parent_s_locks(pip: Pip) -> None:
    lock, key, own = pip.opened(), pip.fl.key(), pip.fl.key("of the child")
    assert lock.try_acquire_lock(None, key, 60_000) is True
    child = os.fork()
    if not child:
        code = 1
        try:
            lock.release_lock(None, key)
            assert lock.try_acquire_lock(None, key, 60_000) is False
            assert lock.try_acquire_lock(None, own, 60_000) is True
            lock.release_lock(None, own)
            lock.close(None)
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
    assert pip.fl.admin.exists(key) == 1
    lock.release_lock(None, key)
    assert pip.fl.admin.exists(key, own) == 0
