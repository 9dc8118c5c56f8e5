"""What answers to tries with WAIT behind them mean, one at a time: operations driven by hand."""

from __future__ import annotations

from typing import Any

import pytest
from test_ops import TTL, held, lost, result
from test_ops import claim as plain_claim

import fastlock
from fastlock import _ops
from fastlock._effects import ANSWERING, Backoff, Call, Confirmed, Now, WaitFor
from fastlock._ops_fenced import Fenced, fenced
from fastlock._ops_replicas import Replicated, replicated
from fastlock._replies import out_of_step

WANTED = 2


def claim(until: float | None = None) -> Replicated[Any]:
    made = replicated(plain_claim(until=until), WANTED, 0.25)
    assert isinstance(made, Replicated)
    return made


def heard(call: Any, confirmed: Any) -> Any:
    """The driver has carried it out, and WAIT was answered so."""
    assert type(call) is Confirmed
    assert (call.wanted, call.patience, call.count) == (WANTED, 250, 1)
    call.confirmed = confirmed
    return call


@pytest.mark.parametrize("confirmed", [2, 3])
def test_enough_have_it(confirmed: int) -> None:
    wanted = claim()
    op = _ops.try_acquire(wanted)
    assert heard(op.send(None), confirmed).verb == "acquire"
    lease = result(op, (100.0, [b"OK"]))
    assert lease.deadline == _ops.deadline(100.0, TTL)
    assert wanted.possible == 1


@pytest.mark.parametrize("freed", [0, 1])
def test_too_few_have_it(freed: int) -> None:
    wanted = claim()
    op = _ops.acquire(wanted)
    heard(op.send(None), 1)
    release = op.send((100.0, [b"OK"]))
    assert (type(release), release.verb, release.args) == (Call, "release", (b"k0", b"t0"))
    with pytest.raises(fastlock.NotReplicated, match=r"1 of the 2 .* released again") as caught:
        op.send((100.3, [freed]))
    assert (caught.value.key, caught.value.confirmed, caught.value.wanted) == ("k0", 1, 2)
    assert wanted.possible == 0


def test_what_could_not_be_released_may_be_ours() -> None:
    wanted = claim()
    op = _ops.try_acquire(wanted)
    heard(op.send(None), 0)
    op.send((100.0, [b"OK"]))
    with pytest.raises(fastlock.NotReplicated, match="in the background") as caught:
        op.throw(lost(100.3))
    assert isinstance(caught.value.__cause__, fastlock.OutcomeUnknown)
    assert wanted.possible == 1


def test_an_interrupt_while_it_is_released_leaves_it_perhaps_ours() -> None:
    wanted = claim()
    op = _ops.try_acquire(wanted)
    heard(op.send(None), 0)
    op.send((100.0, [b"OK"]))
    with pytest.raises(KeyboardInterrupt):
        op.throw(KeyboardInterrupt())
    assert wanted.possible == 1


def test_a_server_that_does_not_wait_says_why() -> None:
    op = _ops.try_acquire(claim())
    heard(op.send(None), fastlock.ServerError("NOPERM this user may not run 'wait'"))
    assert op.send((100.0, [b"OK"])).verb == "release"
    with pytest.raises(fastlock.ServerError, match=r"NOPERM .*'k0'"):
        op.send((100.3, [1]))


@pytest.mark.parametrize("confirmed", [0, 2, fastlock.ServerError("ERR WAIT cannot be used")])
def test_a_refusal_is_one_whatever_wait_says(confirmed: Any) -> None:
    wanted = claim()
    op = _ops.try_acquire(wanted)
    heard(op.send(None), confirmed)
    assert result(op, (100.0, [None])) is None
    assert wanted.possible == 0


@pytest.mark.parametrize("confirmed", [1, 2])
def test_what_an_earlier_try_took_is_written_anew(confirmed: int) -> None:
    """That somebody has confirmed the repetition, which only asks, says nothing."""
    wanted = claim()
    op = _ops.try_acquire(wanted)
    op.send(None)
    assert type(op.throw(lost(100.0))) is Backoff
    assert heard(op.send(100.1), 2).verb == "ask"
    assert type(op.send((100.2, [b"t0"]))) is Now
    extension = heard(op.send(100.3), confirmed)
    assert (extension.verb, extension.args) == ("extend", (b"k0", b"t0", TTL))
    if confirmed == 2:
        lease = result(op, (100.4, [1]))
        assert lease.deadline == _ops.deadline(100.4, TTL)
        return
    assert op.send((100.4, [1])).verb == "release"
    with pytest.raises(fastlock.NotReplicated):
        op.send((100.5, [1]))


def test_what_was_lost_before_it_is_written_anew_is_tried_for() -> None:
    op = _ops.try_acquire(claim())
    op.send(None)
    op.throw(lost(100.0))
    op.send(100.1)
    op.send((100.2, [b"t0"]))
    op.send(100.3)
    assert heard(op.send((100.4, [0])), 2).verb == "ask"
    assert result(op, (100.5, [None])).deadline == _ops.deadline(100.5, TTL)


def test_nonsense_is_a_lost_answer() -> None:
    op = _ops.try_acquire(claim())
    op.send(None)
    assert type(op.throw(out_of_step(100.0))) is Backoff
    assert op.send(100.1).verb == "ask"


def test_nobody_hands_it_over() -> None:
    op = _ops.acquire_in_turn(claim())
    wait = op.send(None)
    assert type(wait) is WaitFor
    assert wait.claim is None


def test_with_a_number() -> None:
    made: Any = replicated(fenced(plain_claim(), True), 1, 0.1)
    assert isinstance(made, Fenced)
    assert (made.plain[0], made.handing, made.numbered) == ("acquire_fenced", None, True)
    assert made.make is held


def test_none_and_zero_leave_a_claim_as_it_is() -> None:
    for number in (None, 0):
        same = plain_claim()
        assert replicated(same, number, "nonsense") is same


# ------------------------------------------------------------------ how long WAIT lasts


def test_wait_is_bounded_by_the_caller_s_time() -> None:
    call = Confirmed("acquire", (), 1, None)
    call.patience = 250
    assert call.lasts(100.0) == 250
    call.until = 100.0 + ANSWERING + 0.1
    assert call.lasts(100.0) == pytest.approx(100, abs=1)
    assert call.lasts(50.0) == 250
    assert call.lasts(200.0) == 1  # 0 would be for ever


@pytest.mark.parametrize(
    ("replica_timeout", "most"),
    [(0.1, 100), (1, 1000), (1.1, 1100), (0.0001, 1), (1e-300, 1), (0.0011, 2), (2.9989, 2999)],
)
def test_replica_timeout_in_whole_milliseconds(replica_timeout: float, most: int) -> None:
    made: Any = replicated(plain_claim(), 1, replica_timeout)
    assert made.call("acquire", ()).patience == most


# ------------------------------------------------------------------ at the door

BAD: list[tuple[str, dict[str, Any]]] = [
    *(("min_replicas", {"min_replicas": bad})
      for bad in (-1, 1001, True, False, 1.0, "1", [], float("nan"), 10**30)),
    *(("replica_timeout", {"min_replicas": 1, "replica_timeout": bad})
      for bad in (0, -1, True, None, "1", float("nan"), float("inf"), 10**12, 30, 29.9999)),
    ("min_replicas", {"min_replicas": 1, "fair": True}),
]  # fmt: skip


@pytest.mark.parametrize(("field", "arguments"), BAD)
def test_bad_arguments_are_refused_before_anything_is_sent(
    field: str, arguments: dict[str, Any]
) -> None:
    client = fastlock.Client(port=1)  # nobody listens there
    for call in (client.acquire, client.lock, client.try_acquire):
        if call == client.try_acquire and "fair" in arguments:
            continue
        with pytest.raises(fastlock.ConfigError) as caught:
            call("k", 29.9999, **arguments)
        assert caught.value.field == field
    client.close()
