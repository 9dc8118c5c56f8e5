"""W5's arithmetic: hand-overs, shares, commands, waits, and that what is shown follows from it.

Law: no measurement here and no server; every expected number can be worked out by hand.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench import child_w5, child_wakeup, figures, report, servers, styles, w5_contended, w5_wakeup
from bench.child_w5 import Board, Caller
from bench.specs import SPECS
from bench.targets import TARGETS, Figure, Ratio
from bench.test_arithmetic import results, section
from bench.variants import VARIANTS, Variant
from bench.w5_contended import contestants


def callers(number: int) -> list[Caller]:
    board = Board()
    return [Caller(one, board) for one in range(number)]


def turn(caller: Caller, waited: float = 0.5, held: float = 0.25) -> None:
    caller.enter(waited)
    caller.leave(held)


def entry(*rounds: dict[str, Any]) -> dict[str, Any]:
    return {"what": "", "rounds": list(rounds), "latencies": [], "connections": 1}


def one_round(**more: Any) -> dict[str, Any]:
    return {"pairs": 500, "seconds": 2.0, "cpu": 1.0, "handovers": 400, "held": 1.0, **more}


# -- counting


def test_a_hand_over_is_to_another_caller_and_the_first_has_nobody_before_it() -> None:
    first, second = both = callers(2)
    for caller in (first, first, second, second, first):
        turn(caller)
    told = child_w5.summary(both, 2.0, 1.0, {}, quantiles=False)
    assert (told["pairs"], told["handovers"], told["held"]) == (5, 2, 1.25)


def test_only_hand_overs_have_waits() -> None:
    first, second = both = callers(2)
    for caller, waited in ((first, 9.0), (first, 0.001), (second, 3.0), (first, 4.0)):
        turn(caller, waited)
    told = child_w5.summary(both, 2.0, 1.0, {}, quantiles=True)
    assert (told["p50"], told["p99"], told["max"]) == (4.0, 4.0, 4.0)
    assert told["quantiles"][0] == 3.0


def test_after_the_word_to_stop_nothing_counts_but_the_wait_that_had_begun() -> None:
    first, second = both = callers(2)
    turn(first)
    first.board.stop = 1
    turn(second, waited=7.0)
    told = child_w5.summary(both, 2.0, 1.0, {}, quantiles=False)
    assert (told["pairs"], told["handovers"], told["held"]) == (1, 0, 0.25)
    assert told["max"] == 7.0


def test_a_turn_that_began_before_the_word_to_stop_counts_whole() -> None:
    (caller,) = callers(1)
    caller.enter(0.5)
    caller.board.stop = 1
    caller.leave(0.25)
    assert (caller.done, caller.held) == (1, 0.25)


def test_shares_are_in_relation_to_a_fair_one() -> None:
    lucky, other, unlucky = three = callers(3)
    for caller in (lucky, lucky, lucky, lucky, other, unlucky):
        turn(caller)
    told = child_w5.summary(three, 1.0, 1.0, {}, quantiles=False)
    assert (told["least"], told["most"]) == (0.5, 2.0)


def test_whoever_never_had_it_has_no_share() -> None:
    lucky, _ = both = callers(2)
    turn(lucky)
    told = child_w5.summary(both, 1.0, 1.0, {}, quantiles=False)
    assert (told["least"], told["most"], told["handovers"]) == (0.0, 2.0, 0)
    assert "p50" not in told


@pytest.mark.parametrize("board", [Board(), child_w5.SharedBoard(0, -1, -1)])
def test_two_holders_at_once_are_found_out(board: Any) -> None:
    Caller(1, board).enter(0.0)
    with pytest.raises(child_w5.Broken, match="1 and 2"):
        Caller(2, board).enter(0.0)


def test_threads_do_not_run_beyond_the_word_to_stop() -> None:
    (caller,) = callers(1)
    taken = []

    def enter() -> None:
        taken.append(None)
        caller.board.stop = len(taken) == 3

    child_w5.turns(caller, (enter, lambda _: None), 0.0)
    assert len(taken) == 3
    assert caller.done == 2  # the third came with the word


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child of its parent's end")
def test_a_worker_ends_with_its_parent_even_when_that_is_killed() -> None:
    """Both hold the pipe that is read here, so it ends when both have ended."""
    program = (
        "import multiprocessing, time\n"
        "from bench.child_w5 import end_with_parent\n"
        "def work():\n"
        "    end_with_parent()\n"
        "    print('at work', flush=True)\n"
        "    time.sleep(60)\n"
        "multiprocessing.get_context('fork').Process(target=work).start()\n"
        "time.sleep(60)\n"
    )
    root = Path(child_w5.__file__).parent.parent
    parent = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, cwd=root
    )
    with parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "at work\n"
        parent.kill()
        assert parent.communicate(timeout=20) == ("", None)


# -- the server's commands


def test_commands_that_open_or_look_do_not_count() -> None:
    before = servers.calls_of(
        "# Commandstats\r\ncmdstat_set:calls=3,usec=12\r\ncmdstat_get:calls=2"
    )
    assert before == {"set": 3, "get": 2}
    after = {"set": 13, "get": 2, "hello": 5, "info": 9, "client|setname": 5, "client|caching": 4}
    assert servers.calls_between(before, after) == {"set": 10, "client|caching": 4}


def test_commands_are_per_hand_over_and_medians_over_all_rounds() -> None:
    rounds = [one_round(calls={"set": count}, commands=count) for count in (400, 4000, 800)]
    found = section(ours=entry(*rounds, one_round(handovers=0, calls={"set": 7}, commands=7)))
    assert figures.calls(found, "ours") == {"set": 2.0}
    assert figures.median(found, "ours", "commands") == 2.0
    assert figures.calls(found, "theirs") == {}


# -- figures


def test_hand_overs_are_per_second_and_their_share_is_of_the_time_held() -> None:
    assert figures.value_of(one_round(), "handovers") == 200
    assert figures.value_of(one_round(), "share") == pytest.approx(0.4)  # of 500 per second
    assert figures.value_of(one_round(held=0.0), "share") is None


def test_a_wake_up_is_measured_in_pings() -> None:
    found = {"p50": 300e-6, "p99": 900e-6, "ping": 100e-6}
    assert figures.value_of(found, "p50_pings") == pytest.approx(3)
    assert figures.value_of(found, "p99_pings") == pytest.approx(9)
    assert figures.value_of({"p50": 1.0, "p99": 1.0}, "p50_pings") is None


def test_samples_count_from_the_moment_the_lock_was_free() -> None:
    samples = child_wakeup.Samples()
    for got in (10.5, 10.25, 12.0):
        samples.got(got, (10.0, 0.125))
    samples.pings += [0.5, 0.125, 0.25]
    told = samples.report(1.0, 0.5)
    assert (told["pairs"], told["p50"], told["max"], told["ping"]) == (3, 0.5, 2.0, 0.25)
    assert told["cpu"] == 0.875  # the other's too


def test_a_lock_taken_before_it_was_free_is_found_out() -> None:
    samples = child_wakeup.Samples()
    samples.got(9.999, (10.0, 0.0))  # within what the server's clock is rounded by
    with pytest.raises(child_w5.Broken, match="too early"):
        samples.got(9.9, (10.0, 0.0))


# -- variants, contestants, targets, pictures


def test_a_variant_names_its_contestants() -> None:
    local = Variant("-local", "", {"threads": (8, 20), "tasks": None})
    assert local.names("threads") == ["fastlock-local", "fastlock-local-pure"]
    assert local.names("tasks") == ["fastlock-aio-local", "fastlock-aio-local-pure"]
    assert local.names("processes") == []


def test_every_contestant_is_known_and_can_be_drawn() -> None:
    names = [name for one in VARIANTS for kind in one.kinds for name in one.names(kind)]
    names += [name for kind in w5_contended.KINDS for name in contestants(kind).split()]
    for some in (w5_wakeup.OURS, w5_wakeup.AFTER, w5_wakeup.RIVALS, w5_wakeup.CROWDED):
        names += some.split()
    assert set(names) <= set(SPECS)
    assert set(names) <= set(styles.STYLES)


def test_who_takes_part_in_a_kind() -> None:
    assert contestants("tasks", quick=True) == "fastlock-aio redis-aio"
    ours = [name for one in VARIANTS for name in one.names("threads")]
    rivals = {"redis-py+hiredis", "redis-py-default", "python-redis-lock"}
    every = contestants("threads").split()
    assert every[: len(ours)] == ours
    assert set(every[len(ours) :]) == rivals
    longest = contestants("threads", longest=True).split()
    assert longest == [name for name in every if not name.endswith("-pure")]


def test_every_variant_s_targets_are_among_the_targets() -> None:
    wanted = {
        (f"w5-{kind}", one.names(kind)[0], *both)
        for one in VARIANTS for kind, both in one.kinds.items() if both
    }  # fmt: skip
    there = {
        (one.of.section, one.of.ours, one.must, one.stretch)
        for one in TARGETS if isinstance(one.of, Ratio) and one.of.what == "handovers"
    }  # fmt: skip
    assert there == wanted


def test_the_longest_wait_beyond_a_dead_one_s_ttl_is_of_all_rounds() -> None:
    rounds = [{"pairs": 3, "seconds": 1.0, "cpu": 0.1, "max": late} for late in (0.01, 0.06, 0.02)]
    run = results(w5_killed=section("killed@0.2", 2, fastlock=entry(*rounds)))
    (target,) = [
        one for one in TARGETS
        if isinstance(one.of, Figure) and (one.of.section, one.of.ours) == ("w5-killed", "fastlock")
    ]  # fmt: skip
    assert target.of.value(run) == pytest.approx(60)
    assert not target.met(60, target.must or 0)


def test_the_tables_of_contention() -> None:
    late = {"p50": 0.0015, "p99": 0.0025, "max": 0.0123}
    shares = {"least": 0.5, "most": 2.0}
    fast = one_round(**late, **shares, calls={"set": 800, "get": 1}, commands=801)
    slow = one_round(**late, **shares, calls={"set": 400}, commands=400) | {"handovers": 100}
    held = section("w5@0.001", 8, **{"fastlock": entry(fast), "redis-py+hiredis": entry(slow)})
    woken = section("wakeup", 2, fastlock=entry({**fast, "ping": 0.0005}))
    killed = section("killed@0.2", 2, fastlock=entry(fast))
    text = report.render(results(w5_threads_1ms=held, w5_wakeup=woken, w5_killed=killed))
    row = "fastlock 200 0% 4.00 250 2000.0 2.0 0.40 1.50 2.50 12.3 0.50 2.00"
    assert row in [" ".join(line.split()) for line in text.splitlines()]
    assert "  fastlock: set 2.00\n  redis-py+hiredis: set 4.00\n" in text
    assert "fastlock 1,500 2,500 12,300 500 3.00 5.00 500" in " ".join(text.split())
    assert "lease of 200 ms" in text
    assert "fastlock 1.5 12.3 500" in " ".join(text.split())
