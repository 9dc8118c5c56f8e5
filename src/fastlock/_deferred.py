"""Releases that nobody waits for: those under way, and what came of them.

Law: on the wire before ``send`` returns; every answer is looked at in the end: the usual
one is forgotten, a lost connection or a refusal goes to the background, a lock that was
no longer ours is told. Any thread may call any method.

Answers are read by whoever reads for itself. One daemon thread, only while releases are
under way, reads where nobody does.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from . import _leaving
from ._background import Background
from ._doubt import SHARED, UNDER_WAY
from ._resp import Reentered
from .errors import TransportError

#: Releases without an answer above which the next caller waits for them.
MOST = 1000
#: Every how many releases their callers look at what has come.
OFTEN = 16
#: How long an answer may lie unread, in seconds, before the thread reads it itself.
TICK = 0.05
#: How many ticks the thread outlives the last release.
PATIENT = 20


class Deferred:
    """``ready()`` gives the working Link or None; ``patience`` is in seconds."""

    def __init__(self, ready: Callable[[], Any], background: Background, patience: float) -> None:
        self._ready = ready
        self._patience = patience
        self._pending: deque[tuple[Any, int, Any]] = deque()  # pipe, number, lease; by sending
        self.forked(background)
        _leaving.first(self)

    def forked(self, background: Background) -> None:
        """In a forked child: what is under way is the parent's."""
        self._background = background
        self._pending.clear()
        self._odd: dict[tuple[Any, int], Any] = {}  # unusual answers not yet looked at
        self._collecting = threading.Lock()  # only ever tried: a signal handler may come in
        self._starting = threading.RLock()
        self._thread: threading.Thread | None = None
        self._over = threading.Event()

    def send(self, lease: Any) -> None:
        """Release ``lease`` without waiting for the answer."""
        link = self._ready()
        if lease.over:
            return
        if lease.doubt:  # another release may free it, and the answer to this one tell of no loss
            lease.over = lease.freed = True
            self._background.add([lease.pair], lease.deadline)
            return
        lease.doubt = UNDER_WAY
        if lease.over:  # handed over at this moment
            return
        try:
            if link is None:
                raise TransportError("there is no connection")
            pipe = link.pipe
            number = pipe.defer(link.commands.release(*lease.pair), 1)
        except (TransportError, Reentered):
            lease.over = lease.freed = True
            self._background.add([lease.pair], lease.deadline)
            return
        except BaseException:  # nobody will look at the answer
            lease.doubt = True
            raise
        lease.over = lease.freed = True
        self._pending.append((pipe, number, lease))
        if number % OFTEN == 0:
            if number - pipe.settled > MOST:
                self._read(pipe, self._patience)
            self._collect()
        if self._thread is None:
            self._start()

    def end(self, timeout: float) -> None:
        """The process ends."""
        self.close(timeout)

    def close(self, timeout: float) -> None:
        """Wait until every release is answered for, at most ``timeout`` seconds."""
        end = time.monotonic() + timeout
        while self._pending and (left := end - time.monotonic()) > 0:
            try:
                pipe = self._pending[0][0]
            except IndexError:
                break
            self._read(pipe, left)
            self._collect()
        # Somebody may be giving the last of them to the background, which is closed next.
        if self._collecting.acquire(timeout=max(0.0, end - time.monotonic())):
            self._collecting.release()
        self._over.set()

    def _read(self, pipe: Any, timeout: float) -> None:
        """Wait until all that was sent is answered; a connection that keeps silent ends."""
        try:
            pipe.call(b"", 0, timeout)
        except TransportError as error:
            if error.timed_out and timeout >= self._patience:
                pipe.abort(f"no answer for {self._patience} s")
        except Reentered:
            pass

    def _collect(self) -> None:
        """Look at what has come."""
        if not self._collecting.acquire(blocking=False):
            return  # somebody else does
        try:
            asked, settled, broken = None, 0, False
            while self._pending:
                pipe, number, lease = self._pending[0]
                if pipe is not asked:
                    asked, broken, settled = pipe, pipe.broken, pipe.settled
                    for odd, reply in pipe.odd():
                        self._odd[pipe, odd] = reply
                if number > settled and not broken:
                    return
                self._pending.popleft()
                reply = self._odd.pop((pipe, number), 1) if number <= settled else None
                if reply != 1:
                    self._mind(lease, reply)
        finally:
            self._collecting.release()

    def _mind(self, lease: Any, reply: Any) -> None:
        """The lock was lost (0), the connection (None), or the server refused."""
        if reply == 0:
            if lease.doubt is not SHARED:  # else another call freed it, or says what became of it
                lease._lost_before()
        else:
            self._background.add([lease.pair], lease.deadline)

    # -- the thread

    def _start(self) -> None:
        with self._starting:
            _leaving.expected()
            if self._thread is None and not self._over.is_set():
                thread = threading.Thread(target=self._run, name="fastlock-deferred", daemon=True)
                with suppress(RuntimeError):  # the interpreter ends, and settles what is left
                    thread.start()
                    self._thread = thread

    def _run(self) -> None:
        idle = 0
        oldest: Any = None
        while idle <= PATIENT and not self._over.wait(TICK):
            self._collect()
            try:
                seen, oldest = oldest, self._pending[0]
            except IndexError:
                oldest = None
                idle += 1
                continue
            idle = 0
            if oldest is seen:
                self._read(oldest[0], self._patience)
                self._collect()
        self._thread = None
        if self._pending:  # of a moment ago
            self._start()
