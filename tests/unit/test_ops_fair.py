"""What answers to the steps of a fair lock mean, one at a time: operations driven by hand."""

from __future__ import annotations

from typing import Any

import pytest
from test_ops import TTL, lost, result
from test_ops_fenced import NOSCRIPT, NUMBER, Held
from test_ops_fenced import claim as numbered

import fastlock
from fastlock import _commands, _impl, _ops, _ops_many, _scripted
from fastlock._claim import Claim
from fastlock._effects import Backoff, Call, Now, WaitFor
from fastlock._ops_fair import KEEP, Fair, acquire_fair, in_queue
from fastlock._pyleases import Leases

OTHER = b"AAAAAAAAAAAAAAAAAAAAAA-1.host:7"
NEXT = OTHER + b" (first in the queue)"
BEHIND = OTHER + b" (others wait before)"
PLACE = _scripted.PLACE / 1000


def claim(until: float | None = None, ttl: int = TTL) -> Fair[Held]:
    loops = Leases(Held)

    def make(generation: int, keys: Any, pairs: Any, replies: Any, ms: int, end: float) -> Any:
        return loops.make(None, generation, keys, pairs, replies, ms / 1000, end)

    return in_queue(Claim(["k0"], [(b"k0", b"t0")], ttl, until, 3, make), True)


def test_a_free_lock_that_nobody_waits_for_takes_one_step() -> None:
    op = acquire_fair(claim())
    call = op.send(None)
    assert (call.verb, call.args, call.until) == ("acquire_fair", (b"k0", b"t0", TTL), None)
    lease = result(op, (100.0, [None]))
    assert (lease.pair, lease.deadline) == ((b"k0", b"t0"), _ops.deadline(100.0, TTL))


def test_a_waiter_keeps_its_place_by_steps_that_come_in_time() -> None:
    """However long the driver would pause, it is three steps before the place is lost."""
    op = acquire_fair(claim())
    op.send(None)
    for at in (100.0, 101.0, 102.0):
        pause = op.send((at, [OTHER]))
        assert (type(pause), pause.keys, pause.until) == (WaitFor, (b"k0",), at + KEEP)
        assert op.send(at + 1).verb == "acquire_fair"
    assert PLACE == 3 * KEEP
    assert result(op, (103.0, [None])).deadline == _ops.deadline(103.0, TTL)


def test_who_is_not_the_first_waits_for_its_turn_before_the_lock() -> None:
    op = acquire_fair(claim())
    op.send(None)
    pause = op.send((100.0, [BEHIND]))
    assert (type(pause), pause.keys, pause.until) == (WaitFor, (b"k0",), 100.0 + KEEP)
    assert pause.turn == _scripted.turn(b"k0", b"t0")
    assert b"t0" not in pause.turn  # names of keys are no secret
    op.send(101.0)
    assert op.send((101.0, [OTHER])).turn is None  # it is the first by now


def test_the_step_at_the_deadline_gives_the_place_up() -> None:
    wanted = claim(until=100.5)
    op = acquire_fair(wanted)
    assert type(op.send(None)) is Now
    call = op.send(100.0)
    assert (call.verb, call.until) == ("acquire_fair", 100.5 + _ops.GRACE)
    pause = op.send((100.0, [OTHER]))
    assert (pause.until, list(wanted.maybe)) == (100.5, [(b"k0", b"t0")])
    call = op.send(100.5)
    assert call.verb == "acquire_fair_last"
    with pytest.raises(fastlock.AcquireTimeout, match="'k0' was still held by host:7 when"):
        op.send((100.5, [OTHER]))
    assert not wanted.maybe


def test_who_comes_late_to_the_last_step_waits_for_its_answer_all_the_same() -> None:
    op = acquire_fair(claim(until=100.5))
    op.send(None)
    op.send(100.0)
    op.send((100.0, [OTHER]))
    call = op.send(107.0)
    assert (call.verb, call.until) == ("acquire_fair_last", 107.0 + _ops.GRACE)


def test_a_step_that_was_sent_at_the_deadline_by_chance_is_not_the_last() -> None:
    """It has got a place, which only a last step gives up."""
    op = acquire_fair(claim(until=100.5))
    op.send(None)
    assert op.send(100.4).verb == "acquire_fair"
    pause = op.send((100.6, [OTHER]))
    assert (type(pause), pause.until) == (WaitFor, 100.5)
    assert op.send(100.6).verb == "acquire_fair_last"


def test_who_does_not_wait_never_has_a_place() -> None:
    wanted = claim(until=100.0)
    op = acquire_fair(wanted)
    op.send(None)
    assert op.send(100.0).verb == "acquire_fair_last"
    said = r"'k0' was still kept for host:7 \(first in the queue\) when"
    with pytest.raises(fastlock.AcquireTimeout, match=said):
        op.send((100.0, [NEXT]))
    assert not wanted.maybe


# ------------------------------------------------------------------ lost replies


def test_an_earlier_step_s_lock_counts_from_then() -> None:
    op = acquire_fair(claim())
    op.send(None)
    assert type(op.throw(lost(100.0))) is Backoff
    assert op.send(100.1).verb == "acquire_fair"
    assert type(op.send((100.2, [b"t0"]))) is Now
    assert result(op, 100.3).deadline == _ops.deadline(100.0, TTL)


def test_a_lost_last_step_is_repeated_as_the_last() -> None:
    wanted = claim(until=100.0)
    op = acquire_fair(wanted)
    op.send(None)
    op.send(100.0)
    assert type(op.throw(lost(100.0))) is Backoff
    assert op.send(100.1).verb == "acquire_fair_last"
    with pytest.raises(fastlock.AcquireTimeout):
        op.send((100.2, [OTHER]))
    assert not wanted.maybe


def test_a_lock_without_end_is_recognised_without_an_extension() -> None:
    wanted = claim(ttl=0)
    op = acquire_fair(wanted)
    assert op.send(None).args == (b"k0", b"t0", 0)
    op.throw(lost(100.0))
    op.send(100.1)
    assert type(op.send((100.2, [b"t0"]))) is Now
    assert result(op, 100.3).deadline == float("inf")


def test_an_outcome_that_stays_unknown_keeps_the_claim() -> None:
    wanted = claim()
    op = acquire_fair(wanted)
    call: Any = op.send(None)
    with pytest.raises(fastlock.OutcomeUnknown):
        while True:
            call = op.throw(lost(100.0)) if type(call) is Call else op.send(100.1)
    assert list(wanted.maybe) == [(b"k0", b"t0")]
    assert wanted.last_trace(200.0) == 200.0 + TTL / 1000


def test_numbers_are_drawn_in_the_same_step() -> None:
    wanted = in_queue(numbered(until=200.0), True)
    op = acquire_fair(wanted)
    op.send(None)
    assert op.send(100.0).verb == "acquire_fair_fenced"
    assert type(op.send((100.0, [BEHIND]))) is WaitFor
    assert op.send(100.1).verb == "acquire_fair_fenced"
    op.throw(lost(100.1))
    assert op.send(100.2).verb == "acquire_fair_fenced"
    assert type(op.send((100.2, [[NUMBER]]))) is Now
    lease = result(op, 100.3)
    assert (lease.fence, lease.deadline) == (NUMBER, _ops.deadline(100.1, TTL))
    op = acquire_fair(in_queue(numbered(until=100.0), True))
    op.send(None)
    assert op.send(100.0).verb == "acquire_fair_fenced_last"
    assert result(op, (100.0, [NUMBER])).fence == NUMBER


# ------------------------------------------------------------------ what is given back


def test_whoever_leaves_while_waiting_has_a_place_to_give_up() -> None:
    wanted = claim()
    assert not wanted.maybe
    op = acquire_fair(wanted)
    op.send(None)
    assert list(wanted.maybe) == [(b"k0", b"t0")]  # interrupted now, it may have taken the lock
    assert wanted.last_trace(100.0) == 100.0 + TTL / 1000
    op.send((100.0, [OTHER]))
    assert list(wanted.maybe) == [(b"k0", b"t0")]
    assert wanted.last_trace(100.0) == 100.0 + PLACE  # a place only
    with pytest.raises(KeyboardInterrupt):
        op.throw(KeyboardInterrupt())
    assert list(wanted.maybe) == [(b"k0", b"t0")]


def test_nothing_is_given_back_of_what_was_never_sent() -> None:
    wanted = claim()
    op = acquire_fair(wanted)
    effect = op.send(None)
    with pytest.raises(fastlock.TransportError):
        while True:
            if type(effect) is Call:
                effect.left = False
                effect = op.throw(fastlock.TransportError("no connection"))
            else:
                effect = op.send(100.0)
    assert not wanted.maybe


def test_a_place_is_given_back_where_a_later_step_was_not_sent() -> None:
    wanted = claim()
    op = acquire_fair(wanted)
    op.send(None)
    op.send((100.0, [OTHER]))
    effect = op.send(101.0)
    with pytest.raises(fastlock.TransportError):
        while True:
            if type(effect) is Call:
                effect = op.throw(fastlock.TransportError("no connection"))
            else:
                effect = op.send(101.0)
    assert list(wanted.maybe) == [(b"k0", b"t0")]
    assert wanted.last_trace(101.0) == 101.0 + PLACE


def test_a_refused_first_step_leaves_nothing_to_give_back() -> None:
    wanted = claim()
    op = acquire_fair(wanted)
    op.send(None)
    with pytest.raises(fastlock.ServerError, match="OOM"):
        op.send((100.0, [fastlock.ServerError("OOM command not allowed")]))
    assert not wanted.maybe


def test_giving_back_leaves_the_queue_too() -> None:
    assert (Claim.giving_back, Fair.giving_back) == ("give_back", "give_back_fair")
    op = _ops_many.settle([(b"k0", b"t0")], 200.0, "give_back_fair")
    assert op.send(None).verb == "give_back_fair"
    with pytest.raises(StopIteration):
        op.send((100.0, [0]))


# ------------------------------------------------------------------ errors and words


@pytest.mark.parametrize("wrong", ["yes", 1, 0, None])
def test_fair_is_true_or_false(wrong: Any) -> None:
    with pytest.raises(fastlock.ConfigError, match=r"fair: .* is neither True nor False"):
        in_queue(claim(), wrong)


@pytest.mark.parametrize(
    ("said", "named"),
    [
        ("WRONGTYPE lock 1 holds something else", "(key 'k0')"),
        ("WRONGTYPE companion 1 holds", "(companion key b'k0:fastlock.fence:{k0}')"),
        ("WRONGTYPE Operation against a key", "(queue key b'k0:fastlock.queue:{k0}')"),
        ("READONLY x", "(key 'k0', queue key b'k0:fastlock.queue:{k0}')"),
        (
            "ERR The user executing the script can't run this command or subcommand",
            "ZADD, ZRANGE, ZREM and ZSCORE (key 'k0', queue key b'k0:fastlock.queue:{k0}')",
        ),
    ],
)
def test_an_error_names_the_key_that_it_is_about(said: str, named: str) -> None:
    op = acquire_fair(claim())
    op.send(None)
    with pytest.raises(fastlock.ServerError) as caught:
        op.send((100.0, [fastlock.ServerError(said)]))
    assert str(caught.value).startswith(said)
    assert str(caught.value).endswith(named)


def test_a_forgotten_script_is_spelled_out() -> None:
    op = acquire_fair(claim())
    assert op.send(None).spelled_out is False
    assert op.send((100.0, [NOSCRIPT])).spelled_out is True
    assert result(op, (100.1, [None])).pair == (b"k0", b"t0")


def test_all_keys_are_said_in_every_dialect() -> None:
    packing = _impl.load("python")
    lock, fence, queue = b"k", b"k:fastlock.fence:{k}", b"k:fastlock.queue:{k}"
    turns = queue + b":"
    wanted = {
        "acquire_fair": [b"2", lock, queue, b"t", b"3000", b"3000", turns],
        "acquire_fair_last": [b"2", lock, queue, b"t", b"3000", b"0", turns],
        "acquire_fair_fenced": [b"3", lock, fence, queue, b"t", b"3000", b"3000", turns],
        "acquire_fair_fenced_last": [b"3", lock, fence, queue, b"t", b"3000", b"0", turns],
    }
    for kind in (
        _commands.Commands, _commands.SetCommands, _commands.ValkeyCommands,
        _commands.RedisCommands,
    ):  # fmt: skip
        commands = kind(packing)
        for verb, words in wanted.items():
            said = getattr(commands, verb)(b"k", b"t", TTL).split(b"\r\n")[2::2]
            assert said == [b"EVALSHA", _scripted._ACQUIRE_FAIR.sha, *words]
            spelled = getattr(commands.spelled_out(), verb)(b"k", b"t", TTL)
            assert spelled.startswith(b"*%d\r\n$4\r\nEVAL\r\n" % (len(words) + 2))
        given = commands.give_back_fair([(b"k", b"t")])
        assert given.startswith(b"*7\r\n$4\r\nEVAL\r\n")
        assert given == commands.spelled_out().give_back_fair([(b"k", b"t")])
