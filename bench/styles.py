"""What all pictures have in common: a contestant looks the same in each.

Law: one colour for ours, greys and one other for the others; nothing here reads results.
"""

from __future__ import annotations

import statistics
from typing import Any

from .variants import VARIANTS

#: Contestant: its label, colour, line style. In the order of the legend.
STYLES = {
    "c-hiredis": ("C on libhiredis", "#222222", "--"),
    "c-threads": ("C, a connection per thread", "#222222", "--"),
    "c-depth": ("C, one connection", "#222222", "--"),
    "c-pipeline": ("C, pipeline", "#222222", "--"),
    "machinery": ("asyncio alone, no I/O", "#222222", "--"),
    "fastlock-deferred": ("fastlock, deferred release", "#1f6fb4", "-."),
    "fastlock": ("fastlock", "#1f6fb4", "-"),
    "fastlock-uvloop": ("fastlock on uvloop", "#1f6fb4", "-."),
    "fastlock-aio": ("fastlock, asyncio", "#1f6fb4", "-"),
    "fastlock-pure": ("fastlock, Python core", "#74aede", "-"),
    "fastlock-aio-pure": ("fastlock, asyncio, Python core", "#74aede", "-"),
    "fastlock-after-redis-py": ("fastlock, redis-py released", "#1f6fb4", ":"),
    "fastlock-aio-after-redis-py": ("fastlock, asyncio, redis-py released", "#1f6fb4", ":"),
    "redis-py+hiredis": ("redis-py Lock + hiredis", "#c0504d", "-"),
    "redis-py": ("redis-py Lock", "#d99694", "-"),
    "redis-py-default": ("redis-py Lock, its own pause", "#c0504d", ":"),
    "redis-py-raw": ("redis-py, raw commands", "#d99694", ":"),
    "redis-aio": ("redis.asyncio Lock + hiredis", "#c0504d", "-"),
    "redis-aio-default": ("redis.asyncio Lock, its own pause", "#c0504d", ":"),
    "redis-aio-uvloop": ("the same on uvloop", "#c0504d", "-."),
    "valkey-glide-sync": ("valkey-glide-sync", "#8a8a8a", "-"),
    "valkey-glide": ("valkey-glide", "#8a8a8a", "-"),
    "python-redis-lock": ("python-redis-lock", "#a8a8a8", ":"),
    "coredis": ("coredis Lock", "#b4b4b4", ":"),
    "pottery": ("pottery", "#c4c4c4", "-"),
}
#: The variants, each as what it is a variant of, in a line of its own.
for _variant in VARIANTS[1:]:
    for _kind in _variant.kinds:
        _pairs = zip(_variant.names(_kind), VARIANTS[0].names(_kind), strict=True)
        for _name, _plain in _pairs:
            _label, _colour, _ = STYLES[_plain]
            STYLES[_name] = (f"{_label}, {_variant.what}", _colour, _variant.line)


def panels(count: int, height: float, columns: int = 3) -> tuple[Any, list[Any]]:
    """A figure with so many pictures, each so high, in inches."""
    from matplotlib import pyplot

    columns = min(count, columns)
    rows = -(-count // columns)
    size = (1.2 + (5.4 if columns < 3 else 4.6) * columns, rows * height)
    figure, axes = pyplot.subplots(rows, columns, figsize=size, squeeze=False)
    for axis in axes.flat[count:]:
        axis.set_visible(False)
    return figure, list(axes.flat[:count])


def legend(axis: Any) -> None:
    """Below the picture, where it hides nothing."""
    axis.legend(fontsize=8, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.16))


def quantiles(rounds: list[dict[str, Any]]) -> list[float]:
    """The median over the rounds of each; empty if none was kept."""
    kept = [one["quantiles"] for one in rounds if "quantiles" in one]
    return [statistics.median(column) for column in zip(*kept, strict=True)]
