"""One process of a run: ``python -m chaos._worker '{"uri": ...}'``, ended by closing its stdin.

Law: whatever happens here that no caller should meet is a complaint in the log: an exception
nobody expects, one that was only logged, a warning of the interpreter's, something left behind.
"""

from __future__ import annotations

import asyncio
import faulthandler
import json
import logging
import os
import signal
import sys
import threading
import time
import traceback
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

import redis
from _harness import Sync, drive
from redis.backoff import NoBackoff
from redis.retry import Retry

import fastlock
import fastlock.aio
from chaos import _broken
from chaos._actor import Actor, Held, Way
from chaos._log import Log
from chaos._plan import ACTORS, HANDOVER, KEYS, Step, steps
from fastlock._handover import Giving

#: Seconds that the server has to tell the truth; in trouble it is not asked again.
TRUTH = 0.5


class Truth:
    """What the server has of a key, over connections of redis-py's."""

    def __init__(self, uri: str, sync: bool) -> None:
        self._redis = redis.Redis.from_url(
            uri, socket_timeout=TRUTH, socket_connect_timeout=TRUTH, retry=Retry(NoBackoff(), 0)
        )
        self._sync = sync

    async def __call__(self, key: str) -> tuple[bytes | None, int] | None:
        """Value and PTTL in ms, of one moment; None if there was no answer."""
        return self._ask(key) if self._sync else await asyncio.to_thread(self._ask, key)

    def _ask(self, key: str) -> tuple[bytes | None, int] | None:
        try:
            with self._redis.pipeline(transaction=True) as pipe:
                value, pttl = pipe.get(key).pttl(key).execute()
                return value, pttl
        except (redis.RedisError, OSError):
            return None

    def close(self) -> None:
        self._redis.close()


class Complaints(logging.Handler):
    """Errors that were caught and logged."""

    def __init__(self, log: Log) -> None:
        super().__init__(logging.ERROR)
        self.log = log

    def emit(self, record: logging.LogRecord) -> None:
        self.log("complaint", what=logging.Formatter().format(record)[-3000:])


class Worker:
    def __init__(self, said: dict[str, Any]) -> None:
        self.said = said
        self.log = Log(Path(said["folder"]), said["name"])
        self.sync = said["api"] == "sync"
        kind: Any = fastlock.Client if self.sync else fastlock.aio.Client
        self.client = kind(
            said["uri"],
            socket_timeout=said["patience"],
            connect_timeout=said["patience"],
            handover=HANDOVER[said["slot"]],
        )
        self.truth = Truth(said["uri"], self.sync)
        client = Sync(self.client) if self.sync else self.client
        self.way = Way(client, self.truth, self.log, self.sync)
        self.way.child = self._child
        self.way.sleep = self._sleep

    async def _sleep(self, seconds: float) -> None:
        if self.sync:
            time.sleep(seconds)
        else:
            await asyncio.sleep(seconds)

    def complain(self, what: str) -> None:
        self.log("complaint", what=what[-3000:])

    def _complain_of(self, *_: Any) -> None:
        self.complain(traceback.format_exc())

    def _count_hand_overs(self) -> None:
        """Log what came of each, as the giver says it."""
        original = Giving._tell

        def tell(giving: Giving, verdict: Any) -> None:
            original(giving, verdict)
            self.log("handed", kind=verdict.kind)

        Giving._tell = tell  # type: ignore[method-assign]

    def _listen(self) -> None:
        logging.getLogger().addHandler(Complaints(self.log))
        logging.getLogger("fastlock").setLevel(logging.ERROR)  # that locks get lost is no news
        sys.unraisablehook = lambda it: self.complain(
            "".join(traceback.format_exception(it.exc_type, it.exc_value, it.exc_traceback))
        )
        faulthandler.register(signal.SIGUSR1, all_threads=True)
        signal.signal(signal.SIGINT, self.way.interrupt)

        def wait_for_the_end() -> None:
            sys.stdin.read()
            self.way.stopping = True

        threading.Thread(target=wait_for_the_end, name="end", daemon=True).start()

    def _actors(self) -> list[Actor]:
        said = self.said
        return [
            Actor(
                self.way,
                number,
                steps(said["seed"], said["slot"], said["life"], number),
                Random(f"{said['name']}/{number}"),
            )
            for number in range(ACTORS)
        ]

    # ------------------------------------------------------------------ its life

    def run(self) -> None:
        self._listen()
        self._count_hand_overs()
        self.log("start", pid=os.getpid(), api=self.said["api"], core=self.client.core)
        if self.sync:
            self._run_threads()
        else:
            asyncio.run(self._run_tasks())
        self.truth.close()
        self.log("end", left=self._left())

    def _run_threads(self) -> None:
        def run(actor: Actor) -> None:
            try:
                drive(actor.run())
            except BaseException:
                self._complain_of()

        main, *others = self._actors()
        threads = [threading.Thread(target=run, args=(actor,)) for actor in others]
        for thread in threads:
            thread.start()
        run(main)
        for thread in threads:
            thread.join()
        self.client.close()

    async def _run_tasks(self) -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(
            lambda _, context: self.complain(
                f"{context['message']}\n"
                + "".join(traceback.format_exception(context.get("exception")))
            )
        )
        results = await asyncio.gather(
            *(actor.run() for actor in self._actors()), return_exceptions=True
        )
        for result in results:
            if result is not None:
                self.complain("".join(traceback.format_exception(result)))
        await self.client.close()
        me = asyncio.current_task()
        end = time.monotonic() + 2
        while (tasks := asyncio.all_tasks() - {me}) and time.monotonic() < end:
            await asyncio.sleep(0.01)
        for task in tasks:
            self.complain(f"left behind: {task}")

    def _left(self) -> list[str]:
        """Threads and sockets that should be gone."""
        end = time.monotonic() + 2
        while True:
            left = [thread.name for thread in threading.enumerate()]
            left = [name for name in left if name.startswith("fastlock")]
            for number in os.listdir("/proc/self/fd") if os.path.isdir("/proc/self/fd") else ():
                with suppress(OSError):
                    target = os.readlink(f"/proc/self/fd/{number}")
                    left += [target] if target.startswith("socket:") else []
            if not left or time.monotonic() > end:
                return left
            time.sleep(0.01)

    # ------------------------------------------------------------------ in a forked process

    def _child(self, parent: Actor, held: list[Held]) -> None:
        """Own nothing of the parent's, and lock all the same."""
        log = self.log.child(f"{self.log.name}-fork-{os.getpid()}")
        try:
            body = self._in_child(log, held)
            if self.sync:
                drive(body)
            else:
                asyncio.run(body)
        except BaseException:
            log("complaint", what=traceback.format_exc()[-3000:])
        log("end", left=[])

    async def _in_child(self, log: Log, held: list[Held]) -> None:
        log("start", pid=os.getpid(), api=self.said["api"], core=self.client.core)
        for one in held:
            valid = one.lease.valid()
            try:
                answer = repr(await one.lease.release())
            except fastlock.LockError as error:
                answer = type(error).__name__
            log("child", id=one.name, valid=valid, release=answer)
        way = Way(self.way.client, self.truth, log, self.sync)
        way.sleep = self._sleep
        step = Step(
            how="wait", keys=(KEYS[1],), ttl=0.5, patience=1.0, fence=False, renew=False,
            hold=0.02, extend=None, ending="release", cut=None, fork=False, look=False,
            fair=True,
        )  # fmt: skip
        await Actor(way, 1, iter((step,)), Random(0)).run()
        await self.way.client.close()


def main() -> None:
    said = json.loads(sys.argv[1])
    worker = Worker(said)
    _broken.apply(said["broken"], said["uri"])
    worker.run()


if __name__ == "__main__":
    main()
