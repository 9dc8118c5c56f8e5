"""Components as a service would make them, for the tests. Law: nothing of the framework is
replaced; the core is chosen by the client's class, as everywhere in these tests.
"""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest
from _harness import Ways, client_class
from pip_services4_commons.errors import ApplicationException
from pip_services4_components.config import ConfigParams
from pip_services4_components.refer import Descriptor, References
from pip_services4_config.auth import MemoryCredentialStore
from pip_services4_config.connect import MemoryDiscovery

from fastlock.contrib.pip_services4 import RedisLock


def config(**settings: Any) -> ConfigParams:
    """ConfigParams; ``connection__host`` stands for ``connection.host``."""
    flat: list[Any] = []
    for name, value in settings.items():
        flat += [name.replace("__", "."), value]
    return ConfigParams.from_tuples(*flat)


@functools.cache
def lock_class(core: str) -> type[RedisLock]:
    """RedisLock on that core."""
    return type("RedisLock", (RedisLock,), {"_client_class": client_class("sync", core)})


def discovery(name: str = "default", **connections: Any) -> tuple[Descriptor, Any]:
    """A discovery service and how it is found: ``key__host`` is one key's host."""
    descriptor = Descriptor("pip-services", "discovery", "memory", name, "1.0")
    return descriptor, MemoryDiscovery(config(**connections))


def store(**credentials: Any) -> tuple[Descriptor, Any]:
    """A credential store and how it is found."""
    descriptor = Descriptor("pip-services", "credential-store", "memory", "default", "1.0")
    return descriptor, MemoryCredentialStore(config(**credentials))


def references(*pairs: tuple[Descriptor, Any]) -> References:
    return References.from_tuples(*[part for pair in pairs for part in pair])


def refused(
    kind: type[ApplicationException], code: str, call: Callable[..., Any], *args: Any
) -> ApplicationException:
    """The framework's error of exactly this kind and code that the call raises."""
    with pytest.raises(ApplicationException) as caught:
        call(*args)
    error = caught.value
    assert (type(error), error.code) == (kind, code), str(error)
    return error


def until(true: Callable[[], Any], timeout: float = 10.0) -> None:
    """Until ``true()`` is; fails after ``timeout`` seconds."""
    end = time.monotonic() + timeout
    while not true():
        assert time.monotonic() < end, f"not true within {timeout} s"
        time.sleep(0.002)


class Pip:
    """Makes components; the session's server is theirs unless told otherwise."""

    def __init__(self, fl: Ways) -> None:
        self.fl = fl
        self.locks: list[RedisLock] = []

    def bare(self) -> RedisLock:
        """As a container makes it, closed at the end of the test."""
        lock = lock_class(self.fl.core)()
        self.locks.append(lock)
        return lock

    def lock(self, **settings: Any) -> RedisLock:
        """Configured, not open."""
        lock = self.bare()
        lock.configure(config(**settings))
        return lock

    def opened(self, **settings: Any) -> RedisLock:
        """Open; at the session's server unless the settings name another."""
        if not any(name.startswith(("connection", "host", "port", "uri")) for name in settings):
            settings["connection__uri"] = self.fl.server.uri
        lock = self.lock(**settings)
        lock.open(None)
        return lock

    def close(self) -> None:
        for proxy in self.fl.proxies:
            for fault in proxy._faults:
                fault.go()
        for lock in self.locks:
            lock.close(None)
        for proxy in self.fl.proxies:
            proxy.close()

    # -- other processes

    def process(self, code: str, *args: object) -> subprocess.Popen[str]:
        """Run ``code`` elsewhere on this core, with ``lock`` open there and ``args``."""
        begin = (
            "import sys, time\n"
            "from fastlock.contrib.pip_services4 import RedisLock\n"
            "from pip_services4_components.config import ConfigParams\n"
            "uri, *args = sys.argv[1:]\n"
            "lock = RedisLock()\n"
            "lock.configure(ConfigParams.from_tuples(\n"
            "    'connection.uri', uri, 'options.retry_timeout', 5))\n"
            "lock.open(None)\n"
        )
        command = [sys.executable, "-c", begin + code, self.fl.server.uri, *map(str, args)]
        env = {**os.environ, "FASTLOCK_CORE": self.fl.core}
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env)

    def said(self, code: str, *args: object) -> str:
        """What such a process prints; it must end well."""
        process = self.process(code, *args)
        out, _ = process.communicate(timeout=60)
        assert process.returncode == 0
        return out.strip()
