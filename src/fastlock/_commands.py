"""Floor 3: verb -> bytes, reply -> outcome, per server dialect.

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
from ._scripted import BEHIND, FIRST, Script, Scripted
from ._slots import companion, queue
from ._tokens import label_of
from .errors import ServerError, TransportError

Pair = tuple[bytes, bytes]  # wire key, token

#: Server errors that mean "not now", and surely "not done".
TRANSIENT = frozenset({"LOADING", "BUSY", "MASTERDOWN", "TRYAGAIN"})

#: Of a server that Sentinel has named: it may be a master no more, and another one is. None of
#: these commands was carried out.
_DEMOTED = frozenset({"READONLY", "LOADING", "MASTERDOWN", "NOREPLICAS"})


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
        """DEL, whoever holds it."""
        return self.pack(b"DEL", key)

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


# -- replies


#: How DELEX begins what every other command calls WRONGTYPE.
_ANOTHER_TYPE = "ERR Key should be of string type"
#: What fencing.lua says of a lock or its companion.
_NUMBERED_KEY = re.compile(r"WRONGTYPE (lock|companion) (\d+) ")

#: What an answer to "acquire" or "ask" says; anything else is the holder's label.
TAKEN = "taken now"
OURS = "taken by an earlier try of ours"


def acquired(reply: Any) -> str:
    """TAKEN, or "somebody else"."""
    return TAKEN if reply == b"OK" else "somebody else"


def asked(reply: Any, token: bytes) -> str:
    """TAKEN, OURS or the holder's label; numbers say the former two as well."""
    if reply is None or type(reply) is int:
        return TAKEN
    if reply == token or type(reply) is list:
        return OURS
    if type(reply) is not bytes:
        return ""
    for said in (BEHIND, FIRST):  # behind any token, another library's too
        if reply.endswith(said.encode()):
            return label_of(reply[: -len(said)]) + said
    return label_of(reply)


def number_of(reply: Any) -> int:
    """The fencing number of a lock that is TAKEN or OURS."""
    number: int = reply if type(reply) is int else reply[0]
    return number


def extended(reply: Any) -> bool:
    """Whether the extension was carried out; else the lock was not ours."""
    return bool(reply == b"OK" or reply == 1)


def handed(reply: Any) -> bool:
    """Whether the lock was handed over; else it was not ours. A number says yes as well."""
    return bool(reply)


#: What could be a token, or a piece of one: servers and proxies may repeat what they were sent.
_SECRET = re.compile(r"[A-Za-z0-9_+/=-]{20,}")


def told(error: ServerError) -> str:
    """What the server said, without anything that could be a token."""
    return _SECRET.sub("***", str(error))


def checked(reply: Any, key: str | bytes) -> Any:
    """The reply, unless it is a server error: raised, with the key named and no token."""
    if isinstance(reply, ServerError):
        said = told(reply)
        if said.startswith(_ANOTHER_TYPE):
            said = f"WRONGTYPE{said[3:]}"
        raise ServerError(f"{said} (key {key!r})")
    return reply


def with_companion(
    error: ServerError, keys: Sequence[str | bytes], pairs: Sequence[Pair]
) -> ServerError:
    """The error, with the key named that it is about; with both of the first lock if any is."""
    said = told(error)
    if "executing the script" in said:  # Redis 7, which does not say what it is about
        said += "; a lock with a fencing number takes GET, SET and TIME"
    which = _NUMBERED_KEY.match(said)
    place = int(which[2]) - 1 if which else 0
    lock, beside = f"key {keys[place]!r}", f"companion key {companion(pairs[place][0])!r}"
    about = f"{lock}, {beside}" if not which else lock if which[1] == "lock" else beside
    return ServerError(f"{said} ({about})")


def with_queue(error: ServerError, key: str | bytes, wire: bytes) -> ServerError:
    """The error of a step of a fair lock, with the key named that it is about, or all of them."""
    said = told(error)
    if "executing the script" in said:  # Redis 7, as above
        said += "; a fair lock takes GET, SET, DEL, TIME, PEXPIRE, ZADD, ZRANGE, ZREM and ZSCORE"
    which = _NUMBERED_KEY.match(said)
    if which:
        about = f"key {key!r}" if which[1] == "lock" else f"companion key {companion(wire)!r}"
    else:
        about = f"queue key {queue(wire)!r}"
        if "WRONGTYPE" not in said:
            about = f"key {key!r}, {about}"
    return ServerError(f"{said} ({about})")


def wants_spelling_out(reply: Any) -> bool:
    """Whether the server has no such script, or no such command for this user."""
    return isinstance(reply, ServerError) and (reply.code == "NOSCRIPT" or lacks_command(reply))


def lacks_command(error: ServerError) -> bool:
    """Whether it is the command that is unknown or forbidden, not the key."""
    text = str(error)
    return text.startswith("ERR unknown command") or (
        error.code == "NOPERM" and "permissions to run" in text
    )


def lacks_native(error: ServerError) -> bool:
    """Whether it is one of the server's own commands, for which a script can stand."""
    return lacks_command(error) and "evalsha" not in str(error).lower()


def _taken_or_not(reply: Any) -> bool:
    return reply is None or reply == b"OK"


def _text_or_not(reply: Any) -> bool:
    return reply is None or type(reply) is bytes


def _yes_or_no(reply: Any) -> bool:
    return reply in (0, 1)


def _extended_or_not(reply: Any) -> bool:
    return _taken_or_not(reply) or _yes_or_no(reply)


def _fence_or_not(reply: Any) -> bool:
    return type(reply) is int and (reply == 0 or _is_fence(reply))


def _number(reply: Any) -> bool:
    return type(reply) is int


def _fenced_or_not(reply: Any) -> bool:
    return type(reply) is bytes or _is_fence(reply) or (_fences(reply) and len(reply) == 1)


def _all_fenced_or_not(reply: Any) -> bool:
    return reply == 0 or _fences(reply)


def _is_fence(reply: Any) -> bool:
    return type(reply) is int and 0 < reply < 2**53  # beyond that Lua cannot count


def _fences(reply: Any) -> bool:
    return type(reply) is list and all(map(_is_fence, reply))


def _ttl_and_token(replies: Any) -> bool:
    left, token = replies
    return (_number(left) or isinstance(left, ServerError)) and (
        _text_or_not(token) or isinstance(token, ServerError)
    )


#: What a verb may be answered with, but for errors.
_ANSWERS: dict[str, Callable[[Any], bool]] = {
    **dict.fromkeys(("acquire", "acquire_unending", "acquire_many"), _taken_or_not),
    **dict.fromkeys(("ask", "ask_many", "holder"), _text_or_not),
    **dict.fromkeys(("acquire_fair", "acquire_fair_last"), _text_or_not),
    **dict.fromkeys(("release", "release_many", "give_back", "give_back_fair"), _yes_or_no),
    **dict.fromkeys(("acquire_all", "ask_all", "locked", "force_release"), _yes_or_no),
    **dict.fromkeys(("acquire_fenced", "acquire_fenced_many"), _fenced_or_not),
    **dict.fromkeys(("acquire_fair_fenced", "acquire_fair_fenced_last"), _fenced_or_not),
    "acquire_fenced_all": _all_fenced_or_not,
    **dict.fromkeys(("extend", "extend_many"), _extended_or_not),
    "extend_by": _number,
    "hand_over": _extended_or_not,
    "hand_over_fenced": _fence_or_not,
    "adopt": _ttl_and_token,
}


def is_unusual(verb: str, reply: Any) -> bool:
    """Whether the reply is an error, or nonsense."""
    return isinstance(reply, ServerError) or is_nonsense(verb, reply)


def is_nonsense(verb: str, reply: Any) -> bool:
    """Whether no server answers this verb so: whose answer it is, then cannot be known.

    Of "adopt" both replies are looked at together.
    """
    answers = _ANSWERS.get(verb)
    return answers is not None and not answers(reply) and not isinstance(reply, ServerError)


def out_of_step(sent_at: float) -> TransportError:
    """The connection can no longer be trusted; what was sent then may have been done."""
    error = TransportError("the server gave an answer that the command cannot have", sent=True)
    error.sent_at = sent_at
    return error


def is_transient(reply: Any) -> bool:
    """Whether the server says "not now": surely nothing was done."""
    return isinstance(reply, ServerError) and (reply.passing or reply.code in TRANSIENT)


def is_demoted(reply: Any) -> bool:
    """Whether a server says that it is, or may be, a master no more: surely nothing was done."""
    if not isinstance(reply, ServerError):
        return False
    # Redis 6 puts what a script has met behind words of its own.
    return reply.code in _DEMOTED or (reply.code == "ERR" and ": -READONLY " in str(reply))


def not_ready(error: ServerError) -> TransportError:
    """The server is up but not working yet; surely nothing was done."""
    return TransportError(f"the server is not ready: {told(error)}")


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
