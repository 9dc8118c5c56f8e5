"""What a quorum's client counts and times, four ways: ``stats()``, and what exporters make of it.

Law: that of tests/live/test_metrics.py: every figure is compared with what the test has done, to
the one. A call counts once, whatever number of servers it asks.
"""

from __future__ import annotations

import os
import threading
import time
from typing import Any

import pytest
from _figures import counted
from _harness import Ways, needs, sync_only
from _quorum import TTL, Masters, quorum
from _strikes import Interrupt, struck_at

import fastlock


@pytest.fixture
def server(started: Masters) -> Any:
    return started[0]


async def connected(fl: Ways, client: Any) -> None:
    """A majority may have answered before the third server was connected."""
    await fl.until(lambda: client.stats().connections == 3, 30)


async def test_a_call_counts_once(fl: Ways, nodes: Masters) -> None:
    client, key = quorum(fl, nodes.uris), fl.key()
    assert counted(client) == {}
    for _ in range(3):
        lease = await client.try_acquire(key, TTL)
        assert await client.try_acquire(key, TTL) is None
        assert await lease.release() is True
        assert await lease.release() is False
    assert await client.locked(key) is False
    await connected(fl, client)
    stats = client.stats()
    assert isinstance(stats, fastlock.Stats)
    assert counted(client) == {"acquired": 3, "refused": 3, "released": 3, "connections": 3}
    assert stats.hold.count == 3
    assert 0 < stats.hold.sum < 3 * TTL
    # Three tries that took it, three that did not, a question, and three releases, of which one
    # may have been said again to those servers that do not know its first words.
    assert 10 <= stats.round_trip.count <= 13
    assert 0 < stats.round_trip.mean < 2
    assert stats.wait.count == 0


async def test_a_hold_lasts_from_the_acquire_to_the_release(fl: Ways, nodes: Masters) -> None:
    """Also where its deadline has moved meanwhile."""
    client = quorum(fl, nodes.uris)
    plain, extended = [await client.acquire(fl.key(), 5) for _ in range(2)]
    renewed = await client.acquire(fl.key(), 5, auto_renew=True)
    deferred = await client.acquire(fl.key(), 5)
    await fl.sleep(0.06)
    await extended.extend(500)
    for lease in (plain, extended, renewed):
        assert await lease.release() is True
    assert await deferred.release(wait=False) is None
    hold = client.stats().hold
    assert counted(client, "acquired", "released") == {"acquired": 4, "released": 4}
    assert hold.count == 4
    assert 4 * 0.06 <= hold.sum < 4 * 5
    assert hold.quantile(0) >= 0.05


async def test_waiting(fl: Ways, nodes: Masters) -> None:
    first, client, key = quorum(fl, nodes.uris), quorum(fl, nodes.uris, retry_timeout=5), fl.key()
    held = await first.acquire(key, TTL)
    with pytest.raises(fastlock.AcquireTimeout):
        await client.acquire(key, TTL, timeout=2)
    await connected(fl, client)
    assert counted(client) == {"timeouts": 1, "waited": 1, "connections": 3}
    assert 0 < client.stats().wait.sum < 30
    waiter = fl.spawn(client.acquire(key, TTL, timeout=30))
    await fl.until(lambda: client.stats().waiting == 1)
    await held.release()
    assert await (await waiter).release() is True
    await fl.until(lambda: nodes.free(key))
    await (await client.acquire(key, TTL)).release()  # at once
    figures = {"acquired": 2, "timeouts": 1, "waited": 2, "released": 2, "connections": 3}
    assert counted(client) == figures
    assert client.stats().wait.count == 2


async def test_renewals_and_losses(fl: Ways, nodes: Masters) -> None:
    client, keys = quorum(fl, nodes.uris), [fl.key(), fl.key(), fl.key()]

    def delete(key: str) -> None:
        for node in nodes.all:
            node.admin.delete(key)

    renewed = await client.acquire(keys[0], 0.9, auto_renew=True)
    await fl.until(lambda: client.stats().renewed >= 2)
    delete(keys[0])
    await fl.until(lambda: client.stats().lost == 1)
    assert await renewed.release() is False
    plain = await client.acquire(keys[1], TTL)
    delete(keys[1])
    assert await plain.release() is False
    extended = await client.acquire(keys[2], TTL)
    delete(keys[2])
    with pytest.raises(fastlock.LockLost):
        await extended.extend()
    assert await extended.release() is False
    await connected(fl, client)
    assert counted(client, "acquired", "released", "lost", "connections") == {
        "acquired": 3, "released": 0, "lost": 3, "connections": 3,
    }  # fmt: skip
    assert client.stats().hold.count == 0


async def test_a_server_that_is_down_and_comes_back(fl: Ways, nodes: Masters) -> None:
    proxies = [fl.proxy(node) for node in nodes.all]
    client, key = quorum(fl, [proxy.uri for proxy in proxies]), fl.key()
    assert await (await client.acquire(key, TTL)).release() is True
    await connected(fl, client)
    proxies[0].down()

    async def goes_on_until(name: str, count: int) -> None:
        end = time.monotonic() + 20
        while getattr(client.stats(), name) < count:
            assert time.monotonic() < end, counted(client)
            assert await (await client.acquire(key, TTL)).release() is True
            await fl.sleep(0.02)

    await goes_on_until("retries", 2)
    proxies[0].up()
    await goes_on_until("reconnects", 1)
    stats = client.stats()
    assert (stats.connections, stats.reconnects) == (4, 1)
    assert stats.acquired == stats.released
    assert stats.failed == stats.unknown == stats.lost == stats.left_behind == 0


async def test_a_server_that_is_down_is_tried_again(fl: Ways, nodes: Masters) -> None:
    """Each try to connect but the first; the calls are answered by the others, at once."""
    proxy, key = fl.proxy(nodes[2]), fl.key()
    proxy.down()
    other, client = quorum(fl, nodes.uris), quorum(fl, [*nodes.uris[:2], proxy.uri])
    lease = await other.acquire(key, 60)
    tries, end = 0, time.monotonic() + 30
    while client.stats().retries < 2:
        assert time.monotonic() < end, counted(client)
        assert await client.try_acquire(key, TTL) is None
        tries += 1
        await fl.sleep(0.02)
    assert counted(client, "refused", "connections") == {"refused": tries, "connections": 2}
    proxy.up()
    assert await lease.release() is True


async def test_trouble(fl: Ways, nodes: Masters) -> None:
    proxies = [fl.proxy(node) for node in nodes.all]
    client = quorum(fl, [proxy.uri for proxy in proxies], node_timeout=0.3, retries=1)
    lease = await client.acquire(fl.key(), TTL)
    lost = [proxy.fault("lose_reply", "SET") for proxy in proxies[:2]]
    with pytest.raises(fastlock.OutcomeUnknown):
        await client.try_acquire(fl.key(), TTL)
    for fault in lost:
        await fl.happened(fault)
    assert counted(client, "acquired", "refused", "unknown", "failed") == {
        "acquired": 1, "refused": 0, "unknown": 1, "failed": 0,
    }  # fmt: skip
    before = client.stats().round_trip.count
    for proxy in proxies:
        proxy.down()
    with pytest.raises((fastlock.TransportError, fastlock.OutcomeUnknown)):
        await lease.extend()
    with pytest.raises(fastlock.TransportError):
        await client.try_acquire(fl.key(), TTL)
    stats = client.stats()
    assert stats.unknown + stats.failed == 3
    assert stats.failed >= 1
    assert stats.retries >= 1  # of the extension, and of the connections
    assert stats.round_trip.count == before  # what no majority answers has no time
    for proxy in proxies:
        proxy.up()


async def test_it_can_be_switched_off(fl: Ways, nodes: Masters) -> None:
    client = quorum(fl, nodes.uris, metrics=False)
    assert await (await client.try_acquire(fl.key(), TTL)).release()
    with pytest.raises(fastlock.ConfigError, match="metrics"):
        client.stats()


async def test_after_close(fl: Ways, nodes: Masters) -> None:
    client = quorum(fl, nodes.uris)
    assert await (await client.try_acquire(fl.key(), TTL)).release()
    await client.close()
    assert counted(client, "acquired", "released") == {"acquired": 1, "released": 1}


@sync_only
async def test_threads_lose_no_count(fl: Ways, nodes: Masters) -> None:
    client, pairs, callers = quorum(fl, nodes.uris), 25, 4
    mixed = threading.Barrier(callers)

    async def work(number: int) -> None:
        key = fl.key(str(number))
        mixed.wait(30)
        for _ in range(pairs):
            lease = await client.try_acquire(key, TTL)
            assert await client.try_acquire(key, TTL) is None
            await lease.release()
            client.stats()

    await fl.together(work(number) for number in range(callers))
    await connected(fl, client)
    total = pairs * callers
    figures = {"acquired": total, "refused": total, "released": total, "connections": 3}
    assert counted(client) == figures
    assert client.stats().hold.count == total


@sync_only
async def test_nobody_waits_for_ever_after_an_interrupt(fl: Ways, nodes: Masters) -> None:
    client, key = fl.raw(quorum(fl, nodes.uris, retry_timeout=1)), fl.key()
    for node in nodes.all:
        node.admin.set(key, "taken", px=600_000)
    waited = 0
    for step in range(1, 4000, 7):
        try:
            with struck_at(step) as where:
                client.acquire(key, TTL, 0.003)
        except (Interrupt, fastlock.AcquireTimeout):
            pass
        stats = client.stats()
        assert stats.waiting == 0, where
        assert stats.waited >= waited
        waited = stats.waited
        if not where:
            break
    assert waited > 5
    for node in nodes.all:
        node.admin.delete(key)


@sync_only
@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")
async def test_a_forked_child_begins_at_zero(fl: Ways, nodes: Masters) -> None:
    client = quorum(fl, nodes.uris)
    assert await (await client.try_acquire(fl.key(), TTL)).release()
    await connected(fl, client)
    child = os.fork()
    if not child:
        status = 1
        try:
            fresh = counted(client) == {} and client.stats().hold.count == 0
            freed = fl.raw(client).try_acquire(fl.key(), TTL).release()
            await connected(fl, client)
            figures = {"acquired": 1, "released": 1, "connections": 3}
            status = 0 if fresh and freed and counted(client) == figures else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert counted(client) == {"acquired": 1, "released": 1, "connections": 3}


# ------------------------------------------------------------------ exporters


async def test_prometheus_scrapes_a_quorum(fl: Ways, nodes: Masters) -> None:
    needs("prometheus_client")
    from prometheus_client import CollectorRegistry, generate_latest
    from prometheus_client.parser import text_string_to_metric_families

    from fastlock.contrib.prometheus import FastlockCollector

    client, single, key = quorum(fl, nodes.uris), fl.client(), fl.key()
    lease = await client.try_acquire(key, TTL)
    assert await client.try_acquire(key, TTL) is None
    assert await lease.release() is True
    await connected(fl, client)

    def scraped(clients: Any) -> dict[tuple[str, str], float]:
        registry = CollectorRegistry()
        registry.register(FastlockCollector(clients))
        families = text_string_to_metric_families(generate_latest(registry).decode())
        samples = [one for family in families for one in family.samples]
        return {
            (one.name, one.labels["client"]): one.value
            for one in samples
            if one.labels.get("le", "+Inf") == "+Inf"
        }

    named = scraped({"orders": fl.raw(client), "single": fl.raw(single)})
    addresses = " ".join(config.address for config in client.configs)
    for found, label in ((named, "orders"), (scraped(fl.raw(client)), addresses)):
        assert found["fastlock_acquired_total", label] == 1
        assert found["fastlock_refused_total", label] == 1
        assert found["fastlock_released_total", label] == 1
        assert found["fastlock_connections_total", label] == 3
        assert found["fastlock_waiting", label] == 0
        assert found["fastlock_hold_seconds_count", label] == 1
        assert found["fastlock_hold_seconds_bucket", label] == 1
    assert named["fastlock_acquired_total", "single"] == 0


async def test_a_quorum_s_label_has_no_password(fl: Ways) -> None:
    needs("prometheus_client")
    from prometheus_client import CollectorRegistry, generate_latest

    from fastlock.contrib.prometheus import FastlockCollector

    client = quorum(fl, [f"redis://user:hidden@{name}:6379/0" for name in "abc"])
    registry = CollectorRegistry()
    registry.register(FastlockCollector(fl.raw(client)))
    text = generate_latest(registry).decode()
    assert 'client="redis://a:6379/0 redis://b:6379/0 redis://c:6379/0"' in text
    assert "hidden" not in text


async def test_opentelemetry_collects_a_quorum(fl: Ways, nodes: Masters) -> None:
    needs("opentelemetry.sdk")
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    from fastlock.contrib.opentelemetry import instrument, traced

    client, key = quorum(fl, nodes.uris), fl.key()
    reader, exporter = InMemoryMetricReader(), InMemorySpanExporter()
    provider, tracers = MeterProvider([reader]), TracerProvider()
    tracers.add_span_processor(SimpleSpanProcessor(exporter))
    instrument(fl.raw(client), None, provider)
    block = traced(fl.raw(client).lock(key, TTL), tracer_provider=tracers)
    if fl.sync:
        with block:
            assert not nodes.free(key)
    else:
        async with block:
            assert not nodes.free(key)
    await connected(fl, client)
    data: Any = reader.get_metrics_data()
    found = {}
    for metric in data.resource_metrics[0].scope_metrics[0].metrics:
        for point in metric.data.data_points:
            labels = dict(point.attributes)
            expected = " ".join(config.address for config in client.configs)
            assert labels.pop("fastlock.client") == expected
            if labels in ({}, {"le": "+Inf"}):
                found[metric.name] = point.value
    assert found["fastlock.acquired"] == found["fastlock.released"] == 1
    assert found["fastlock.connections"] == 3
    assert found["fastlock.hold.count"] == found["fastlock.hold.bucket"] == 1
    assert 0 < found["fastlock.hold.sum"] < TTL
    spans = [span.name for span in exporter.get_finished_spans()]
    assert spans == ["fastlock.acquire", "fastlock.hold", "fastlock.release"]
    provider.shutdown()
    tracers.shutdown()
    with pytest.raises(fastlock.ConfigError, match="metrics"):
        instrument(fl.raw(quorum(fl, nodes.uris, metrics=False)), None, provider)
