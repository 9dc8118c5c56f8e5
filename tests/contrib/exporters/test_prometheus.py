"""What Prometheus scrapes: a real client's figures over real HTTP, four ways."""

from __future__ import annotations

import json
import re
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from _harness import Ways, needs, one_server

pytestmark = one_server

#: Queries of the dashboard end names so.
SUFFIXES = ("_bucket", "_sum", "_count")
DASHBOARD = Path(__file__).parents[3] / "docs" / "grafana" / "fastlock.json"


def scraped(collector: Any) -> str:
    """What a server of prometheus_client answers to GET /metrics."""
    from prometheus_client import CollectorRegistry, start_http_server

    registry = CollectorRegistry()
    registry.register(collector)
    server, thread = start_http_server(0, "127.0.0.1", registry)
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{server.server_port}/metrics") as answer:
            return str(answer.read().decode())
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def samples(text: str) -> dict[tuple[str, str], float]:
    """(name, le) -> value; as Prometheus's own parser reads it."""
    from prometheus_client.parser import text_string_to_metric_families

    families = list(text_string_to_metric_families(text))
    assert all(family.documentation for family in families)
    return {
        (one.name, one.labels.get("le", "")): one.value
        for family in families
        for one in family.samples
        if not one.name.endswith("_created")
    }


async def used(fl: Ways) -> tuple[Any, str]:
    """A client that has done something of most kinds, and its key."""
    client, key = fl.client(), fl.key("secret-order")
    for _ in range(3):
        lease = await client.try_acquire(key, 30)
        assert await client.try_acquire(key, 30) is None
        assert await client.release_many([lease]) == [True]
    return client, key


async def test_a_scrape_shows_the_figures(fl: Ways) -> None:
    needs("prometheus_client")
    from fastlock.contrib.prometheus import FastlockCollector

    client, key = await used(fl)
    text = scraped(FastlockCollector({"orders": fl.raw(client)}))
    found = samples(text)
    assert found["fastlock_acquired_total", ""] == 3
    assert found["fastlock_refused_total", ""] == 3
    assert found["fastlock_released_total", ""] == 3
    assert found["fastlock_lost_total", ""] == 0
    assert found["fastlock_waiting", ""] == 0
    assert found["fastlock_hold_seconds_count", ""] == 3
    assert found["fastlock_hold_seconds_bucket", "+Inf"] == 3
    hold = client.stats().hold
    assert found["fastlock_hold_seconds_sum", ""] == pytest.approx(hold.sum) != 0
    bounds = [le for name, le in found if name == "fastlock_hold_seconds_bucket"]
    counts = [found["fastlock_hold_seconds_bucket", le] for le in bounds]
    assert bounds == sorted(bounds, key=float)
    assert counts == sorted(counts)
    assert set(re.findall(r"\{(\w+)=", text)) <= {"client", "le"}
    assert 'client="orders"' in text
    lease = await client.try_acquire(key, 30)
    assert key not in text
    assert lease.token not in scraped(FastlockCollector(fl.raw(client)))
    assert samples(scraped(FastlockCollector(fl.raw(client))))["fastlock_acquired_total", ""] == 4


async def test_an_address_is_the_label_without_a_password(fl: Ways) -> None:
    needs("prometheus_client")
    from fastlock.contrib.prometheus import FastlockCollector

    client = fl.client("redis://user:hidden@localhost:6379/0")
    text = scraped(FastlockCollector(fl.raw(client)))
    assert 'client="redis://localhost:6379/0"' in text
    assert "hidden" not in text


async def test_several_clients_and_one_that_counts_nothing(fl: Ways) -> None:
    needs("prometheus_client")
    import fastlock
    from fastlock.contrib.prometheus import FastlockCollector

    one, other = fl.client(), fl.client()
    await (await one.try_acquire(fl.key(), 30)).release()
    text = scraped(FastlockCollector({"a": fl.raw(one), "b": fl.raw(other)}))
    assert 'fastlock_acquired_total{client="a"} 1.0' in text
    assert 'fastlock_acquired_total{client="b"} 0.0' in text
    silent = fl.raw(fl.client(metrics=False))
    for clients in (silent, {"a": fl.raw(one), "b": silent}):
        with pytest.raises(fastlock.ConfigError, match="metrics"):
            FastlockCollector(clients)
    for other in (fl.admin, fastlock.Client, {"a": None}):
        with pytest.raises(fastlock.ConfigError, match="give a Client or a QuorumClient"):
            FastlockCollector(other)
    with pytest.raises(fastlock.ConfigError, match="1 is no label"):
        FastlockCollector({1: fl.raw(one)})


async def test_the_dashboard_asks_for_what_there_is(fl: Ways) -> None:
    needs("prometheus_client")
    from fastlock.contrib.prometheus import FastlockCollector

    dashboard = json.loads(DASHBOARD.read_text())
    queries = [
        target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", ())
    ]
    asked = {name for query in queries for name in re.findall(r"\bfastlock_\w+", query)}
    variables = [one["query"] for one in dashboard["templating"]["list"] if "query" in one]
    asked |= {name for query in variables for name in re.findall(r"\bfastlock_\w+", str(query))}
    there = {name for name, _ in samples(scraped(FastlockCollector(fl.raw(fl.client()))))}
    assert len(queries) >= 8
    assert asked <= there
    shown = {re.sub(r"_(bucket|sum|count)$", "", name) for name in asked}
    forgotten = {re.sub(r"_(bucket|sum|count)$", "", name) for name in there} - shown
    assert forgotten <= {"fastlock_adopted_total"}
