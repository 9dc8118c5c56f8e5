"""Giving back in the background: in lanes, none of which waits for another."""

from __future__ import annotations

import threading
import time
from collections.abc import Hashable

from fastlock._background import Background
from fastlock._pymeter import Meter
from fastlock._tokens import Pair


def by_key(pairs: list[Pair]) -> dict[Hashable, list[Pair]]:
    """Each key is a lane."""
    found: dict[Hashable, list[Pair]] = {}
    for pair in pairs:
        found.setdefault(pair[0], []).append(pair)
    return found


def test_a_slow_lane_keeps_only_its_own_waiting() -> None:
    go, done = threading.Event(), threading.Event()
    order: list[tuple[bytes, bytes]] = []

    def settle(pairs: list[Pair], until: float, verb: str) -> None:
        if pairs[0][0] == b"slow":
            assert go.wait(20)
        order.extend(pairs)
        if pairs[0][0] == b"fast":
            done.set()

    background = Background(settle, Meter(), by_key)
    background.add([(b"slow", b"1"), (b"fast", b"2")], 100.0)
    background.add([(b"slow", b"3")], 100.0)
    assert done.wait(20)
    assert order == [(b"fast", b"2")]
    background.finish(0.05)  # no longer than that, however slow it is
    assert order == [(b"fast", b"2")]
    go.set()
    background.finish(20.0)
    assert order == [(b"fast", b"2"), (b"slow", b"1"), (b"slow", b"3")]


def test_a_lane_with_nothing_to_do_is_forgotten() -> None:
    background = Background(lambda pairs, until, verb: None, Meter(), by_key)
    for number in range(20):
        background.add([(b"%d" % number, b"t")], 100.0)
        background.finish(20.0)
    assert len(background._lanes) <= 2
    assert not background.runs_here()


def test_each_lane_knows_its_own_thread() -> None:
    here: list[bool] = []

    def settle(pairs: list[Pair], until: float, verb: str) -> None:
        here.append(background.runs_here())

    background = Background(settle, Meter(), by_key)
    background.add([(b"a", b"1"), (b"b", b"2")], 100.0)
    background.finish(20.0)
    assert here == [True, True]


def test_the_end_waits_also_for_lanes_that_begin_meanwhile() -> None:
    """What fails at one server may be another one's to give back."""
    done = threading.Event()

    def settle(pairs: list[Pair], until: float, verb: str) -> None:
        if pairs[0][0] == b"first":
            background.add([(b"second", b"2")], until)
        else:
            time.sleep(0.2)
            done.set()

    background = Background(settle, Meter(), by_key)
    background.add([(b"first", b"1")], 100.0)
    background.finish(20.0)
    assert done.is_set()


def test_a_child_waits_for_none_of_its_parent_s() -> None:
    """Who was adding something while the process forked, and has the mutex, is not there."""
    background = Background(lambda pairs, until, verb: None, Meter(), by_key)
    taken = threading.Thread(target=background._mutex.acquire)
    taken.start()
    taken.join()
    background.forked()
    ended = threading.Thread(target=background.end, args=(0.1,), daemon=True)
    ended.start()
    ended.join(20)
    assert not ended.is_alive()


def test_all_lanes_together_have_one_time_to_end() -> None:
    go = threading.Event()
    background = Background(lambda pairs, until, verb: go.wait(20), Meter(), by_key)
    background.add([(b"%d" % number, b"t") for number in range(20)], 100.0)
    began = time.monotonic()
    background.finish(0.2)
    assert time.monotonic() - began < 2
    go.set()
    background.finish(20)
