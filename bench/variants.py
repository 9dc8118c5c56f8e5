"""fastlock's ways of waiting and handing over: a line for each, and W5 measures it.

Law: only what the public API offers today. ``lock`` are arguments of ``acquire`` besides key
and ttl, ``client`` those of the client besides its address; contestants, targets and pictures
follow from this table alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Variant:
    """``suffix`` ends the contestants' names, ``line`` is how matplotlib draws them.

    ``kinds``: in which of W5's kinds it takes part, and what must be reached and what would be
    possible there: hand-overs/s against redis-py's Lock that polls every ms; None: no target.
    """

    suffix: str
    what: str
    kinds: dict[str, tuple[float, float] | None]
    lock: dict[str, Any] = field(default_factory=dict)
    client: dict[str, Any] = field(default_factory=dict)
    line: str = "-"

    def names(self, kind: str) -> list[str]:
        """Its contestants of a kind, the compiled core's first; none where it takes no part."""
        if kind not in self.kinds:
            return []
        name = f"fastlock{'-aio' if kind == 'tasks' else ''}{self.suffix}"
        return [name, f"{name}-pure"]


#: The first one is what a caller gets who asks for nothing.
VARIANTS = [
    Variant("", "", {"threads": (2.5, 4), "tasks": (3, 5), "processes": (2, 3)}),
    Variant(
        "-local", "handed over without a command", {"threads": (8, 20), "tasks": (30, 60)},
        client={"handover": "local"}, line="--",
    ),
    Variant(
        "-fair", "fair", dict.fromkeys(("threads", "tasks", "processes")), {"fair": True}, line=":",
    ),
]  # fmt: skip


def names(kind: str) -> list[str]:
    """All contestants of ours of a kind."""
    return [name for variant in VARIANTS for name in variant.names(kind)]
