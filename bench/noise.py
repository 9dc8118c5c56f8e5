"""What others did on the machine while we measured.

Law: all CPU time that was not idle, less what contestant and server used, is somebody
else's; stolen time of a virtual machine counts too. Measured in every slice.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

from .figures import Round
from .servers import Server


class Quiet:
    """How many cores somebody else used while we measured: noise, in other words."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.seconds = 0.0
        self.alien = 0.0

    def watch(self, slice_: Callable[[], Round]) -> Round:
        """One slice, watched; its ``cpu`` is what the contestant used, ``server`` the server."""
        began, busy, server = time.monotonic(), busy_seconds(), self.server.cpu()
        answer = slice_()
        answer["server"] = self.server.cpu() - server
        ours = answer["cpu"] + answer["server"]
        self.seconds += time.monotonic() - began
        self.alien += busy_seconds() - busy - ours
        return answer

    def others(self) -> float:
        """In cores, on average."""
        return max(0.0, self.alien / self.seconds) if self.seconds else 0.0


def busy_seconds() -> float:
    """CPU seconds of the whole machine that were not idle, stolen ones included."""
    try:
        fields = Path("/proc/stat").read_text().splitlines()[0].split()[1:9]
    except OSError:
        return 0.0
    user, nice, system, _idle, _wait, irq, soft, steal = map(int, fields)
    return (user + nice + system + irq + soft + steal) / os.sysconf("SC_CLK_TCK")
