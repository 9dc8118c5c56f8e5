"""Floor 3: verb -> bytes, per server dialect.

Law: pure functions of their arguments; no I/O, no clock, no state but the dialect
of one connection. The scripts stand beside this file in ``_scripts``.

Three dialects of compare-and-delete: DELIFEQ (Valkey 9), DELEX (Redis 8.4), and
EVALSHA everywhere else. A server with one of the first two also has the forms of
SET used here: ``SET k t NX GET PX`` (take it or tell who has it) and
``SET k t IFEQ t PX`` (compare-and-extend; with another token: compare-and-swap). Valkey 8.1 has
these alone. Which commands there are, the server says; of the forms of SET, it says nothing
short of COMMAND DOCS, several kilobytes for every connection: there its version tells.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ._args import NO_EXPIRY
from ._scripted import Script, Scripted
from ._tokens import Pair


class Packing(Protocol):
    """What of a core makes bytes; see ``_pypack``."""

    @property
    def pack(self) -> Callable[..., bytes]: ...
    @property
    def prepare(self) -> Callable[..., Any]: ...


_RELEASE = Script("release")
_EXTEND = Script("extend")
_EXTEND_BY = Script("extend_by")
_HAND_OVER = Script("hand_over")
_ASK = Script("ask")
_ASK_ALL = Script("ask_all")


@dataclass(frozen=True)
class ServerInfo:
    """What is at the other end of a connection."""

    name: str  #: "redis", "valkey", ... ; "unknown" if the user may not ask
    version: str
    release_command: str  #: "DELIFEQ", "DELEX" or "EVALSHA"
    protocol: int  #: RESP version, 2 or 3
    connection_id: int | None  #: the server's number for this connection
    run_id: str  #: changes with every start of the server; "" if unknown


class Commands(Scripted):
    """Verbs as bytes, in the dialect that every server speaks: scripts."""

    release_command = "EVALSHA"
    #: The usual reply to ``renew``.
    renewed: bytes | int = 1

    def __init__(self, packing: Packing, msetex: bool = False) -> None:
        self.packing = packing
        self.pack = packing.pack
        self._msetex = msetex
        self.acquiring = packing.prepare(b"SET", bytes, bytes, b"NX", b"PX", int)
        self.releasing = packing.prepare(*self._release_parts())
        #: SET if absent: key, token, ttl in ms. Answered by ``acquired``.
        self.acquire: Callable[[bytes, bytes, int], bytes] = self.acquiring.fill
        #: Compare-and-delete: key, token. 1 freed, 0 not ours.
        self.release: Callable[[bytes, bytes], bytes] = self.releasing.fill

    def _release_parts(self) -> tuple[Any, ...]:
        return b"EVALSHA", _RELEASE.sha, 1, bytes, bytes

    def spelled_out(self) -> Commands:
        """The same verbs for a server that lost its scripts, or refuses native commands."""
        return SpelledOut(self.packing)

    def without(self, verb: str) -> Commands:
        """The same for a user who may not use the native command of ``verb``, if it has one."""
        if verb == "acquire_all" and self._msetex:
            return type(self)(self.packing)
        return self

    def _eval(self, script: Script, *args: bytes | int) -> bytes:
        return self.pack(b"EVALSHA", script.sha, *args)

    # -- one key

    def acquire_unending(self, key: bytes, token: bytes, ttl: int) -> bytes:
        """``acquire`` without any ttl, for NO_EXPIRY: a lock that ends by release only."""
        return self.pack(b"SET", key, token, b"NX")

    def ask(self, key: bytes, token: bytes, ttl: int) -> bytes:
        """Take it or tell who has it; ``ttl`` in ms or NO_EXPIRY. Answered by ``asked``."""
        return self._eval(_ASK, 1, key, token, ttl)

    def extend(self, key: bytes, token: bytes, ttl: int) -> bytes:
        """Compare-and-extend; ``ttl`` in ms from now. Answered by ``extended``."""
        return self._eval(_EXTEND, 1, key, token, ttl)

    def renew(self, key: bytes, token: bytes, ttl: int) -> bytes:
        """``extend`` for when nobody may look at the answer; ``renewed`` if it was carried out."""
        return self.pack(b"EVAL", _EXTEND.text, 1, key, token, ttl)

    def extend_by(self, key: bytes, token: bytes, more: int) -> bytes:
        """Compare-and-add to what is left; ``more`` in ms, may be negative.

        The new ttl in ms, or 0 not ours, -1 it has no ttl, -2 nothing would be left.
        """
        return self._eval(_EXTEND_BY, 1, key, token, more)

    def hand_over(self, key: bytes, token: bytes, heir: bytes, ttl: int) -> bytes:
        """Compare-and-swap to another token; ``ttl`` in ms from now. Answered by ``handed``."""
        return self._eval(_HAND_OVER, 1, key, token, heir, ttl)

    def adopt(self, key: bytes) -> bytes:
        """Remaining ttl in ms, then the token: two replies, in this order.

        The time is asked first, so that it can only be too short for the token.
        """
        return self.pack(b"PTTL", key) + self.pack(b"GET", key)

    def locked(self, key: bytes) -> bytes:
        """EXISTS."""
        return self.pack(b"EXISTS", key)

    def holder(self, key: bytes) -> bytes:
        """GET."""
        return self.pack(b"GET", key)

    def force_release(self, key: bytes) -> bytes:
        """GETDEL, whoever holds it: unlike DEL it leaves what is no lock alone."""
        return self.pack(b"GETDEL", key)

    def ping(self) -> bytes:
        """PING."""
        return self.pack(b"PING")

    def wait(self, replicas: int, most: int) -> bytes:
        """WAIT: the number of replicas that have what this connection wrote, ``most`` ms later.

        Or as soon as it is ``replicas``.
        """
        return self.pack(b"WAIT", replicas, most)

    # -- many keys

    def acquire_many(self, pairs: list[Pair], ttl: int) -> bytes:
        """``acquire`` of each, in one run of bytes."""
        data: bytes = self.acquiring.many(pairs, ttl)
        return data

    def ask_many(self, pairs: Sequence[Pair], ttl: int) -> bytes:
        """``ask`` of each."""
        return b"".join([self.ask(key, token, ttl) for key, token in pairs])

    def release_many(self, pairs: list[Pair]) -> bytes:
        """``release`` of each."""
        data: bytes = self.releasing.many(pairs)
        return data

    def extend_many(self, pairs: list[Pair], ttl: int) -> bytes:
        """``extend`` of each, to the same ttl."""
        return b"".join([self.extend(key, token, ttl) for key, token in pairs])

    def give_back(self, pairs: list[Pair]) -> bytes:
        """``release_many`` for when nobody may look at the answers."""
        return SpelledOut(self.packing).release_many(pairs)

    def acquire_all(self, pairs: Sequence[Pair], ttl: int) -> bytes:
        """All or none, if absent: 1 all taken, 0 none."""
        if not self._msetex:
            return self.ask_all(pairs, ttl)
        flat = [part for pair in pairs for part in pair]
        return self.pack(b"MSETEX", len(pairs), *flat, b"NX", b"PX", ttl)

    def ask_all(self, pairs: Sequence[Pair], ttl: int) -> bytes:
        """All or none, those an earlier try of ours took included: 1 all ours, 0 not."""
        keys = [key for key, _ in pairs]
        return self._eval(_ASK_ALL, len(keys), *keys, ttl, *[token for _, token in pairs])


class SpelledOut(Commands):
    """Scripts by their text: works on any server and loads them for the next time."""

    def _release_parts(self) -> tuple[Any, ...]:
        return b"EVAL", _RELEASE.text, 1, bytes, bytes

    def _eval(self, script: Script, *args: bytes | int) -> bytes:
        return self.pack(b"EVAL", script.text, *args)

    def release_many(self, pairs: list[Pair]) -> bytes:
        rest = Commands(self.packing).release_many(pairs[1:])  # the first has loaded the script
        return self.release(*pairs[0]) + rest

    def extend_many(self, pairs: list[Pair], ttl: int) -> bytes:
        rest = Commands(self.packing).extend_many(pairs[1:], ttl)
        return self.extend(*pairs[0], ttl) + rest


class SetCommands(Commands):
    """Valkey 8.1: SET compares, but a release takes a script."""

    renewed = b"OK"

    def ask(self, key: bytes, token: bytes, ttl: int) -> bytes:
        if ttl == NO_EXPIRY:
            return self.pack(b"SET", key, token, b"NX", b"GET")
        return self.pack(b"SET", key, token, b"NX", b"GET", b"PX", ttl)

    def extend(self, key: bytes, token: bytes, ttl: int) -> bytes:
        return self.pack(b"SET", key, token, b"IFEQ", token, b"PX", ttl)

    def renew(self, key: bytes, token: bytes, ttl: int) -> bytes:
        return self.extend(key, token, ttl)

    def hand_over(self, key: bytes, token: bytes, heir: bytes, ttl: int) -> bytes:
        return self.pack(b"SET", key, heir, b"IFEQ", token, b"PX", ttl)


class _Native(SetCommands):
    """Servers with a compare-and-delete of their own."""

    def without(self, verb: str) -> Commands:
        if verb in ("release", "release_many", "give_back"):
            return SetCommands(self.packing, self._msetex)
        return super().without(verb)

    def give_back(self, pairs: list[Pair]) -> bytes:
        return self.release_many(pairs)


class ValkeyCommands(_Native):
    """Valkey 9 and newer."""

    release_command = "DELIFEQ"

    def _release_parts(self) -> tuple[Any, ...]:
        return b"DELIFEQ", bytes, bytes


class RedisCommands(_Native):
    """Redis 8.4 and newer."""

    release_command = "DELEX"

    def _release_parts(self) -> tuple[Any, ...]:
        return b"DELEX", bytes, b"IFEQ", bytes


# -- the first words on a connection


def greeting(pack: Callable[..., bytes]) -> tuple[bytes, int]:
    """What to ask a new connection, and the number of replies."""
    return (
        pack(b"CLIENT", b"ID")
        + pack(b"INFO", b"server")
        + pack(b"COMMAND", b"INFO", b"DELIFEQ", b"DELEX", b"MSETEX")
    ), 3


def kill_connection(pack: Callable[..., bytes], connection_id: int) -> bytes:
    """End another connection of ours, so that nothing it still carries can land."""
    return pack(b"CLIENT", b"KILL", b"ID", connection_id)


#: INFO says what is asked here in its first few hundred bytes.
_MOST_INFO = 65536
#: What a server may call itself: it is shown, and not to be trusted.
_PLAIN = re.compile(r"[A-Za-z0-9._+-]{1,40}")


def dialect(packing: Packing, replies: Sequence[Any], protocol: int) -> tuple[Commands, ServerInfo]:
    """Choose the dialect from the replies to ``greeting``; a refused question is no answer."""
    number, info, known = replies
    facts = {}
    if isinstance(info, bytes):
        for line in info[:_MOST_INFO].decode("utf-8", "replace").splitlines():
            name, _, value = line.partition(":")
            if _PLAIN.fullmatch(value):
                facts[name] = value
    told = isinstance(known, list) and len(known) == 3
    delifeq, delex, msetex = [bool(entry) for entry in known] if told else [False] * 3
    name = facts.get("server_name") or ("redis" if "redis_version" in facts else "unknown")
    version = facts.get(f"{name}_version") or facts.get("redis_version") or "unknown"
    kind: type[Commands] = Commands
    if delifeq:
        kind = ValkeyCommands
    elif delex:
        kind = RedisCommands
    elif name == "valkey" and _numbers(version) >= (8, 1):
        kind = SetCommands
    return kind(packing, msetex), ServerInfo(
        name=name,
        version=version,
        release_command=kind.release_command,
        protocol=protocol,
        connection_id=number if type(number) is int else None,
        run_id=facts.get("run_id", ""),
    )


def _numbers(version: str) -> tuple[int, ...]:
    """(8, 1, 1) of "8.1.1"; () of "unknown"."""
    return tuple(map(int, re.findall(r"\d+", version)))
