"""What answers mean, one at a time: operations driven by hand, in orders no network can be
made to produce at will.
"""

from __future__ import annotations

from typing import Any

import pytest

import fastlock
from fastlock import _ops, _ops_each, _ops_many
from fastlock._ops import Backoff, Claim, Downgrade, Now, WaitFor
from fastlock._ops_many import AT_ONCE, MOST_SHARES, PORTION
from fastlock._pyleases import Leases

TTL = 3000  # ms


class Held:
    def __init__(self, key: str | bytes, pair: tuple[bytes, bytes], ttl: int, end: float) -> None:
        self.key, self.pair, self.ttl, self.deadline = key, pair, ttl / 1000, end
        self.doubt = self.over = self.freed = False


def claim(number: int = 1, until: float | None = None) -> Claim[Held]:
    pairs = [(b"k%d" % i, b"t%d" % i) for i in range(number)]
    return Claim([f"k{i}" for i in range(number)], pairs, TTL, until, 3, held)


def held(
    generation: int, keys: Any, pairs: Any, replies: Any, ttl: int, end: float
) -> list[Held | None]:
    leases: list[Held | None] = []
    for key, pair, reply in zip(keys, pairs, replies, strict=True):
        if reply not in (b"OK", None):
            break
        leases.append(None if reply is None else Held(key, pair, ttl, end))
    return leases


def lost(sent_at: float) -> fastlock.TransportError:
    error = fastlock.TransportError("the reply was lost", sent=True)
    error.sent_at = sent_at
    return error


def result(op: Any, answer: Any) -> Any:
    """Send the last answer; what the operation returns."""
    with pytest.raises(StopIteration) as end:
        op.send(answer)
    return end.value.value


def test_a_refusal_after_a_lost_reply_keeps_the_claim() -> None:
    wanted = claim()
    op = _ops.try_acquire(wanted)
    assert op.send(None).verb == "acquire"
    assert type(op.throw(lost(100.0))) is Backoff
    assert op.send(100.1).verb == "ask"
    with pytest.raises(fastlock.ServerError, match="OOM"):
        op.send((100.2, [fastlock.ServerError("OOM command not allowed")]))
    assert wanted.maybe == wanted.pairs  # the lost try may have taken it


def test_a_refusal_of_all_that_was_sent_leaves_nothing_to_give_back() -> None:
    wanted = claim()
    op = _ops.try_acquire(wanted)
    op.send(None)
    with pytest.raises(fastlock.ServerError, match="OOM"):
        op.send((100.0, [fastlock.ServerError("OOM command not allowed")]))
    assert wanted.maybe == []


def test_an_orphan_of_unknown_age_is_extended_before_it_counts() -> None:
    op = _ops.acquire(claim())
    op.send(None)
    op.throw(lost(100.0))
    assert op.send(100.1).verb == "ask"
    assert type(op.send((100.2, [b"other"]))) is WaitFor
    assert op.send(130.0).verb == "ask"
    assert type(op.send((130.0, [b"t0"]))) is Now
    assert op.send(130.1).verb == "extend"
    assert result(op, (130.2, [1])).deadline == _ops.deadline(130.2, TTL)


def test_a_lock_is_as_old_as_the_oldest_try_also_from_before_a_refusal() -> None:
    """Where the server may not be told to end connections, that try can land after all."""
    op = _ops.acquire(claim())
    op.send(None)
    op.throw(lost(100.0))
    assert op.send(100.1).verb == "ask"
    assert type(op.send((100.2, [b"other"]))) is WaitFor
    assert op.send(101.0).verb == "ask"
    assert type(op.throw(lost(101.0))) is Backoff
    assert op.send(101.1).verb == "ask"
    assert type(op.send((101.2, [b"t0"]))) is Now
    assert result(op, 101.3).deadline == _ops.deadline(100.0, TTL)


@pytest.mark.parametrize("sent", [True, False])
def test_extending_an_orphan_takes_no_longer_than_the_caller_waits(sent: bool) -> None:
    """It is ours at the server, but what is not certain in time is no lease."""
    wanted = claim(until=200.0)
    end = 200.0 + _ops.GRACE
    op = _ops.acquire(wanted)
    op.send(None)
    op.throw(lost(100.0))
    op.send(100.1)
    assert type(op.send((100.2, [b"other"]))) is WaitFor
    op.send(199.0)
    assert type(op.send((199.0, [b"t0"]))) is Now
    call = op.send(199.1)
    assert (call.verb, call.until) == ("extend", end)
    pause = op.throw(fastlock.TransportError("the network failed", sent=sent))
    assert (type(pause), pause.until) == (Backoff, end)
    call = op.send(200.5)
    assert (call.verb, call.until) == ("extend", end)
    op.throw(fastlock.TransportError("the network failed", sent=sent))
    with pytest.raises(fastlock.OutcomeUnknown, match="not held by this caller") as caught:
        op.send(end)
    assert caught.value.key == "k0"
    assert wanted.maybe == wanted.pairs  # to be given back


def test_who_comes_late_to_the_last_try_waits_for_its_answer_all_the_same() -> None:
    """The machine stood still; without an answer nobody knows whose the lock is."""
    op = _ops.acquire(claim(until=200.0))
    assert op.send(None).until == 200.0 + _ops.GRACE
    assert type(op.send((199.0, [None]))) is WaitFor
    assert op.send(207.0).until == 207.0 + _ops.GRACE
    with pytest.raises(fastlock.AcquireTimeout):
        op.send((207.0, [b"other"]))
    op = _ops_many.acquire_all(claim(2, until=200.0))
    assert op.send(None).until == 200.0 + _ops.GRACE
    assert type(op.send((199.0, [0]))) is WaitFor
    assert op.send(207.0).until == 207.0 + _ops.GRACE
    with pytest.raises(fastlock.AcquireTimeout):
        op.send((207.0, [0]))


def test_an_extension_counts_from_the_earliest_try_that_is_unanswered() -> None:
    lease = Held("k", (b"k", b"t"), TTL, 500.0)
    op = _ops.extend(lease, TTL, 3, 100.0)
    op.send(None)
    op.throw(lost(100.0))
    op.send(120.0)
    assert lease.deadline == _ops.deadline(100.0, TTL)
    assert result(op, (121.0, [1])) is None
    assert lease.deadline == _ops.deadline(121.0, TTL)


def test_what_is_answered_behind_a_busy_server_is_not_forgotten() -> None:
    wanted = claim(3)
    op = _ops_many.try_acquire_many(wanted)
    op.send(None)
    assert type(op.send((1.0, [fastlock.ServerError("BUSY script"), b"OK", b"OK"]))) is Backoff
    assert list(wanted.maybe) == wanted.pairs
    assert op.send(1.1).verb == "ask_many"
    assert type(op.send((1.2, [None, b"t1", b"t2"]))) is Now
    assert type(op.send(1.3)) is Now
    assert type(op.send(1.3)) is Now  # none may be over by now
    leases = result(op, 1.3)
    assert [lease.key for lease in leases] == ["k0", "k1", "k2"]
    ends = [_ops.deadline(sent_at, TTL) for sent_at in (1.2, 1.0, 1.0)]
    assert [lease.deadline for lease in leases] == ends


def test_a_dead_lease_of_a_batch_is_extended_or_tried_anew() -> None:
    op = _ops_many.try_acquire_many(claim(2))
    op.send(None)
    op.throw(lost(100.0))
    assert op.send(107.0).verb == "ask_many"
    assert type(op.send((107.0, [b"t0", b"t1"]))) is Now
    assert op.send(107.1).verb == "extend"
    assert type(op.send((107.2, [1]))) is Now  # about the second one
    assert op.send(107.3).verb == "extend"
    anew = op.send((107.4, [0]))  # it expired meanwhile
    assert (anew.verb, anew.args[0]) == ("ask_many", [(b"k1", b"t1")])
    assert type(op.send((107.5, [None]))) is Now
    leases = result(op, 107.6)
    assert [lease.deadline for lease in leases] == [
        _ops.deadline(107.2, TTL),
        _ops.deadline(107.5, TTL),
    ]


@pytest.mark.parametrize("late", [False, True])
def test_a_batch_that_took_longer_than_its_ttl_is_given_back(late: bool) -> None:
    """As where one node of a cluster has failed over, and the others' locks are over."""
    wanted = claim(2)
    op = _ops_many.try_acquire_many(wanted)
    op.send(None).late = late
    if not late:
        assert result(op, (100.0, [b"OK", b"OK"])) is not None
        return
    assert type(op.send((100.0, [b"OK", b"OK"]))) is Now
    with pytest.raises(fastlock.TransportError, match="would have ended") as caught:
        op.send(_ops.deadline(100.0, TTL))
    assert caught.value.sent
    assert list(wanted.maybe) == wanted.pairs


FORBIDDEN = fastlock.ServerError("NOPERM User u has no permissions to run the 'delifeq' command")
NO_EVAL = fastlock.ServerError("NOPERM User u has no permissions to run the 'eval' command")
OTHER_KEY = fastlock.ServerError("NOPERM No permissions to access a key")


def test_a_command_that_is_forbidden_is_given_up_once_scripts_are_known_to_work() -> None:
    op = _ops.release(Held("k", (b"k", b"t"), TTL, 200.0), 3)
    assert op.send(None).spelled_out is False
    assert op.send((100.0, [FORBIDDEN])).spelled_out is True
    assert type(op.send((100.1, [1]))) is Downgrade
    assert result(op, 100.2) is True


def test_where_scripts_are_forbidden_too_the_command_is_what_the_error_names() -> None:
    lease = Held("k", (b"k", b"t"), TTL, 200.0)
    op = _ops.release(lease, 3)
    op.send(None)
    op.send((100.0, [FORBIDDEN]))
    with pytest.raises(fastlock.ServerError, match="delifeq"):
        op.send((100.1, [NO_EVAL]))
    assert not lease.over


def test_a_token_found_in_its_last_instant_is_not_adopted() -> None:
    for left in (-2, 0):
        op = _ops.adopt("k", (b"k", b"t"), 3, Held)
        op.send(None)
        with pytest.raises(fastlock.LockLost):
            op.send((10.0, [left, b"t"]))


def test_a_lock_without_end_is_recognised_without_an_extension() -> None:
    unending = claim()
    unending.ttl = 0
    op = _ops.try_acquire(unending)
    assert op.send(None).verb == "acquire_unending"
    assert op.throw(lost(10.0)).failures == 1
    assert op.send(11.0).verb == "ask"
    assert type(op.send((11.0, [b"t0"]))) is Now
    assert result(op, 11.0).deadline == float("inf")
    assert unending.last_trace(12.0) == float("inf")


def test_a_forbidden_key_is_no_forbidden_command() -> None:
    op = _ops.release(Held("k", (b"k", b"t"), TTL, 200.0), 3)
    op.send(None)
    with pytest.raises(fastlock.ServerError, match="access a key"):
        op.send((100.0, [OTHER_KEY]))


def test_a_batch_gives_forbidden_commands_up_as_well() -> None:
    held = [Held(f"k{i}", (b"k%d" % i, b"t"), TTL, 200.0) for i in range(2)]
    op = _ops_each.release_many(held, [False] * 2, Leases(Held), 3)
    assert type(op.send(None)) is Now
    assert op.send(99.9).spelled_out is False
    assert type(op.send((100.0, [FORBIDDEN, FORBIDDEN]))) is Now
    assert type(op.send(100.1)) is Now
    assert op.send(100.1).spelled_out is True
    assert type(op.send((100.2, [1, 1]))) is Downgrade
    assert result(op, 100.3) == [True, True]


def test_giving_back_says_when_the_server_refuses_for_good() -> None:
    op = _ops_many.settle([(b"k", b"t")], 200.0)
    assert op.send(None).verb == "give_back"
    assert type(op.send((100.0, [FORBIDDEN]))) is Backoff
    again = op.send(100.1)
    assert (again.verb, again.spelled_out) == ("give_back", True)
    with pytest.raises(fastlock.ServerError, match="eval"):
        op.send((100.2, [NO_EVAL]))


@pytest.mark.parametrize(
    ("size", "shares", "sizes"),
    [
        (AT_ONCE, 1, [AT_ONCE]),
        (AT_ONCE + 1, 1, [PORTION] * (AT_ONCE // PORTION) + [1]),
        (2 * AT_ONCE, 3, [3 * PORTION] * 2 + [2 * AT_ONCE - 6 * PORTION]),
        (2 * MOST_SHARES * PORTION, 99, [MOST_SHARES * PORTION] * 2),
    ],
)
def test_a_large_batch_lets_others_in_between(size: int, shares: int, sizes: list[int]) -> None:
    """Each of its portions is a call of its own; together they are all of it, in order."""
    op = _ops_many.try_acquire_many(claim(size), shares)
    sent: list[Any] = []
    call = op.send(None)
    for count in sizes:
        assert call.count == count
        sent += call.args[0]
        if len(sent) < size:
            call = op.send((100.0, [b"OK"] * count))
    assert sent == claim(size).pairs
    assert len(result(op, (100.0, [b"OK"] * sizes[-1]))) == size


# ------------------------------------------------------------------ waiting in line


class Standing:
    """A place in a line that says what was done with it."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def got(self, lease: object) -> None:
        """Of no interest here."""

    def heard(self) -> None:
        """Of no interest here."""

    def leave(self) -> None:
        self.told.append("left")

    def alarm(self) -> None:
        self.told.append("alarm")


def waiting(in_turn: bool, until: float | None = None) -> tuple[Any, Standing]:
    """An acquire that waits, and where it stands."""
    op = (_ops.acquire_in_turn if in_turn else _ops.acquire)(claim(until=until))
    effect = op.send(None)
    if not in_turn:
        assert effect.verb == "acquire"
        effect = op.send((100.0, [None]))
    assert type(effect) is WaitFor
    assert effect.tried is not in_turn
    assert effect.asked is False
    assert (effect.keys, effect.lined) == ((b"k0",), True)
    effect.place = place = Standing()
    return op, place


@pytest.mark.parametrize("in_turn", [False, True])
def test_who_got_the_lock_leaves_the_line(in_turn: bool) -> None:
    op, place = waiting(in_turn)
    assert op.send(100.1).verb == "ask"
    assert result(op, (100.1, [None])).key == "k0"
    assert place.told == ["left"]


def test_who_is_refused_again_stays_where_it_stands() -> None:
    op, place = waiting(in_turn=True)
    op.send(100.1)
    again = op.send((100.1, [b"other"]))
    assert type(again) is WaitFor
    assert again.place is place
    assert again.tried
    assert again.asked
    assert place.told == []
    op.close()
    assert place.told == ["left"]


def test_whose_time_is_over_leaves_the_line() -> None:
    op, place = waiting(in_turn=True, until=101.0)
    assert op.send(101.0).verb == "ask"
    with pytest.raises(fastlock.AcquireTimeout, match="still held by unknown"):
        op.send((101.0, [b"other"]))
    assert place.told == ["left"]


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (fastlock.TransportError("no connection"), ["alarm", "left"]),
        (fastlock.FastlockError("the client is closed"), ["left"]),
        (KeyboardInterrupt(), ["left"]),
    ],
    ids=["no connection", "closed", "interrupt"],
)
def test_what_ends_an_acquire_is_told_to_the_line_if_it_is_everybody_s(
    error: BaseException, told: list[str]
) -> None:
    op, place = waiting(in_turn=True)
    op.send(100.1)
    with pytest.raises(type(error)):
        op.throw(error)
        while True:
            op.throw(error)  # the retries are used up
    assert place.told == told


def test_an_interrupted_leaving_is_done_again() -> None:
    op, place = waiting(in_turn=True)
    leave = place.leave

    def struck() -> None:
        place.leave = leave  # type: ignore[method-assign]
        raise KeyboardInterrupt

    place.leave = struck  # type: ignore[method-assign]
    op.send(100.1)
    with pytest.raises(KeyboardInterrupt):
        op.send((100.1, [None]))
    assert place.told == ["left"]


def test_several_locks_wait_beside_the_lines() -> None:
    op = _ops_many.acquire_all(claim(2))
    op.send(None)
    effect = op.send((100.0, [0]))
    assert type(effect) is WaitFor
    assert (effect.keys, effect.lined, effect.tried) == ([b"k0", b"k1"], False, True)
    effect.place = place = Standing()
    assert op.send(100.1).verb == "ask_all"
    assert op.send((100.1, [0])) is effect  # whoever has come too late is known by it
    assert op.send(100.2).verb == "ask_all"
    assert place.told == []
    assert len(result(op, (100.2, [1]))) == 2
    assert place.told == ["left"]
