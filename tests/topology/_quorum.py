"""Several independent servers for a quorum, of both kinds, and clients of all of them.

Law: real processes; whatever a test did to them is undone behind it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import _servers
from _harness import SERVERS, Ways

import fastlock
import fastlock.aio
from fastlock import _impl

#: So long that expiry never does what giving back should.
TTL = 30.0


class Masters:
    """The servers. ``options`` are their command lines'."""

    def __init__(self, count: int, **options: str) -> None:
        kinds = ["valkey" if kind == "given" else kind for kind in SERVERS]
        kinds = [kind for kind in kinds if _servers.binary_of(kind) is not None]
        self.all = [_servers.Server(kinds[n % len(kinds)], **options) for n in range(count)]
        self.down: set[int] = set()
        self.frozen: set[int] = set()

    @property
    def uris(self) -> list[str]:
        return [server.uri for server in self.all]

    @property
    def versions(self) -> str:
        return ", ".join(server.version for server in self.all)

    def __getitem__(self, number: int) -> Any:
        return self.all[number]

    def __len__(self) -> int:
        return len(self.all)

    def kill(self, *numbers: int) -> None:
        """kill -9."""
        for number in numbers:
            self.all[number].kill()
            self.down.add(number)

    def start(self, *numbers: int) -> None:
        for number in numbers:
            self.all[number].start()
            self.down.discard(number)

    def freeze(self, *numbers: int) -> None:
        for number in numbers:
            self.all[number].freeze()
            self.frozen.add(number)

    def mend(self) -> None:
        """All are up again."""
        for number in sorted(self.frozen):
            self.all[number].thaw()
        self.frozen.clear()
        self.start(*sorted(self.down))

    async def close(self) -> None:
        """As the first of a test's clients to be closed: so that the others can give back."""
        self.mend()

    def held(self, key: str) -> list[bytes | None]:
        """What each that is up has at the key."""
        numbers = [n for n in range(len(self.all)) if n not in self.down | self.frozen]
        return [self.all[number].admin.get(key) for number in numbers]

    def free(self, key: str) -> bool:
        return not any(self.held(key))

    def discard(self) -> None:
        self.mend()
        for server in self.all:
            server.discard()


@contextmanager
def masters(count: int, **options: str) -> Iterator[Masters]:
    """Started here, ended behind it."""
    made = Masters(count, **options)
    try:
        yield made
    finally:
        made.discard()


def quorum_class(fl: Ways) -> Any:
    """fastlock.QuorumClient or its asyncio twin, on the core of this way."""
    base: Any = fastlock.QuorumClient if fl.sync else fastlock.aio.QuorumClient
    return type("Quorum", (base,), {"_core": _impl.load(fl.core)})


def quorum(fl: Ways, sources: Any, **options: Any) -> Any:
    """A client of all of them, closed at the end of the test.

    Of a machine that is busy with other tests no server needs to answer within 0.2 s.
    """
    options.setdefault("node_timeout", 2.0)
    return fl.own(quorum_class(fl)(sources, **options))
