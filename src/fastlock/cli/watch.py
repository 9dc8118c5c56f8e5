"""``fastlock watch``: the locks under a prefix, live.

Law: reads only. The server, or each master of a cluster, tells which keys change (client tracking,
broadcast for the prefix), and only those, and those shown, are looked at; they are scanned for once
at the start, after a flush, when another master has come, and where one does not tell. What they
tell is a hint: what is shown was looked at. A lost connection is made again, and that is told.
Ctrl-C is the way to end it, and no error; however it is told to end, the terminal has its cursor.
"""

from __future__ import annotations

import json
import sys
import time
from argparse import Namespace
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, NamedTuple

from fastlock._replies import is_demoted, is_transient
from fastlock._slots import QUEUE
from fastlock._watch import changed
from fastlock.config import Config
from fastlock.errors import FastlockError, ServerError, TransportError

from . import complain, one_line, printable
from ._ending import signals_as_exits
from ._look import Look, is_companion, literal, locks, scan
from ._screen import Shown, live_table
from ._servers import Servers
from ._settings import config_of
from ._wire import Wire

_HEAD = ("key", "holder", "for s", "ttl s", "in queue", "changes/s")

#: Seconds between two looks for what the server has told.
_LISTEN = 0.5
#: Changed keys that one look looks at: those of a busy prefix need not be locks.
_MOST_CHANGED = 5000


class Seen(NamedTuple):
    """One lock, and what was seen of it over time."""

    look: Look
    since: float  #: when this holder was first seen, monotonic seconds
    rate: float  #: changes of the key a second, since the look before


class Scene:
    """The locks under one prefix, as last looked at. Owns its connections' pushes."""

    def __init__(self, servers: Servers, config: Config, prefix: str, limit: int) -> None:
        self._servers = servers
        self._tells: dict[Wire, bool] = {}  # each, and whether it tells of changes
        self._asks = config.protocol == 3
        self._start = config.prefix.encode() + prefix.encode(errors="surrogateescape")
        self._limit = limit
        self._keys: dict[bytes, None] = {}  # of those shown, and of what a scan has found
        self._seen: dict[bytes, Seen] = {}
        self._changes: Counter[bytes] = Counter()  # since the last look
        self._looked = time.monotonic()
        self._stale = False  # they are to be scanned for
        #: Whether there are more than are shown.
        self.more: bool = False
        #: Why nothing was seen at the last look; None: all is well.
        self.trouble: str | None = None

    @property
    def told(self) -> bool:
        """Whether all tell of changes."""
        return all(self._tells.values())

    def _track(self, wire: Wire) -> bool:
        """Have it tell of all keys that begin so."""
        words = ("CLIENT", "TRACKING", "ON", "BCAST", "PREFIX", self._start)
        return self._asks and wire.refusal(*words) is None

    def listen(self) -> None:
        """Take what was told by now: a server keeps what nobody takes."""
        for wire in self._servers.all():
            if wire not in self._tells:
                self._tells[wire] = self._track(wire)
                self._stale = True
            if self._tells[wire]:
                self._listen_to(wire)

    def _listen_to(self, wire: Wire) -> None:
        wire.call("PING")
        while wire.pushes:
            keys = changed(wire.pushes.popleft())
            if keys is None:  # flushed: all of them
                self._stale = True
            else:
                self._changes.update(keys)

    def look(self) -> list[Seen]:
        """Look again: those held, or waited for, by their keys."""
        self.listen()
        changes, self._changes = self._changes, Counter()
        for key in changes:
            if QUEUE in key:
                key = key.partition(QUEUE)[0]
            elif is_companion(key):
                continue
            if len(self._keys) >= _MOST_CHANGED + self._limit:
                self.more = True
                break
            self._keys[key] = None
        if self._stale or not self.told or (self.more and len(self._seen) < self._limit):
            self._scan()
        keys = list(self._keys)
        looks = self._servers.look(keys)  # may raise: what was seen is kept till then
        now = time.monotonic()
        passed = max(now - self._looked, 1e-3)
        before, self._seen, self._looked = self._seen, {}, now
        for key, one in zip(keys, looks, strict=True):
            last = before.get(key)
            # One that is free at this moment, but in use, is not to come and go.
            busy = last is not None and changes[key] > 0 and one.token is None
            if one.problem is not None or not (one.ours or one.waiters or busy):
                continue
            if len(self._seen) == self._limit:
                self.more = True
                break
            stays = last is not None and last.look.token == one.token
            since = last.since if last is not None and stays else now
            self._seen[key] = Seen(one, since, changes[key] / passed)
        self._keys = dict.fromkeys(self._seen)
        return sorted(self._seen.values(), key=lambda seen: seen.look.key)

    def _scan(self) -> None:
        self._stale = self.more = False
        for wire in self._servers.all():
            for found in scan(wire, literal(self._start) + b"*"):
                self._keys.update(dict.fromkeys(locks(wire, found)))
                if len(self._keys) > self._limit + len(self._seen):  # some of which may be free now
                    self.more = True
                    return

    def connect_again(self) -> None:
        """Ask whoever serves the keys now; what was told meanwhile is lost."""
        self._tells.clear()
        self._stale = True
        self._servers.connect_again()


def run(options: Namespace) -> int:
    """Show them until Ctrl-C."""
    config = config_of(options.url)
    with suppress(KeyboardInterrupt), signals_as_exits(), Servers(config) as servers:
        scene = Scene(servers, config, options.prefix, options.limit)
        if options.json:
            for seen in _looks(scene, options):
                if scene.trouble is None:
                    print(json.dumps(_as_json(scene, options, seen)), flush=True)
        else:
            with live_table(options.once or not sys.stdout.isatty()) as show:
                for seen in _looks(scene, options):
                    show(_shown(scene, options, config, seen))
    return 0


def _looks(scene: Scene, options: Namespace) -> Iterator[list[Seen]]:
    """What is seen, every so often; of a server in trouble what was seen last."""
    seen = scene.look()
    while True:
        yield seen
        if options.once:
            return
        try:
            end = time.monotonic() + options.interval
            if scene.trouble is not None:
                time.sleep(options.interval)
                scene.connect_again()
            while (left := end - time.monotonic()) > 0:
                time.sleep(min(left, _LISTEN))
                scene.listen()
            seen, scene.trouble = scene.look(), None
        except FastlockError as error:
            if not _passes(error):
                raise
            if scene.trouble is None and options.json:
                complain(f"{error}; trying again")
            scene.trouble = str(error)


def _passes(error: FastlockError) -> bool:
    """Whether it may be over soon: the server restarts, or another one becomes the master."""
    if isinstance(error, ServerError):
        return is_transient(error) or is_demoted(error) or error.code == "CLUSTERDOWN"
    return isinstance(error, TransportError)


def _as_json(scene: Scene, options: Namespace, seen: list[Seen]) -> dict[str, Any]:
    now = time.monotonic()
    return {
        "time": round(time.time(), 3),
        "told": scene.told,
        "more": scene.more,
        "locks": [
            {
                **one.look.as_json(),
                "held_for": None if options.once else round(now - one.since, 3),
                "changes_per_second": (
                    round(one.rate, 1) if scene.told and not options.once else None
                ),
            }
            for one in seen
        ],
    }


def _shown(scene: Scene, options: Namespace, config: Config, seen: list[Seen]) -> Shown:
    now = time.monotonic()
    rows = []
    for one in seen:
        ttl = "-" if one.look.ttl is None else f"{one.look.ttl:.1f}"
        waiters = "?" if one.look.waiters is None else str(one.look.waiters)
        holder = one.look.holder or "(free)"
        since, rate = f"{now - one.since:.0f}", f"{one.rate:.1f}" if scene.told else "?"
        if options.once:  # which takes two looks
            since = rate = "-"
        rows.append([one.look.shown, holder, since, ttl, waiters, rate])
    held = sum(one.look.holder is not None for one in seen)
    waiting = sum(one.look.waiters or 0 for one in seen)
    keys = printable(f"{config.prefix}{options.prefix}*")
    title = f"{config.address} {keys}: {held} held, {waiting} waiting in fair queues"
    foot = "" if scene.told else "the server tells of no changes to this user: scanned each time"
    if scene.more:
        foot = f"there are more than {options.limit}; --limit shows more"
    if scene.trouble is not None:
        foot = f"as seen last: {one_line(scene.trouble)}; trying again"
    return Shown(title, _HEAD, rows, foot)
