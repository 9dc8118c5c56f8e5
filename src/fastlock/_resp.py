"""What both cores share: limits, and the classes they return that are not builtins.

Law: never compiled, so that the compiled and the Python codec return the very
same classes.
"""

from __future__ import annotations

from typing import Any

from .errors import TransportError

#: Most memory one top-level reply may ask for, in bytes: payload, ELEMENT_COST for each
#: element of an aggregate, ERROR_COST for each error, which is about what they take as Python
#: objects. Lock traffic needs a few hundred bytes; the bound leaves room for a script's answer
#: about 10**5 keys and stops a hostile or confused peer long before memory runs out.
MAX_REPLY = 16 * 1024 * 1024
ELEMENT_COST = 128
ERROR_COST = 512

#: The same of all replies to one call together, which a Pipe holds until the last has come.
MAX_ANSWER = 4 * MAX_REPLY

#: Longest simple string or error, in bytes. Servers say at most a few hundred.
MAX_LINE = 64 * 1024

#: Deepest nesting of aggregates. COMMAND INFO nests seven levels.
MAX_DEPTH = 16


class Push(list[Any]):
    """A RESP3 push message (">"): answers no command, arrives between answers."""

    __slots__ = ()


#: Longest big number, in digits: int() of much longer ones is refused by Python itself.
#: No other line that is a number, or announces one, is longer.
MAX_BIGNUM = 1000

#: What an integer of RESP, and of a command, can be.
INT64 = range(-(2**63), 2**63)

#: One text for every fault in the byte stream, so that it depends neither on the
#: core nor on how the bytes were cut into chunks.
MALFORMED = (
    f"the peer sent what is not RESP, a line over {MAX_LINE} or a reply over {MAX_REPLY} bytes, "
    f"or one nested over {MAX_DEPTH} deep: check that host and port are those of a Redis or "
    "Valkey server and that TLS is on at both ends or at neither"
)

#: Why a Pipe ends that is sent more than it would hold.
TOO_MUCH = f"the server answered one call with more than {MAX_ANSWER} bytes"
NO_ANSWER = "the server answered a command that nobody waits for with what is no answer to it"

#: What pack() and Decoder.feed() say to arguments of other types.
PACK_TYPES = "pack() takes bytes and integers of 64 bits"
FEED_TYPE = "feed() takes bytes"


class Reentered(TransportError):
    """A signal handler or finaliser called into the Pipe whose code it interrupted.

    Nothing was sent; the caller's driver uses a spare connection.
    """
