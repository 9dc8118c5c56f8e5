#!/usr/bin/env python3
"""Runs locks on a real server for some seconds, scrapes their figures over HTTP as Prometheus
does, and writes what the scrapes said: a table, and a page with charts.

    python tools/metrics_page.py PAGE.html          # from the root of a clone, after `make setup`

Law: every number is from a scrape; nothing of the client is read in any other way.
"""

from __future__ import annotations

import html
import random
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.parser import text_string_to_metric_families

import fastlock
from bench import servers
from fastlock.contrib.prometheus import FastlockCollector

SECONDS, EVERY = 15.0, 0.5
#: (name, le) -> value
Scrape = dict[tuple[str, str], float]
COUNTERS = (
    "acquired",
    "released",
    "refused",
    "timeouts",
    "waited",
    "handed_over",
    "renewed",
    "lost",
)
TIMES = ("wait", "hold", "round_trip")
COLOURS = ("#2f6feb", "#e8590c", "#2b8a3e", "#ae3ec9", "#e03131")


def work(client: fastlock.Client, over: threading.Event) -> list[threading.Thread]:
    """Callers who want one lock, callers who want their own, and one whose locks get lost."""

    def contended() -> None:
        while not over.is_set():
            with client.lock("page:hot", ttl=5):
                time.sleep(random.uniform(0.001, 0.004))

    def impatient() -> None:
        while not over.wait(0.01):
            lease = client.try_acquire("page:hot", ttl=5)
            if lease is not None:
                lease.release()
            with suppress(fastlock.AcquireTimeout):
                client.acquire("page:hot", 5, timeout=0.002).release()

    def alone() -> None:
        while not over.wait(0.002):
            with client.lock(f"page:own:{random.randrange(1000)}", ttl=5):
                pass

    def losing() -> None:
        while not over.is_set():
            with client.lock("page:lost", ttl=0.6, auto_renew=True, if_lost="ignore"):
                over.wait(1.3)
                client.force_release("page:lost")

    jobs: list[Callable[[], None]] = [contended] * 4 + [impatient, alone, alone, losing]
    threads = [threading.Thread(target=job) for job in jobs]
    for thread in threads:
        thread.start()
    return threads


def scrape(port: int) -> Scrape:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        text = answer.read().decode()
    return {
        (one.name, one.labels.get("le", "")): one.value
        for family in text_string_to_metric_families(text)
        for one in family.samples
    }


def observed() -> list[Scrape]:
    """What was scraped, every so often."""
    found = []
    with servers.running("valkey" if servers.binary("valkey") else "redis", 0) as server:
        over = threading.Event()
        with fastlock.Client(f"redis://localhost:{server.port}") as client:
            registry = CollectorRegistry()
            registry.register(FastlockCollector({"page": client}))
            http, thread = start_http_server(0, "127.0.0.1", registry)
            threads = work(client, over)
            try:
                end = time.monotonic() + SECONDS
                while time.monotonic() < end:
                    found.append(scrape(http.server_port))
                    time.sleep(EVERY)
            finally:
                over.set()
                for one in threads:
                    one.join()
            found.append(scrape(http.server_port))
            http.shutdown()
            http.server_close()
            thread.join()
    return found


def buckets(found: Scrape, name: str) -> list[tuple[float, float]]:
    """(upper bound, how often it was not exceeded)"""
    named = [
        (le, n) for (what, le), n in found.items() if what == f"fastlock_{name}_seconds_bucket"
    ]
    return sorted((float(le.replace("+", "")), n) for le, n in named)


def quantile(found: Scrape, name: str, share: float) -> float:
    """As Prometheus's ``histogram_quantile``."""
    lower = before = 0.0
    points = buckets(found, name)
    for bound, count in points:
        if count >= share * points[-1][1] and count > before:
            return lower + (min(bound, 5000) - lower) * (share * points[-1][1] - before) / (
                count - before
            )
        lower, before = bound, count
    return 0.0


def seconds(value: float) -> str:
    for unit, factor in (("s", 1.0), ("ms", 1e3)):
        if value >= 1 / factor:
            return f"{value * factor:.3g} {unit}"
    return f"{value * 1e6:.3g} µs"


def table(last: Scrape) -> list[tuple[str, str]]:
    rows = [
        (f"fastlock_{name}_total", f"{last[f'fastlock_{name}_total', '']:,.0f}")
        for name in (*COUNTERS, "unknown", "failed", "retries", "connections", "reconnects")
    ]
    for name in TIMES:
        quantiles = ", ".join(
            f"p{s * 100:g} {seconds(quantile(last, name, s))}" for s in (0.5, 0.99)
        )
        count = last[f"fastlock_{name}_seconds_count", ""]
        mean = last[f"fastlock_{name}_seconds_sum", ""] / max(count, 1)
        rows.append(
            (f"fastlock_{name}_seconds", f"{count:,.0f} times, mean {seconds(mean)}, {quantiles}")
        )
    return rows


def rates(found: Sequence[Scrape], name: str) -> list[float]:
    """A second, between two scrapes."""
    what = f"fastlock_{name}_total", ""
    return [(b[what] - a[what]) / EVERY for a, b in pairwise(found[:-1])]


def lines(title: str, curves: dict[str, list[float]]) -> str:
    top = max(max(values) for values in curves.values()) or 1.0
    parts = [f'<text x="0" y="14" class="t">{title} (a second, up to {top:,.0f})</text>']
    for place, (name, values) in enumerate(curves.items()):
        colour = COLOURS[place]
        points = " ".join(
            f"{10 + 340 * n / (len(values) - 1):.1f},{160 - 125 * value / top:.1f}"
            for n, value in enumerate(values)
        )
        parts.append(
            f'<polyline points="{points}" stroke="{colour}" fill="none" stroke-width="2"/>'
        )
        parts.append(f'<text x="{10 + 85 * place}" y="180" fill="{colour}">{name}</text>')
    return f'<svg viewBox="0 0 360 190">{"".join(parts)}</svg>'


def bars(title: str, last: Scrape, name: str) -> str:
    points = buckets(last, name)
    own = [
        (bound, n - before)
        for (bound, n), (_, before) in zip(points, [(0.0, 0.0), *points], strict=False)
    ]
    shown = [n for n, (_, count) in enumerate(own) if count]
    own = own[max(0, shown[0] - 1) : shown[-1] + 2]
    most, width = max(count for _, count in own), 340 / len(own)
    parts = [f'<text x="0" y="14" class="t">{title}</text>']
    for n, (bound, count) in enumerate(own):
        tall, upto = 120 * count / most, seconds(bound) if bound < 1e9 else "more"
        parts.append(
            f'<rect x="{10 + n * width:.1f}" y="{150 - tall:.1f}" width="{width - 2:.1f}" '
            f'height="{tall:.1f}" fill="#2f6feb"/>'
            f'<text x="{10 + n * width:.1f}" y="165" class="s">{upto}</text>'
        )
    return f'<svg viewBox="0 0 360 175">{"".join(parts)}</svg>'


def page(found: Sequence[Scrape]) -> str:
    charts = [
        lines(
            "Locks", {name: rates(found, name) for name in ("acquired", "released", "handed_over")}
        ),
        lines("Not got", {name: rates(found, name) for name in ("refused", "timeouts", "waited")}),
        lines("Kept and lost", {name: rates(found, name) for name in ("renewed", "lost")}),
        *(bars(f"fastlock_{name}_seconds, by bucket", found[-1], name) for name in TIMES),
    ]
    rows = "".join(
        f"<tr><td>{html.escape(name)}</td><td>{html.escape(value)}</td></tr>"
        for name, value in table(found[-1])
    )
    return f"""<!doctype html><meta charset="utf-8"><title>fastlock: real scrapes</title>
<style>body{{font:14px sans-serif;margin:20px;width:1160px}} .g{{display:grid;
grid-template-columns:repeat(3,1fr);gap:16px}} svg{{border:1px solid #ddd}} text{{font-size:11px}}
.t{{font-weight:bold;font-size:12px}} .s{{font-size:7px}} td{{padding:2px 14px 2px 0}}</style>
<h2>fastlock {fastlock.__version__}: {len(found)} scrapes of one client in {SECONDS:g} s</h2>
<div class="g">{"".join(charts)}</div><h3>The last scrape</h3><table>{rows}</table>
"""


def main() -> int:
    if len(sys.argv) != 2:
        print("usage: tools/metrics_page.py PAGE.html", file=sys.stderr)
        return 2
    found = observed()
    Path(sys.argv[1]).write_text(page(found), encoding="utf-8")
    print("| metric | after the run |\n|---|---|")
    for name, value in table(found[-1]):
        print(f"| `{name}` | {value} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
