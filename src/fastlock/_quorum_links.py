"""Floor 1, what both APIs have in common of a quorum's connections: how long is waited for whom.

Law: no I/O; each API waits in its own way, for as long as is said here. Nothing is sent before
it is known that no two nodes are the same server.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from ._clock import clock
from ._quorum_polls import Poll, majority_of
from .errors import ConfigError

#: The longest part of a ttl that one round of questions may take.
PART = 4


def patience_of(node_timeout: float, poll: Poll) -> float:
    """Seconds to wait for answers, or for a minority's connections: less for a short ttl."""
    return node_timeout if poll.ttl is None else min(node_timeout, poll.ttl / 1000 / PART)


class Connecting:
    """Somebody who has a question for those of ``nodes`` that are ``asked``.

    For a majority he waits as long as connecting may take (``longest`` seconds), or until
    ``until`` and ``patience`` seconds; for the rest of them ``patience`` seconds, from when there
    is a majority. Nodes that are not asked are not waited for.
    """

    def __init__(
        self,
        nodes: Sequence[Any],
        asked: Iterable[int],
        until: float | None,
        longest: float,
        patience: float,
    ) -> None:
        now = clock()
        self._nodes = nodes
        self._asked = set(asked)
        self._patience = patience
        self._last = now + longest
        if until is not None:
            self._last = min(self._last, max(now, until) + patience)
        self._tried: set[int] = set()  # since he came: each once

    def left(self) -> float:
        """Have connected what can be; seconds for which to wait for that, 0.0: not at all."""
        missing = [node for node in self._nodes if node.link() is None]
        lacking = [node for node in missing if node.number in self._asked]
        enough = len(self._nodes) - len(missing) >= majority_of(len(self._nodes))
        if enough:
            self._last = min(self._last, clock() + self._patience)
        hopeful = False
        for node in lacking:
            over = node.number in self._tried and not node.connecting
            if over or (enough and node.slow(self._patience)):
                continue
            if node.connect(at_once=not enough):
                self._tried.add(node.number)
                hopeful = True
        return max(0.0, self._last - clock()) if hopeful else 0.0


def distinct(links: list[Any], known: list[Any]) -> list[Any]:
    """The links; ConfigError where two lead to the same server, as only that can tell.

    ``known`` are the latest that were found to be distinct.
    """
    if links == known:
        return known
    seen: dict[str, int] = {}
    for number, link in enumerate(links):
        run_id = link.info.run_id if link is not None else ""
        if run_id and seen.setdefault(run_id, number) != number:
            raise ConfigError(
                "sources", f"nodes {seen[run_id]} and {number} (counted from 0) are the same "
                "server; each must be a master of its own"
            )  # fmt: skip
    return links
