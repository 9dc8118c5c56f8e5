"""A seed gives the same faults and steps again, and all kinds of them."""

from __future__ import annotations

from itertools import islice, pairwise

import pytest

from chaos import _plan


def test_a_seed_repeats_the_faults() -> None:
    assert _plan.faults(7, 300) == _plan.faults(7, 300)
    assert _plan.faults(7, 300) != _plan.faults(8, 300)


def test_a_longer_run_goes_on_where_a_shorter_one_ends() -> None:
    for long, short in zip(_plan.faults(7, 300), _plan.faults(7, 30), strict=True):
        assert long[: len(short)] == short
        assert all(fault.at + fault.seconds <= 30 for fault in short)


def test_faults_come_one_after_the_other_and_of_all_kinds() -> None:
    server, processes = _plan.faults(7, 60)
    for before, after in pairwise(server):
        assert before.at + before.seconds < after.at
    assert {fault.kind for fault in server} == {*_plan.SERVER_FAULTS}
    assert {fault.kind for fault in processes} == {*_plan.PROCESS_FAULTS}
    assert {fault.slot for fault in processes} == {*range(len(_plan.WAYS))}


@pytest.mark.parametrize("slot", range(len(_plan.WAYS)))
def test_a_seed_repeats_the_steps(slot: int) -> None:
    first = list(islice(_plan.steps(7, slot, 1, 1), 500))
    assert first == list(islice(_plan.steps(7, slot, 1, 1), 500))
    assert first != list(islice(_plan.steps(7, slot, 2, 1), 500))
    assert {step.how for step in first} == {"try", "wait", "with", "many", "all"}
    assert any(step.fork for step in first)
    assert any(step.extend for step in first)
    assert {step.how for step in first if step.fair} == {"wait", "with"}
    assert {step.fair for step in first if step.how == "wait"} == {False, True}
    assert {step.cut is not None for step in first} == (
        {False} if _plan.WAYS[slot][0] == "sync" else {False, True}
    )


def test_locks_of_a_key_have_numbers_always_or_never() -> None:
    for step in islice(_plan.steps(7, 0, 1, 1), 2000):
        for key in step.keys:
            assert step.fence is (_plan.KEYS.index(key) % 2 == 0)
        assert not step.keys or step.ttl <= _plan.LONGEST
        assert not step.keys or (step.extend or 0.0) <= _plan.LONGEST
