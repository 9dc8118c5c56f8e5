"""Figures as observable instruments, which ask ``client.stats()`` when a reader collects.

Law: one attribute, ``fastlock.client``. A provider of meters has each instrument once, for all
clients: its SDK takes no second one of a name. OpenTelemetry has no observable histogram, so each
histogram is three observable counters: how often, seconds in all, and how often each bound was
not exceeded (attribute ``le``, as in Prometheus).
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterable
from typing import Any

from opentelemetry.metrics import CallbackOptions, Meter, MeterProvider, Observation, get_meter

from fastlock._metrics import KINDS, MEANINGS, TIMES, Histogram, asked, places_of
from fastlock._version import __version__

#: One observation's figure and attributes beyond the client's.
Point = tuple[float, dict[str, str]]


class _Clients:
    """Those of one provider that are alive, each with its attribute. Any thread."""

    def __init__(self) -> None:
        self._known: list[tuple[weakref.ref[Any], str]] = []

    def add(self, client: Any, name: str) -> None:
        """Once more it gets another name."""
        living = [(one, told) for one, told in self._known if one() not in (None, client)]
        self._known = [*living, (weakref.ref(client), name)]

    def ask(
        self, points: Callable[[Any], list[Point]]
    ) -> Callable[[CallbackOptions], Iterable[Observation]]:
        """A callback for an instrument."""

        def observe(_options: CallbackOptions) -> Iterable[Observation]:
            return [
                Observation(value, {"fastlock.client": name, **more})
                for known, name in self._known
                if (client := known()) is not None
                for value, more in points(client.stats())
            ]

        return observe


_lock = threading.Lock()
_clients: weakref.WeakKeyDictionary[MeterProvider, _Clients] = weakref.WeakKeyDictionary()
_globally: list[_Clients] = []  # of the global provider, which may be set later


def instrument(
    client: Any, name: str | None = None, meter_provider: MeterProvider | None = None
) -> None:
    """Let OpenTelemetry observe the client's figures, as long as the client lives.

    It is not kept alive by this. Give each client a name of its own: figures of one name are not
    added up.

    Args:
        client: a ``fastlock.Client`` or ``fastlock.QuorumClient``, or one of ``fastlock.aio``.
        name: the attribute ``fastlock.client``; None: the client's address, of a quorum all
            addresses with spaces between.
        meter_provider: None: the global one.

    ConfigError: something else, or a client with ``metrics=False``.
    """
    asked(client)
    with _lock:
        found = _globally[0] if _globally else None
        if meter_provider is not None:
            found = _clients.get(meter_provider)
        if found is None:
            found = _Clients()
            _make(get_meter("fastlock", __version__, meter_provider), found)
            if meter_provider is None:
                _globally.append(found)
            else:
                _clients[meter_provider] = found
        found.add(client, places_of(client) if name is None else name)


def _make(meter: Meter, clients: _Clients) -> None:
    for figure, meaning in MEANINGS.items():
        if figure in TIMES:
            for suffix, unit, points in (
                ("count", "1", _count),
                ("sum", "s", _sum),
                ("bucket", "1", _buckets),
            ):
                asks = [clients.ask(_timed(figure, points))]
                meter.create_observable_counter(f"fastlock.{figure}.{suffix}", asks, unit, meaning)
            continue
        make: Any = meter.create_observable_counter
        if KINDS[figure] == "gauge":
            make = meter.create_observable_up_down_counter
        make(f"fastlock.{figure}", [clients.ask(_plain(figure))], "1", meaning)


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
