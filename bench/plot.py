"""Draws a result file: ``python -m bench.plot RESULTS.json [STEM]``: STEM-throughput.svg,
STEM-latency.svg, STEM-cost.svg; of W5 STEM-contended.svg and STEM-waits.svg.

Law: medians over all rounds of that one file, and nothing that is not in it; one colour for
ours, greys for the others. Without matplotlib nothing is drawn.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from . import plot_w5
from .figures import QUANTILES, curve, median
from .styles import STYLES, legend, panels, quantiles
from .targets import Results
from .verdicts import void

COSTS = {
    "w1": "one caller, one key\n(server on the same core)",
    "w2-32": "32 threads, a key each",
    "w3-256": "256 tasks, a key each",
    "w4-1000": "1,000 keys in one call",
}


def draw_all(results: Results, stem: Path) -> list[Path]:
    """All pictures that the results have figures for; none without matplotlib."""
    try:
        import matplotlib as mpl
    except ImportError:
        print("no pictures: matplotlib is not installed", file=sys.stderr)
        return []
    mpl.use("svg")
    mpl.rcParams.update({
        "svg.hashsalt": "fastlock", "svg.fonttype": "path", "font.size": 9,
        "axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False,
    })  # fmt: skip
    drawn = []
    pictures = (
        ("throughput", throughput), ("latency", latency), ("cost", cost),
        ("contended", plot_w5.contended), ("waits", plot_w5.waits),
    )  # fmt: skip
    for name, draw in pictures:
        figure = draw(results)
        if figure is None:
            continue
        if void(results):
            figure.text(0.995, 0.995, "VOID run: not to be quoted", ha="right", va="top",
                        color="#c00000", fontsize=8)  # fmt: skip
        target = stem.with_name(f"{stem.name}-{name}.svg")
        figure.savefig(target, metadata={"Date": None, "Creator": None}, bbox_inches="tight")
        drawn.append(target)
    return drawn


def throughput(results: Results) -> Any:
    """Pairs per second by number of threads, and of tasks."""
    sections = results["sections"]
    shown = {}
    for workload in ("w2", "w3"):
        lines = {name: curve(sections, workload, name) for name in STYLES}
        lines = {name: points for name, points in lines.items() if points}
        if any(len(points) > 1 for points in lines.values()):
            shown[workload] = lines
    if not shown:
        return None
    figure, axes = panels(len(shown), 4.2)
    for axis, (workload, lines) in zip(axes, shown.items(), strict=True):
        sizes = sorted({point["count"] for points in lines.values() for point in points})
        for name, points in lines.items():
            label, colour, style = STYLES[name]
            x = [point["count"] for point in points]
            y = [point["rate"] / 1000 for point in points]
            axis.plot(x, y, style, color=colour, label=label, marker="o", markersize=3.5)
        axis.set_xscale("log", base=2)
        axis.set_yscale("log")
        axis.set_xticks(sizes, [str(size) for size in sizes])
        axis.minorticks_off()
        low, high = axis.get_ylim()
        ticks = [tick for tick in (1, 2, 5, 10, 20, 50, 100, 200, 500) if low <= tick <= high]
        axis.set_yticks(ticks, [f"{tick} k" for tick in ticks])
        axis.grid(axis="y", color="#e6e6e6")
        axis.set_xlabel({"w2": "threads, a key each", "w3": "tasks, a key each"}[workload])
        axis.set_ylabel("pairs of acquire and release per second")
        legend(axis)
    figure.tight_layout()
    return figure


def latency(results: Results) -> Any:
    """How many pairs of a lone caller are over within which time."""
    section = results["sections"].get("w1")
    entries = section["contestants"] if section else {}
    chosen = {
        name: quantiles(entries[name]["latencies"]) for name in STYLES
        if name in entries and any("quantiles" in one for one in entries[name]["latencies"])
    }  # fmt: skip
    if not chosen:
        return None
    figure, (axis,) = panels(1, 4.2)
    for name, late in chosen.items():
        label, colour, style = STYLES[name]
        axis.plot([one * 1e6 for one in late], QUANTILES, style, color=colour, label=label)
    longest = max(late[-2] for late in chosen.values()) * 1e6
    shortest = min(late[0] for late in chosen.values()) * 1e6
    axis.set_xscale("log")
    axis.set_xlim(shortest * 0.9, longest)
    ticks = [t for t in (10, 20, 50, 100, 200, 500, 1000, 2000, 5000) if shortest < t < longest]
    axis.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axis.minorticks_off()
    axis.grid(color="#e6e6e6")
    axis.set_xlabel("microseconds for acquire and release, one caller")
    axis.set_ylabel("% of pairs")
    legend(axis)
    figure.tight_layout()
    return figure


def _bars(section: dict[str, Any]) -> Iterator[tuple[str, str, float]]:
    for name, (label, colour, _) in STYLES.items():
        value = median(section, name, "cpu")
        if value is not None:
            yield label, colour, value * 1e6


def cost(results: Results) -> Any:
    """CPU time of the client's process per pair, by workload."""
    found = {name: one for name in COSTS if (one := results["sections"].get(name))}
    if not found:
        return None
    from matplotlib import pyplot

    most = max(len(list(_bars(section))) for section in found.values())
    figure, axes = pyplot.subplots(
        (len(found) + 1) // 2, min(2, len(found)), squeeze=False,
        figsize=(11, (0.9 + 0.22 * most) * ((len(found) + 1) // 2)),
    )  # fmt: skip
    flat = list(axes.flat)
    for axis, (name, section) in zip(flat, found.items(), strict=False):
        labels, colours, lengths = zip(*_bars(section), strict=True)
        drawn = axis.barh(labels, lengths, color=colours, height=0.72)
        axis.bar_label(drawn, [f" {value:.3g}" for value in lengths], fontsize=8)
        axis.set_xscale("log")
        axis.set_xlim(min(lengths) / 2, max(lengths) * 2)
        axis.invert_yaxis()
        axis.xaxis.set_visible(False)
        axis.spines["bottom"].set_visible(False)
        axis.set_title(f"{COSTS[name]}: CPU us per pair", fontsize=9)
    for axis in flat[len(found) :]:
        axis.set_visible(False)
    figure.tight_layout()
    return figure


if __name__ == "__main__":
    source = Path(sys.argv[1])
    where = Path(sys.argv[2]) if len(sys.argv) > 2 else source.with_suffix("")
    for path in draw_all(json.loads(source.read_text()), where):
        print(path)
