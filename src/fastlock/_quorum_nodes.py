"""Floor 1, sync: the nodes of a quorum, each behind a client of its own.

Law: what goes to several nodes is written to all of them before any answer is awaited, by the
thread that asks, and no answer is waited for longer than the node timeout. Nobody connects but a
node's own thread, which lives only while it has something to do. A node that was late once is
waited for only where the outcome depends on it, until it has caught up.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from . import _args
from ._clock import clock
from ._effects import Call
from ._errands import Errands
from ._event import Event
from ._metrics import RETRIES
from ._pause import backoff_pause
from ._quorum_links import Connecting, distinct, patience_of
from ._quorum_polls import Answer, GiveBack, Lacking, Poll
from ._replies import is_nonsense
from ._resp import Reentered
from ._topology import closed_error
from .errors import FastlockError, TransportError
from .sync import Client

#: What no lock command is answered: so that every answer is kept until it is asked for.
NO_REPLY = -1
#: Seconds to read what has already come, while another node was waited for in vain.
GLANCE = 0.005


class Ticket:
    """One command to one node, under way."""

    __slots__ = ("heard", "node", "number", "pipe", "reply")

    def __init__(self, node: Node, pipe: Any, number: int) -> None:
        self.node = node
        self.pipe = pipe
        self.number = number
        self.heard = False
        self.reply: Any = None


class Node:
    """One server. Any thread may call any method, and so may signal handlers."""

    def __init__(self, number: int, client: Client, tell: Callable[[], None]) -> None:
        self.number = number
        self.client = client
        self._tell = tell  # those who wait for connections
        self.patience = client.config.socket_timeout
        self._prefix = client.config.prefix.encode()
        self.forked()

    def forked(self) -> None:
        """In a forked child: what is under way is the parent's."""
        self._mutex = threading.RLock()
        self._expected: dict[tuple[Any, int], Ticket] = {}
        self._errands = Errands(f"fastlock-node-{self.number}")
        self.late = False  # it was, and has not caught up
        self.failure: FastlockError | None = None  # of the latest try to connect
        self._failures = 0
        self._again = 0.0  # not to be tried before
        self.connecting = False
        self._begun = 0.0  # when that was

    def link(self) -> Any:
        """The working connection, if there is one."""
        return self.client._server.ready()

    def wire(self, key: str | bytes) -> bytes:
        """The key as this node sees it."""
        return _args.wire_key(key, self._prefix)

    # -- connecting

    def connect(self, at_once: bool) -> bool:
        """Have it connected; whether that is under way, or left alone after a failure."""
        with self._mutex:
            if not self.connecting:
                if not at_once and clock() < self._again:
                    return False
                try:
                    self.connecting, self._begun = True, clock()
                    self._errands.add(self._connect)
                except BaseException:  # an interrupt: perhaps nobody will
                    self.connecting = False
                    raise
            return True

    def slow(self, seconds: float) -> bool:
        """Whether it has been connecting for longer than that."""
        return self.connecting and clock() - self._begun > seconds

    def _connect(self) -> None:
        if self._failures:
            self.client._meter.count(RETRIES)
        failure: FastlockError | None = closed_error()
        try:
            self.client._server.link(self.client.config.connect_timeout)
            failure = None
            self.late = False
        except FastlockError as error:
            failure = error
        finally:
            self.failure = failure
            self._failures = 0 if failure is None else self._failures + 1
            self._again = 0.0 if failure is None else clock() + backoff_pause(self._failures)
            self.connecting = False
            self._tell()

    # -- asking

    def send(self, poll: Poll) -> Ticket | None:
        """Write it, and do not wait; None if surely nothing has left."""
        link = self.link()
        if link is None:
            return None
        call = Call(poll.verb, (self.wire(poll.key), *poll.rest), spelled_out=poll.spelled_out)
        data = link.encode(call)
        known = self.number in poll.touched
        poll.touched.add(self.number)
        try:
            with self._mutex:  # nobody looks for its answer before it is expected
                ticket = Ticket(self, link.pipe, link.pipe.defer(data, NO_REPLY))
                self._expected[ticket.pipe, ticket.number] = ticket
                return ticket
        except (TransportError, Reentered) as error:
            # Reentered: a handler has come into the connection's own code. It was not sent.
            if not known and not getattr(error, "sent", False):
                poll.touched.discard(self.number)
            return None

    def hear(self, ticket: Ticket, until: float) -> None:
        """Wait for the answer, ``until`` at most; what has come by then is read in any case."""
        pipe = ticket.pipe
        left = max(until - clock(), GLANCE)
        while not self._look(ticket):
            if left <= 0 or pipe.broken or pipe.settled >= ticket.number:
                self._look(ticket)  # it may have come before that was asked
                return
            try:
                pipe.call(b"", 0, left)
            except (TransportError, Reentered):
                self._look(ticket)
                return
            left = until - clock()

    def drop(self, ticket: Ticket) -> None:
        """Nobody waits for the answer any more."""
        self._expected.pop((ticket.pipe, ticket.number), None)

    def _look(self, ticket: Ticket) -> bool:
        """Take what has come, for whomever it is."""
        if not ticket.heard:
            with self._mutex:
                for number, reply in ticket.pipe.odd():
                    owner = self._expected.pop((ticket.pipe, number), None)
                    if owner is not None:
                        owner.reply = reply
                        owner.heard = True
        return ticket.heard

    def was_late(self, pipe: Any) -> None:
        """See to it that its answers are read, or its connection ended."""
        with self._mutex:
            if not self.late:
                try:
                    self.late = True
                    self._errands.add(lambda: self._catch_up(pipe))
                except BaseException:  # as in connect()
                    self.late = False
                    raise

    def _catch_up(self, pipe: Any) -> None:
        try:
            pipe.call(b"", 0, self.patience)
        except TransportError as error:
            if error.timed_out:
                pipe.abort(f"no answer for {self.patience} s")
        finally:
            self.late = False

    def downgrade(self, verb: str) -> None:
        link = self.link()
        if link is not None:
            link.downgrade(verb)

    def finish(self, timeout: float) -> None:
        """Wait until its thread has ended."""
        self._errands.finish(timeout)


#: The time before sending, and an answer of each node asked, in order.
Told = tuple[float, list[Answer]]


class _Asked(NamedTuple):
    """One question to several nodes, under way."""

    poll: Poll
    sent_at: float
    tickets: list[Ticket]


class Nodes:
    """All of them. ``node_timeout`` is in seconds."""

    def __init__(
        self, clients: Sequence[Client], node_timeout: float, over: Callable[[], bool]
    ) -> None:
        self._waiting: list[Event] = []  # of those who wait for connections
        self._nodes = [Node(number, client, self._tell) for number, client in enumerate(clients)]
        self._timeout = node_timeout
        self._over = over  # whether the quorum's client is closed
        self._connect_timeout = max(client.config.connect_timeout for client in clients)
        self._known: list[Any] = []  # connections that were compared
        self._turn = 0  # which node is heard first

    def forked(self) -> None:
        """In a forked child."""
        self._waiting.clear()
        for node in self._nodes:
            node.forked()

    def poll(self, poll: Poll) -> Told:
        """Ask; the time before sending, and an answer of each."""
        (told,) = self.poll_all([poll], patience_of(self._timeout, poll))
        return told

    def poll_all(self, polls: Sequence[Poll], patience: float) -> list[Told]:
        """Ask all of it: all is written before any answer is awaited.

        That is for ``patience`` seconds at most, and for the node timeout.
        """
        patience = min(patience, self._timeout)
        self._connected({n for poll in polls for n in poll.only}, polls[0].until, patience)
        asked: list[_Asked] = []
        try:
            for poll in polls:
                one = _Asked(poll, clock(), [])
                asked.append(one)
                for number in poll.only:
                    ticket = self._nodes[number].send(poll)
                    if ticket is not None:
                        one.tickets.append(ticket)
            self._hear(asked, asked[-1].sent_at + patience)
            return [(one.sent_at, self._answers(one.poll, one.tickets)) for one in asked]
        finally:
            for one in asked:
                for ticket in one.tickets:
                    ticket.node.drop(ticket)

    def _hear(self, asked: list[_Asked], until: float) -> None:
        """Node by node: with a connection's latest answer all those before it have come."""
        self._turn = turn = (self._turn + 1) % len(self._nodes)
        count = len(self._nodes)
        latest: dict[Node, dict[Any, Ticket]] = {}  # of each connection, should there be several
        for one in asked:
            for ticket in one.tickets:
                latest.setdefault(ticket.node, {})[ticket.pipe] = ticket
        order = sorted(latest, key=lambda node: (node.late, (node.number - turn) % count))
        for place, node in enumerate(order):
            if node.late and all(self._decided(one, order[place:]) for one in asked):
                return
            for ticket in latest[node].values():
                node.hear(ticket, until)
                if not ticket.heard and not ticket.pipe.broken:
                    node.was_late(ticket.pipe)

    def _decided(self, one: _Asked, missing: list[Node]) -> bool:
        left = sum(ticket.node in missing for ticket in one.tickets)
        return one.poll.decided(self._answers(one.poll, one.tickets), left)

    def _answers(self, poll: Poll, tickets: list[Ticket]) -> list[Answer]:
        found = {ticket.node.number: ticket for ticket in tickets}
        answers = []
        for number in poll.only:
            ticket = found.get(number)
            if ticket is None:
                sent, failure = number in poll.touched, self._nodes[number].failure
                answers.append(Answer(number, sent, False, error=failure))
                continue
            if ticket.heard and is_nonsense(poll.verb, ticket.reply):
                ticket.pipe.abort("an answer came that its command cannot have")
            answers.append(Answer(number, True, ticket.heard, ticket.reply))
        return answers

    # -- connecting

    def _connected(self, asked: Iterable[int], until: float | None, patience: float) -> None:
        """Have those connected that can be; wait for them, before anything is sent."""
        links = [node.link() for node in self._nodes]
        if None in links:
            longest = self._connect_timeout
            connecting = Connecting(self._nodes, asked, until, longest, patience)
            left = longest
            while left > 0 and not self._over():
                news = Event()
                self._waiting.append(news)  # before anything is looked at
                try:
                    left = connecting.left()
                    if left > 0:
                        news.wait(left)
                finally:
                    with suppress(ValueError):  # forgotten in a forked child
                        self._waiting.remove(news)
            if self._over():
                raise closed_error()
            links = [node.link() for node in self._nodes]
        self._known = distinct(links, self._known)

    def prepare(self) -> None:
        """Have all connected soon; returns at once."""
        for node in self._nodes:
            if node.link() is None:
                node.connect(at_once=False)

    def _tell(self) -> None:
        """A node's connecting has come to an end."""
        for news in tuple(self._waiting):
            news.set()

    # -- the rest

    def give_back(self, what: GiveBack) -> None:
        """At once on the same connections, then confirmed in the background."""
        for number in what.nodes:
            node = self._nodes[number]
            pair = (node.wire(what.key), what.token)
            node.client._give_back_pairs([pair], what.until, what.generation)

    def downgrade(self, lacking: Lacking) -> None:
        for number in lacking.nodes:
            self._nodes[number].downgrade(lacking.verb)

    def close(self, timeout: float) -> None:
        """Close each client, and wait for each node's thread, at most ``timeout`` seconds.

        What is given back is waited for, a second each.
        """
        for node in self._nodes:
            node.client.close()
        for node in self._nodes:
            node.finish(timeout)

    def idle(self) -> bool:
        """Whether no node's thread has anything to do."""
        return not any(node.connecting or node.late for node in self._nodes)
