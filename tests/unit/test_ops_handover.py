"""A hand-over, one step at a time: who speaks first, what an answer means, who gives back.

Law: whatever ends either side at any step, exactly one of them sees to a token that the server may
hold, and the waiter is told.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import fastlock
from fastlock import _fork, _ops
from fastlock._claim import Claim
from fastlock._effects import Backoff, Call, Now, WaitFor
from fastlock._handover import ASK, GIVEN, NOT, SILENT, Giving, Offer, Run, Turn
from fastlock._ops_fenced import fenced
from fastlock._ops_handover import hand_over
from fastlock._queue import Place, Queue
from fastlock.errors import ServerError

DEADLINE = 103.0


class Held:
    """A lease of the giver's."""

    def __init__(self) -> None:
        self.key, self.pair, self.ttl, self.deadline = "k", (b"k", b"old"), 3.0, DEADLINE
        self.doubt: Any = False
        self.over = self.freed = False
        self.number = 0
        self._generation = _fork.generation

    def _lasts(self) -> bool:
        return not self.over


class Taken:
    """A lease of the taker's."""

    number = 0

    def __init__(self, deadline: float) -> None:
        self.deadline = deadline


class Interrupt(BaseException):
    pass


class Client:
    """Notes what is given back."""

    def __init__(self) -> None:
        self.given_back: list[Any] = []

    def _give_back_pairs(self, pairs: Any, until: float, generation: int) -> None:
        self.given_back += pairs


class News:
    def __init__(self) -> None:
        self.times = 0

    def set(self) -> None:
        self.times += 1


def make(generation: int, keys: Any, pairs: Any, replies: Any, ttl: int, until: float) -> list[Any]:
    return [Taken(until) for _ in keys]


def claim(until: float | None = None) -> Claim[Any]:
    return Claim(["k"], [(b"k", b"new")], 5000, until, 3, make)


class Scene:
    """A waiter that stands first in line and waits, and a lease that is about to be given to it."""

    def __init__(self, wanted: Claim[Any] | None = None, limit: int = 9) -> None:
        self.client = Client()
        self.queue = Queue(limit, 10.0)
        self.claim = wanted or claim()
        self.taker = _ops.acquire_in_turn(self.claim)
        self.wait = self.taker.send(None)
        assert type(self.wait) is WaitFor
        self.place = Place(self.queue, b"k", None, lined=True)
        self.wait.place = self.place
        self.place.news = News()
        self.place.join()
        self.offer = self.place.offer = Offer(self.claim)
        self.lease = Held()
        self.giving = Giving()

    def begin(self, retries: int = 3) -> Any:
        """The giver's operation, up to its first sending."""
        assert self.queue.gives(self.lease, 100.0, self.giving)
        op = hand_over(self.lease, self.giving, retries, 100.0)
        call = op.send(None)
        assert type(call) is Call
        assert call.args == (b"k", b"old", b"new", 5000)
        return op

    def end(self) -> list[Any]:
        """The giver's call ends; what it gives back."""
        self.giving.end(self.client, 101.0)
        self.giving.end(self.client, 101.0)  # an interrupt
        return sorted(set(self.client.given_back))

    def hear(self) -> Any:
        """The waiter goes on with what it was told: its lease, or what it sends next."""
        assert self.place.told
        assert not self.offer.close()
        self.wait.verdict = self.offer.verdict
        assert self.wait.verdict is not None
        try:
            return self.taker.send(101.0)
        except StopIteration as end:
            return end.value


def lost(sent: bool, sent_at: float = 100.5) -> fastlock.TransportError:
    error = fastlock.TransportError("the connection broke", sent=sent)
    error.sent_at = sent_at
    return error


def result(op: Any, reply: Any, sent_at: float = 100.5) -> Any:
    try:
        return op.send((sent_at, [reply]))
    except StopIteration as end:
        return end.value


@pytest.mark.parametrize("reply", [b"OK", 1])
def test_one_answer_is_for_both(reply: Any) -> None:
    scene = Scene()
    assert result(scene.begin(), reply) is True
    assert (scene.lease.over, scene.lease.freed) == (True, True)
    assert scene.end() == []
    taken = scene.hear()
    assert taken.deadline == pytest.approx(100.5 + 5 - 0.052)
    assert scene.claim.possible == 1  # for whoever interrupts now
    assert not scene.queue.lines
    assert scene.queue.held[b"k"]() is taken


def test_a_number_is_drawn_in_the_same_step() -> None:
    scene = Scene(fenced(claim(), True))
    op = scene.begin()
    assert result(op, 17) is True
    assert scene.hear().number == 17


@pytest.mark.parametrize("reply", [None, 0])
def test_a_refused_swap_is_a_release_of_what_was_lost(reply: Any) -> None:
    scene = Scene()
    assert result(scene.begin(), reply) is False
    assert (scene.lease.over, scene.lease.freed) == (True, False)
    assert scene.end() == []
    call = scene.hear()
    assert (call.verb, scene.claim.possible) == ("ask", 1)


def test_a_lost_answer_is_that_of_a_release_and_of_a_try() -> None:
    scene = Scene()
    op = scene.begin()
    assert type(op.throw(lost(True))) is Backoff
    assert scene.lease.doubt is True
    verdict = scene.offer.verdict
    assert verdict is not None
    assert (verdict.kind, verdict.sent_at) == (ASK, 100.5)
    call = op.send(100.6)
    assert (call.verb, call.args) == ("release", (b"k", b"old"))
    assert type(op.send((100.6, [0]))) is Now
    with pytest.raises(StopIteration) as end:
        op.send(100.7)
    assert end.value.value is True
    assert scene.end() == []
    asking = scene.hear()
    assert (asking.verb, asking.args) == ("ask", (b"k", b"new", 5000))
    assert (scene.claim.possible, scene.claim.first) == (1, 100.5)
    # Its token is there: it holds the lock since the swap was sent.
    assert type(scene.taker.send((102.0, [b"new"]))) is Now
    with pytest.raises(StopIteration) as taken:
        scene.taker.send(102.0)
    assert taken.value.value.deadline == pytest.approx(100.5 + 5 - 0.052)


def test_a_taker_that_asks_in_vain_does_not_know() -> None:
    """What may have been handed over to it is as an own try: possible until it is refused."""
    scene = Scene(claim(until=101.5))
    scene.begin().throw(lost(True))
    assert scene.hear().verb == "ask"
    assert type(scene.taker.throw(lost(False))) is Backoff
    with pytest.raises(fastlock.OutcomeUnknown):
        scene.taker.send(102.6)
    assert scene.claim.possible == 1


def test_a_taker_that_is_refused_then_is_not_in_doubt() -> None:
    scene = Scene()
    scene.begin().throw(lost(True))
    scene.hear()
    assert scene.taker.send((102.0, [b"other"])) is scene.wait
    assert scene.claim.possible == 0


def test_past_its_deadline_a_giver_does_not_know() -> None:
    scene = Scene()
    op = scene.begin()
    op.throw(lost(True))
    op.send(DEADLINE)
    assert type(op.send((DEADLINE, [0]))) is Now
    with pytest.raises(fastlock.OutcomeUnknown):
        op.send(DEADLINE)


def test_without_retries_a_lost_answer_is_unknown() -> None:
    scene = Scene()
    op = scene.begin(retries=0)
    with pytest.raises(fastlock.OutcomeUnknown):
        op.throw(lost(True))
    assert scene.lease.doubt is True
    assert scene.hear().verb == "ask"


def test_what_was_not_sent_is_a_plain_release() -> None:
    scene = Scene()
    op = scene.begin()
    assert type(op.throw(lost(False))) is Backoff
    assert scene.lease.doubt is False
    call = op.send(100.6)
    assert call.verb == "release"
    assert result(op, 1) is True
    assert scene.end() == []
    assert scene.hear().verb == "ask"
    assert scene.claim.first is None


@pytest.mark.parametrize("said", ["OOM command not allowed", "READONLY You can't", "NOPERM No"])
def test_an_error_is_a_plain_release(said: str) -> None:
    scene = Scene()
    op = scene.begin()
    call = op.send((100.5, [ServerError(said)]))
    assert (call.verb, call.args) == ("release", (b"k", b"old"))
    assert scene.offer.verdict is not None
    assert scene.offer.verdict.kind is NOT
    assert result(op, 1) is True
    assert scene.lease.freed


def test_a_script_that_is_missing_is_spelled_out() -> None:
    scene = Scene()
    op = scene.begin()
    call = op.send((100.5, [ServerError("NOSCRIPT No matching script")]))
    assert (call.verb, call.spelled_out) == ("hand_over", True)
    assert scene.offer.verdict is None
    assert result(op, 1) is True


def test_nonsense_ends_the_connection_and_counts_as_sent() -> None:
    scene = Scene()
    op = scene.begin()
    assert type(op.send((100.5, [b"nonsense"]))) is _ops.Distrust
    assert type(op.send(100.6)) is Backoff
    assert scene.offer.verdict is not None
    assert scene.offer.verdict.kind is ASK


@pytest.mark.parametrize("left", [True, False])
def test_an_interrupted_giver_tells_the_waiter(left: bool) -> None:
    scene = Scene()
    assert scene.queue.gives(scene.lease, 100.0, scene.giving)
    op = hand_over(scene.lease, scene.giving, 3, 100.0)
    call = op.send(None)
    call.left = left
    with pytest.raises(Interrupt):
        op.throw(Interrupt())
    assert scene.end() == []
    assert scene.lease.doubt is left
    assert scene.hear().verb == "ask"
    assert scene.claim.first == (100.0 if left else None)


def test_a_giver_that_is_interrupted_before_it_sends_tells_the_waiter() -> None:
    scene = Scene()
    assert scene.queue.gives(scene.lease, 100.0, scene.giving)
    assert scene.end() == []
    assert scene.hear().verb == "ask"
    assert scene.claim.first is None


def test_a_giver_that_took_nobody_says_nothing() -> None:
    scene = Scene()
    assert scene.offer.close()
    assert not scene.queue.gives(scene.lease, 100.0, scene.giving)
    assert scene.end() == []
    assert scene.offer.verdict is None
    assert scene.offer.close()  # it goes on by itself


def test_two_givers_cannot_take_one_waiter() -> None:
    scene = Scene()
    other = Giving()
    assert scene.queue.gives(scene.lease, 100.0, scene.giving)
    assert not scene.queue.gives(Held(), 100.0, other)
    other.end(scene.client, 101.0)
    assert scene.offer.verdict is None


Ending = Callable[[Any], Any]


@pytest.mark.parametrize(
    ("ending", "gives_back"),
    [
        (lambda op: result(op, b"OK"), True),
        (lambda op: result(op, None), False),
        (lambda op: op.throw(lost(True)), True),
        (lambda op: op.throw(lost(False)), False),
    ],
)
def test_what_a_waiter_that_has_left_might_have_is_given_back_by_the_giver(
    ending: Ending, gives_back: bool
) -> None:
    scene = Scene()
    op = scene.begin()
    with pytest.raises(Interrupt):
        scene.taker.throw(Interrupt())
    assert scene.claim.possible == 0  # before the swap has left, nothing may be given back
    assert not scene.queue.lines
    ending(op)
    assert scene.end() == ([(b"k", b"new")] if gives_back else [])


@pytest.mark.parametrize(
    ("ending", "possible"),
    [
        (lambda op: result(op, b"OK"), 1),
        (lambda op: result(op, None), 0),
        (lambda op: op.throw(lost(True)), 1),
        (lambda op: op.throw(lost(False)), 0),
    ],
)
def test_what_a_waiter_leaves_that_was_told_is_for_its_claim(ending: Ending, possible: int) -> None:
    scene = Scene()
    ending(scene.begin())
    with pytest.raises(Interrupt):
        scene.taker.throw(Interrupt())
    assert scene.claim.possible == possible
    assert scene.end() == []


def test_a_waiter_that_hears_nothing_in_time_does_not_know() -> None:
    scene = Scene()
    op = scene.begin()
    verdict = scene.wait.verdict = scene.offer.give_up()
    assert verdict.kind is SILENT
    with pytest.raises(fastlock.OutcomeUnknown):
        scene.taker.send(106.0)
    assert scene.claim.possible == 0
    assert result(op, b"OK") is True
    assert scene.end() == [(b"k", b"new")]


def test_a_word_that_comes_as_the_waiter_gives_up_counts() -> None:
    scene = Scene()
    result(scene.begin(), b"OK")
    assert scene.offer.give_up().kind is GIVEN


@pytest.mark.parametrize("wrong", ["doubt", "over", "expired", "endless", "another process's"])
def test_no_other_lease_is_handed_over(wrong: str) -> None:
    scene = Scene()
    if wrong == "doubt":
        scene.lease.doubt = True
    elif wrong == "over":
        scene.lease.over = True
    elif wrong == "expired":
        scene.lease.deadline = 99.0
    elif wrong == "endless":
        scene.lease.deadline = float("inf")
    else:
        scene.lease._generation += 1
    assert not scene.queue.gives(scene.lease, 100.0, scene.giving)
    assert scene.offer.close()


def test_who_stands_behind_or_does_not_wait_is_not_given_anything() -> None:
    scene = Scene()
    second = Place(scene.queue, b"k", None, lined=True)
    second.join()
    second.offer = Offer(claim())
    scene.place.offer = None  # it is in the middle of a try
    assert not scene.queue.gives(scene.lease, 100.0, scene.giving)
    assert second.offer.close()


def test_a_handler_s_wait_goes_before_that_of_whom_it_interrupted() -> None:
    queue = Queue(9, 10.0)
    outer, inner = (Place(queue, b"k", 7, lined=True) for _ in range(2))
    for place in (outer, inner):
        place.join()
        place.offer = Offer(claim())
    giving = Giving()
    assert queue.gives(Held(), 100.0, giving)
    assert giving.place is inner


# ------------------------------------------------------------------ turns of others


def test_after_so_many_others_go_first() -> None:
    queue = Queue(3, 10.0)
    run = None
    for number in range(3):
        lease = Held()
        place = Place(queue, b"k", None, lined=True)
        place.join()
        place.run = run
        place.got(lease)
        place.leave()
        waiter = Place(queue, b"k", None, lined=True)
        waiter.join()
        waiter.offer = Offer(claim())
        giving = Giving()
        assert queue.gives(lease, 100.0 + number, giving)
        run = giving.run
        assert run == Run(number + 1, 100.0)
        waiter.leave()
    lease = Held()
    place = Place(queue, b"k", None, lined=True)
    place.run = run
    place.got(lease)
    waiter = Place(queue, b"k", None, lined=True)
    waiter.join()
    waiter.offer = Offer(claim())
    queue.took(0.002)
    assert not queue.gives(lease, 102.0, Giving())
    assert waiter.turn == (102.0, 2.0, 0.008)
    assert waiter.offer.close()
    queue.freed(b"k", 102.05)  # one that had ended before
    assert queue.held[b"k"]() is lease
    lease.over = True
    queue.freed(b"k", 102.1)
    assert waiter.told
    assert waiter.turn is not None
    assert waiter.turn.ended == 102.1
    assert waiter.run is None  # a new row begins
    assert not queue.held


def test_after_so_long_others_go_first() -> None:
    queue = Queue(1000, 0.5)
    lease = Held()
    place = Place(queue, b"k", None, lined=True)
    place.run = Run(1, 100.0)
    place.got(lease)
    waiter = Place(queue, b"k", None, lined=True)
    waiter.join()
    waiter.offer = Offer(claim())
    assert not queue.gives(lease, 100.6, Giving())
    assert waiter.turn is not None
    assert waiter.turn.rest(100.6) == pytest.approx(0.002)


def test_who_has_waited_for_longer_goes_first() -> None:
    turn = Turn(ended=100.0, length=0.05, pause=0.001)
    rests = [turn.rest(100.0 + since) for since in (0.0, 0.001, 0.01, 0.05, 0.4, 0.7, 0.8, 5.0)]
    assert rests == sorted(rests, reverse=True)
    assert rests[0] == 0.002
    assert rests[3] == pytest.approx(0.001 * 15 / 16)
    assert rests[-2:] == pytest.approx([0.0, 0.0])


def test_who_leaves_tells_the_next_when_their_turn_was() -> None:
    queue = Queue(9, 10.0)
    first, second = (Place(queue, b"k", None, lined=True) for _ in range(2))
    first.join()
    second.join()
    first.turn = Turn(100.0, 0.05, 0.001)
    first.leave()
    assert second.turn == (100.0, 0.05, 0.001)
    third = Place(queue, b"k", None, lined=True)
    third.join()
    second.got(Held())
    second.leave()
    assert third.turn is None


def test_a_limit_of_none_hands_nothing_over() -> None:
    scene = Scene(limit=0)
    assert not scene.queue.gives(scene.lease, 100.0, scene.giving)
    assert scene.place.turn is None
    scene.queue.freed(b"k", 100.0)
    assert scene.place.turn is None


def test_a_lease_that_nobody_has_any_more_is_forgotten() -> None:
    queue = Queue(9, 10.0)
    lease = Held()
    place = Place(queue, b"k", None, lined=True)
    place.got(lease)
    assert queue.holder(b"k") is queue.held[b"k"]
    lease.over = True
    assert queue.holder(b"k") is None
    del lease
    assert not queue.held


# ------------------------------------------------------------------ under the giver's own token


class Kept(Held):
    """A lease as ``kept`` looks at it. ``begins`` is what another thread does at that moment."""

    def __init__(self, begins: str = "") -> None:
        self._over = False
        self._begins = begins
        self._turn: object = None
        super().__init__()
        del self.number

    @property
    def over(self) -> bool:
        return self._over

    @over.setter
    def over(self, over: bool) -> None:
        self._over = over
        if over and self._begins == "release":
            self.doubt = True
        elif over and self._begins == "extend":
            self._turn = object()


def test_a_token_goes_on_with_the_earlier_deadline() -> None:
    scene = Scene()
    lease = scene.lease = Kept()
    assert scene.queue.gives(lease, 100.0, scene.giving)
    assert scene.giving.kept(lease, 100.0, set())
    assert (lease.over, lease.freed) == (True, True)
    assert scene.end() == []
    assert lease.over
    taken = scene.hear()
    assert taken.deadline == DEADLINE
    assert scene.claim.pairs == [(b"k", b"old")]
    assert scene.claim.possible == 1


@pytest.mark.parametrize("begins", ["release", "extend"])
def test_a_token_does_not_go_on_that_somebody_is_about_to_name(begins: str) -> None:
    """It begins between the first look and the end of the lease."""
    scene = Scene()
    lease = scene.lease = Kept(begins)
    assert scene.queue.gives(lease, 100.0, scene.giving)
    assert not scene.giving.kept(lease, 100.0, set())
    assert (lease.over, lease.freed) == (False, False)
    assert scene.offer.verdict is None


def test_a_token_does_not_go_on_while_many_are_released() -> None:
    scene = Scene()
    lease = scene.lease = Kept()
    assert scene.queue.gives(lease, 100.0, scene.giving)
    assert not scene.giving.kept(lease, 100.0, {object()})
    assert not lease.over


def test_a_token_stays_where_the_waiter_has_left() -> None:
    scene = Scene()
    lease = scene.lease = Kept()
    assert scene.queue.gives(lease, 100.0, scene.giving)
    with pytest.raises(Interrupt):
        scene.taker.throw(Interrupt())
    assert not scene.giving.kept(lease, 100.0, set())
    assert (lease.over, lease.freed) == (False, False)
    assert scene.end() == []
    assert scene.claim.possible == 0


def test_a_token_is_the_taker_s_to_give_back_once_it_was_told() -> None:
    scene = Scene()
    lease = scene.lease = Kept()
    assert scene.queue.gives(lease, 100.0, scene.giving)
    assert scene.giving.kept(lease, 100.0, set())
    with pytest.raises(Interrupt):
        scene.taker.throw(Interrupt())
    assert list(scene.claim.maybe) == [(b"k", b"old")]


def test_a_giver_that_is_interrupted_before_the_token_goes_on_has_it_still() -> None:
    class Struck(Kept):
        @property
        def doubt(self) -> bool:
            if self._over:
                raise Interrupt
            return False

        @doubt.setter
        def doubt(self, doubt: bool) -> None:
            """Set by ``__init__`` alone."""

    scene = Scene()
    lease: Any = Struck()
    assert scene.queue.gives(lease, 100.0, scene.giving)
    with pytest.raises(Interrupt):
        scene.giving.kept(lease, 100.0, set())
    assert scene.end() == []
    assert not lease.over
    assert scene.hear().verb == "ask"
