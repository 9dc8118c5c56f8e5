"""What answers to tries with fencing numbers mean, one at a time: operations driven by hand."""

from __future__ import annotations

from typing import Any

import pytest
from test_ops import TTL, lost, result

import fastlock
from fastlock import _commands, _impl, _ops, _ops_many, _scripted
from fastlock._claim import Claim
from fastlock._effects import Backoff, Now, WaitFor
from fastlock._ops_fenced import fenced
from fastlock._pyleases import Leases
from fastlock.lease import BaseLease

NUMBER = 1_795_598_913_563_814
NOSCRIPT = fastlock.ServerError("NOSCRIPT No matching script. Please use EVAL.")


class Held(BaseLease):
    __slots__ = ()


def claim(number: int = 1, until: float | None = None) -> Claim[Held]:
    loops = Leases(Held)

    def make(generation: int, keys: Any, pairs: Any, replies: Any, ttl: int, end: float) -> Any:
        return loops.make(None, generation, keys, pairs, replies, ttl / 1000, end)

    pairs = [(b"k%d" % i, b"t%d" % i) for i in range(number)]
    plain = Claim([f"k{i}" for i in range(number)], pairs, TTL, until, 3, make)
    return fenced(plain, True)


def test_one_verb_for_first_and_later_tries() -> None:
    op = _ops.acquire(claim())
    assert op.send(None).verb == "acquire_fenced"
    assert type(op.send((100.0, [b"other"]))) is WaitFor
    assert op.send(101.0).verb == "acquire_fenced"
    assert type(op.throw(lost(101.0))) is Backoff
    assert op.send(101.1).verb == "acquire_fenced"
    lease = result(op, (101.2, [NUMBER]))
    assert (lease.fence, lease.deadline) == (NUMBER, _ops.deadline(101.2, TTL))


def test_an_earlier_try_s_lock_counts_from_then_and_has_its_number() -> None:
    op = _ops.try_acquire(claim())
    op.send(None)
    op.throw(lost(100.0))
    op.send(100.1)
    assert type(op.send((100.2, [[NUMBER]]))) is Now
    lease = result(op, 100.3)
    assert (lease.fence, lease.deadline) == (NUMBER, _ops.deadline(100.0, TTL))


def test_a_dead_lease_that_could_be_extended_keeps_its_number() -> None:
    op = _ops.try_acquire(claim())
    op.send(None)
    op.throw(lost(100.0))
    op.send(107.0)
    assert type(op.send((107.0, [[NUMBER]]))) is Now
    assert op.send(107.1).verb == "extend"
    lease = result(op, (107.2, [1]))
    assert (lease.fence, lease.deadline) == (NUMBER, _ops.deadline(107.2, TTL))


def test_a_dead_lease_that_was_gone_gets_the_number_of_the_next_try() -> None:
    op = _ops.try_acquire(claim())
    op.send(None)
    op.throw(lost(100.0))
    op.send(107.0)
    op.send((107.0, [[NUMBER]]))
    op.send(107.1)
    assert op.send((107.2, [0])).verb == "acquire_fenced"
    assert result(op, (107.3, [NUMBER + 5])).fence == NUMBER + 5


def test_a_forgotten_script_is_spelled_out() -> None:
    op = _ops.try_acquire(claim())
    assert op.send(None).spelled_out is False
    assert op.send((100.0, [NOSCRIPT])).spelled_out is True
    assert result(op, (100.1, [NUMBER])).fence == NUMBER


def test_a_refusal_of_all_that_was_sent_leaves_nothing_to_give_back() -> None:
    wanted = claim()
    op = _ops.try_acquire(wanted)
    op.send(None)
    with pytest.raises(fastlock.ServerError, match=r"OOM .*\(key 'k0', companion key b'k0:"):
        op.send((100.0, [fastlock.ServerError("OOM command not allowed")]))
    assert not wanted.maybe


def test_a_refusal_after_a_lost_reply_keeps_the_claim() -> None:
    wanted = claim()
    op = _ops.try_acquire(wanted)
    op.send(None)
    op.throw(lost(100.0))
    op.send(100.1)
    with pytest.raises(fastlock.ServerError, match="OOM"):
        op.send((100.2, [fastlock.ServerError("OOM command not allowed")]))
    assert list(wanted.maybe) == list(wanted.pairs)


@pytest.mark.parametrize(
    ("said", "named"),
    [
        ("WRONGTYPE lock 1 holds something else", "(key 'k1')"),
        (
            "WRONGTYPE companion 1 holds something else",
            "(companion key b'k1:fastlock.fence:{k1}')",
        ),
        ("READONLY x", "READONLY x (key 'k1', companion key b'k1:fastlock.fence:{k1}')"),
        (
            "ERR The user executing the script can't run this command or subcommand",
            "takes GET, SET and TIME (key 'k1', companion key b'k1:fastlock.fence:{k1}')",
        ),
    ],
)
def test_an_error_names_the_key_that_it_is_about(said: str, named: str) -> None:
    op = _ops_many.try_acquire_many(claim(3))
    assert op.send(None).verb == "acquire_fenced_many"
    with pytest.raises(fastlock.ServerError) as caught:
        op.send((100.0, [NUMBER, fastlock.ServerError(said), NUMBER]))
    assert str(caught.value).startswith(said)
    assert str(caught.value).endswith(named)


def test_all_or_nothing_names_the_one_of_many() -> None:
    for what, named in (("lock", "(key 'k2')"), ("companion", "{k2}')")):
        op = _ops_many.acquire_all(claim(3))
        assert op.send(None).verb == "acquire_fenced_all"
        with pytest.raises(fastlock.ServerError) as caught:
            op.send((100.0, [fastlock.ServerError(f"WRONGTYPE {what} 3 holds something else")]))
        assert str(caught.value).endswith(named)


def test_all_or_nothing_gives_each_its_number() -> None:
    op = _ops_many.acquire_all(claim(3))
    op.send(None)
    assert type(op.send((100.0, [0]))) is WaitFor
    assert op.send(100.1).verb == "acquire_fenced_all"
    leases = result(op, (100.2, [[NUMBER, NUMBER + 1, NUMBER + 2]]))
    assert [lease.fence for lease in leases] == [NUMBER, NUMBER + 1, NUMBER + 2]
    assert {lease.deadline for lease in leases} == {_ops.deadline(100.2, TTL)}


def test_a_batch_whose_script_was_forgotten_midway() -> None:
    op = _ops_many.try_acquire_many(claim(4))
    op.send(None)
    call = op.send((100.0, [NUMBER, b"other", NOSCRIPT, NOSCRIPT]))
    assert (call.verb, call.spelled_out) == ("acquire_fenced_many", True)
    assert [key for key, _ in call.args[0]] == [b"k2", b"k3"]
    assert type(op.send((100.1, [NUMBER + 2, NUMBER + 3]))) is Now
    leases = result(op, 100.1)
    assert [lease and lease.fence for lease in leases] == [NUMBER, None, NUMBER + 2, NUMBER + 3]


def test_a_batch_recognises_what_a_lost_try_took() -> None:
    op = _ops_many.try_acquire_many(claim(3))
    op.send(None)
    error = lost(100.0)
    error.replies = [NUMBER]
    assert type(op.throw(error)) is Backoff
    call = op.send(100.1)
    assert [key for key, _ in call.args[0]] == [b"k1", b"k2"]
    assert type(op.send((100.2, [[NUMBER + 1], NUMBER + 2]))) is Now
    assert type(op.send(100.2)) is Now
    leases = result(op, 100.3)
    assert [lease.fence for lease in leases] == [NUMBER, NUMBER + 1, NUMBER + 2]
    assert [lease.deadline for lease in leases] == [
        _ops.deadline(sent_at, TTL) for sent_at in (100.0, 100.0, 100.2)
    ]


def test_a_script_in_every_dialect() -> None:
    packing = _impl.load("python")
    kinds = (
        _commands.Commands, _commands.SetCommands, _commands.ValkeyCommands,
        _commands.RedisCommands,
    )  # fmt: skip
    said = {kind(packing).acquire_fenced(b"k", b"t", TTL) for kind in kinds}
    (one,) = said
    words = one.split(b"\r\n")[2::2]
    assert words == [
        b"EVALSHA", _scripted._ACQUIRE_FENCED.sha, b"2", b"k", b"k:fastlock.fence:{k}", b"t",
        b"3000",
    ]  # fmt: skip
    for kind in kinds:
        spelled = kind(packing).spelled_out().acquire_fenced(b"k", b"t", TTL)
        assert spelled.split(b"\r\n")[2] == b"EVAL"
        assert b"\nlocal function draw" in spelled


def test_no_command_is_given_up_for_scripts_that_were_not_asked_for() -> None:
    """EVALSHA is forbidden and EVAL is not: the native release has nothing to do with it."""
    op = _ops.try_acquire(claim())
    op.send(None)
    forbidden = "NOPERM User u has no permissions to run the 'evalsha' command"
    assert op.send((100.0, [fastlock.ServerError(forbidden)])).spelled_out is True
    assert result(op, (100.1, [NUMBER])).fence == NUMBER
    op = _ops_many.try_acquire_many(claim(2))
    op.send(None)
    assert op.send((100.0, [fastlock.ServerError(forbidden)] * 2)).spelled_out is True
    assert type(op.send((100.1, [NUMBER, NUMBER]))) is Now
    assert [lease.fence for lease in result(op, 100.1)] == [NUMBER] * 2
