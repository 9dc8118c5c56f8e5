"""The loops over a batch whose pairs belong to the servers of their slots, in Python.

Law: the same names, arguments and results as ``_divide.pyx``. They know keys, slots and
lists; whose a slot is, and what an answer means, others know.
"""

from __future__ import annotations

from binascii import crc_hqx
from itertools import repeat
from typing import Any

from ._slots import SLOTS, slot
from .errors import ServerError

__all__ = ["Division", "slot"]


class Division:
    """``pairs`` by the servers of their keys' slots.

    ``serving`` has a server for each slot, whatever stands for one; the same object is the same
    server. ``servers`` are those met, ``parts`` the pairs of each in their order.
    """

    __slots__ = ("_homes", "parts", "servers")

    def __init__(self, pairs: list[tuple[bytes, bytes]], serving: list[Any]) -> None:
        if len(serving) != SLOTS:
            raise ValueError("a server for each slot")
        keys = [key for key, _ in pairs]
        if b"{" in b"".join(keys):
            self._homes = homes = [serving[slot(key)] for key in keys]
        else:  # the whole key is what is hashed
            self._homes = homes = [serving[crc % SLOTS] for crc in map(crc_hqx, keys, repeat(0))]
        found: dict[Any, list[tuple[bytes, bytes]]] = {home: [] for home in dict.fromkeys(homes)}
        adding = {home: part.append for home, part in found.items()}
        for home, pair in zip(homes, pairs, strict=True):
            adding[home](pair)
        self.servers = list(found)
        self.parts = list(found.values())

    def __reduce__(self) -> Any:
        raise TypeError("what belongs to one call cannot be pickled or copied")

    def places(self) -> list[list[int]]:
        """For each server the places of its pairs."""
        found: dict[Any, list[int]] = {server: [] for server in self.servers}
        for place, home in enumerate(self._homes):
            found[home].append(place)
        return list(found.values())

    def merged(self, answers: list[Any]) -> list[Any] | None:
        """The servers' ``answers``, a list of each, in the order of the pairs.

        None if one is missing, or a ServerError.
        """
        if len(answers) != len(self.servers):
            raise ValueError("an answer of each server")
        following = {}
        for server, part, answer in zip(self.servers, self.parts, answers, strict=True):
            if answer is None or len(answer) != len(part):
                return None
            following[server] = iter(answer)
        replies = list(map(next, map(following.__getitem__, self._homes)))
        return None if ServerError in set(map(type, replies)) else replies
