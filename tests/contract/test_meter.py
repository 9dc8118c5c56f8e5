"""Counters and histograms of both cores: the same numbers for the same words."""

from __future__ import annotations

import math
import sys
import threading
from typing import Any

import pytest
from _strikes import Interrupt, struck_at

from fastlock import _impl
from fastlock._metrics import ACQUIRED, BOUNDS, COUNTERS, HOLD, RELEASED, Histogram

pytestmark = pytest.mark.contract


class _Lease:
    def began(self) -> float:
        return 0.0


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
    """While another one looks all the time, and never sees one too many, nor less than before."""
    begin = threading.Barrier(5)
    begun = [0] * 4

    def work(number: int) -> None:
        begin.wait(30)
        for _ in range(2000):
            begun[number] += 1
            meter.took(0.0)
            meter.count(RELEASED)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        begin.wait(30)
        seen = 0
        while any(thread.is_alive() for thread in threads):
            acquired = meter.counts()[ACQUIRED]
            assert seen <= acquired <= sum(begun)
            seen = acquired
    finally:
        sys.setswitchinterval(before)
        for thread in threads:
            thread.join()
    counts = dict(zip(COUNTERS, meter.counts(), strict=True))
    assert counts["acquired"] == counts["released"] == 8000


def test_no_interrupt_loses_more_than_its_own_count(core: str) -> None:
    """At each point of a try and a release that are counted, also those that are timed."""
    for step in range(1, 40):
        meter = _impl.load(core).meter()
        lease = _Lease()
        for _ in range(63):
            meter.took(0.0)
            meter.freed(lease, 0.0)
        try:
            with struck_at(step) as where:
                meter.took(0.0)
                meter.freed(lease, 0.0)
        except Interrupt:
            pass
        counts = meter.counts()
        assert 63 <= counts[RELEASED] <= counts[ACQUIRED] <= 64
        if not where:
            return
    raise AssertionError("it never got through")


def test_a_handler_may_come_into_the_middle(meter: Any) -> None:
    """Of counting and of looking: it counts, and looks, too."""
    seen: list[int] = []

    def handle(frame: Any, event: str, _: Any) -> None:
        if event in ("call", "c_return"):
            sys.setprofile(None)
            meter.took(0.0)
            meter.count(RELEASED)
            seen.append(meter.counts()[ACQUIRED])
            sys.setprofile(handle)

    def work() -> None:
        sys.setprofile(handle)
        meter.time(HOLD, 1.0)
        meter.count(RELEASED, 0)
        meter.times(HOLD)
        meter.counts()
        sys.setprofile(None)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(10)
    assert not thread.is_alive()
    assert seen == list(range(1, len(seen) + 1)) != []
    assert meter.counts()[RELEASED] == len(seen)


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
