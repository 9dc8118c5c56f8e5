"""A client's figures for Prometheus: a collector that asks ``client.stats()`` at each scrape.

    from fastlock.contrib.prometheus import FastlockCollector

    REGISTRY.register(FastlockCollector(client))

Law: needs the extra ``prometheus`` and says so. The one label is ``client``, which says whose
figures they are; never a key, of which there is no end, and never a token.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from fastlock._metrics import KINDS, MEANINGS, TIMES, Histogram, Stats, asked, places_of
from fastlock.errors import ConfigError

try:
    from prometheus_client.core import (
        CounterMetricFamily,
        GaugeMetricFamily,
        HistogramMetricFamily,
        Metric,
    )
    from prometheus_client.registry import Collector
except ImportError as _error:
    raise ImportError(
        f"fastlock.contrib.prometheus needs prometheus_client ({_error}): "
        "pip install 'fastlock[prometheus]'"
    ) from _error

__all__ = ["FastlockCollector"]


class FastlockCollector(Collector):
    """Collects the figures of one client, or of several by their labels.

    Nothing is kept up to date between scrapes, and nothing of the server is asked.

    Args:
        clients: a ``fastlock.Client`` or ``fastlock.QuorumClient``, or one of ``fastlock.aio``,
            whose label is its address, of a quorum all addresses with spaces between; or a
            mapping of labels to clients.

    ConfigError: something else, or a client with ``metrics=False``.
    """

    def __init__(self, clients: Any) -> None:
        if isinstance(clients, Mapping):
            self._clients: dict[str, Any] = dict(clients)
        else:
            asked(clients)
            self._clients = {places_of(clients): clients}
        for label, client in self._clients.items():
            if not isinstance(label, str):
                raise ConfigError("clients", f"{label!r} is no label; labels are strings")
            asked(client)  # now, for at a scrape the others would be lost with it

    def describe(self) -> Iterable[Metric]:
        """The names, without asking anybody."""
        return self._families({})

    def collect(self) -> Iterator[Metric]:
        """All figures, of this moment."""
        found = {label: client.stats() for label, client in self._clients.items()}
        yield from self._families(found)

    def _families(self, found: dict[str, Stats]) -> Iterator[Metric]:
        family: Any
        for name, meaning in MEANINGS.items():
            if name in TIMES:
                family = HistogramMetricFamily(f"fastlock_{name}_seconds", meaning, labels=LABELS)
                for label, stats in found.items():
                    taken: Histogram = getattr(stats, name)
                    family.add_metric([label], _buckets(taken), taken.sum)
            else:
                kind = GaugeMetricFamily if KINDS[name] == "gauge" else CounterMetricFamily
                family = kind(f"fastlock_{name}", meaning, labels=LABELS)
                for label, stats in found.items():
                    family.add_metric([label], getattr(stats, name))
            yield family


LABELS = ("client",)


def _buckets(taken: Histogram) -> list[tuple[str, float]]:
    """By their upper bounds, as Prometheus writes them."""
    return [
        ("+Inf" if bound == float("inf") else str(bound), count)
        for bound, count in taken.cumulated()
    ]
