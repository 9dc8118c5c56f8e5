"""What a forked child must forget. Law: the child owns nothing of its parent's.

``generation`` counts forks; what was made in another generation belongs to an
ancestor process. Everything registered here is told in the child, where it may
only drop its share: no shutdown, no TLS goodbye, nothing the parent would feel.
"""

from __future__ import annotations

import os
import threading
from typing import Protocol
from weakref import WeakSet

from .errors import FastlockError


class _Forgetful(Protocol):
    def forked(self) -> None: ...


generation = 0
_registered: WeakSet[_Forgetful] = WeakSet()


def register(thing: _Forgetful) -> None:
    """Have ``thing.forked()`` called in every forked child, for as long as it lives."""
    _registered.add(thing)


def check(before: int) -> None:
    """In a child that a signal handler forked, the interrupted call is not ours to go on with."""
    if before != generation:
        raise FastlockError(
            "this process was forked in the middle of a call, which is its parent's"
        ) from None


def _in_child() -> None:
    global generation
    generation += 1
    trouble: BaseException | None = None
    for thing in list(_registered):
        try:
            thing.forked()
        except BaseException as error:  # a signal's, perhaps: the others must be told all the same
            trouble = trouble or error
    if trouble is not None:
        raise trouble  # CPython shows it (sys.unraisablehook) and goes on


#: Held while a name is looked up, and during every fork: the C library's resolver has locks
#: of its own, which a child forked meanwhile would find taken for ever.
resolving = threading.RLock()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=resolving.acquire,
        after_in_parent=resolving.release,
        after_in_child=resolving.release,
    )
    os.register_at_fork(after_in_child=_in_child)
