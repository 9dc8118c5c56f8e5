"""What both codecs share: limits and the one reply type that is not a builtin.

Law: never compiled, so that the compiled and the Python codec return the very
same classes.
"""

from __future__ import annotations

from typing import Any

#: Most memory one top-level reply may ask for, in bytes: payload plus
#: ELEMENT_COST for each element. Lock traffic needs a few hundred bytes; the
#: bound leaves room for a script's answer about 10**6 keys and stops a hostile
#: or confused peer long before memory runs out.
MAX_REPLY = 128 * 1024 * 1024
ELEMENT_COST = 64

#: Deepest nesting of aggregates. COMMAND INFO nests seven levels.
MAX_DEPTH = 16


class Push(list[Any]):
    """A RESP3 push message (">"): answers no command, arrives between answers."""

    __slots__ = ()
