"""Fencing numbers and a server's clock that is set back and forth.

Law: the server's own clock moves (``_clock_shift.c``), not what is believed of it. Nobody
else's: leases count on a clock of this machine, which goes on as it is.
"""

from __future__ import annotations

import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from _harness import Ways
from _servers import GIVEN_URL, Server

from fastlock.fencing import companion

SOURCE = Path(__file__).parents[1] / "_clock_shift.c"
HOUR, DAY = 3600, 86_400
TTL = 5


class Moved(Server):
    """A server whose wall clock can be set."""

    def __init__(self, kind: str, library: Path, file: Path) -> None:
        self._file = file
        self._library = library
        self.moved = 0
        self.move(0)
        super().__init__(kind, variables={"LD_PRELOAD": str(library), "CLOCK_SHIFT": str(file)})

    def start(self) -> None:
        folder = Path(self.command[0]).parent
        if (folder / "run").exists():  # of tools/get-server: a loader of its own starts it
            (loader,) = folder.glob("usr/lib/*/ld-linux-*.so.*")
            program = folder / "usr/bin" / f"{self.kind.partition('-')[0]}-server"
            options = ["--library-path", loader.parent, "--preload", self._library]
            self.command[:1] = [str(part) for part in (loader, *options, program)]
        super().start()

    def move(self, seconds: int) -> None:
        """Set the clock forward, or back."""
        self.moved += seconds
        with self._file.open("r+b" if self._file.exists() else "wb") as file:
            file.write(struct.pack("i", self.moved))

    def clock(self) -> int:
        """In microseconds, as a script sees it."""
        seconds, microseconds = self.admin.eval("return redis.call('TIME')", 0)
        return int(seconds) * 1_000_000 + int(microseconds)


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or not sys.platform.startswith("linux"):
        pytest.skip("a server's clock can't be moved here")
    made = tmp_path_factory.mktemp("clock") / "clock_shift.so"
    command = [compiler, "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-o", made, SOURCE]
    subprocess.run(command, check=True, timeout=60)
    return made


@pytest.fixture
def moved(server: Any, library: Path, tmp_path: Path) -> Iterator[Moved]:
    kind = "valkey" if GIVEN_URL else server.kind
    moved = Moved(kind, library, tmp_path / "shift")
    yield moved
    moved.discard()


async def taken(client: Any, key: str) -> int:
    """The next number."""
    lease = await client.acquire(key, ttl=TTL, fence=True)
    assert await lease.release() is True
    number: int = lease.fence
    return number


async def move(fl: Ways, moved: Moved, seconds: int) -> int:
    """Move the clock; what it shows, once it shows it (servers look at it now and then)."""
    there = moved.clock() + seconds * 1_000_000
    moved.move(seconds)
    await fl.until(lambda: abs(moved.clock() - there) < 30_000_000)
    return moved.clock()


async def test_a_clock_set_back_brings_no_old_number(fl: Ways, moved: Moved) -> None:
    client, key = fl.client(moved.uri), fl.key()
    numbers = [await taken(client, key)]
    for step in (-HOUR, -DAY, -30 * DAY):
        await move(fl, moved, step)
        numbers += [await taken(client, key) for _ in range(3)]
    first = numbers[0]
    assert numbers == list(range(first, first + 10))
    # The companion stays until the clock is past the number, not past where it is now.
    assert moved.admin.pttl(companion(key.encode())) > 31 * DAY * 1000


async def test_the_clock_takes_over_where_it_is_ahead_again(fl: Ways, moved: Moved) -> None:
    client, key = fl.client(moved.uri), fl.key()
    numbers = [await taken(client, key)]
    for step in (-600, 1200, -300, DAY, -2 * DAY, 2 * DAY + 1):
        before = await move(fl, moved, step)
        number = await taken(client, key)
        if before > numbers[-1]:
            assert before <= number <= moved.clock()
        else:
            assert number == numbers[-1] + 1
        numbers.append(number)


async def test_a_clock_set_back_by_an_hour_after_the_number_was_forgotten(
    fl: Ways, moved: Moved
) -> None:
    client, key = fl.client(moved.uri), fl.key()
    number = await taken(client, key)
    await move(fl, moved, HOUR - 60)
    assert moved.admin.exists(companion(key.encode())) == 1
    await move(fl, moved, 60 + TTL + 60)
    await fl.until(lambda: not moved.admin.exists(companion(key.encode())))
    assert moved.admin.dbsize() == 0  # it is not only hidden
    await move(fl, moved, -HOUR)
    assert await taken(client, key) > number


async def test_a_restart_without_data_under_a_clock_that_is_right(fl: Ways, moved: Moved) -> None:
    client, key = fl.client(moved.uri), fl.key()
    numbers = [await taken(client, key)]
    await move(fl, moved, -60)
    numbers.append(await taken(client, key))
    await move(fl, moved, 60)  # put right, as NTP does it
    moved.restart()
    numbers.append(await taken(client, key))
    assert numbers == sorted(set(numbers))
