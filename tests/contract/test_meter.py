"""Counters and histograms of both cores: the same numbers for the same words."""

from __future__ import annotations

import math
import threading
from typing import Any

import pytest

from fastlock import _impl
from fastlock._metrics import BOUNDS, COUNTERS, HOLD, RELEASED, Histogram

pytestmark = pytest.mark.contract


@pytest.fixture
def meter(core: str) -> Any:
    return _impl.load(core).meter()


def test_each_time_is_in_its_bucket(meter: Any) -> None:
    for place, bound in enumerate(BOUNDS):
        for seconds, expected in ((bound, place), (math.nextafter(bound, 1e9), place + 1)):
            before, _ = meter.times(HOLD)
            meter.time(HOLD, seconds)
            after, _ = meter.times(HOLD)
            assert [b - a for a, b in zip(before, after, strict=True)].index(1) == expected


def test_what_is_no_time_is_not_counted_and_none_is_below_zero(meter: Any) -> None:
    for seconds in (math.nan, math.inf, -math.inf):
        meter.time(HOLD, seconds)
    assert meter.times(HOLD) == ([0] * (len(BOUNDS) + 1), 0.0)
    meter.time(HOLD, -1e-9)
    meter.time(HOLD, 2.5, 3)
    counts, total = meter.times(HOLD)
    assert (sum(counts), counts[0], total) == (4, 1, pytest.approx(7.5))


def test_a_forked_child_has_none(meter: Any) -> None:
    meter.count(RELEASED, 7)
    meter.took(meter.now())
    meter.time(HOLD, 1.0)
    meter.forked()
    assert meter.counts() == [0] * len(COUNTERS)
    assert meter.times(HOLD)[1] == 0.0


def test_no_thread_loses_a_count(meter: Any) -> None:
    """While another one looks all the time."""
    begin = threading.Barrier(5)

    def work() -> None:
        begin.wait(30)
        for _ in range(2000):
            meter.took(0.0)
            meter.count(RELEASED)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    begin.wait(30)
    while any(thread.is_alive() for thread in threads):
        meter.counts()
    for thread in threads:
        thread.join()
    counts = dict(zip(COUNTERS, meter.counts(), strict=True))
    assert counts["acquired"] == counts["released"] == 8000


def test_quantiles() -> None:
    counts = [0] * (len(BOUNDS) + 1)
    assert Histogram(tuple(counts), 0.0).quantile(0.5) == 0.0
    counts[3] = 10  # from 100 to 200 microseconds
    taken = Histogram(tuple(counts), 0.0015)
    assert taken.quantile(0.5) == pytest.approx(0.00015)
    assert taken.quantile(1) == pytest.approx(0.0002)
    assert (taken.count, taken.mean) == (10, pytest.approx(0.00015))
    counts[3], counts[-1] = 0, 1
    assert Histogram(tuple(counts), 9e9).quantile(0.9) == BOUNDS[-1]
    with pytest.raises(ValueError, match="share"):
        taken.quantile(1.1)
