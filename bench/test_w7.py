"""The arithmetic of one client over several masters. Law: that of ``test_arithmetic.py``."""

from __future__ import annotations

from typing import Any

import pytest

from bench import report, verdicts
from bench.figures import median
from bench.targets import Flat, Ratio
from bench.test_arithmetic import entry, results, section
from bench.w7_shards import KINDS, SHARDS, costs, estimate, growth


def over(**cpu: float) -> dict[str, Any]:
    """Sections of lone callers, with this CPU per pair: n1=1e-5, n8=2e-5."""
    return {
        f"w7-lone-{name[1:]}": section(**{"fastlock-cluster": entry(1000, cpu=one, server=0.02)})
        for name, one in cpu.items()
    }


def test_growth_is_in_relation_to_one_master() -> None:
    found = growth(over(n1=10e-6, n2=11e-6, n4=9e-6, n8=12e-6), "lone", "fastlock-cluster")
    assert found == {
        2: pytest.approx(1.1), 4: pytest.approx(0.9), 8: pytest.approx(1.2),
    }  # fmt: skip


def test_flat_is_judged_by_the_worst() -> None:
    run = results()
    run["sections"] = over(n1=10e-6, n2=11e-6, n4=14e-6, n8=12e-6)
    assert Flat("lone", "fastlock-cluster").value(run) == pytest.approx(1.4)
    assert Flat("lone", "nobody").value(run) is None
    assert Flat("tasks", "fastlock-cluster").value(run) is None
    del run["sections"]["w7-lone-1"]
    assert Flat("lone", "fastlock-cluster").value(run) is None
    assert Flat("lone", "fastlock-cluster").value(results()) is None


def test_a_ratio_may_be_of_two_sections() -> None:
    run = results(plain=section(a=entry(1, cpu=4e-6)), spread=section(b=entry(1, cpu=5e-6)))
    ratio = Ratio("plain", "cpu", "a", "b", "spread")
    assert ratio.value(run) == pytest.approx(0.8)
    assert str(ratio) == "plain: CPU of a / b in spread"
    assert Ratio("plain", "cpu", "a", "b").value(run) is None
    assert Ratio("plain", "cpu", "a", "b", "elsewhere").value(run) is None


def test_what_the_masters_used_is_per_pair() -> None:
    found = over(n2=10e-6)
    assert median(found["w7-lone-2"], "fastlock-cluster", "server") == pytest.approx(20e-6)
    assert costs(found, "lone", "fastlock-cluster", 2) == pytest.approx((10e-6, 20e-6))
    assert costs(found, "lone", "fastlock-cluster", 4) is None
    assert median(section(a=entry(1)), "a", "server") is None


def test_the_estimate_is_cores_divided_by_what_a_pair_takes() -> None:
    asked, served = estimate(10e-6, 20e-6, workers=4, masters=2)
    assert (asked, served) == (pytest.approx(400_000), pytest.approx(100_000))
    assert estimate(10e-6, 20e-6, 1, 8) == (pytest.approx(100_000), pytest.approx(400_000))


def test_the_tables_show_all_of_it() -> None:
    run = results()
    for caller in KINDS:
        who = "fastlock-aio-cluster" if "tasks" in caller else "fastlock-cluster"
        plain = "fastlock-aio" if "tasks" in caller else "fastlock"
        run["sections"][f"w7-{caller}-plain"] = section(**{plain: entry(1000, cpu=8e-6)})
        for masters in SHARDS:
            cpu = 10e-6 if masters == 1 else 11e-6
            run["sections"][f"w7-{caller}-{masters}"] = section(
                **{who: entry(1000, cpu=cpu, server=0.02)}
            )
    run["sections"]["w7-batch-plain"] = section("w4", fastlock=entry(10, cpu=4e-6))
    run["sections"]["w7-batch-3"] = section("w4", **{"fastlock-cluster": entry(10, cpu=5e-6)})
    text = report.render(run)
    row = next(line for line in text.splitlines() if line.startswith("fastlock-cluster "))
    assert row.split() == [
        "fastlock-cluster", "8.00", "10.00", "11.00", "11.00", "11.00", "1.25", "1.10", "0%",
        "20.00", "20.00",
    ]  # fmt: skip
    assert "8 masters: a core of workers 1 / 11.00 us = 90,909; masters 8 / 20.00 us = 400,000" in (
        text
    )
    four = next(line for line in text.splitlines() if line.startswith("4 "))
    assert four.split()[:3] == ["4", "50,000", "(masters)"]  # and not 4 / 10 us = 400,000
    assert "0.80" in text
    judged = {one["target"]: one for one in verdicts.judged(run)}
    flat = judged["w7-lone: most CPU per pair over 2 to 8 masters / over 1, of fastlock-cluster"]
    assert (flat["measured"], flat["reached"]) == (pytest.approx(1.1), True)
    batch = judged["w7-batch-plain: CPU of fastlock / fastlock-cluster in w7-batch-3"]
    assert batch["measured"] == pytest.approx(0.8)
