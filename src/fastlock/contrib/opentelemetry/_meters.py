"""Figures as observable instruments, which ask ``client.stats()`` when a reader collects.

Law: one attribute, ``fastlock.client``. OpenTelemetry has no observable histogram, so each
histogram is three observable counters: how often, seconds in all, and how often each bound was
not exceeded (attribute ``le``, as in Prometheus).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from opentelemetry.metrics import CallbackOptions, Meter, MeterProvider, Observation, get_meter

from fastlock._metrics import KINDS, MEANINGS, TIMES, Histogram, places_of
from fastlock._version import __version__

#: One observation's figure and attributes beyond the client's.
Point = tuple[float, dict[str, str]]


def instrument(
    client: Any, name: str | None = None, meter_provider: MeterProvider | None = None
) -> None:
    """Let OpenTelemetry observe the client's figures, as long as the client lives.

    Args:
        client: a ``fastlock.Client`` or ``fastlock.QuorumClient``, or one of ``fastlock.aio``.
        name: the attribute ``fastlock.client``; None: the client's address, of a quorum all
            addresses with spaces between.
        meter_provider: None: the global one.

    ConfigError: a client with ``metrics=False``.
    """
    client.stats()
    meter = get_meter("fastlock", __version__, meter_provider)
    told = {"fastlock.client": places_of(client) if name is None else name}
    for figure, meaning in MEANINGS.items():
        if figure in TIMES:
            _observe_times(meter, client, figure, meaning, told)
            continue
        make: Any = meter.create_observable_counter
        if KINDS[figure] == "gauge":
            make = meter.create_observable_up_down_counter
        make(f"fastlock.{figure}", [_ask(client, told, _plain(figure))], "1", meaning)


def _observe_times(
    meter: Meter, client: Any, name: str, meaning: str, told: dict[str, str]
) -> None:
    for suffix, unit, points in (
        ("count", "1", _count),
        ("sum", "s", _sum),
        ("bucket", "1", _buckets),
    ):
        meter.create_observable_counter(
            f"fastlock.{name}.{suffix}", [_ask(client, told, _timed(name, points))], unit, meaning
        )


def _plain(name: str) -> Callable[[Any], list[Point]]:
    return lambda stats: [(getattr(stats, name), {})]


def _timed(name: str, points: Callable[[Histogram], list[Point]]) -> Callable[[Any], list[Point]]:
    return lambda stats: points(getattr(stats, name))


def _count(taken: Histogram) -> list[Point]:
    return [(taken.count, {})]


def _sum(taken: Histogram) -> list[Point]:
    return [(taken.sum, {})]


def _buckets(taken: Histogram) -> list[Point]:
    return [
        (count, {"le": "+Inf" if bound == float("inf") else str(bound)})
        for bound, count in taken.cumulated()
    ]


def _ask(
    client: Any, told: dict[str, str], points: Callable[[Any], list[Point]]
) -> Callable[[CallbackOptions], Iterable[Observation]]:
    def observe(_options: CallbackOptions) -> Iterable[Observation]:
        return [Observation(value, {**told, **more}) for value, more in points(client.stats())]

    return observe
