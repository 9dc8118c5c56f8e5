"""Floor 5, asyncio: one connection more, while somebody waits, by which the server tells of keys.

Law: that of ``_listener.py``, for the tasks of one event loop at a time; the loop reads, so that
nobody leads. What comes of connecting, and of the connection, wakes all who wait.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from . import _fork
from ._aiopipe import AsyncPipe
from ._clock import clock
from ._connect import open_async
from ._impl import Core
from ._pause import LONGEST_SLEEP
from ._queue import Place
from ._watch import (
    LINGER,
    MOST_KEYS,
    RECOVERY,
    Watch,
    changed,
    refused,
    tracking,
    watching,
)
from .config import Config
from .errors import TransportError

#: Makes what wakes a task: an event of the running loop.
NewBell = Callable[[], Any]


class AsyncListener:
    """One client's. Belongs to the loop in which somebody waits."""

    def __init__(self, config: Config, core: Core, new_bell: NewBell) -> None:
        self._config = config
        self._core = core
        self._new_bell = new_bell
        self._closed = False
        self._forget()
        _fork.register(self)

    def _forget(self) -> None:
        self._pipe: AsyncPipe | None = None
        self._began = 0.0  # when it was made
        self._connecting: asyncio.Task[None] | None = None
        self._watches: dict[Watch, None] = {}
        self._refused_by: object = None  # the main connection of the time when it was refused
        self._not_before = 0.0  # when another connection may be tried
        self._used_at = 0.0
        self._timer: asyncio.TimerHandle | None = None  # looks whether it is idle
        self._ending: asyncio.Future[None] | None = None

    async def wait(
        self,
        place: Place,
        keys: Sequence[bytes],
        until: float,
        about: object,
        turn: bytes | None = None,
    ) -> bool:
        """As ``Listener.wait``."""
        if len(keys) > MOST_KEYS or clock() < self._not_before:
            return False
        if about is not None and self._refused_by is about:
            return False
        watch = Watch(place, keys, about=about, turn=turn)
        try:
            self._watches[watch] = None
            await self._wait(watch, until)
        finally:
            self._watches.pop(watch, None)
            place.watched = False
            self._used_at = clock()
            if not self._watches and self._timer is None and self._pipe is not None:
                self._look_later(self._pipe.loop)
        return not watch.refused

    @property
    def back_in(self) -> float:
        """As ``Listener.back_in``."""
        left = self._not_before - clock()
        return left if left > 0 else float("inf")

    async def _wait(self, watch: Watch, until: float) -> None:
        generation = _fork.generation
        while True:
            bell = watch.place.news = self._new_bell()
            left = min(until, watch.ends) - clock()
            if watch.over or watch.place.told or self._closed or left <= 0:
                return
            if generation != _fork.generation:
                return
            if not watch.asked:
                self._ask(watch)
            await bell.wait(min(left, LONGEST_SLEEP))

    def _ask(self, watch: Watch) -> None:
        """Have the server told, or connect first."""
        loop = asyncio.get_running_loop()
        pipe = self._pipe
        if pipe is not None and pipe.loop is not loop:
            pipe.ended = None
            pipe.abandon("its event loop has ended")
            pipe = self._pipe = self._timer = None
        if pipe is None:
            task = self._connecting
            if task is None or task.done() or task.get_loop() is not loop:
                self._connecting = loop.create_task(self._connect(watch.about))
            return
        watch.asked = watch.place.watched = True
        try:
            answer = pipe.call(*watching(self._core.pack, watch.keys))
        except TransportError:
            self._lost()
        else:
            answer.add_done_callback(partial(self._answered, watch))

    async def _connect(self, about: object) -> None:
        """On a task of its own: who is cancelled does not take the others along."""
        config = self._config
        pipe = None
        try:
            end = clock() + config.connect_timeout
            opened = await open_async(config, config.connect_timeout)
            pipe = AsyncPipe(self._core.decoder(), config.socket_timeout)
            pipe.attach(opened.transport)
            pipe.keep = opened.keep
            first = pipe.call(*tracking(self._core.pack, opened.protocol))
            if refused(await asyncio.wait_for(first, end - clock())):
                self._refuse(about)
                await pipe.close()
                return
        except BaseException as error:
            if pipe is not None:
                pipe.abort("could not be set up")
            self._not_before = clock() + RECOVERY
            self._dismiss(refused=True)
            if not isinstance(error, Exception):
                raise
        else:
            pipe.pushed, pipe.ended = self._pushed, self._lost
            self._pipe, self._began = pipe, clock()
            if pipe.broken:
                self._lost()
            self._look_later(pipe.loop)
            for watch in self._watches:
                watch.place.wake()

    def _answered(self, watch: Watch, answer: asyncio.Future[list[Any]]) -> None:
        if answer.cancelled() or answer.exception() is not None:
            return  # the connection ended, which wakes all
        try:
            if not watch.answered(answer.result(), clock()):
                self._refuse(watch.about)
            elif not watch.asked and watch in self._watches:
                self._ask(watch)
        except TransportError as error:
            if self._pipe is not None:
                self._pipe.abort(str(error))

    def _pushed(self, push: Sequence[Any]) -> None:
        keys = changed(push)
        for watch in list(self._watches):
            if watch.changed(keys):
                self._ask(watch)

    def _lost(self) -> None:
        """Nothing more is heard from it: everybody looks."""
        self._pipe = None
        if clock() < self._began + RECOVERY:
            self._not_before = clock() + RECOVERY
        self._dismiss()

    def _refuse(self, about: object) -> None:
        self._refused_by = about
        self._dismiss(refused=True)

    def _dismiss(self, refused: bool = False) -> None:
        for watch in list(self._watches):
            watch.end(refused)

    # -- its end

    def _look_later(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = loop.call_later(LINGER, self._look)

    def _look(self) -> None:
        """Whether it is idle: then it ends."""
        self._timer = None
        pipe = self._pipe
        if pipe is None:
            return
        if self._watches or clock() < self._used_at + LINGER:
            self._look_later(pipe.loop)
            return
        self._pipe = pipe.ended = None
        pipe.abort("nobody waits")

    def look(self) -> None:
        """As ``Listener.look``."""
        self._dismiss()

    def stop(self) -> None:
        """As ``Listener.stop``."""
        self._closed = True
        self._dismiss()

    async def close(self) -> None:
        """End it."""
        self.stop()
        loop = asyncio.get_running_loop()
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()
        task = self._connecting
        if task is not None and task.get_loop() is loop:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await asyncio.wait([task])
        pipe, self._pipe = self._pipe, None
        if pipe is None:
            return
        pipe.ended = None
        if pipe.loop is loop:
            await pipe.close()
        else:
            pipe.abandon("its event loop is closed")

    def forked(self) -> None:
        """In a forked child: the connection is the parent's."""
        pipe = self._pipe
        self._forget()
        if pipe is not None:
            pipe.abandon("the connection belongs to the parent process")
