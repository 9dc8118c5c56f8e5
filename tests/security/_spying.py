"""Everything that a program shows of itself while it fails, and the secrets to look for in it.

Law: what could be read by somebody else is kept whole: logs at their most talkative, warnings,
output, errors with all that hangs on them, what pickles. Only frames' locals are left out.
"""

from __future__ import annotations

import copy
import io
import logging
import pickle
import traceback
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

PASSWORD = "pw-Kq7vXw2LrTz9-pw"
OTHER_PASSWORD = "pw-Wm4bNc8YsHd3-pw"
#: Shorter pieces of a secret could be anything.
PIECE = 12


class Spy:
    """``shown`` grows; ``look_for`` fails if a secret is in it."""

    def __init__(self) -> None:
        self.shown: list[str] = []

    def see(self, thing: Any, copies: bool = True) -> None:
        """An object of ours: its texts, and what can be had of it by pickling and copying."""
        self.shown += [str(thing), repr(thing), f"{thing}", ascii(thing)]
        for attempt in (pickle.dumps, copy.copy, copy.deepcopy) if copies else ():
            with suppress(TypeError):
                made: Any = attempt(thing)
                self.shown.append(repr(made))
                if isinstance(made, bytes):
                    self.shown.append(made.decode("latin-1"))
        if isinstance(thing, BaseException):
            self._see_error(thing)

    def _see_error(self, error: BaseException) -> None:
        self.shown += traceback.format_exception(error)
        seen: set[int] = set()
        todo: list[BaseException | None] = [error]
        while todo:
            link = todo.pop()
            if link is None or id(link) in seen:
                continue
            seen.add(id(link))
            # The answers that a broken call had are for the operation alone: never shown.
            attributes = {k: v for k, v in vars(link).items() if k != "replies"}
            self.shown += [str(link), repr(link), repr(link.args), repr(attributes)]
            with suppress(TypeError):
                self.shown.append(pickle.dumps(link).decode("latin-1"))
            todo += [link.__cause__, link.__context__]

    def look_for(self, secrets: Iterable[str]) -> None:
        """None of them, nor a piece of one, was shown."""
        text = "\n".join(self.shown)
        for secret in secrets:
            assert len(secret) >= PIECE
            for start in range(len(secret) - PIECE + 1):
                piece = secret[start : start + PIECE]
                at = text.find(piece)
                assert at < 0, f"a piece of a secret is shown: {text[max(0, at - 300) : at + 100]}"


@contextmanager
def spying() -> Iterator[Spy]:
    """Logs of everybody at DEBUG, and all warnings, go to the spy."""
    spy = Spy()
    log = io.StringIO()
    handler = logging.StreamHandler(log)
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield spy
    finally:
        root.setLevel(level)
        root.removeHandler(handler)
    spy.shown += [log.getvalue(), *map(str, caught), *[str(entry.message) for entry in caught]]
