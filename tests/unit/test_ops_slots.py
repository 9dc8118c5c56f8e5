"""Locks of several slots, one answer at a time: what is taken, freed, and never believed."""

from __future__ import annotations

from typing import Any

import pytest
from test_ops import TTL, Held, claim, lost, result

import fastlock
from fastlock._ops import GRACE, Backoff, Now, WaitFor
from fastlock._ops_slots import acquire_spread, spread
from fastlock._slots import slot

FIRST, SECOND = sorted(((b"k0", b"t0"), (b"k1", b"t1")), key=lambda pair: slot(pair[0]))


def begun(wanted: Any) -> Any:
    """An operation whose first slot is taken; its second slot's try is under way."""
    op = acquire_spread(wanted)
    call = op.send(None)
    assert (call.verb, call.args) == ("acquire_all", ([FIRST], TTL))
    call = op.send((100.0, [1]))
    assert (call.verb, call.args) == ("acquire_all", ([SECOND], TTL))
    return op


def freed(call: Any) -> bool:
    return bool((call.verb, list(call.args[0])) == ("give_back", [FIRST]))


def test_they_are_taken_in_the_order_of_their_slots_and_given_in_the_caller_s() -> None:
    wanted = claim(2)
    assert spread(wanted)
    op = begun(wanted)
    assert type(op.send((100.1, [1]))) is Now
    leases: list[Held] = result(op, 100.2)
    assert [lease.pair for lease in leases] == [(b"k0", b"t0"), (b"k1", b"t1")]


def test_what_was_taken_is_freed_before_anything_is_waited_for() -> None:
    wanted = claim(2)
    op = begun(wanted)
    assert type(op.send((100.1, [0]))) is Now
    assert freed(op.send(100.2))
    wait = op.send((100.3, [1]))
    assert (type(wait), wait.keys, wanted.possible) == (WaitFor, [SECOND[0]], 0)
    assert op.send(101.0).args == ([FIRST], TTL)
    assert wanted.possible == 2
    assert op.send((101.1, [1])).verb == "ask_all"


def test_who_comes_late_to_the_last_try_waits_for_its_answer_all_the_same() -> None:
    op = begun(claim(2, until=200.0))
    assert type(op.send((100.1, [0]))) is Now
    assert freed(op.send(100.2))
    assert type(op.send((100.3, [1]))) is WaitFor
    assert op.send(207.0).until == 207.0 + GRACE


def test_after_a_lost_answer_to_a_freeing_nothing_is_taken_anew() -> None:
    wanted = claim(2)
    op = begun(wanted)
    assert type(op.send((100.1, [0]))) is Now
    assert freed(op.send(100.2))
    with pytest.raises(fastlock.OutcomeUnknown):
        op.throw(lost(100.3))
    assert wanted.possible == 2  # given back by whoever drives it


def test_a_freeing_that_was_not_sent_is_repeated() -> None:
    wanted = claim(2, until=100.0)
    op = begun(wanted)
    assert type(op.send((100.1, [0]))) is Now
    assert freed(op.send(100.2))
    assert type(op.throw(fastlock.TransportError("no connection"))) is Backoff
    assert freed(op.send(100.3))
    with pytest.raises(fastlock.AcquireTimeout):
        op.send((100.4, [1]))
    assert wanted.possible == 0


def test_a_lease_that_has_ended_meanwhile_is_never_given() -> None:
    op = begun(claim(2))
    assert type(op.send((103.5, [1]))) is Now
    call = op.send(103.6)  # the first one's ttl is over
    assert (call.verb, list(call.args[0])) == ("give_back", [FIRST, SECOND])
    assert op.send((103.7, [0, 1])).args == ([FIRST], TTL)
