"""fastlock.fencing.Guard: who may write to what lives in a process."""

from __future__ import annotations

import gc
import pickle
import shelve
import threading
from pathlib import Path
from typing import Any

import pytest

import fastlock
from fastlock.fencing import Guard, StaleFence


def test_lower_numbers_are_refused_and_equal_ones_are_not() -> None:
    guard = Guard()
    for number in (5, 5, 7, 7):
        guard.check("orders:42", number)
    for number in (6, 5, 1):
        with pytest.raises(StaleFence) as caught:
            guard.check("orders:42", number)
        error = caught.value
        assert (error.key, error.fence, error.seen) == ("orders:42", number, 7)
        assert str(error) == (
            f"'orders:42': a later holder of its lock was here: {number} came after 7"
        )
    guard.check("orders:42", 8)
    assert guard.numbers == {"orders:42": 8}


def test_each_resource_has_its_own() -> None:
    guard = Guard()
    guard.check("a", 9)
    guard.check(b"a", 2)
    guard.check(("b", 1), 1)
    with pytest.raises(StaleFence):
        guard.check("a", 8)
    assert guard.numbers == {"a": 9, b"a": 2, ("b", 1): 1}


def test_a_stale_fence_is_a_lost_lock() -> None:
    guard = Guard()
    guard.check("a", 2)
    with pytest.raises(fastlock.LockLost) as caught:
        guard.check("a", 1)
    again = pickle.loads(pickle.dumps(caught.value))
    assert (str(again), again.key, again.fence, again.seen) == (str(caught.value), "a", 1, 2)
    assert fastlock.StaleFence is StaleFence is fastlock.errors.StaleFence


@pytest.mark.parametrize("fence", [None, 0, -1, True, 1.0, "7", 2**63])
def test_what_is_no_number_is_refused_and_leaves_nothing(fence: Any) -> None:
    guard = Guard()
    for call in (guard.check, lambda *given: guard.writing(*given).__enter__()):
        with pytest.raises(fastlock.ConfigError) as caught:
            call("a", fence)
        assert caught.value.field == "fence"
        assert repr(fence) in str(caught.value)
        assert "fence=True" in str(caught.value)
    assert guard.numbers == {}


def test_numbers_may_be_kept_where_they_outlive_the_process(tmp_path: Path) -> None:
    for number in (3, 4):
        with shelve.open(str(tmp_path / "fences")) as numbers:
            Guard(numbers).check("a", number)
    with shelve.open(str(tmp_path / "fences")) as numbers, pytest.raises(StaleFence):
        Guard(numbers).check("a", 3)


def test_a_block_is_entered_with_a_number_that_passes() -> None:
    guard = Guard()
    with guard.writing("a", 4):
        assert guard.numbers == {"a": 4}
    with pytest.raises(StaleFence), guard.writing("a", 3):
        raise AssertionError("it was entered")
    with pytest.raises(ZeroDivisionError), guard.writing("a", 4):
        raise ZeroDivisionError
    with guard.writing("a", 4):
        pass
    gc.collect()  # of what the tracebacks hold
    assert not guard._turns


def test_nobody_else_writes_while_a_block_is_open() -> None:
    """The former holder is inside when the later one comes: its write is over before."""
    guard, written, inside = Guard(), [], threading.Event()
    go = threading.Event()

    def former() -> None:
        with guard.writing("a", 1):
            inside.set()
            assert go.wait(30)
            written.append(1)

    def later() -> None:
        with guard.writing("a", 2):
            written.append(2)

    threads = [threading.Thread(target=former), threading.Thread(target=later)]
    threads[0].start()
    assert inside.wait(30)
    threads[1].start()
    threads[1].join(0.1)
    assert written == []
    with guard.writing("b", 1):  # another resource does not wait
        pass
    go.set()
    for thread in threads:
        thread.join(30)
    assert written == [1, 2]
    with pytest.raises(StaleFence), guard.writing("a", 1):
        raise AssertionError("it was entered")


def test_many_threads_write_in_the_order_of_their_numbers() -> None:
    guard, written = Guard(), []
    start = threading.Barrier(8)

    def write(number: int) -> None:
        start.wait()
        for _ in range(200):
            try:
                with guard.writing("a", number):
                    written.append(number)
            except StaleFence:
                return

    threads = [threading.Thread(target=write, args=(number,)) for number in range(1, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert written == sorted(written)
    assert written.count(8) == 200
    assert guard.numbers == {"a": 8}
