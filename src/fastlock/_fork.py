"""What a forked child must forget. Law: the child owns nothing of its parent's.

``generation`` counts forks; what was made in another generation belongs to an
ancestor process. Everything registered here is told in the child, where it may
only drop its share: no shutdown, no TLS goodbye, nothing the parent would feel.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from time import monotonic
from typing import Any, Protocol
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


class LookUps:
    """Names being looked up by threads, which forks wait for.

    The C library's resolver has locks of its own: a child that was forked meanwhile would
    find them taken for ever. Look-ups do not wait for each other. Made of plain locks alone:
    eventlet's patch exchanges those, and leaves conditions broken.
    """

    def __init__(self) -> None:
        self._gate = threading.RLock()  # held during every fork
        self._under_way: list[Any] = []  # locks, each held by who looks up

    @contextmanager
    def one(self) -> Iterator[None]:
        """While this thread looks up a name."""
        mine = threading.RLock()
        with mine:
            try:
                with self._gate:
                    self._under_way.append(mine)
                yield
            finally:
                if mine in self._under_way:  # not interrupted before
                    self._under_way.remove(mine)

    def before_fork(self) -> None:
        """Wait, LONGEST_LOOK_UP at most, until no other thread looks up; none begins then.

        What a signal's handler raises meanwhile CPython shows (sys.unraisablehook) and drops,
        and forks at once, unguarded.
        """
        self._gate.acquire()
        end = monotonic() + LONGEST_LOOK_UP
        for other in tuple(self._under_way):
            if other.acquire(timeout=max(0.0, end - monotonic())):
                other.release()

    def after_fork(self) -> None:
        """In the parent."""
        with suppress(RuntimeError):  # an interrupt came before it was acquired
            self._gate.release()


#: Seconds that a fork waits for a name server at most; after that it goes on unguarded.
LONGEST_LOOK_UP = 5.0
look_ups = LookUps()


def _forget_look_ups() -> None:
    """In a child, whose only thread may be none of those that looked up."""
    global look_ups
    look_ups = LookUps()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=lambda: look_ups.before_fork(),
        after_in_parent=lambda: look_ups.after_fork(),
        after_in_child=_forget_look_ups,
    )
    os.register_at_fork(after_in_child=_in_child)
