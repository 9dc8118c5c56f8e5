"""W5's pictures. Law: medians over all rounds of one result file."""

from __future__ import annotations

from typing import Any

from .figures import QUANTILES, median
from .styles import STYLES, legend, panels, quantiles
from .targets import Results
from .w5_contended import DRAWN, HOLDS, KINDS

#: Hand-overs per second that are marked.
TICKS = [first * 10**zeros for zeros in range(6) for first in (1, 2, 5)]


def contended(results: Results) -> Any:
    """Hand-overs per second by kind of caller, for each time that the lock is held; none, where
    there were none."""
    sections = results["sections"]
    kinds = [kind for kind in KINDS if f"w5-{kind}" in sections]
    if not kinds:
        return None
    figure, axes = panels(len(kinds), 4.4)
    places = range(len(HOLDS))
    for axis, kind in zip(axes, kinds, strict=True):
        ideal = [
            (place, 1 / hold) for place, hold in zip(places, HOLDS.values(), strict=True) if hold
        ]
        axis.plot(
            *zip(*ideal, strict=True), "--", color="#222222", label="no time between", marker="_"
        )
        for name, (label, colour, style) in STYLES.items():
            found = [
                (place, rate)
                for place, suffix in zip(places, HOLDS, strict=True)
                if (section := sections.get(f"w5-{kind}{suffix}"))
                and (rate := median(section, name, "handovers"))
            ]
            if found:
                x, y = zip(*found, strict=True)
                axis.plot(x, y, style, color=colour, label=label, marker="o", markersize=4)
        axis.set_yscale("log")
        axis.set_xticks(list(places), [f"{hold * 1000:g} ms" for hold in HOLDS.values()])
        axis.set_xlim(-0.2, len(HOLDS) - 0.8)
        low, high = axis.get_ylim()
        ticks = [t for t in TICKS if low <= t <= high]
        axis.set_yticks(ticks, [f"{tick:,}" for tick in ticks])
        axis.minorticks_off()
        axis.grid(axis="y", color="#e6e6e6")
        axis.set_title(f"eight {kind}, one key", fontsize=9)
        axis.set_xlabel("the lock is held")
        axis.set_ylabel("hand-overs to another caller per second")
        legend(axis)
    figure.tight_layout()
    return figure


def waits(results: Results) -> Any:
    """How many hand-overs were waited for how long; and how soon one process woke another."""
    sections = results["sections"]
    titles = {
        f"w5-{kind}{DRAWN}": f"eight {kind}, one key, held {HOLDS[DRAWN] * 1000:g} ms"
        for kind in KINDS
    }
    titles["w5-wakeup"] = "two processes: after the other's release"
    shown = {}
    for name in titles:
        entries = sections[name]["contestants"] if name in sections else {}
        lines = {who: quantiles(entries[who]["rounds"]) for who in STYLES if who in entries}
        if any(lines.values()):
            shown[name] = {who: late for who, late in lines.items() if late}
    if not shown:
        return None
    figure, axes = panels(len(shown), 4.6, columns=2)
    for axis, (name, lines) in zip(axes, shown.items(), strict=True):
        for who, late in lines.items():
            label, colour, style = STYLES[who]
            if name == "w5-wakeup" and "-aio" in who:
                style = "-."  # beside threads only here
            axis.plot([one * 1000 for one in late], QUANTILES, style, color=colour, label=label)
        if name == "w5-wakeup":
            who = next(iter(lines))
            ping = (median(sections[name], who, "ping") or 0.0) * 1000
            axis.axvline(ping, color="#222222", linestyle="--", label=f"a PING of {STYLES[who][0]}")
        axis.set_xscale("log")
        axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axis.minorticks_off()
        axis.set_ylim(0, 100)
        axis.grid(color="#e6e6e6")
        axis.set_title(titles[name], fontsize=9)
        axis.set_xlabel("milliseconds waited")
        axis.set_ylabel("% of hand-overs")
        legend(axis)
    figure.tight_layout()
    return figure
