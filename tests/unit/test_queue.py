"""Lines of waiters, one step at a time: in orders that no threads could be made to take at will."""

from __future__ import annotations

import random
import threading
from collections import deque
from typing import Any

import pytest

from fastlock._metrics import WAIT
from fastlock._pymeter import Meter
from fastlock._queue import AT_ONCE, Place, Queue
from fastlock._watch import MOST_VAIN, Watch


class News:
    """Counts how often it is set."""

    def __init__(self) -> None:
        self.times = 0

    def set(self) -> None:
        self.times += 1


class Lease:
    """Lasts until then."""

    deadline = 100.0


def joined(queue: Queue, key: bytes = b"k", who: int | None = None) -> Place:
    place = Place(queue, key, who, lined=True)
    place.news = News()
    place.join()
    return place


def woken(place: Place) -> int:
    news: Any = place.news
    times: int = news.times
    news.times = 0
    return times


def is_empty(queue: Queue) -> bool:
    return not (queue.lines or queue.waiting or queue.threads)


def test_the_next_is_woken_when_the_first_leaves() -> None:
    queue = Queue()
    first, second, third = (joined(queue) for _ in range(3))
    assert [place.first for place in (first, second, third)] == [True, False, False]
    assert queue.first(b"k") is first
    first.leave()
    assert (second.first, woken(second), woken(third)) == (True, 1, 0)
    third.leave()
    assert second.first
    second.leave()
    assert is_empty(queue)
    assert queue.first(b"k") is None


def test_the_next_is_not_woken_in_vain() -> None:
    """It looks by itself before the lease ends, and waits until then to be handed it."""
    queue = Queue(9, 1.0)
    for wakes_at, times in ((99.0, 0), (100.0, 0), (100.1, 1), (float("inf"), 1)):
        first, second = joined(queue), joined(queue)
        second.wakes_at = wakes_at
        lease = Lease()
        first.got(lease)
        first.leave()
        assert second.first
        assert woken(second) == times
        second.leave()


def test_without_hand_overs_the_next_is_always_woken() -> None:
    queue = Queue()
    first, second = joined(queue), joined(queue)
    first.got(Lease())
    first.leave()
    assert woken(second) == 1
    second.leave()


def test_joining_and_leaving_twice_does_no_harm() -> None:
    queue = Queue()
    first, second = joined(queue), joined(queue)
    first.join()
    assert list(queue.lines[b"k"]) == [first, second]
    first.leave()
    first.leave()
    assert list(queue.lines[b"k"]) == [second]
    second.leave()
    second.leave()
    assert not queue.lines


def test_who_leaves_twice_has_waited_once() -> None:
    queue = Queue(meter=Meter())
    place = joined(queue)
    for _ in range(3):
        place.leave()
    assert queue.meter is not None
    assert sum(queue.meter.times(WAIT)[0]) == 1


def test_lines_of_different_keys_have_nothing_in_common() -> None:
    queue = Queue()
    one, other = joined(queue, b"a"), joined(queue, b"b")
    assert one.first
    assert other.first
    one.leave()
    assert woken(other) == 0
    assert list(queue.lines) == [b"b"]


def test_who_comes_when_the_last_leaves_is_first_and_can_be_found() -> None:
    """At each of the moments between the last one's looks."""
    for moment in range(6):
        queue = Queue()
        last = joined(queue)
        came: list[Place] = []

        class Lines(dict[bytes, Any]):
            calls = 0

            def _step(self) -> None:
                if self.calls == moment:  # noqa: B023
                    self.calls += 1
                    came.append(joined(queue))  # noqa: B023
                self.calls += 1

            def pop(self, *args: Any) -> Any:
                self._step()
                found = super().pop(*args)
                self._step()
                return found

            def setdefault(self, *args: Any) -> Any:
                self._step()
                found = super().setdefault(*args)
                self._step()
                return found

        queue.lines = Lines(queue.lines)
        last.leave()
        for place in came:
            assert place.first
            assert queue.first(b"k") is place
            place.leave()
        assert not queue.lines
        assert came or moment > 1


def test_who_beside_the_lines_waits_is_always_first() -> None:
    queue = Queue()
    joined(queue)
    beside = Place(queue, b"k", None, lined=False)
    beside.news = News()
    beside.join()
    assert beside.first
    assert len(queue.lines[b"k"]) == 1
    queue.wake_all()
    assert woken(beside) == 1
    beside.leave()
    assert beside not in queue.waiting


def test_a_handler_stands_in_front_of_whom_it_interrupted() -> None:
    queue = Queue()
    other, outer = joined(queue, who=1), joined(queue, who=2)
    inner = joined(queue, who=2)
    assert not inner.first
    other.leave()
    assert inner.first
    assert (woken(outer), woken(inner)) == (1, 1)
    outer.tell()
    assert inner.told
    innermost = joined(queue, who=2)
    assert innermost.first
    innermost.leave()
    inner.leave()
    assert woken(outer) == 1  # by tell()
    assert queue.threads == {(2, b"k"): outer}
    assert list(queue.lines[b"k"]) == [outer]
    outer.leave()
    assert is_empty(queue)


def test_only_who_is_not_told_by_the_server_is_told_of_a_release() -> None:
    queue = Queue()
    first, second = joined(queue), joined(queue)
    first.watched = True
    queue.freed(b"k", 0.0)
    assert (first.told, second.told) == (False, False)
    first.watched = False
    queue.freed_all([(b"k", b"token"), (b"other", b"token")], 0.0)
    assert (first.told, second.told) == (True, False)


def test_trouble_is_told_to_all_in_line() -> None:
    queue = Queue()
    places = [joined(queue) for _ in range(3)]
    elsewhere = joined(queue, b"other")
    places[0].alarm()
    assert all(place.told for place in places)
    assert not elsewhere.told


def test_what_is_forgotten_is_in_nobodys_way() -> None:
    queue = Queue()
    lines = queue.lines
    before = joined(queue, who=1)
    queue.forget()
    assert queue.lines is lines
    after = joined(queue, who=1)
    assert after.first
    before.leave()
    assert after.first
    assert list(queue.lines[b"k"]) == [after]


@pytest.mark.parametrize("seed", range(3))
def test_many_threads_leave_nobody_behind(seed: int) -> None:
    """Each waits for its turn, and leaves for some other reason now and then."""
    queue, inside, turns = Queue(), deque[int](), []

    def work(number: int) -> None:
        dice = random.Random(f"{seed} {number}")
        for _ in range(200):
            place = Place(queue, b"k%d" % dice.randrange(2), number, lined=True)
            try:
                while True:
                    event = threading.Event()
                    place.news = event
                    place.join()
                    if place.first:
                        turns.append(number)
                        break
                    if not event.wait(0.0005 if dice.random() < 0.3 else 20):
                        break
            finally:
                place.leave()
        inside.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(inside) == 8
    assert len(turns) > 100
    assert is_empty(queue)


@pytest.mark.parametrize("lined", [False, True])
@pytest.mark.parametrize("lost", [0, 1, 2, 3])
def test_a_change_is_worth_a_try_though_the_last_ones_were_in_vain(lost: int, lined: bool) -> None:
    """Who was too late before is to ask anew, and to try if nobody holds the lock then; but for
    every other time, if it waits for a single key."""
    asks = lost > 0 and (lost % 2 == 1 or not lined)
    place = Place(Queue(), b"k", None, lined)
    place.race.lost, place.vain = lost, MOST_VAIN
    watch = Watch(place, [b"k"])
    assert not watch.changed(None)  # it was not asked for yet
    watch.asked = True
    assert not watch.changed([b"other"])
    assert watch.changed([b"other", b"k"]) is asks
    assert watch.over is not asks
    if asks:
        assert watch.answered([b"OK", -2], 1.0)
    assert watch.over
    assert place.race.woken


def test_a_queue_is_quiet_while_nobody_waits_holds_or_has_rivals() -> None:
    queue = Queue(limit=10, seconds=1.0)
    assert queue.quiet
    place = joined(queue)
    assert not queue.quiet
    assert queue.in_turn(b"k", 1.0)
    place.leave()
    assert not queue.in_turn(b"k", 1.0)
    assert queue.quiet
    lease = Lease()
    place = joined(queue)
    place.race.woken = True
    place.race.tries(1.0)
    place.got(lease)
    place.leave()
    del place
    assert not queue.in_turn(b"other", 1.0)
    assert not queue.quiet  # it holds one
    del lease
    assert not queue.in_turn(b"other", 1.5)
    assert not queue.quiet  # it has had rivals
    assert not queue.in_turn(b"other", 2.5)
    assert queue.quiet


def test_a_queue_is_not_quiet_though_a_look_around_was_cut_short() -> None:
    """Somebody comes while another looks whether anybody is there."""
    queue = Queue(limit=10, seconds=1.0)

    class Cut(dict[bytes, Any]):
        """Looks empty once, and then somebody has come."""

        def __bool__(self) -> bool:
            if not len(self):
                self[b"k"] = deque()
                return False
            return True

    queue.lines = Cut()
    assert not queue.in_turn(b"other", 1.0)
    assert not queue.quiet
    queue = Queue()
    place = joined(queue)
    queue.quiet = True
    place.join()
    assert not queue.quiet


def test_who_has_left_may_leave_again_while_the_others_leave() -> None:
    queue = Queue()
    first, second = joined(queue), joined(queue)
    first.leave()
    second.leave()
    first.leave()
    second.leave()
    assert is_empty(queue)


def test_who_comes_back_at_once_for_the_length_of_a_turn_is_to_let_others_go_first() -> None:
    queue = Queue(limit=10, seconds=1.0)
    step = AT_ONCE / 2

    def again(at: float, key: bytes = b"k") -> bool:
        """It acquires the lock at that time, and releases it right away."""
        found = queue.comes_back(key, at)
        queue.left, queue.left_at = key, at
        return found

    assert not any(again(10.0 + number * step) for number in range(400))
    assert again(11.0)
    assert not any(again(11.0 + number * step) for number in range(1, 400))
    assert again(12.0)
    assert not any(again(12.0 + number * step) for number in range(1, 201))
    assert not again(12.5 + 2 * AT_ONCE)  # not at once
    assert not any(again(12.52 + number * step) for number in range(380))
    assert not again(13.47, b"other")
    assert not again(13.47)
    queue.freed(b"k", 13.5)
    assert not queue.comes_back(b"k", 13.5)
    queue.suspect(b"k", 13.5)
    assert not queue.quiet
    assert queue.in_turn(b"k", 13.5)
    assert not any(Queue(limit=10).comes_back(b"k", 1.0) for _ in range(10))  # no turns


def test_a_first_acquire_that_took_long_is_no_turn() -> None:
    """It may have made the connection."""
    queue = Queue(limit=10, seconds=1.0)
    assert not queue.comes_back(b"k", 10.0)
    queue.left, queue.left_at = b"k", 12.0
    assert not queue.comes_back(b"k", 12.0)
    queue.left_at = 12.999
    assert queue.comes_back(b"k", 13.0)


def test_who_had_to_wait_has_not_come_back_at_once_each_time() -> None:
    queue = Queue(limit=10, seconds=1.0)
    assert not queue.comes_back(b"k", 10.0)
    queue.rivals.woke(b"k", 11.5)
    queue.quiet = False
    assert queue.in_turn(b"k", 11.5)
    queue.left, queue.left_at = b"k", 11.7
    assert not queue.comes_back(b"k", 11.7)
