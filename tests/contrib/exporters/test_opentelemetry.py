"""What OpenTelemetry collects: figures and spans of real clients, by its own SDK, four ways."""

from __future__ import annotations

import gc
from typing import Any

import pytest
from _harness import Ways, needs, one_server

import fastlock

pytestmark = one_server


def provided() -> tuple[Any, Any]:
    """A provider of meters, and the reader that collects from it."""
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader

    reader = InMemoryMetricReader()
    return MeterProvider([reader]), reader


def collected(reader: Any, client: str = "orders") -> dict[str, Any]:
    """Name -> value, of that client; of those with bounds, le -> value."""
    found: dict[str, Any] = {}
    data = reader.get_metrics_data()
    for metric in data.resource_metrics[0].scope_metrics[0].metrics:
        for point in metric.data.data_points:
            attributes = dict(point.attributes)
            if attributes.pop("fastlock.client") != client:
                continue
            bound = attributes.pop("le", None)
            assert attributes == {}
            if bound is None:
                found[metric.name] = point.value
            else:
                found.setdefault(metric.name, {})[bound] = point.value
    return found


async def test_figures(fl: Ways) -> None:
    needs("opentelemetry.sdk")
    from fastlock.contrib.opentelemetry import instrument

    client, key = fl.client(), fl.key()
    provider, reader = provided()
    instrument(fl.raw(client), "orders", provider)
    lease = await client.try_acquire(key, 30)
    assert await client.try_acquire(key, 30) is None
    assert await client.release_many([lease]) == [True]
    found = collected(reader)
    assert found["fastlock.acquired"] == found["fastlock.refused"] == 1
    assert found["fastlock.released"] == found["fastlock.hold.count"] == 1
    assert found["fastlock.waiting"] == found["fastlock.lost"] == 0
    assert 0 < found["fastlock.hold.sum"] < 30
    assert found["fastlock.hold.bucket"]["+Inf"] == 1
    await (await client.try_acquire(key, 30)).release()
    assert collected(reader)["fastlock.acquired"] == 2
    provider.shutdown()


async def test_several_clients_of_one_provider(fl: Ways) -> None:
    """Each has its figures, under its latest name, for as long as it lives."""
    needs("opentelemetry.sdk")
    from fastlock.contrib.opentelemetry import instrument

    (provider, reader), (elsewhere, other_reader) = provided(), provided()
    clients = [fl.client(), fl.client()]
    for client, name in zip(clients, ("orders", "earlier"), strict=True):
        instrument(fl.raw(client), name, provider)
    instrument(fl.raw(clients[1]), "users", provider)
    instrument(fl.raw(clients[1]), "users", elsewhere)
    for client, times in zip(clients, (1, 2), strict=True):
        for _ in range(times):
            lease = await client.try_acquire(fl.key(), 30)
            assert await client.release_many([lease]) == [True]
    assert collected(reader)["fastlock.acquired"] == 1
    assert collected(reader, "users")["fastlock.acquired"] == 2
    assert collected(reader, "users")["fastlock.hold.bucket"]["+Inf"] == 2
    assert collected(reader, "earlier") == {}
    assert collected(other_reader, "users")["fastlock.acquired"] == 2
    assert collected(other_reader) == {}
    short = fastlock.Client(fl.server.uri)
    instrument(short, "short", provider)
    assert collected(reader, "short")["fastlock.acquired"] == 0
    short.close()
    assert collected(reader, "short")["fastlock.acquired"] == 0  # closed, but alive
    del short
    gc.collect()
    assert collected(reader, "short") == {}
    assert collected(reader)["fastlock.acquired"] == 1
    provider.shutdown()
    elsewhere.shutdown()


async def test_what_has_no_figures(fl: Ways) -> None:
    needs("opentelemetry.sdk")
    from fastlock.contrib.opentelemetry import instrument

    with pytest.raises(fastlock.ConfigError, match="metrics"):
        instrument(fl.raw(fl.client(metrics=False)))
    for other in (fl.admin, fastlock.Client, None):
        with pytest.raises(fastlock.ConfigError, match="give a Client or a QuorumClient"):
            instrument(other)


def tracing() -> tuple[Any, Any]:
    """A provider of tracers, and where its spans go."""
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return provider, exporter


class Block:
    """``with`` or ``async with``, by the way that is tested."""

    def __init__(self, fl: Ways, traced: Any) -> None:
        self.fl = fl
        self.traced = traced

    async def __aenter__(self) -> Any:
        return self.traced.__enter__() if self.fl.sync else await self.traced.__aenter__()

    async def __aexit__(self, *error: Any) -> Any:
        if self.fl.sync:
            return self.traced.__exit__(*error)
        return await self.traced.__aexit__(*error)


def block(fl: Ways, client: Any, key: str, provider: Any, **options: Any) -> Block:
    from fastlock.contrib.opentelemetry import traced

    lock = fl.raw(client).lock(key, 30, timeout=options.pop("timeout", None))
    return Block(fl, traced(lock, tracer_provider=provider, **options))


async def test_spans(fl: Ways) -> None:
    needs("opentelemetry.sdk")
    client, key = fl.client(), fl.key()
    provider, exporter = tracing()
    async with block(fl, client, key, provider) as lease:
        token = lease.token
        assert fl.admin.exists(key)
        with provider.get_tracer("mine").start_as_current_span("work"):
            pass
    assert not fl.admin.exists(key)
    spans = {span.name: span for span in exporter.get_finished_spans()}
    assert list(spans) == ["fastlock.acquire", "work", "fastlock.hold", "fastlock.release"]
    assert spans["work"].parent.span_id == spans["fastlock.hold"].context.span_id
    said = str([(span.attributes, span.events) for span in spans.values()])
    assert key not in said
    assert token not in said
    assert spans["fastlock.hold"].attributes["fastlock.ttl"] == 30
    exporter.clear()
    async with block(fl, client, key, provider, record_key=True):
        pass
    assert {span.attributes["fastlock.key"] for span in exporter.get_finished_spans()} == {key}


async def test_spans_of_several_locks(fl: Ways) -> None:
    needs("opentelemetry.sdk")
    from fastlock.contrib.opentelemetry import traced

    client, keys = fl.client(), [fl.key(), fl.key()]
    provider, exporter = tracing()
    for record_key in (False, True):
        locks = fl.raw(client).lock_all(keys, 30)
        async with Block(fl, traced(locks, record_key=record_key, tracer_provider=provider)):
            assert fl.admin.exists(*keys) == 2
        assert fl.admin.exists(*keys) == 0
        wanted = {"fastlock.ttl": 30, "fastlock.locks": 2}
        wanted |= {"fastlock.keys": tuple(keys)} if record_key else {}
        spans = exporter.get_finished_spans()
        assert [dict(span.attributes) for span in spans] == [wanted] * 3
        exporter.clear()


async def test_a_tracer_that_fails_keeps_no_lock(fl: Ways) -> None:
    needs("opentelemetry.sdk")
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.sampling import DEFAULT_ON, Sampler

    class Fails(Sampler):
        """When the lock is to be released."""

        def should_sample(
            self, parent_context: Any, trace_id: int, name: str, *rest: Any, **more: Any
        ) -> Any:
            if name == "fastlock.release":
                raise ZeroDivisionError
            return DEFAULT_ON.should_sample(parent_context, trace_id, name, *rest, **more)

        def get_description(self) -> str:
            return "fails"

    client, key = fl.client(), fl.key()
    with pytest.raises(ZeroDivisionError):
        async with block(fl, client, key, TracerProvider(sampler=Fails())):
            assert fl.admin.exists(key)
    assert not fl.admin.exists(key)


async def test_what_fails_is_on_its_span(fl: Ways) -> None:
    needs("opentelemetry.sdk")
    client, key = fl.client(), fl.key()
    provider, exporter = tracing()
    with pytest.raises(ZeroDivisionError):
        async with block(fl, client, key, provider):
            raise ZeroDivisionError
    assert not fl.admin.exists(key)
    failed = [span.name for span in exporter.get_finished_spans() if not span.status.is_unset]
    assert failed == ["fastlock.hold"]
    exporter.clear()
    fl.admin.set(key, "somebody", px=30_000)
    with pytest.raises(fastlock.AcquireTimeout):
        async with block(fl, client, key, provider, timeout=0.01):
            pytest.fail("it was held")
    (span,) = exporter.get_finished_spans()
    assert span.name == "fastlock.acquire"
    assert span.events[0].attributes["exception.type"].endswith("AcquireTimeout")
    exporter.clear()
    fl.admin.delete(key)
    with pytest.raises(fastlock.LockLost):
        async with block(fl, client, key, provider):
            fl.admin.delete(key)
    failed = [span.name for span in exporter.get_finished_spans() if not span.status.is_unset]
    assert failed == ["fastlock.release"]
