"""The way of a command through a cluster, one answer at a time; and what nodes say of it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from test_ops import lost, result

import fastlock
from fastlock import _cluster, _impl
from fastlock._clock import clock
from fastlock._cluster import Book, Look, Pause, Send
from fastlock._effects import Call
from fastlock._slots import slot
from fastlock.config import Config

KEY = b"k"
A, B = ("127.0.0.1", 7001), ("127.0.0.1", 7002)


@pytest.fixture
def divide(core: str) -> Any:
    return _impl.load(core).divide


class Node:
    def __init__(self, config: Config) -> None:
        self.address = (config.host, config.port)


def book() -> Book[Node]:
    """One that has been read: all slots are A's."""
    made: Book[Node] = Book(Config(cluster=["seed:7000"]), Node)
    made.learn([[0, 16383, [b"127.0.0.1", 7001, b"id"]]], ("seed", 7000))
    return made


def refused(text: str) -> tuple[float, list[Any]]:
    return 1.0, [fastlock.ServerError(text)]


def sent(effect: Any) -> tuple[Any, bool]:
    assert type(effect) is Send
    (parcel,) = effect.parcels
    return parcel.node.address, parcel.asking


def one(known: Book[Node], until: float | None = None) -> tuple[Any, Call]:
    call = Call("acquire", (KEY, b"t", 1000), until=until)
    return _cluster.routed(call, known, 5.0), call


def test_moved_is_followed_at_once_and_remembered() -> None:
    known = book()
    op, _ = one(known)
    assert sent(op.send(None)) == (A, False)
    moved = refused(f"MOVED {slot(KEY)} 127.0.0.1:7002")
    assert sent(op.send([moved])) == (B, False)
    assert result(op, [(2.0, [b"OK"])]) == (2.0, [b"OK"])
    assert known.node_of(KEY).address == B  # type: ignore[union-attr]
    assert known.hinted


def test_ask_is_followed_with_asking_and_not_remembered() -> None:
    known = book()
    op, _ = one(known)
    op.send(None)
    assert sent(op.send([refused(f"ASK {slot(KEY)} :7002")])) == (B, True)
    assert type(op.send([refused("TRYAGAIN not all of it")])) is Pause
    assert sent(through(op, op.send(None))) == (A, False)


def through(op: Any, effect: Any) -> Any:
    """Past a reading of the map, if one is due."""
    return op.send(None) if type(effect) is Look else effect


def test_nobody_is_sent_in_circles_without_a_pause() -> None:
    op, _ = one(book())
    effect = op.send(None)
    followed = 0
    while type(effect) is Send:
        followed += 1
        where = 7001 + followed % 2
        effect = op.send([refused(f"MOVED {slot(KEY)} 127.0.0.1:{where}")])
    assert type(effect) is Pause
    assert followed == _cluster.MOST_REDIRECTIONS + 1


def test_what_may_have_been_done_is_not_sent_again() -> None:
    known = book()
    op, _ = one(known)
    op.send(None)
    with pytest.raises(fastlock.TransportError) as caught:
        op.send([lost(1.0)])
    assert caught.value.sent
    assert known.stale


def test_what_was_not_sent_is_until_there_is_no_time() -> None:
    known = book()
    op, call = one(known, until=0.0)
    op.send(None)
    with pytest.raises(fastlock.TransportError) as caught:
        op.send([fastlock.TransportError("refused")])
    assert not caught.value.sent
    assert not call.left


def test_a_refusal_for_good_is_the_operation_s() -> None:
    op, _ = one(book())
    op.send(None)
    said = refused("WRONGTYPE of another kind")
    assert result(op, [said]) == said


def test_of_a_batch_what_was_answered_counts(divide: Any) -> None:
    known = book()
    pairs = [(b"k%d" % number, b"t") for number in range(4)]
    known.serving[slot(pairs[1][0])] = known.serving[slot(pairs[3][0])] = known.node_at(B)
    op = _cluster.routed_many(Call("release_many", (pairs,), 4), known, 5.0, divide)
    effect = op.send(None)
    assert [(p.node.address, p.call.args[0]) for p in effect.parcels] == [
        (A, [pairs[0], pairs[2]]),
        (B, [pairs[1], pairs[3]]),
    ]
    gone = lost(1.0)
    gone.replies = [1]
    with pytest.raises(fastlock.TransportError) as caught:
        op.send([(1.0, [1, 0]), gone])
    assert caught.value.sent
    replies = list(caught.value.replies)
    assert replies[:3] == [1, 1, 0]
    assert replies[3] is gone


def test_a_batch_that_all_nodes_answer_comes_back_in_order(divide: Any) -> None:
    known = book()
    pairs = [(b"k%d" % number, b"t") for number in range(5)]
    for place in (1, 3):
        known.serving[slot(pairs[place][0])] = known.node_at(B)
    call, before = Call("acquire_many", (pairs, 1000), 5), clock()
    op = _cluster.routed_many(call, known, 5.0, divide)
    effect = op.send(None)
    assert call.left
    assert [p.call.args for p in effect.parcels] == [
        ([pairs[0], pairs[2], pairs[4]], 1000),
        ([pairs[1], pairs[3]], 1000),
    ]
    between = clock()
    later = between + 1
    sent_at, replies = result(op, [(later, [b"OK", None, b"OK"]), (later, [b"OK", b"OK"])])
    assert replies == [b"OK", b"OK", None, b"OK", b"OK"]
    assert before <= sent_at <= between  # from before any of them was sent
    assert call.late is False


def test_of_a_batch_what_no_node_serves_waits_for_a_new_map(divide: Any) -> None:
    known = book()
    pairs = [(b"k%d" % number, b"t") for number in range(3)]
    known.serving[slot(pairs[1][0])] = None
    call = Call("acquire_many", (pairs, 1000), 3)
    op = _cluster.routed_many(call, known, 5.0, divide)
    effect = op.send(None)
    assert [p.call.args[0] for p in effect.parcels] == [[pairs[0], pairs[2]]]
    assert type(op.send([(1.0, [b"OK", None])])) is Pause
    assert known.stale
    known.learn([[0, 16383, [b"127.0.0.1", 7002, b"id"]]], A)
    effect = op.send(None)
    assert [(p.node.address, p.call.args[0]) for p in effect.parcels] == [(B, [pairs[1]])]
    _, replies = result(op, [(2.0, [b"OK"])])
    assert replies == [b"OK", b"OK", None]
    assert call.late


def test_the_number_of_masters_is_that_of_the_map() -> None:
    known = book()
    assert known.masters == 1
    known.learn(
        [
            [0, 99, [b"127.0.0.1", 7001, b"id"]],
            [100, 199, [b"127.0.0.1", 7002, b"id"]],
            [300, 16383, [b"127.0.0.1", 7001, b"id"]],
        ],
        A,
    )
    assert known.masters == 2
    known.learn([], A)
    assert known.masters == 1


def test_of_a_batch_only_what_was_refused_goes_elsewhere(divide: Any) -> None:
    pairs = [(b"k%d" % number, b"t") for number in range(3)]
    known = book()
    op = _cluster.routed_many(Call("release_many", (pairs,), 3), known, 5.0, divide)
    op.send(None)
    moved = fastlock.ServerError(f"MOVED {slot(pairs[1][0])} 127.0.0.1:7002")
    asked = fastlock.ServerError(f"ASK {slot(pairs[2][0])} 127.0.0.1:7002")
    effect = op.send([(1.0, [1, moved, asked])])
    assert [(p.node.address, p.asking, p.call.args[0]) for p in effect.parcels] == [
        (B, False, [pairs[1]]),
        (B, True, [pairs[2]]),
    ]
    _, replies = result(op, [(2.0, [1]), (2.0, [0])])
    assert replies == [1, 1, 0]


def test_a_script_that_came_with_what_was_sent_elsewhere_comes_again(divide: Any) -> None:
    """It is spelled out in the batch's first command, which the node refused without reading it."""
    pairs = [(b"k%d" % number, b"t") for number in range(3)]
    call = Call("release_many", (pairs,), 3, spelled_out=True)
    op = _cluster.routed_many(call, book(), 5.0, divide)
    op.send(None)
    asked = fastlock.ServerError(f"ASK {slot(pairs[0][0])} 127.0.0.1:7002")
    unread = fastlock.ServerError("NOSCRIPT No matching script")
    effect = op.send([(1.0, [asked, unread, unread])])
    assert [(p.node.address, p.call.args[0], p.call.spelled_out) for p in effect.parcels] == [
        (B, pairs[:1], True),
        (A, pairs[1:], True),
    ]
    _, replies = result(op, [(2.0, [1]), (2.0, [1, 0])])
    assert replies == [1, 1, 0]


@pytest.mark.parametrize(
    "said", [b"OK", [[0]], [[0, 16384, [b"h", 1]]], [[5, 2, [b"h", 1]]], [[0, 1, [b"h", b"1"]]], 7]
)
def test_what_is_no_map_is_refused(said: Any) -> None:
    with pytest.raises(fastlock.TransportError, match="CLUSTER SLOTS cannot have"):
        book().learn(said, A)


def test_a_node_without_a_name_is_where_it_was_asked() -> None:
    known = book()
    for name in (None, b"", b"?"):
        known.learn([[0, 16383, [name, 7009, b"id"]]], ("asked", 7000))
        assert known.node_of(KEY).address == ("asked", 7009)  # type: ignore[union-attr]
    for name in ("", "?"):
        moved = fastlock.ServerError(f"MOVED {slot(KEY)} {name}:7010")
        assert known.follow(moved, ("asked", 7000))[0].address == ("asked", 7010)


def test_nodes_that_serve_nothing_are_forgotten_after_a_while() -> None:
    known = book()
    before = known.node_at(A)
    known.learn([[0, 16383, [b"127.0.0.1", 7002, b"id"]]], A)
    assert known.gone(60.0) == []
    assert known.gone(-1.0) == [before]
    assert [*known.nodes] == [B]


class Connected(Node):
    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.server = SimpleNamespace(_link=object())


def straight() -> tuple[Book[Connected], Any]:
    """A map that has been read, and the connection that a command about KEY goes by."""
    made: Book[Connected] = Book(Config(cluster=["seed:7000"]), Connected)
    made.learn([[0, 16383, [b"127.0.0.1", 7001, b"id"]]], ("seed", 7000))
    node = made.node_of(KEY)
    assert node is not None
    return made, node.server._link


def test_what_went_straight_and_was_answered_is_no_matter_of_the_cluster() -> None:
    known, link = straight()
    for reply in (b"OK", None, 1, 0, fastlock.ServerError("WRONGTYPE of another kind")):
        assert known.astray(link, None, [reply]) is False
    assert (known.stale, known.hinted) == (False, False)
    assert known.node_of(KEY) is known.node_at(A)
    untouched: Any = None
    known.nodes = untouched  # each try that is refused comes this way: nodes are not gone through
    assert known.astray(link, None, [None]) is False


@pytest.mark.parametrize("code", ["ASK 5 127.0.0.1:7002", "TRYAGAIN", "CLUSTERDOWN", "READONLY"])
def test_what_went_straight_and_was_refused_is_routed(code: str) -> None:
    known, link = straight()
    assert known.astray(link, None, [fastlock.ServerError(code)]) is True
    assert known.node_of(KEY) is known.node_at(A)


def test_what_went_straight_to_a_slot_s_old_master_is_sent_to_the_new_one() -> None:
    known, link = straight()
    moved = fastlock.ServerError(f"MOVED {slot(KEY)} :7002")  # the host that was asked
    assert known.astray(link, None, [moved]) is True
    assert known.node_of(KEY) is known.node_at(B)
    assert known.hinted
    nowhere = fastlock.ServerError("MOVED to nowhere")
    assert known.astray(link, None, [nowhere]) is True
    assert known.astray(object(), None, [moved]) is True  # of a node that has been forgotten


def test_what_went_straight_and_was_lost_may_have_been_done() -> None:
    for sent_it in (True, False):
        known, link = straight()
        assert (
            known.astray(link, fastlock.TransportError("gone", sent=sent_it), None) is not sent_it
        )
        assert known.stale


@pytest.mark.parametrize("text", ["MOVED", "MOVED x h:1", "MOVED 1 h:x", "ASK 99999 h:1"])
def test_a_redirection_to_nowhere_is_a_failure(text: str) -> None:
    with pytest.raises(fastlock.TransportError, match="nowhere"):
        book().follow(fastlock.ServerError(text), A)


def test_what_some_nodes_answered_outlives_the_end_of_the_client(divide: Any) -> None:
    pairs = [(b"k%d" % number, b"t") for number in range(2)]
    known = book()
    known.serving[slot(pairs[1][0])] = known.node_at(B)
    op = _cluster.routed_many(Call("release_many", (pairs,), 2), known, 5.0, divide)
    op.send(None)
    away = fastlock.TransportError("no connection")
    assert type(op.send([(1.0, [1]), away])) is Pause
    with pytest.raises(fastlock.TransportError) as caught:
        op.throw(fastlock.FastlockError("the client is closed"))
    assert not caught.value.sent
    replies: list[Any] = list(caught.value.replies)
    assert replies[0] == 1
    assert str(replies[1]) == "the client is closed"


def test_what_some_nodes_answered_outlives_a_fork_while_others_are_asked(divide: Any) -> None:
    pairs = [(b"k%d" % number, b"t") for number in range(3)]
    known = book()
    for place in (1, 2):
        known.serving[slot(pairs[place][0])] = known.node_at((f"h{place}", 7002))
    op = _cluster.routed_many(Call("release_many", (pairs,), 3), known, 5.0, divide)
    op.send(None)
    away = fastlock.TransportError("no connection")
    assert type(op.send([(1.0, [1]), away, away])) is Pause
    assert len(through(op, op.send(None)).parcels) == 2
    with pytest.raises(fastlock.TransportError) as caught:
        op.throw(fastlock.FastlockError("this process was forked"))
    assert [str(reply) for reply in caught.value.replies] == ["1"] + ["this process was forked"] * 2


def test_before_anything_was_answered_an_error_for_good_is_raised_as_it_is(divide: Any) -> None:
    op = _cluster.routed_many(Call("release_many", ([(b"k", b"t")],), 1), book(), 5.0, divide)
    op.send(None)
    with pytest.raises(fastlock.ServerError, match="WRONGPASS"):
        op.throw(fastlock.ServerError("WRONGPASS no"))
