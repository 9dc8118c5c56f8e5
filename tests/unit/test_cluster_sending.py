"""How a cluster's client sends what goes to several nodes, when something comes in between."""

from __future__ import annotations

import asyncio
import time
from types import SimpleNamespace
from typing import Any

import pytest

import fastlock
import fastlock.aio
from fastlock import _fork
from fastlock._clock import clock
from fastlock._cluster import Parcel
from fastlock._clusterrenewal import NodeKeeper
from fastlock._effects import Call
from fastlock._resp import Reentered
from fastlock._sync_cluster import GLANCE
from fastlock.errors import FastlockError, ServerError, TransportError


@pytest.fixture
def client() -> Any:
    with fastlock.Client("redis+cluster://127.0.0.1:1") as made:
        yield made


def parcel(pairs: int, asking: bool, there: Any = None, **server: Any) -> Any:
    """``there``: its connection, which works."""
    server.setdefault("link", lambda timeout: there)
    server.setdefault("strays", [])
    call = Call("acquire_many", ([(b"k%d" % n, b"t") for n in range(pairs)], 1000), pairs)
    node = SimpleNamespace(server=SimpleNamespace(ready=lambda: there, **server))
    return Parcel(node, call, asking)


class Wire:
    """A connection on which this comes."""

    broken = False

    def __init__(self, outcome: Any, sending: BaseException | None = None) -> None:
        self.outcome = outcome
        self.sending = sending
        self.tickets: list[Ticket] = []
        self.aborted = False
        self.given: list[float] = []  # seconds, to each that waited

    def ticket(self) -> Any:
        return Ticket(self)

    def call(self, data: bytes, count: int, timeout: float) -> Any:
        self.given.append(timeout)
        if timeout <= 0:
            raise TransportError("no answer in time", sent=True)
        outcome = self.outcome(self) if callable(self.outcome) else self.outcome
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    def abort(self, reason: str) -> None:
        self.aborted = True

    def close(self) -> None: ...


class Ticket:
    """What is under way on such a connection; ``sending`` is the wire's, for what comes early."""

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        wire.tickets.append(self)
        self.state = "new"

    def send(self, data: bytes, count: int) -> None:
        self.state = "sent"
        if self.wire.sending is not None:
            raise self.wire.sending

    def wait(self, timeout: float) -> Any:
        return self.wire.call(b"", 0, timeout)

    def leave(self) -> None:
        self.state = "left"


def link(client: Any, outcome: Any) -> Any:
    def encode(call: Call) -> bytes:
        return b"*1\r\n$4\r\nPING\r\n" * call.count

    commands = SimpleNamespace(pack=client._core.pack)
    return SimpleNamespace(
        pipe=Wire(outcome), encode=encode, commands=commands, info=None, heard=lambda said: said
    )


@pytest.mark.parametrize("aside", [False, True])
def test_answers_to_asking_are_none_of_the_locks(client: Any, aside: bool) -> None:
    """Two keys and two of the four answers: those to ASKING say OK, and nobody has a lock."""
    broken = TransportError("it broke", sent=True)
    broken.replies = [b"OK", None]
    there = link(client, broken)

    def reentered(timeout: float) -> Any:
        if aside:
            raise Reentered("a handler")
        return there

    sending = parcel(2, True, link=reentered, spare=lambda timeout: there)
    answer = client._deliver(sending)
    assert isinstance(answer, TransportError)
    assert list(answer.replies) == [None]


@pytest.mark.parametrize(
    "outcome", [[b"OK"], TransportError("it broke", sent=True), KeyboardInterrupt()]
)
def test_a_handlers_own_connection_is_left_behind_without_its_answer(
    client: Any, outcome: Any
) -> None:
    """It may still carry a try: it is ended before anything is sent anew."""
    busy, spare = link(client, Reentered("a handler")), link(client, outcome)
    spare.info = "the handler's"
    sending = parcel(1, False, there=busy, spare=lambda timeout: spare)
    try:
        client._deliver(sending)
    except KeyboardInterrupt:
        assert isinstance(outcome, KeyboardInterrupt)
    heard = isinstance(outcome, list)
    assert sending.node.server.strays == ([] if heard else ["the handler's"])


@pytest.mark.parametrize("early", [True, False])
def test_an_interrupted_caller_leaves_all_that_is_under_way(client: Any, early: bool) -> None:
    """Whatever it gives back lands behind that, on the same connections: none of them ends."""
    first = link(client, [b"OK"] if early else KeyboardInterrupt())
    second = link(client, [b"OK"])
    second.pipe.sending = KeyboardInterrupt() if early else None
    with pytest.raises(KeyboardInterrupt):
        client._send([parcel(1, False, there=first), parcel(1, False, there=second)])
    tickets = first.pipe.tickets + second.pipe.tickets
    assert [ticket.state for ticket in tickets] == ["left", "left"]
    assert not first.pipe.aborted
    assert not second.pipe.aborted


def test_a_handler_in_one_connections_own_code_goes_beside_it(client: Any) -> None:
    """The other nodes are sent theirs before that one is waited for."""
    order: list[str] = []

    def beside(wire: Wire) -> Any:
        order.append(f"beside, with {[ticket.state for ticket in other.pipe.tickets]}")
        return [b"OK"]

    busy, other = link(client, [None]), link(client, [b"OK"])
    busy.pipe.sending = Reentered("a handler")
    spare = link(client, beside)
    first = parcel(1, False, there=busy, spare=lambda timeout: spare)
    answers = client._send([first, parcel(1, False, there=other)])
    assert [replies for _, replies in answers] == [[b"OK"], [b"OK"]]
    assert order == ["beside, with ['sent']"]


def test_what_fails_at_one_node_takes_nothing_from_another(client: Any) -> None:
    gone, other = link(client, [None]), link(client, [b"OK"])
    gone.pipe.sending = TransportError("it has ended")
    broken = TransportError("it broke", sent=True)
    broken.replies = [b"OK"]
    half = link(client, broken)

    def refused(timeout: float) -> Any:
        raise ServerError("NOAUTH who are you")

    unreachable = parcel(1, False, link=refused)
    answers = client._send(
        [
            parcel(1, False, there=gone),
            unreachable,
            parcel(2, False, there=half),
            parcel(1, False, there=other),
        ]
    )
    assert [type(answer) for answer in answers] == [TransportError] * 3 + [tuple]
    assert [answer.sent for answer in answers[:3]] == [False, False, True]
    assert list(answers[2].replies) == [b"OK"]
    assert "NOAUTH" in str(answers[1])
    assert answers[3][1] == [b"OK"]


def test_a_node_to_connect_to_comes_last(client: Any) -> None:
    order: list[str] = []

    def connect(timeout: float) -> Any:
        order.append(f"connected behind {[ticket.state for ticket in other.pipe.tickets]}")
        return link(client, [b"OK"])

    other = link(client, [b"OK"])
    answers = client._send([parcel(1, False, link=connect), parcel(1, False, there=other)])
    assert [replies for _, replies in answers] == [[b"OK"], [b"OK"]]
    assert order == ["connected behind ['sent']"]


def test_a_child_forked_in_the_middle_is_told_so(
    client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forked(wire: Wire) -> Any:
        monkeypatch.setattr(_fork, "generation", _fork.generation + 1)
        return [b"OK"]

    first = parcel(1, False, there=link(client, forked))
    second = parcel(1, False, there=link(client, [b"OK"]))
    with pytest.raises(FastlockError, match="forked in the middle"):
        client._send([first, second])


def test_what_was_left_at_a_node_is_ended_before_more_is_sent_there(client: Any) -> None:
    order: list[str] = []
    there = link(client, [b"OK"])

    def end(timeout: float) -> None:
        order.append(f"ended, with {len(there.pipe.tickets)} sent")

    left = parcel(1, False, there=there, strays=["a connection"], end_strays=end)
    client._send([left, parcel(1, False, there=link(client, [b"OK"]))])
    assert order == ["ended, with 0 sent"]
    client._send([left])
    assert order == ["ended, with 0 sent", "ended, with 1 sent"]


async def left_in_asyncio(client: Any) -> list[str]:
    order: list[str] = []
    there = SimpleNamespace(pipe=SimpleNamespace(call=lambda data, count: send()))

    def send() -> Any:
        order.append("sent")
        done = asyncio.get_running_loop().create_future()
        done.set_result([b"OK"])
        return done

    async def end(link: Any, timeout: float) -> None:
        order.append("ended")

    there.encode = lambda call: b"*1\r\n$4\r\nPING\r\n" * call.count
    there.commands = SimpleNamespace(pack=client._core.pack)
    left = parcel(1, False, there=there, strays=["a connection"], end_strays=end)
    await client._send([left])
    alone = order.copy()
    await client._send([left, left])
    return [*alone, "|", *order[len(alone) :]]


def test_so_it_is_in_asyncio() -> None:
    async def main() -> list[str]:
        async with fastlock.aio.Client("redis+cluster://127.0.0.1:1") as client:
            return await left_in_asyncio(client)

    ended = asyncio.run(main())
    assert ended == ["ended", "sent", "|", "ended", "sent", "ended", "sent"]


def test_a_node_that_is_silent_loses_its_connection(client: Any) -> None:
    silent = TransportError("no answer in time", sent=True)
    silent.timed_out, silent.sent_at = True, 0.0
    mute, other = link(client, silent), link(client, [b"OK"])
    mute.info = None
    answers = client._send([parcel(1, False, there=mute), parcel(1, False, there=other)])
    assert [type(answer) for answer in answers] == [TransportError, tuple]
    assert mute.pipe.aborted
    assert not other.pipe.aborted


def test_dead_nodes_have_one_time_together(client: Any) -> None:
    given: list[float] = []

    def slow(timeout: float) -> Any:
        given.append(timeout)
        time.sleep(0.2)
        raise TransportError("nobody is there")

    client._send([parcel(1, False, link=slow) for _ in range(3)])
    assert given[0] - given[2] >= 0.4


def test_a_map_that_is_doubted_is_read_again_though_all_goes_straight(
    client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    hints: list[str] = []
    there = link(client, [b"OK"])
    node = SimpleNamespace(server=SimpleNamespace(strays=[], _link=there))
    book = client._book
    book.serving, book.stale, book.hinted = [node] * 16384, False, True
    monkeypatch.setattr(client._cluster, "hint", lambda: hints.append("hint"))
    assert client._home(b"k") is there
    assert hints == ["hint"]
    book.stale = True
    assert client._home(b"k") is None


def at_one_node(client: Any, **server: Any) -> None:
    """Let it serve all slots, as a map says that has just been read."""
    book = client._book
    book.serving = [SimpleNamespace(server=SimpleNamespace(**server))] * 16384
    book.stale, book.hinted, book.read_at = False, False, clock()


def test_nothing_goes_straight_to_where_something_was_left(client: Any) -> None:
    at_one_node(client, strays=["a connection"], _link="a link")
    assert client._home(b"k") is None
    at_one_node(client, strays=[], _link="a link")
    assert client._home(b"k") == "a link"


def test_nor_does_it_in_asyncio() -> None:
    async def main() -> None:
        async with fastlock.aio.Client("redis+cluster://127.0.0.1:1") as made:
            client: Any = made
            at_one_node(client, strays=["a connection"], link_of_this_loop=lambda: "a link")
            assert client._home(b"k") is None
            at_one_node(client, strays=[], link_of_this_loop=lambda: "a link")
            assert client._home(b"k") == "a link"

    asyncio.run(main())


def test_what_has_come_from_one_node_is_read_though_another_took_all_the_time(client: Any) -> None:
    def mute(wire: Wire) -> Any:
        time.sleep(0.1)
        return TransportError("no answer in time", sent=True)

    slow, other = link(client, mute), link(client, [b"OK"])
    parcels = [parcel(1, False, there=slow), parcel(1, False, there=other)]
    for each in parcels:
        each.call.until = clock() + 0.05
    answers = client._send(parcels)
    assert [type(answer) for answer in answers] == [TransportError, tuple]
    assert other.pipe.given == [GLANCE]


def test_in_asyncio_no_sending_goes_on_behind_one_that_is_cancelled() -> None:
    """Else it would land behind what gives it back."""
    ended: list[str] = []

    async def connecting(timeout: float) -> Any:
        try:
            await asyncio.sleep(20)
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise

    async def main() -> None:
        async with fastlock.aio.Client("redis+cluster://127.0.0.1:1") as made:
            client: Any = made
            parcels = [parcel(1, False, link=connecting) for _ in range(2)]
            sending = asyncio.ensure_future(client._send(parcels))
            await asyncio.sleep(0.01)
            sending.cancel()
            await asyncio.wait([sending])
            await asyncio.sleep(0.01)
            assert ended == ["cancelled"] * 2

    asyncio.run(main())


def test_what_a_keeper_has_counted_outlives_it(
    client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One whose node was replaced by another one at its address, and one without a node."""
    monkeypatch.setattr(NodeKeeper, "renewed", property(lambda keeper: 3))
    homes, book, where = client._keeper, client._book, ("127.0.0.1", 7001)
    first = homes.at(where)
    assert homes.at(where) is first
    assert homes.renewed == 3
    book.nodes.pop(where)
    second = homes.at(where)
    assert second is not first
    assert homes.renewed == 6
    book.nodes.pop(where)
    homes._let_go(second)
    assert homes.renewed == 6
