"""Floor 3: what a reply means.

Law: pure functions of their arguments; no I/O, no clock. A reply that its verb cannot have is told
from one that says no. No sentence of a server reaches a user with anything in it that could be a
token.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from ._scripted import BEHIND, FIRST
from ._slots import companion, queue
from ._tokens import Pair, label_of
from .errors import ServerError, TransportError

#: Server errors that mean "not now", and surely "not done".
TRANSIENT = frozenset({"LOADING", "BUSY", "MASTERDOWN", "TRYAGAIN"})

#: Of a server that Sentinel has named: it may be a master no more, and another one is. None of
#: these commands was carried out.
_DEMOTED = frozenset({"READONLY", "LOADING", "MASTERDOWN", "NOREPLICAS"})

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
    **dict.fromkeys(("ask", "ask_many", "holder", "force_release"), _text_or_not),
    **dict.fromkeys(("acquire_fair", "acquire_fair_last"), _text_or_not),
    **dict.fromkeys(("release", "release_many", "give_back", "give_back_fair"), _yes_or_no),
    **dict.fromkeys(("acquire_all", "ask_all", "locked"), _yes_or_no),
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
