"""The lock component of pip-services4 beside that framework's own, pair after pair.

Law: W1's loop and placement; both are used through the framework's interface alone.
"""

from __future__ import annotations

from typing import Any

from .runner import Plan, compete
from .servers import Server
from .specs import named

RIVAL = "pip-services4+hiredis"
ALL = f"fastlock-component fastlock-component-pure {RIVAL} pip-services4"


def run(server: Server, cores: tuple[int, int], rounds: int) -> dict[str, Any]:
    """Each in its own process, by turns."""
    return compete(named(ALL), Plan("w1", 1, cores[0], cores[0], rounds, 0.2), server)
