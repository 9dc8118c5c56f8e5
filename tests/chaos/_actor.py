"""What a thread or a task does with locks, and what it writes down about it.

Law: nothing is judged here. A time is read before a question is asked of a lease and after an
answer is had, so that what is logged is never more than what was promised.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import count
from random import Random
from typing import Any

from chaos._log import Log, now
from chaos._plan import Step
from fastlock import (
    AcquireTimeout,
    LockLost,
    OutcomeUnknown,
    ServerError,
    TransportError,
)

#: What ends a step from outside; it is no error.
CUTS = (KeyboardInterrupt, asyncio.CancelledError)
#: What a server in trouble may answer.
REFUSALS = ("OOM", "READONLY", "LOADING", "MASTERDOWN", "NOREPLICAS", "UNBLOCKED", "MISCONF")
#: Seconds between two looks at a lease, and between two lines about it.
LOOK = 0.01
LINE = 0.04
#: Seconds after which a key that nobody wants is looked for, and between two such looks.
LATER = 3.0
AGAIN = 0.5


def said(error: BaseException) -> str:
    """The outcome's name; what should never come out of a lock is raised."""
    if isinstance(error, AcquireTimeout):
        return "timeout"
    if isinstance(error, LockLost):
        return "lost"
    if isinstance(error, OutcomeUnknown):
        return "unknown"
    if isinstance(error, TransportError):
        return "transport"
    if isinstance(error, CUTS):
        return "cut"
    if isinstance(error, ServerError) and error.code in REFUSALS:
        return f"refused {error.code}"
    raise error


class Way:
    """How this process awaits things: threads or tasks, one face for both."""

    def __init__(self, client: Any, truth: Any, log: Log, sync: bool) -> None:
        self.client = client
        self.truth = truth  # asks the server what it has of a key
        self.log = log
        self.sync = sync
        self.serial = count(1)
        self.stopping = False
        self.inside = False  # the main thread: in a call that a signal may interrupt
        self.sleep: Callable[[float], Any]
        self.child: Callable[[Actor, list[Held]], None]  # what a forked process does, and ends

    def interrupt(self, *_: object) -> None:
        """SIGINT's handler: in a call, as Ctrl-C; between calls, where a log line could be
        torn apart, not at all."""
        if self.inside:
            self.inside = False
            raise KeyboardInterrupt


class Held:
    """One lease and what was last written about it."""

    def __init__(self, name: str, lease: Any) -> None:
        self.name = name
        self.lease = lease
        self.seen = 0.0  # when it was last valid
        self.deadline = 0.0  # as last written
        self.written = 0.0
        self.gone = False


class Actor:
    def __init__(self, way: Way, number: int, steps: Iterator[Step], random: Random) -> None:
        self.way = way
        self.log = way.log
        self.main = way.sync and number == 0
        self.steps = steps
        self.random = random  # for what has no influence on the steps
        # Keys of its own that were let go of: when to look for them, name, key, since when.
        self.dropped: deque[tuple[float, str, str, float]] = deque()

    async def run(self) -> None:
        """Carry steps out until the process is told to stop."""
        for step in self.steps:
            if self.way.stopping:
                return
            await self._look_for_dropped()
            if self.way.sync:
                with suppress(KeyboardInterrupt):
                    await self.step(step)
            else:
                await self._cuttable(step)

    async def _cuttable(self, step: Step) -> None:
        task = asyncio.ensure_future(self.step(step))
        if step.cut is not None:
            if step.cut:
                await asyncio.wait({task}, timeout=step.cut)
            else:
                for _ in range(self.random.randint(1, 4)):  # turns of the loop
                    await asyncio.sleep(0)
            if task.cancel():
                self.log("cut")
        with suppress(asyncio.CancelledError):
            await task

    async def call(self, function: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """Of a lock, or a pause: here a signal may interrupt the main thread."""
        if not self.main:
            return await function(*args, **options)
        self.way.inside = True
        try:
            return await function(*args, **options)
        finally:
            self.way.inside = False

    # ------------------------------------------------------------------ one step

    async def step(self, step: Step) -> None:
        names, told, manager = {}, {}, None
        serials = [f"{self.log.name}-{next(self.way.serial)}" for _ in step.keys or (0,)]
        for key, name in zip(step.keys or serials, serials, strict=True):
            names[key if step.keys else f"chaos:long:{name}"] = name
        for key, name in names.items():
            self.log(
                "try", id=name, key=key, ttl=step.ttl, how=step.how, fence=step.fence,
                renew=step.renew, fair=step.fair,
            )  # fmt: skip
        options: dict[str, Any] = {"fence": True} if step.fence else {}
        if step.fair:
            options["fair"] = True
        if step.renew:
            options |= {
                "auto_renew": True,
                "on_lost": lambda lease: self._told(names[lease.key], lease, told),
            }
            if not self.way.sync and step.how in ("with", "all"):
                options["cancel_on_lost"] = True
        try:
            leases, manager = await self._take(step, list(names), options)
        except BaseException as error:
            why = said(error)
            for key, name in names.items():
                self.log("not", id=name, why=why)
                if not step.keys and why != "unknown":
                    self._drop(key, name)
            if isinstance(error, CUTS):
                raise
            await self.call(self.way.sleep, self.random.uniform(0, 0.1))
            return
        held = []
        for name, lease in zip(names.values(), leases, strict=True):
            if lease is None:
                self.log("not", id=name, why="taken")
            else:
                held.append(self._got(name, lease))
        if not held:
            await self.call(self.way.sleep, self.random.uniform(0, 0.03))
            return
        error: BaseException | None = None
        try:
            await self._hold(step, held, told)
        except CUTS as cut:
            error = cut
        if step.ending != "expire" or error is not None:
            await self._give(step, held, leases, manager, error)
        if error is not None:
            raise error

    async def _take(
        self, step: Step, keys: list[str], options: dict[str, Any]
    ) -> tuple[list[Any], Any]:
        client, manager = self.way.client, None
        if step.how == "many":
            return await self.call(client.try_acquire_many, keys, step.ttl, **options), None
        if step.how == "try":
            return [await self.call(client.try_acquire, keys[0], step.ttl, **options)], None
        if step.how == "wait":
            return [
                await self.call(client.acquire, keys[0], step.ttl, step.patience, **options)
            ], None
        if step.how == "all":
            manager = client.lock_all(keys, step.ttl, step.patience, **options)
            return await self.call(manager.__aenter__), manager
        release = "deferred" if step.ending == "deferred" else "wait"
        manager = client.lock(keys[0], step.ttl, step.patience, release, **options)
        return [await self.call(manager.__aenter__)], manager

    def _got(self, name: str, lease: Any) -> Held:
        held = Held(name, lease)
        t = now()
        valid, held.deadline = lease.valid(), lease.deadline
        self.log(
            "got", t, id=name, valid=valid, deadline=held.deadline, ttl=lease.ttl,
            fence=lease.fence,
        )  # fmt: skip
        held.seen = held.written = t
        held.gone = not valid
        return held

    def _told(self, name: str, lease: Any, told: dict[str, bool]) -> None:
        self.log("told", id=name, deadline=lease.deadline, reason=str(lease.lost.reason))
        told[name] = True

    # ------------------------------------------------------------------ holding

    async def _hold(self, step: Step, held: list[Held], told: dict[str, bool]) -> None:
        begun = now()
        if step.fork:
            await self._fork(held)
        todo = [self._extend] if step.extend is not None else []
        if step.look:
            todo.append(self._ask)
        while (left := begun + step.hold - now()) > 0 and not self.way.stopping:
            await self.call(self.way.sleep, min(left, LOOK))
            self._look(held)
            if todo and left < step.hold / 2:
                await todo.pop()(step, held)
        for late in todo:
            await late(step, held)
        self._look(held, all_lines=True)
        if step.renew:
            await self._hear(held, told)

    async def _hear(self, held: list[Held], told: dict[str, bool]) -> None:
        """Of what is lost its holder is to be told: give that time."""
        until = now() + 2.5
        for one in held:
            while one.gone and one.name not in told and now() < until:
                await self.call(self.way.sleep, LOOK)

    def _look(self, held: list[Held], all_lines: bool = False) -> None:
        for one in held:
            t = now()
            valid, deadline = one.lease.valid(), one.lease.deadline
            if valid:
                one.seen = t
                if one.gone or all_lines or deadline != one.deadline or t > one.written + LINE:
                    self.log("held", t, id=one.name, deadline=deadline)
                    one.deadline, one.written = deadline, t
            elif not one.gone:
                self.log("gone", id=one.name, seen=one.seen, deadline=deadline)
            one.gone = not valid

    async def _extend(self, step: Step, held: list[Held]) -> None:
        for one in held:
            self._look([one], all_lines=True)
            self.log("extend", id=one.name, ttl=step.extend)
            try:
                await self.call(one.lease.extend, step.extend)
            except BaseException as error:
                self.log("unextended", id=one.name, why=said(error))
                if isinstance(error, CUTS):
                    raise
                continue
            t = now()
            valid, deadline = one.lease.valid(), one.lease.deadline
            self.log("extended", t, id=one.name, valid=valid, deadline=deadline, ttl=one.lease.ttl)
            one.gone = not valid

    async def _ask(self, step: Step, held: list[Held]) -> None:
        """Compare what a lease says with what the server has."""
        for one in held:
            t = now()
            valid, deadline = one.lease.valid(), one.lease.deadline
            answer = await self.way.truth(one.lease.key)
            if answer is not None:
                token, pttl = answer
                self.log(
                    "asked", t, id=one.name, until=now(), valid=valid, deadline=deadline,
                    mine=token == one.lease.token.encode(), pttl=pttl,
                )  # fmt: skip

    async def _fork(self, held: list[Held]) -> None:
        child = os.fork()
        if child == 0:
            try:
                signal.alarm(20)
                self.way.child(self, held)
                os._exit(0)
            finally:
                os._exit(1)
        self.log("forked", child=child)
        for _ in range(2500):
            pid, status = os.waitpid(child, os.WNOHANG)
            if pid:
                self.log("reaped", child=child, status=status)
                return
            await self.way.sleep(LOOK)
        raise RuntimeError("a forked child does not end")

    # ------------------------------------------------------------------ letting go

    async def _give(
        self, step: Step, held: list[Held], leases: list[Any], manager: Any,
        error: BaseException | None,
    ) -> None:  # fmt: skip
        for _ in range(3):
            self._log_all("release", held)
            try:
                answers = await self._release(step, leases, manager, error)
            except BaseException as failure:
                answer = said(failure)
                for one in held:
                    freed = answer == "lost" and one.lease.freed
                    self.log("released", id=one.name, answer="true" if freed else answer)
                if isinstance(failure, CUTS):
                    raise
                if manager is not None or answer == "lost":
                    return
                await self.way.sleep(0.1)
                continue
            given = [a for a, lease in zip(answers, leases, strict=True) if lease is not None]
            for one, freed in zip(held, given, strict=True):
                self.log("released", id=one.name, answer=freed)
                if not step.keys:
                    self._drop(one.lease.key, one.name)
            if step.look:
                await self._see_them_gone(held, given)
            return

    async def _release(
        self, step: Step, leases: list[Any], manager: Any, error: BaseException | None
    ) -> list[str]:
        deferred = step.ending == "deferred"
        if manager is not None:
            await self.call(
                manager.__aexit__, type(error) if error else None, error,
                error.__traceback__ if error else None,
            )  # fmt: skip
            if error is not None:
                return ["left"] * len(leases)
            return ["sent" if deferred and step.how == "with" else "true"] * len(leases)
        if step.how == "many":
            freed = await self.call(self.way.client.release_many, leases)
            return [str(one).lower() for one in freed]
        answer = await self.call(leases[0].release, not deferred)
        return ["sent" if answer is None else str(answer).lower()]

    def _log_all(self, event: str, held: list[Held]) -> None:
        for one in held:
            self.log(event, id=one.name)

    def _drop(self, key: str, name: str) -> None:
        t = now()
        self.dropped.append((t + LATER, name, key, t))

    async def _look_for_dropped(self) -> None:
        """A key that nobody but this actor ever wanted, and no more: is it gone by now?"""
        while self.dropped and self.dropped[0][0] < now():
            _, name, key, since = self.dropped.popleft()
            t = now()
            answer = await self.way.truth(key)
            if answer is not None:
                self.log("later", t, id=name, since=since, there=answer[0] is not None)
            if answer is None or answer[0] is not None:
                self.dropped.append((t + AGAIN, name, key, since))

    async def _see_them_gone(self, held: list[Held], answers: list[str]) -> None:
        """After an answer that is certain the server must have the lease no more.

        But where its token may be another lease's by now.
        """
        if self.way.client.config.handover == "local":
            return
        for one, answer in zip(held, answers, strict=True):
            if answer in ("true", "false"):
                there = await self.way.truth(one.lease.key)
                if there is not None:
                    still = there[0] == one.lease.token.encode()
                    self.log("looked", id=one.name, still=still)
