"""A client's figures, to be compared with what a test has done."""

from __future__ import annotations

from typing import Any


def counted(client: Any, *names: str) -> dict[str, int]:
    """Those figures; without names, all counters that are not zero."""
    stats = client.stats()
    if names:
        return {name: getattr(stats, name) for name in names}
    counters = [name for name in stats.__slots__ if isinstance(getattr(stats, name), int)]
    return {name: getattr(stats, name) for name in counters if getattr(stats, name)}
