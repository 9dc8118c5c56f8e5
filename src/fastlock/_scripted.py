"""Floor 3: verbs that are a script on every server: with fencing numbers, and with a queue.

Law: that of ``_commands.py``, whose dialects send them by hash or by text. Pairs are those of wire
key and token.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from importlib import resources

from ._slots import companion, queue, turns

#: ms that a place in a queue lasts from each step of its waiter.
PLACE = 3000
#: What acquire_fair.lua says to a last step behind the token of who is next, if the lock is free.
FIRST = " (first in the queue)"
#: What it says behind a token to who goes on waiting and is not the first of those who do.
BEHIND = " (others wait before)"


class Script:
    """One Lua script of one file or more: its text, and the hash the server knows it by."""

    def __init__(self, *names: str) -> None:
        scripts = resources.files("fastlock").joinpath("_scripts")
        text = b"".join(scripts.joinpath(f"{name}.lua").read_bytes() for name in names)
        # The comments are for readers of the file, not for every server's script cache.
        lines = [line for line in text.splitlines() if not line.startswith(b"--")]
        self.text = b"\n".join(lines)
        self.sha = hashlib.sha1(self.text, usedforsecurity=False).hexdigest().encode()


_ACQUIRE_FENCED = Script("fencing", "acquire_fenced")
_ACQUIRE_FENCED_ALL = Script("fencing", "acquire_fenced_all")
_HAND_OVER_FENCED = Script("fencing", "hand_over_fenced")
_ACQUIRE_FAIR = Script("fencing", "fair", "acquire_fair")
_LEAVE_FAIR = Script("fair", "leave_fair")


def turn(key: bytes, token: bytes) -> bytes:
    """The key that is there while who waits with that token has somebody before it.

    Names of keys are no secret; tokens are.
    """
    name = hashlib.sha1(token, usedforsecurity=False).hexdigest()
    return turns(key) + name.encode()


class Scripted:
    """What ``Commands`` are made of besides."""

    pack: Callable[..., bytes]

    def _eval(self, script: Script, *args: bytes | int) -> bytes:
        raise NotImplementedError

    # -- with fencing numbers: for a first try and a later one

    def acquire_fenced(self, key: bytes, token: bytes, ttl: int) -> bytes:
        """Take it with a number, or tell who has it. Answered by ``asked``, ``number_of``."""
        return self._eval(_ACQUIRE_FENCED, 2, key, companion(key), token, ttl)

    def hand_over_fenced(self, key: bytes, token: bytes, heir: bytes, ttl: int) -> bytes:
        """``hand_over`` with a number for the heir. Answered by ``handed``, ``number_of``."""
        return self._eval(_HAND_OVER_FENCED, 2, key, companion(key), token, heir, ttl)

    def acquire_fenced_many(self, pairs: Sequence[tuple[bytes, bytes]], ttl: int) -> bytes:
        """``acquire_fenced`` of each."""
        return b"".join([self.acquire_fenced(key, token, ttl) for key, token in pairs])

    def acquire_fenced_all(self, pairs: Sequence[tuple[bytes, bytes]], ttl: int) -> bytes:
        """``ask_all`` with numbers: those of all if all are ours, 0 if not."""
        keys = [key for key, _ in pairs]
        companions = [companion(key) for key in keys]
        tokens = [token for _, token in pairs]
        return self._eval(_ACQUIRE_FENCED_ALL, 2 * len(keys), *keys, *companions, ttl, *tokens)

    # -- first come first served; ``ttl`` in ms or NO_EXPIRY, answered by ``asked``

    def acquire_fair(self, key: bytes, token: bytes, ttl: int) -> bytes:
        """Take it if nobody waits before us; else have a place in its queue, or keep it."""
        return self._eval(_ACQUIRE_FAIR, 2, key, queue(key), token, ttl, PLACE, turns(key))

    def acquire_fair_last(self, key: bytes, token: bytes, ttl: int) -> bytes:
        """The same, but for the last time: else have no place in its queue any more."""
        return self._eval(_ACQUIRE_FAIR, 2, key, queue(key), token, ttl, 0, turns(key))

    def acquire_fair_fenced(self, key: bytes, token: bytes, ttl: int) -> bytes:
        """``acquire_fair`` with a number."""
        keys = key, companion(key), queue(key)
        return self._eval(_ACQUIRE_FAIR, 3, *keys, token, ttl, PLACE, turns(key))

    def acquire_fair_fenced_last(self, key: bytes, token: bytes, ttl: int) -> bytes:
        """``acquire_fair_last`` with a number."""
        keys = key, companion(key), queue(key)
        return self._eval(_ACQUIRE_FAIR, 3, *keys, token, ttl, 0, turns(key))

    def give_back_fair(self, pairs: Sequence[tuple[bytes, bytes]]) -> bytes:
        """``give_back``, of places in queues too. By text: nobody may look at the answers."""
        return b"".join(
            [
                self.pack(b"EVAL", _LEAVE_FAIR.text, 2, key, queue(key), token, turns(key))
                for key, token in pairs
            ]
        )
