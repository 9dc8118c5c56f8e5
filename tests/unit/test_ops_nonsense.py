"""Answers that no server gives: whose they are cannot be known, so nothing is believed.

Law: operations driven by hand, with every sort of value that a decoder can give.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
from test_ops import TTL, Held, claim

from fastlock import _ops, _ops_each, _ops_extend, _ops_many
from fastlock._effects import Backoff, Call, Distrust, Now
from fastlock._ops_fair import acquire_fair, in_queue
from fastlock._ops_fenced import fenced
from fastlock._pyleases import Leases
from fastlock._replies import is_nonsense
from fastlock.errors import FastlockError, OutcomeUnknown, ServerError, TransportError

VALUES: list[Any] = [
    None, b"", b"OK", b"xyz", b"t0", b"t1", 0, 1, 2, -1, -2, -3, 10**30,
    2**53 - 1, 2**53, 2**63 - 1, -(2**63), True, False, 1.5, 0.0, 1.0, math.nan, math.inf,
    -math.inf, [], [None], [b"OK"], [[1], 2],
    ServerError("ERR x"), ServerError(""), ServerError("NOSCRIPT x"), ServerError("BUSY x"),
    ServerError("ERR unknown command"), ServerError("NOPERM no permissions to run"),
]  # fmt: skip
NUMBERS = [value for value in VALUES if type(value) is int]
TEXTS = [value for value in VALUES if type(value) is bytes]
YES_OR_NO = [0, 1, True, False, 0.0, 1.0]  # a proxy's may be of another type
FENCES = [number for number in NUMBERS if 0 < number < 2**53]
ERRORS = [value for value in VALUES if isinstance(value, ServerError)]
ANSWERS: dict[str, list[Any]] = {
    "acquire": [None, b"OK"],
    "acquire_unending": [None, b"OK"],
    "acquire_many": [None, b"OK"],
    "ask": [None, *TEXTS],
    "ask_many": [None, *TEXTS],
    "holder": [None, *TEXTS],
    "release": YES_OR_NO,
    "release_many": YES_OR_NO,
    "give_back": YES_OR_NO,
    "acquire_all": YES_OR_NO,
    "ask_all": YES_OR_NO,
    "acquire_fenced": TEXTS + FENCES,
    "acquire_fenced_many": TEXTS + FENCES,
    "acquire_fair": [None, *TEXTS],
    "acquire_fair_last": [None, *TEXTS],
    "acquire_fair_fenced": TEXTS + FENCES,
    "acquire_fair_fenced_last": TEXTS + FENCES,
    "give_back_fair": YES_OR_NO,
    "acquire_fenced_all": [0, False, 0.0, []],
    "locked": YES_OR_NO,
    "force_release": [None, *TEXTS],
    "extend": [None, b"OK", *YES_OR_NO],
    "extend_many": [None, b"OK", *YES_OR_NO],
    "extend_by": NUMBERS,
}


def make(key: str | bytes, pair: tuple[bytes, bytes], ttl: int, end: float) -> Held:
    return Held(key, pair, ttl, end)


def lease(number: int = 0) -> Held:
    return Held(f"k{number}", (b"k%d" % number, b"t%d" % number), TTL, 103.0)


def numbered(number: int = 1, until: float | None = None) -> Any:
    return fenced(claim(number, until), True)


LOOPS = Leases(Held)
OPS: dict[str, Callable[[], Any]] = {
    "try_acquire": lambda: _ops.try_acquire(claim()),
    "acquire": lambda: _ops.acquire(claim(until=105.0)),
    "try_acquire_many": lambda: _ops_many.try_acquire_many(claim(3)),
    "lock_all": lambda: _ops_many.acquire_all(claim(3, until=105.0)),
    "try_acquire(fence)": lambda: _ops.try_acquire(numbered()),
    "acquire(fence)": lambda: _ops.acquire(numbered(until=105.0)),
    "try_acquire_many(fence)": lambda: _ops_many.try_acquire_many(numbered(3)),
    "lock_all(fence)": lambda: _ops_many.acquire_all(numbered(3, until=105.0)),
    "acquire(fair)": lambda: acquire_fair(in_queue(claim(until=105.0), True)),
    "acquire(fair, fence)": lambda: acquire_fair(in_queue(numbered(until=105.0), True)),
    "settle(fair)": lambda: _ops_many.settle([(b"k0", b"t0")], 105.0, "give_back_fair"),
    "settle": lambda: _ops_many.settle([(b"k0", b"t0"), (b"k1", b"t1")], 105.0),
    "release": lambda: _ops.release(lease(), 3),
    "release_many": lambda: _ops_each.release_many(
        [lease(n) for n in range(3)], [False] * 3, LOOPS, 3
    ),
    "extend": lambda: _ops.extend(lease(), TTL, 3, 100.0),
    "extend_many": lambda: _ops_each.extend_many([lease(n) for n in range(3)], TTL, LOOPS, 3),
    "extend_by": lambda: _ops_extend.extend_by(lease(), TTL, 3, 100.0),
    "adopt": lambda: _ops.adopt("k0", (b"k0", b"t0"), 3, make),
    "locked": lambda: _ops.ask("locked", (b"k0",), "k0", 3),
    "holder": lambda: _ops.ask("holder", (b"k0",), "k0", 3),
    "force_release": lambda: _ops.force_release(b"k0", "k0", 3),
}


@pytest.mark.parametrize("verb", ANSWERS)
def test_what_a_verb_may_be_answered_with(verb: str) -> None:
    fine = [(type(value), repr(value)) for value in ANSWERS[verb] + ERRORS]
    for value in VALUES:
        assert is_nonsense(verb, value) is ((type(value), repr(value)) not in fine), value


@pytest.mark.parametrize("name", OPS)
def test_every_answer_ends_in_an_outcome(name: str) -> None:
    """Each two answers, the second again and again; values, or errors of ours."""
    for first, second in itertools.product(VALUES, repeat=2):
        carry_out(OPS[name](), [first, second])


def carry_out(op: Any, answers: list[Any]) -> list[Any]:
    """Until the operation is over; its effects."""
    now, answer, effects = 100.0, None, []
    error: TransportError | None = None
    try:
        while True:
            effect = op.send(answer) if error is None else op.throw(error)
            effects.append(effect)
            assert len(effects) < 500
            now += 0.2
            answer, error = now, None
            if type(effect) is not Call:
                continue
            if effect.until is not None and effect.until <= now:
                error = TransportError("the caller's time was over before it could be sent")
                continue
            answer = (now, [answers[0]] * effect.count)
            answers = answers[1:] or answers
    except (StopIteration, FastlockError):
        return effects


@pytest.mark.parametrize("name", OPS)
def test_after_nonsense_the_connection_ends(name: str) -> None:
    first = OPS[name]()
    call: Any = first.send(None)
    while type(call) is not Call:
        call = first.send(100.0)
    for value in VALUES:
        mad = is_nonsense(call.verb, [value, value] if call.verb == "adopt" else value)
        mad = mad or (call.verb == "acquire_fenced_all" and value == [])  # three were asked for
        kinds = [type(effect) for effect in carry_out(OPS[name](), [value])]
        after = kinds[kinds.index(Call) + 1 :]
        assert (after[:1] == [Distrust]) is mad, value
        if mad:
            del after[0]
            wanted = [Now, Backoff] if name in ("release_many", "extend_many") else [Backoff]
            # Only force_release is never said twice.
            assert after[: len(wanted)] == ([] if name == "force_release" else wanted)


# ------------------------------------------------------------------ what is true after it


def test_an_acquire_asks_again_whose_it_is() -> None:
    wanted = claim()
    op = _ops.try_acquire(wanted)
    op.send(None)
    assert type(op.send((100.0, [7]))) is Distrust
    assert type(op.send(100.0)) is Backoff
    assert op.send(100.1).verb == "ask"
    assert wanted.maybe == wanted.pairs


def test_a_release_is_in_doubt() -> None:
    held = lease()
    op = _ops.release(held, 0)
    op.send(None)
    assert type(op.send((100.0, [b"OK"]))) is Distrust
    with pytest.raises(OutcomeUnknown):
        op.send(100.0)
    assert held.doubt


def test_an_extension_counts_with_the_earlier_deadline() -> None:
    held = lease()
    op = _ops.extend(held, 60_000, 0, 100.0)
    op.send(None)
    assert type(op.send((100.0, [[]]))) is Distrust
    with pytest.raises(OutcomeUnknown):
        op.send(100.0)
    assert held.deadline == 103.0


def test_a_batch_keeps_what_came_before() -> None:
    op = _ops_many.try_acquire_many(claim(4))
    op.send(None)
    assert type(op.send((100.0, [b"OK", None, 5, b"OK"]))) is Distrust
    assert type(op.send(100.0)) is Backoff
    call = op.send(100.1)
    assert (call.verb, call.args[0]) == ("ask_many", [(b"k2", b"t2"), (b"k3", b"t3")])

    leases = [lease(number) for number in range(4)]
    op = _ops_each.release_many(leases, [False] * 4, LOOPS, 3)
    op.send(None)
    op.send(100.0)
    assert type(op.send((100.0, [1, 0, b"OK", 1]))) is Distrust
    op.send(100.0)
    assert type(op.send(100.0)) is Backoff
    assert [held.freed for held in leases] == [True, False, False, False]
    assert [held.over for held in leases] == [True, True, False, False]
    assert [held.doubt for held in leases[2:]] == [True, True]
