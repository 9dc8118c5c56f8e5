"""What a forked child must forget. Law: the child owns nothing of its parent's.

``generation`` counts forks; what was made in another generation belongs to an
ancestor process. Everything registered here is told in the child, where it may
only drop its share: no shutdown, no TLS goodbye, nothing the parent would feel.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
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


class _LookUps:
    """Any number of threads look names up at once; a fork waits for them, and they for it.

    For the C library's resolver has locks of its own, which a child that was forked
    meanwhile would find taken for ever.
    """

    def __init__(self) -> None:
        self._gate = threading.RLock()  # held during every fork
        self._under_way: list[threading.RLock] = []  # each held by who looks up

    @contextmanager
    def one(self) -> Iterator[None]:
        """Around a look-up. A signal handler that forks in its midst does not wait for it."""
        mine = threading.RLock()
        with mine:
            with self._gate:
                self._under_way.append(mine)
            try:
                yield
            finally:
                self._under_way.remove(mine)

    def before_fork(self) -> None:
        self._gate.acquire()
        for other in tuple(self._under_way):
            with other:
                pass

    def after_fork(self) -> None:
        """In the parent and in the child."""
        self._gate.release()


_look_ups = _LookUps()
#: ``with looking_up():`` around everything that may ask the system's resolver.
looking_up = _look_ups.one

if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_look_ups.before_fork,
        after_in_parent=_look_ups.after_fork,
        after_in_child=_look_ups.after_fork,
    )
    os.register_at_fork(after_in_child=_in_child)
