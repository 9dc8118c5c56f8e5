"""The bench's own arithmetic: medians, ratios, curves, verdicts.

Law: no measurement here and no server; every expected number can be worked out by hand.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bench import __main__ as program
from bench import figures, report, verdicts
from bench.runner import together
from bench.targets import TARGETS, YARDSTICKS, Count, Figure, Ratio, Target


def entry(*rates: float, cpu: float = 1e-5, **more: Any) -> dict[str, Any]:
    """A contestant with a round of a second for each rate."""
    rounds = [{"pairs": rate, "seconds": 1.0, "cpu": cpu * rate, **more} for rate in rates]
    return {"what": "", "rounds": rounds, "latencies": [], "connections": 1}


def section(workload: str = "w1", count: int = 1, **contestants: Any) -> dict[str, Any]:
    return {
        "workload": workload, "count": count, "processes": 1, "server": "redis 7.0.15",
        "server_core": 0, "client_core": 1, "seconds": 1.0, "timed": False, "together": False,
        "others": 0.0, "contestants": contestants, "absent": {},
    }  # fmt: skip


def results(**sections: Any) -> dict[str, Any]:
    return {
        "started": "2026-01-01T00:00:00+00:00", "command": "make bench", "machine": {},
        "versions": {"python": "3.13.0"}, "out_of_time": [],
        "sections": {name.replace("_", "-"): one for name, one in sections.items()},
    }  # fmt: skip


def yardsticks(w1: float = 0.16, w2: float = 8.0) -> dict[str, Any]:
    """Results in which the yardsticks have these values."""
    lone = section(**{"c-hiredis": entry(1, cpu=w1), "redis-py+hiredis": entry(1, cpu=1.0)})
    many = section("w2", 32, **{"c-threads": entry(w2), "redis-py+hiredis": entry(1.0)})
    return results(w1=lone, w2_32=many)


# -- figures


def test_a_median_is_over_all_rounds_and_never_the_best() -> None:
    found = section(ours=entry(1, 100, 3, 2, 4))
    assert figures.median(found, "ours", "pairs") == 3
    assert figures.median(found, "ours", "cpu") == pytest.approx(1e-5)
    assert figures.median(found, "theirs", "pairs") is None
    assert figures.spread(figures.values(found, "ours", "pairs")) == 33


def test_what_was_not_measured_is_none() -> None:
    assert figures.median(section(ours=entry(5)), "ours", "p99") is None
    assert figures.median(section(ours=entry()), "ours", "pairs") is None


def test_latencies() -> None:
    found = figures.latency_figures([float(one) for one in range(1000, 0, -1)], quantiles=True)
    assert (found["p50"], found["p99"], found["max"]) == (501, 991, 1000)
    assert len(found["quantiles"]) == len(figures.QUANTILES)
    assert found["quantiles"][0] == 1
    assert found["quantiles"][-1] == 1000
    assert figures.latency_figures([]) == {}


def test_the_c_programs_keep_the_same_quantiles() -> None:
    source = (Path(figures.__file__).parent / "limit" / "common.h").read_text()
    tail = ", ".join(f"{one:g}" for one in figures.QUANTILES[100:])
    assert f"TAIL[] = {{{tail}}}" in source
    assert figures.QUANTILES[:100] == tuple(range(100))


def curve_of(**rates: float) -> list[dict[str, Any]]:
    late = {"p50": 1e-4, "p99": 4e-4}
    sections = {f"w2-{n[1:]}": section("w2", int(n[1:]), ours=entry(rate, **late))
                for n, rate in rates.items()}  # fmt: skip
    return figures.curve(sections, "w2", "ours")


def test_a_curve_compares_with_the_best_rate_of_fewer_callers() -> None:
    points = curve_of(n64=89, n2=100, n1=50, n128=110)
    assert [one["count"] for one in points] == [1, 2, 64, 128]
    assert [one["kept"] for one in points] == [None, 2, 0.89, 1.1]
    assert [figures.keeps(one) for one in points] == [None, True, False, True]
    assert figures.least_kept(points) == 0.89


def test_the_tail_is_judged_up_to_64_callers() -> None:
    points = curve_of(n32=1, n64=1, n128=1)
    points[1]["tail"], points[2]["tail"] = 5.1, 99
    assert [figures.short_tail(one) for one in points] == [True, False, None]
    assert figures.longest_tail(points) == 5.1


def test_several_processes_are_no_point_of_a_curve() -> None:
    alone, several = section("w2", 32, ours=entry(1)), section("w2", 32, ours=entry(9))
    several["processes"] = 4
    points = figures.curve({"w2-32": alone, "w2-4": several}, "w2", "ours")
    assert [one["rate"] for one in points] == [1]


def test_processes_at_once_are_added_up() -> None:
    one, other = ({"pairs": 10, "seconds": s, "cpu": 0.5} for s in (1.0, 1.25))
    assert together([one, other]) == {"pairs": 20, "seconds": 1.25, "cpu": 1.0}
    assert together([one]) is one


# -- verdicts


def test_the_yardsticks_hold() -> None:
    assert verdicts.void(yardsticks(0.19, 6.5)) == []
    assert verdicts.why(yardsticks()) == []


def test_a_yardstick_off_by_more_than_a_fifth_makes_the_run_void() -> None:
    found = verdicts.void(yardsticks(w1=0.20))
    assert len(found) == 1
    assert found[0].startswith("w1: CPU of c-hiredis / redis-py+hiredis is 0.2, known is 0.16")
    assert len(verdicts.void(yardsticks(0.1, 12))) == 2


def test_a_void_run_says_why_and_still_shows_its_tables() -> None:
    run = yardsticks(w1=0.05)
    for who, cpu in (("c-hiredis", 22e-6), ("redis-py+hiredis", 440e-6)):
        run["sections"]["w1"]["contestants"][who] = entry(1, cpu=cpu)
    run["sections"]["w1"]["others"] = 0.5
    said = verdicts.why(run)
    assert "redis-py+hiredis 440.0 us per pair (then 140.0): 3.14 x the time" in said[0]
    assert said[1:3] == [
        "w1: redis-py+hiredis moved most",
        "w1: others used 0.50 cores meanwhile",
    ]
    assert "python 3.13.0 (then 3.11.7)" in said[3]
    text = report.render(run)
    assert "VOID: w1" in text
    assert "why: w1: redis-py+hiredis moved most" in text
    assert "w1: 1 caller" in text


def test_a_target_is_reached_at_its_very_value() -> None:
    above = Target(Count(("n",), "n"), ">=", 2, 3)
    below = Target(Count(("n",), "n"), "<=", 2, 1)
    assert above.met(2, 2)
    assert below.met(2, 2)
    assert not above.met(1.99, 2)
    assert not below.met(2.01, 2)


def test_what_was_not_measured_is_not_reached() -> None:
    for one in verdicts.judged(results()):
        assert one["measured"] is None
        assert one["reached"] is None
    assert verdicts.failed(results(), strict=True) == []


def test_a_ratio_divides_medians() -> None:
    run = results(w1=section(a=entry(1, 2, 3), b=entry(4, 4, 100)))
    assert Ratio("w1", "pairs", "a", "b").value(run) == 0.5
    assert Ratio("w1", "pairs", "a", "nobody").value(run) is None
    assert Ratio("w2", "pairs", "a", "b").value(run) is None
    assert Figure("w1", "cpu", "a", "us", 1e6).value(run) == pytest.approx(10)


def test_a_count_above_what_is_promised_fails_the_run() -> None:
    run = yardsticks()
    run["sections"]["w2-32"]["contestants"]["fastlock"] = {**entry(1), "connections": 2}
    assert verdicts.failed(run, strict=False) == ["w2-32: connections of fastlock: 2, wanted <= 1"]


def test_a_missed_ratio_fails_a_strict_run_only() -> None:
    run = yardsticks()
    run["sections"]["w2-32"]["contestants"]["fastlock"] = entry(1)
    assert verdicts.failed(run, strict=False) == []
    missed = verdicts.failed(run, strict=True)
    assert "w2-32: pairs/s of fastlock / redis-py+hiredis: 1, wanted >= 8" in missed


def test_a_contestant_of_ours_that_fails_fails_the_run() -> None:
    run = yardsticks()
    run["sections"]["w1"]["absent"] = {
        "fastlock": "failed: ended with 1", "pottery": "not installed (pottery)",
        "coredis": "failed: ended with 1",
    }  # fmt: skip
    assert verdicts.failed(run, strict=False) == ["w1: fastlock failed: ended with 1"]
    assert "pottery: not installed (pottery)" in report.render(run)


def test_every_stretch_is_beyond_its_must() -> None:
    for target in TARGETS:
        if target.must is not None and target.stretch is not None:
            assert target.met(target.stretch, target.must), target.of
    assert all(one.known > 0 for one in YARDSTICKS)


# -- the command that is kept


@pytest.mark.parametrize(
    ("words", "kept"),
    [
        ("", "make bench"),
        ("--quick", "make bench-quick"),
        ("w1 w2 --rounds 3 --out /somewhere/x.json", "make bench BENCH_ARGS='w1 w2 --rounds 3'"),
        ("--quick --server /opt/x/redis-server",
         "make bench-quick BENCH_ARGS='--server redis-server'"),
    ],
)  # fmt: skip
def test_the_command_is_kept_without_paths(words: str, kept: str) -> None:
    assert program.command_of(program.parse(words.split())) == kept
