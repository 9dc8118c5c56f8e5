"""options: how patiently, in milliseconds (O1 to O3)."""

from __future__ import annotations

import threading
import time
from typing import Any

import _servers
import pytest
from _pip import Pip, config, refused, until
from pip_services4_commons.errors import ConfigException, ConnectionException

from fastlock._clock import clock


def taking(pip: Pip, lock: Any, proxy: Any, wanted: int) -> float:
    """Seconds until a held lock has been tried for so many times; then it is had."""
    key = pip.fl.key()
    pip.fl.admin.set(key, "taken", px=60_000)
    proxy.commands.clear()
    waiting = threading.Thread(target=lock.acquire_lock, args=(None, key, 60_000, 50_000))
    began = clock()
    waiting.start()
    until(lambda: len(proxy.verbs()) >= wanted)
    seconds = clock() - began
    pip.fl.admin.delete(key)
    waiting.join(30)
    lock.release_lock(None, key)
    return seconds


# Pauses are 0.8 to 1.0 of retry_timeout. Upper bounds leave room for a busy machine, but are
# below the least that the next slower setting could take.


def test_O1_retry_timeout_is_the_pause_between_tries(pip: Pip) -> None:
    proxy = pip.fl.proxy()
    usual = pip.opened(connection__uri=proxy.uri)
    assert 0.4 <= taking(pip, usual, proxy, 6) < 4
    quick = pip.opened(connection__uri=proxy.uri, options__retry_timeout=10)
    assert 0.23 <= taking(pip, quick, proxy, 30) < 2.3


def test_O1_with_push_the_server_wakes_who_waits(pip: Pip) -> None:
    """The pause is an hour."""
    lock = pip.opened(options__push="True", options__retry_timeout=3_600_000)
    key = pip.fl.key()
    pip.fl.admin.set(key, "taken")
    waiting = threading.Thread(target=lock.acquire_lock, args=(None, key, 60_000, 50_000))
    waiting.start()
    until(lambda: pip.fl.admin.info("stats")["tracking_total_keys"] > 0)
    pip.fl.admin.delete(key)
    waiting.join(30)
    assert not waiting.is_alive()
    lock.release_lock(None, key)
    wrong = config(connection__port=1, options__push="perhaps")
    error = refused(ConfigException, "WRONG_CONFIG", pip.bare().configure, wrong)
    assert str(error).startswith("options.push: 'perhaps' is neither true nor false")


@pytest.mark.parametrize("retries", [0, 2, None])
def test_O2_retries_bounds_the_attempts_to_connect(pip: Pip, retries: int | None) -> None:
    proxy = pip.fl.proxy()
    proxy.target = ("127.0.0.1", _servers.free_port())
    where = {"connection__host": "127.0.0.1", "connection__port": proxy.port}
    lock = pip.lock(**where, **({} if retries is None else {"options__retries": retries}))
    refused(ConnectionException, "CONNECT_FAILED", lock.open, None)
    assert proxy.connections == 1 + (3 if retries is None else retries)


def test_O2_retries_do_not_bound_the_tries_for_the_lock(pip: Pip) -> None:
    proxy = pip.fl.proxy()
    lock = pip.opened(connection__uri=proxy.uri, options__retries=0, options__retry_timeout=10)
    taking(pip, lock, proxy, 8)


def test_O2_a_server_that_comes_back_in_time_is_reached(pip: Pip) -> None:
    proxy = pip.fl.proxy()
    proxy.down()
    lock = pip.lock(connection__uri=f"redis://127.0.0.1:{proxy.port}", options__retries=1000)
    opening = threading.Thread(target=lock.open, args=(None,))
    opening.start()
    time.sleep(0.05)
    proxy.up()
    opening.join(30)
    assert lock.is_open() is True


def test_O2_no_attempt_begins_after_the_timeout(pip: Pip) -> None:
    port = _servers.free_port()
    lock = pip.lock(connection__port=port, options__retries=1000, options__timeout=300)
    refused(ConnectionException, "CONNECT_FAILED", lock.open, None)


def test_O3_options_are_text_too_and_can_be_changed(pip: Pip) -> None:
    proxy = pip.fl.proxy()
    lock = pip.opened(connection__uri=proxy.uri, options__retry_timeout="250")
    assert taking(pip, lock, proxy, 3) >= 0.4
    lock.configure(config(options__retry_timeout="10"))
    assert taking(pip, lock, proxy, 30) < 5.8
    lock.close(None)
    lock.open(None)
    assert taking(pip, lock, proxy, 30) < 5.8


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("retry_timeout", "abc"), ("retry_timeout", 0), ("retry_timeout", -5),
        ("retry_timeout", 1.5), ("retry_timeout", "nan"), ("retry_timeout", "inf"),
        ("retries", -1), ("retries", "many"), ("retries", 1001), ("timeout", 0),
        ("connect_timeout", 0), ("socket_timeout", "1e99"),
    ],
)  # fmt: skip
def test_O3_a_value_that_is_none_is_refused(pip: Pip, name: str, value: Any) -> None:
    lock = pip.bare()
    wrong = config(connection__port=1, **{f"options__{name}": value})
    error = refused(ConfigException, "WRONG_CONFIG", lock.configure, wrong)
    assert str(error).startswith(f"options.{name}: '{value}' is not a whole number")
