"""Tests that judge how soon or how often something happens have the machine to themselves.

Law: among the workers of one session, a test marked ``alone`` runs while no other does. They come
first, on one worker, which lets the others begin after the last of them.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
from contextlib import suppress
from pathlib import Path


class Gate:
    """Of one session, named by its id. A worker passes it with each test, or keeps it shut."""

    def __init__(self, session: str) -> None:
        folder = Path(tempfile.gettempdir())
        self._paths = [folder / f"fastlock-{session}.{name}" for name in ("turn", "gate")]
        self._turn, self._gate = (
            os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600) for path in self._paths
        )
        self._shut = False

    def enter(self, alone: bool) -> None:
        """Before a test: wait for those alone; if this one is, for all that run, too."""
        if self._shut:
            return
        fcntl.flock(self._turn, fcntl.LOCK_EX)  # kept while alone: nobody slips in
        fcntl.flock(self._gate, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        self._shut = alone
        if not alone:
            fcntl.flock(self._turn, fcntl.LOCK_UN)

    def leave(self, next_alone: bool) -> None:
        """After a test; shut it stays if the next one of this worker is alone too."""
        if self._shut and next_alone:
            return
        self._shut = False
        fcntl.flock(self._gate, fcntl.LOCK_UN)
        fcntl.flock(self._turn, fcntl.LOCK_UN)

    def remove(self) -> None:
        """Take it away, at the end of the session."""
        os.close(self._turn)
        os.close(self._gate)
        for path in self._paths:
            with suppress(FileNotFoundError):
                path.unlink()
