"""The log of a run: one file for each process, one event a line.

    {"e": "got", "t": 5021.123456, "id": "w0.1-3", "deadline": ...}

Law: each is appended by one ``write``, without a mutex: a process that is killed has told all up
to its last line, threads do not mix theirs, and a fork or an interrupt leaves nothing locked.
``t`` is seconds on CLOCK_BOOTTIME, which leases use too and all processes of a machine share.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

#: As fastlock's: it runs on during suspend, where the system has such a clock.
CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
#: No event type of its own: as JSON gives it. ``e`` and ``t`` are always there.
Event = dict[str, Any]


def now() -> float:
    """Seconds on the clock of leases; read by itself, not by fastlock."""
    return time.clock_gettime(CLOCK)


class Log:
    """One process's. ``name`` is the process's, and the file's."""

    def __init__(self, folder: Path, name: str) -> None:
        self.name = name
        self.folder = folder
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        self._file = os.open(folder / f"{name}.log", flags, 0o600)

    def __call__(self, event: str, t: float | None = None, **fields: Any) -> None:
        line = {"e": event, "t": now() if t is None else t, **fields}
        os.write(self._file, (json.dumps(line, separators=(",", ":")) + "\n").encode())

    def child(self, name: str) -> Log:
        """Of a process forked from this one."""
        return Log(self.folder, name)


def read(folder: Path) -> list[Event]:
    """All events of all processes, each with its process ``p``, in the order of their times."""
    events: list[Event] = []
    for path in sorted(folder.glob("*.log")):
        for line in path.read_bytes().split(b"\n")[:-1]:  # the last one is empty, or was cut off
            event: Event = json.loads(line)
            event["p"] = path.stem
            events.append(event)
    events.sort(key=lambda event: float(event["t"]))  # stable: a process's own order stays
    return events
