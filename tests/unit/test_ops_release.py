"""What the answers to several releases of one lease mean, in every order of hearing them.

Law: "freed by us" is said of a lock that somebody else had taken by no order of answers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import fastlock
from fastlock import _ops, _ops_each
from fastlock._doubt import SHARED
from fastlock._effects import Backoff, Now
from fastlock._pyleases import Leases

DEADLINE = 103.0


class Held:
    def __init__(self) -> None:
        self.key, self.pair, self.ttl, self.deadline = "k", (b"k", b"t"), 3.0, DEADLINE
        self.doubt: Any = False
        self.over = self.freed = False
        self.number = 0


class Interrupt(BaseException):
    pass


def alone(lease: Held) -> Any:
    return _ops.release(lease, 3)


def with_many(lease: Held) -> Any:
    return _ops_each.release_many([lease], [False], Leases(Held), 3)


Way = Callable[[Held], Any]
each_way = pytest.mark.parametrize("way", [alone, with_many])
both_ways = pytest.mark.parametrize("other", [alone, with_many])


def sent(op: Any) -> Any:
    """Up to the sending."""
    effect = op.send(None)
    while type(effect) is Now:
        effect = op.send(100.0)
    return effect


def said(op: Any, reply: int, now: float = 100.0) -> bool:
    """What the operation makes of the reply."""
    try:
        effect = op.send((100.0, [reply]))
        assert type(effect) is Now
        op.send(now)
    except StopIteration as end:
        value: Any = end.value
        return bool(value if isinstance(value, bool) else value[0])
    raise AssertionError("it goes on")


def lost(op: Any, was_sent: bool = True) -> None:
    """The connection is, with the answer; up to the next sending."""
    error = fastlock.TransportError("the reply was lost", sent=was_sent)
    error.sent_at = 100.0
    effect = op.throw(error)
    while type(effect) in (Now, Backoff):
        effect = op.send(100.0)
    assert effect.verb.startswith("release")


def both_sent(way: Way, other: Way) -> tuple[Held, Any, Any]:
    """A lease, and two releases of it that are under way."""
    lease = Held()
    first, second = way(lease), other(lease)
    sent(first)
    sent(second)
    return lease, first, second


@each_way
@both_ways
@pytest.mark.parametrize("in_order", [True, False])
@pytest.mark.parametrize("replies", [(0, 0), (1, 0)])
def test_two_at_once(way: Way, other: Way, in_order: bool, replies: tuple[int, int]) -> None:
    """Of both the answers are there; whose thread looks first is chance."""
    lease, first, second = both_sent(way, other)
    assert lease.doubt is SHARED
    told = {}
    pairs = [(first, replies[0]), (second, replies[1])]
    for op, reply in pairs if in_order else pairs[::-1]:
        told[op] = said(op, reply)
    assert (told[first], told[second]) == (replies[0] == 1, False)
    assert (lease.over, lease.freed) == (True, replies[0] == 1)


@each_way
@both_ways
@pytest.mark.parametrize("in_order", [True, False])
def test_two_at_once_and_both_answers_lost(way: Way, other: Way, in_order: bool) -> None:
    """One of the two lost ones had freed it; who hears so first has."""
    lease, *ops = both_sent(way, other)
    for op in ops:
        lost(op)
    told = [said(op, 0) for op in (ops if in_order else ops[::-1])]
    assert told == [True, False]
    assert lease.freed is True


@each_way
@both_ways
def test_one_is_lost_while_another_finds_nothing(way: Way, other: Way) -> None:
    lease, first, second = both_sent(way, other)
    lost(first)
    assert lease.doubt is True
    assert said(second, 0) is True  # the lost one had freed it: who hears so first has
    assert said(first, 0) is False


@each_way
@both_ways
def test_what_was_not_sent_leaves_another_under_way(way: Way, other: Way) -> None:
    lease, first, second = both_sent(way, other)
    lost(second, was_sent=False)
    assert lease.doubt is SHARED
    assert said(second, 0) is False
    assert said(first, 0) is False


@each_way
def test_what_was_not_sent_leaves_no_doubt(way: Way) -> None:
    lease = Held()
    op = way(lease)
    sent(op)
    error = fastlock.TransportError("refused", sent=False)
    error.sent_at = 100.0
    effect = op.throw(error)
    while type(effect) is Now:
        effect = op.send(100.0)
    assert type(effect) is Backoff
    assert lease.doubt is False


@each_way
@both_ways
def test_after_an_interrupt_the_lost_one_had_freed_it(way: Way, other: Way) -> None:
    lease = Held()
    op = way(lease)
    sent(op)
    with pytest.raises(Interrupt):
        op.throw(Interrupt())
    assert lease.doubt is True
    again = other(lease)
    sent(again)
    assert said(again, 0) is True


@each_way
def test_past_the_deadline_a_lost_one_is_not_known(way: Way) -> None:
    lease = Held()
    op = way(lease)
    sent(op)
    lost(op)
    with pytest.raises(fastlock.OutcomeUnknown):
        said(op, 0, DEADLINE)
    assert lease.over is True


@each_way
@both_ways
def test_what_was_not_sent_hides_no_other(way: Way, other: Way) -> None:
    """The first takes nothing back that stands for the second."""
    lease, first, second = both_sent(way, other)
    lost(first, was_sent=False)
    assert lease.doubt is SHARED
    assert said(second, 1) is True


@each_way
@both_ways
def test_one_that_is_interrupted_behind_its_sending_is_lost_for_the_other_too(
    way: Way, other: Way
) -> None:
    lease, first, second = both_sent(way, other)
    with pytest.raises(Interrupt):
        first.throw(Interrupt())
    assert lease.doubt is True
    assert said(second, 0) is True


@each_way
def test_an_interrupt_before_anything_leaves_takes_the_doubt_back(way: Way) -> None:
    """As while it waits for a connection."""
    lease = Held()
    op = way(lease)
    sent(op).left = False
    with pytest.raises(Interrupt):
        op.throw(Interrupt())
    assert lease.doubt is False


def test_an_interrupt_among_many_answers_leaves_each_in_doubt_or_over() -> None:
    leases = [Held() for _ in range(3)]
    op = _ops_each.release_many(leases, [False] * 3, Leases(Held), 3)
    sent(op)
    assert type(op.send((100.0, [0, 1, 0]))) is Now
    with pytest.raises(Interrupt):
        op.throw(Interrupt())
    assert [lease.doubt for lease in leases] == [True] * 3
