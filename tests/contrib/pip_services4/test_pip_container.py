"""A4: in a real container, from a file, found and wired by descriptors."""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
from _harness import Ways, client_class, leftovers
from _pip import config
from pip_services4_commons.reflect import TypeDescriptor
from pip_services4_components.context import Context
from pip_services4_components.refer import Descriptor

from fastlock.contrib.pip_services4 import DefaultRedisFactory, RedisLock

YAML = """\
- descriptor: pip-services:discovery:memory:default:1.0
  locks:
    uri: "{{LOCKS_URI}}"

- descriptor: pip-services:credential-store:memory:default:1.0
  locks:
    username: bob
    password: "{{LOCKS_PASSWORD}}"

- descriptor: pip-services:lock:redis:main:1.0
  connection:
    discovery_key: locks
  credential:
    store_key: locks
  options:
    retry_timeout: 20
"""
JSON = [
    {
        # The framework turns slashes into dots; of dots it takes one at most.
        "type": "RedisLock,fastlock/contrib/pip_services4",
        "connection": {"uri": "{{LOCKS_URI}}"},
        "options": {"retries": 1},
    }
]


@pytest.fixture
def container(monkeypatch: pytest.MonkeyPatch, core: str) -> Any:
    """A container whose locks run on this core."""
    if sys.version_info >= (3, 13):
        pytest.skip("pip_services4_container does not import on CPython 3.13")
    with warnings.catch_warnings():
        # Of the framework's own enumerations, while they are imported.
        warnings.filterwarnings("ignore", "In 3.13 the default `auto", DeprecationWarning)
        from pip_services4_container.container import Container
    monkeypatch.setattr(RedisLock, "_client_class", client_class("sync", core))
    made = Container("shop")
    made.add_factory(DefaultRedisFactory())
    return made


def run(container: Any, path: Path, how: Any, server: Any, fl: Ways) -> None:
    """From the file to the lock, and back."""
    before, context = leftovers(), Context.from_trace_id("123")
    values = config(LOCKS_URI=server.uri, LOCKS_PASSWORD="b0b")
    container.read_config_from_file(context, str(path), values)
    container.open(context)
    lock = container._references.get_one_required(how)
    assert type(lock) is RedisLock
    assert lock.is_open() is True
    key = fl.key()
    lock.acquire_lock(context, key, 60_000, 1000)
    assert lock.try_acquire_lock(context, key, 60_000) is False
    assert server.admin.exists(key) == 1
    lock.release_lock(context, key)
    assert server.admin.exists(key) == 0
    container.close(context)
    assert lock.is_open() is False
    fl._check(before)


@pytest.mark.smoke
def test_A4_a_container_runs_it_from_yaml(
    container: Any, fl: Ways, own_server: Any, tmp_path: Path
) -> None:
    own_server.admin.acl_setuser(
        "bob", enabled=True, passwords=["+b0b"], keys=["*"], commands=["+@all"]
    )
    own_server.admin.acl_setuser("default", enabled=False)
    path = tmp_path / "config.yml"
    path.write_text(YAML)
    run(container, path, Descriptor("*", "lock", "*", "*", "1.0"), own_server, fl)


def test_A4_a_container_runs_it_by_its_type_from_json(
    container: Any, fl: Ways, tmp_path: Path
) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(JSON))
    how = TypeDescriptor("RedisLock", "fastlock/contrib/pip_services4")
    run(container, path, how, fl.server, fl)
