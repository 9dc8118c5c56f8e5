"""Draws a result file: ``python -m bench.plot RESULTS.json [docs/figures.svg]``.

Law: medians over all rounds of that one file, and nothing that is not in it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from .runner import median

ROOT = Path(__file__).resolve().parent.parent

#: Section, its title, and its bars from the top: contestant, label, colour.
RIVAL, PURE, OURS, LIMIT = "#b8b8b8", "#8fb8de", "#1f6fb4", "#4d4d4d"
PANELS = [
    ("w1", "one caller, one key\n(server on the same core)", [
        ("redis-py+hiredis", "redis-py Lock", RIVAL),
        ("fastlock-pure", "fastlock, Python core", PURE),
        ("fastlock", "fastlock", OURS),
        ("c-hiredis", "C on libhiredis", LIMIT),
    ]),
    ("w2-32", "32 threads, own keys", [
        ("redis-py+hiredis", "redis-py Lock", RIVAL),
        ("fastlock-pure", "fastlock, Python core", PURE),
        ("fastlock", "fastlock", OURS),
        ("c-threads", "C, 32 connections", LIMIT),
    ]),
    ("w3-256", "256 asyncio tasks, own keys", [
        ("redis-aio", "redis.asyncio Lock", RIVAL),
        ("fastlock-aio-pure", "fastlock, Python core", PURE),
        ("fastlock-aio", "fastlock", OURS),
        ("fastlock-uvloop", "fastlock on uvloop", OURS),
    ]),
]  # fmt: skip


def draw(source: Path, target: Path) -> None:
    """Pairs of acquire and release per second, one panel for each workload."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams.update({"svg.hashsalt": "fastlock", "font.size": 9, "svg.fonttype": "none"})
    from matplotlib import pyplot

    results = json.loads(source.read_text())
    figure, axes = pyplot.subplots(1, len(PANELS), figsize=(11, 2.4))
    for axis, (name, title, bars) in zip(axes, PANELS, strict=True):
        section = results["sections"][name]
        values = [median(section, who, "pairs") for who, _, _ in bars]
        shown = [
            (label, colour, value)
            for (_, label, colour), value in zip(bars, values, strict=True)
            if value is not None
        ]
        labels, colours, lengths = zip(*shown, strict=True)
        drawn = axis.barh(labels, lengths, color=colours, height=0.7)
        axis.bar_label(drawn, [f" {value / 1000:.1f} k" for value in lengths])
        axis.invert_yaxis()
        axis.set_title(title, fontsize=9)
        axis.set_xlim(0, max(lengths) * 1.25)
        axis.xaxis.set_visible(False)
        for side in ("top", "right", "bottom"):
            axis.spines[side].set_visible(False)
    figure.tight_layout()
    figure.savefig(target, metadata={"Date": None, "Creator": None})


if __name__ == "__main__":
    draw(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else ROOT / "docs/figures.svg")
