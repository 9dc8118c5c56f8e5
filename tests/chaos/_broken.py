"""Mistakes that locks are known for, put into the clients of a run: the checker must find each.

Law: each changes what a caller of fastlock meets, as a worse library would have it, and is found by
what any run logs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, NamedTuple

import redis
from _harness import Sync

import fastlock.aio
import fastlock.sync
from chaos._actor import Actor
from chaos._log import now
from chaos._plan import LOSSES
from fastlock.errors import FastlockError
from fastlock.lease import BaseLease

LEASES = (fastlock.sync.Lease, fastlock.aio.Lease)
CLIENTS = (fastlock.Client, fastlock.aio.Client)


def _release_by(release: Callable[[Any], bool | None]) -> None:
    """``release(lease)`` is all that a release does; None: what fastlock does."""
    for kind in LEASES:
        original: Any = kind.release
        if asyncio.iscoroutinefunction(original):

            async def changed(self: Any, wait: bool = True, original: Any = original) -> Any:
                answer = release(self)
                if answer is not None:
                    return answer
                try:
                    return await original(self, wait) is not None or None
                except FastlockError:
                    return True

        else:

            def changed(self: Any, wait: bool = True, original: Any = original) -> Any:
                answer = release(self)
                if answer is not None:
                    return answer
                try:
                    return original(self, wait) is not None or None
                except FastlockError:
                    return True

        kind.release = changed


def _taken_with(change: Callable[[Any], None]) -> None:
    """``change`` every lease as it is had."""
    original = Actor._take

    async def take(self: Actor, *args: Any) -> Any:
        leases, manager = await original(self, *args)
        for lease in leases:
            if lease is not None:
                change(lease.raw if isinstance(lease, Sync) else lease)
        return leases, manager

    Actor._take = take  # type: ignore[method-assign]


# ------------------------------------------------------------------ the mistakes


def release_without_compare(server: redis.Redis) -> None:
    """Deletes the key, whoever has it by now."""

    def release(lease: Any) -> bool:
        try:
            server.delete(lease.key)
        except (redis.RedisError, OSError):
            return False
        lease.over = lease.freed = True
        return True

    _release_by(release)


def release_by_guess(server: redis.Redis) -> None:
    """Says that it has freed the lock, whatever the server says, or if it says nothing."""
    _release_by(lambda lease: None)


def valid_without_clock(server: redis.Redis) -> None:
    """A lease is valid until somebody says that it is not."""
    BaseLease.valid = lambda self: not self.over  # type: ignore[method-assign]


def deadline_after_reply(server: redis.Redis) -> None:
    """The ttl counts from when the answer was read."""

    def change(lease: Any) -> None:
        lease.deadline = now() + lease.ttl

    _taken_with(change)


def fence_by_counter(server: redis.Redis) -> None:
    """Numbers are counted on the server, beside the lock."""

    def change(lease: Any) -> None:
        if lease.fence is not None:
            lease.number = server.incr(f"{lease.key}:fastlock.fence:counted")

    _taken_with(change)


def loss_untold(server: redis.Redis) -> None:
    """A renewing holder learns nothing until it asks."""
    Actor._told = lambda self, *_: None  # type: ignore[method-assign]


def forks_share(server: redis.Redis) -> None:
    """A child thinks that its parent's leases are its own."""
    BaseLease.valid = lambda self: not self.over and now() < self.deadline  # type: ignore[method-assign]
    BaseLease._check_process = lambda self: None  # type: ignore[method-assign]


def cut_and_forgotten(server: redis.Redis) -> None:
    """Who leaves an acquire early leaves what it had asked for."""
    for kind in CLIENTS:
        kind._give_back_pairs = lambda self, *debt: None  # type: ignore[method-assign]


class Mistake(NamedTuple):
    make: Callable[[redis.Redis], None]
    rule: str  #: that must find it
    kinds: tuple[str, ...] = ("scripts",)  #: the faults of the server that it takes


MISTAKES = {
    mistake.make.__name__: mistake
    for mistake in (
        Mistake(release_without_compare, "exclusion"),
        Mistake(release_by_guess, "release"),
        Mistake(valid_without_clock, "exclusion"),
        Mistake(deadline_after_reply, "server"),
        Mistake(fence_by_counter, "fencing", LOSSES),
        Mistake(loss_untold, "told", LOSSES),
        Mistake(forks_share, "fork"),
        Mistake(cut_and_forgotten, "leak"),
    )
}


def apply(name: str, uri: str) -> None:
    """Make the mistake in this process; none for ""."""
    if name:
        MISTAKES[name].make(redis.Redis.from_url(uri, socket_timeout=1.0))
