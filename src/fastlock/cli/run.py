"""``fastlock run``: a command under a lock, as flock(1) does it for files.

Law: the command starts when the lock is ours, and the lock goes when the command has ended; its
exit code is ours, unless the lock was lost meanwhile, which is told. One task hears everything
that happens, in order: signals, the end of the command, the loss of the lock.
"""

from __future__ import annotations

import asyncio
import os
import signal
from argparse import Namespace
from contextlib import suppress
from typing import Any

from fastlock.aio import Client, Lease
from fastlock.config import Config
from fastlock.errors import AcquireTimeout, FastlockError, ServerError

from . import _exits, complain, quoted
from ._advice import what_to_try
from ._child import Child, NotRun, check
from ._settings import config_of, key_of
from ._signals import Ear, Heard

#: Seconds that the command's end waits for the lock's, if the server is in trouble.
_FREEING = 10.0
#: Seconds that leaving waits for its answer.
_LEAVING = 1.0
#: News, beside signals.
_LOST, _KILL = "lost", "kill"


def run(options: Namespace) -> int:
    """Take the lock, run the command, free the lock; see _exits for what is returned."""
    if not hasattr(os, "fork"):
        return complain("run needs a POSIX system; try: fastlock.Client in Python")
    config = config_of(options.url)
    try:
        check(options.words[0])
        return asyncio.run(_Session(options, config, Ear()).run())
    except NotRun as error:
        return complain(str(error), error.code)
    except AcquireTimeout as error:
        return complain(f"{error}; {what_to_try(error)}", options.conflict_exit_code)


class _Ended(Exception):
    """A signal came while nothing ran yet; ``args`` is its number."""


class _Session:
    """One lock, one command."""

    def __init__(self, options: Namespace, config: Config, ear: Ear) -> None:
        self._options = options
        self._config = config
        self._ear = ear
        self._lost = False
        self._freeing = False
        # Heard, _LOST or _KILL.
        self._news: asyncio.Queue[Any] = asyncio.Queue()

    async def run(self) -> int:
        loop = asyncio.get_running_loop()
        self._ear.listen(lambda heard: loop.call_soon_threadsafe(self._news.put_nowait, heard))
        try:
            async with Client(self._config) as client:
                try:
                    lease = await self._acquire(client)
                except AcquireTimeout as error:
                    raise await self._refused(client, error) from None
                try:
                    return await self._run_with(lease)
                finally:
                    await self._free(lease)
        except _Ended as end:
            return _exits.SIGNALLED + int(end.args[0])
        finally:
            self._ear.close()

    # -- waiting

    async def _acquire(self, client: Client) -> Lease:
        """The lease; raises _Ended if a signal comes first."""
        options = self._options
        renewed: dict[str, Any] = {}
        if options.auto_renew:
            # Being called keeps it out of the log: this tells of it itself.
            renewed = {"max_hold": options.max_hold, "on_lost": lambda _lease: None}
        taking = asyncio.ensure_future(
            client.acquire(
                key_of(options.key), options.ttl, options.timeout, fence=options.fence,
                fair=options.fair, auto_renew=options.auto_renew, **renewed,
            )
        )  # fmt: skip
        ending = asyncio.ensure_future(self._signal())
        await asyncio.wait({taking, ending}, return_when=asyncio.FIRST_COMPLETED)
        if not ending.done():
            ending.cancel()
            return taking.result()
        taking.cancel()
        (lease,) = await asyncio.gather(taking, return_exceptions=True)
        if isinstance(lease, Lease):
            await self._free(lease)
        else:  # what it had asked for was given back: the answer comes before this one's
            with suppress(FastlockError, asyncio.TimeoutError):
                await asyncio.wait_for(client.ping(), _LEAVING)
        raise _Ended(ending.result())

    async def _refused(self, client: Client, error: AcquireTimeout) -> AcquireTimeout:
        """The error, with the holder named also where a single try has not asked for it."""
        if self._options.timeout:
            return error
        try:
            holder = await client.holder(key_of(self._options.key))
        except FastlockError as refusal:
            if isinstance(refusal, ServerError) and refusal.code == "WRONGTYPE":
                raise
            return error
        if holder is None:  # it went at this moment
            return error
        return AcquireTimeout(f"{quoted(self._options.key)} is held by {holder}", error.key)

    async def _signal(self) -> int:
        while True:
            heard: Heard = await self._news.get()
            if heard.number != signal.SIGCHLD:
                return heard.number

    # -- running

    async def _run_with(self, lease: Lease) -> int:
        """The exit code."""
        options = self._options
        child = Child(
            options.words, self._variables(lease), self._ear.before, options.on_lost == "ignore"
        )
        losing = asyncio.ensure_future(self._lose(lease))
        try:
            while (code := child.code()) is None:
                self._hear(await self._news.get(), lease, child)
        except BaseException:
            child.tell(signal.SIGTERM)
            raise
        finally:
            losing.cancel()
        await self._free(lease)
        if lease.lost and not self._lost:
            self._say_lost(lease)
        if not self._lost or options.on_lost == "ignore":
            return code
        complain(f"the command ended with {code}")
        return _exits.LOST

    def _variables(self, lease: Lease) -> dict[str, str]:
        """The command's environment. The token is in it only if that was asked for."""
        ours = {"FASTLOCK_KEY": self._options.key}
        if lease.fence is not None:
            ours["FASTLOCK_FENCE"] = str(lease.fence)
        if self._options.pass_token:
            ours["FASTLOCK_TOKEN"] = lease.token
        outer = ("FASTLOCK_FENCE", "FASTLOCK_TOKEN")  # another lock's, if we run under one
        kept = {name: value for name, value in os.environ.items() if name not in outer}
        return {**kept, **ours}

    async def _lose(self, lease: Lease) -> None:
        if await lease.lost.wait():
            self._news.put_nowait(_LOST)

    def _hear(self, news: Any, lease: Lease, child: Child) -> None:
        if isinstance(news, Heard):
            if news.number != signal.SIGCHLD:
                child.pass_on(news)
        elif news == _KILL:
            child.tell(signal.SIGKILL)
        else:
            self._say_lost(lease)
            if self._options.on_lost != "ignore":
                child.tell(signal.SIGTERM)
            if self._options.on_lost == "stop":
                loop = asyncio.get_running_loop()
                loop.call_later(self._options.grace, self._news.put_nowait, _KILL)

    def _say_lost(self, lease: Lease) -> None:
        self._lost = True
        complain(f"{quoted(self._options.key)} was lost: {lease.lost.reason}")

    # -- freeing

    async def _free(self, lease: Lease) -> None:
        """Release it, once; what cannot be known is said."""
        if self._freeing:
            return
        self._freeing = True
        try:
            await asyncio.wait_for(lease.release(), _FREEING)
        except (FastlockError, asyncio.TimeoutError) as error:
            why = str(error) or "the server does not answer"
            complain(f"{quoted(self._options.key)} may not be free before its ttl ends: {why}")
