"""Floor 1, asyncio: the nodes of a quorum, each behind a client of its own.

Law: that of ``_quorum_nodes.py``: what goes to several nodes leaves in one turn of the loop, and
no answer is waited for longer than the node timeout. Each node has one task at most that
connects.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any

from . import _args
from ._clock import clock
from ._effects import Call
from ._metrics import RETRIES
from ._pause import backoff_pause
from ._quorum_links import Connecting, distinct, patience_of
from ._quorum_polls import Answer, GiveBack, Lacking, Poll
from ._replies import is_nonsense
from ._topology import closed_error
from .aio import Client
from .errors import FastlockError, TransportError


class AsyncNode:
    """One server. Belongs to one event loop at a time."""

    def __init__(self, number: int, client: Client) -> None:
        self.number = number
        self.client = client
        self._prefix = client.config.prefix.encode()
        self.forked()

    def forked(self) -> None:
        """In a forked child: what is under way is the parent's."""
        self.late: set[asyncio.Future[Any]] = set()  # answers that were waited for in vain
        self.failure: FastlockError | None = None  # of the latest try to connect
        self._failures = 0
        self._again = 0.0  # not to be tried before
        self.attempt: asyncio.Task[None] | None = None
        self._begun = 0.0

    def link(self) -> Any:
        """The working connection of the running loop, if there is one."""
        return self.client._server.ready()

    def wire(self, key: str | bytes) -> bytes:
        """The key as this node sees it."""
        return _args.wire_key(key, self._prefix)

    # -- connecting

    def connect(self, at_once: bool) -> bool:
        """Have it connected; whether that is under way, or left alone after a failure."""
        if not self.connecting:
            if not at_once and clock() < self._again:
                return False
            self._begun = clock()
            self.attempt = asyncio.get_running_loop().create_task(self._connect())
        return True

    @property
    def connecting(self) -> bool:
        """Whether the running loop connects it."""
        attempt = self.attempt
        if attempt is None or attempt.done():
            return False
        return attempt.get_loop() is asyncio.get_running_loop()

    def slow(self, seconds: float) -> bool:
        """Whether it has been connecting for longer than that."""
        return self.connecting and clock() - self._begun > seconds

    async def _connect(self) -> None:
        if self._failures:
            self.client._meter.count(RETRIES)
        failure: FastlockError | None = closed_error()
        try:
            await self.client._server.link(self.client.config.connect_timeout)
            failure = None
            self.late.clear()
        except FastlockError as error:
            failure = error
        finally:
            self.failure = failure
            self._failures = 0 if failure is None else self._failures + 1
            self._again = 0.0 if failure is None else clock() + backoff_pause(self._failures)

    async def stop(self) -> None:
        """Connect no more."""
        attempt, self.attempt = self.attempt, None
        if attempt is not None and attempt.get_loop() is asyncio.get_running_loop():
            attempt.cancel()
            await asyncio.wait([attempt])

    # -- asking

    def send(self, poll: Poll) -> asyncio.Future[Any] | None:
        """Have it leave at the end of this turn; None if surely nothing will."""
        link = self.link()
        if link is None:
            return None
        call = Call(poll.verb, (self.wire(poll.key), *poll.rest), spelled_out=poll.spelled_out)
        data = link.encode(call)
        known = self.number in poll.touched
        poll.touched.add(self.number)
        try:
            answer: asyncio.Future[Any] = link.pipe.one(data)
        except TransportError:
            if not known:
                poll.touched.discard(self.number)
            return None
        return answer

    def was_late(self, answer: asyncio.Future[Any]) -> None:
        """Nobody waits for it any more; until it comes the node is not waited for."""
        self.late.add(answer)
        answer.add_done_callback(self._came)

    def _came(self, answer: asyncio.Future[Any]) -> None:
        self.late.discard(answer)
        forget(answer)

    def distrust(self) -> None:
        link = self.client._server.alive()
        if link is not None:
            link.pipe.abort("an answer came that its command cannot have")


def forget(answer: asyncio.Future[Any]) -> None:
    """Nobody may be left to hear of its failure."""
    if not answer.cancelled():
        answer.exception()


class AsyncNodes:
    """All of them. ``node_timeout`` is in seconds."""

    def __init__(self, clients: Sequence[Client], node_timeout: float) -> None:
        self._nodes = [AsyncNode(number, client) for number, client in enumerate(clients)]
        self._timeout = node_timeout
        self._connect_timeout = max(client.config.connect_timeout for client in clients)
        self._known: list[Any] = []  # connections that were compared

    def forked(self) -> None:
        """In a forked child."""
        self._known = []
        for node in self._nodes:
            node.forked()

    async def poll(self, poll: Poll, over: asyncio.Future[None]) -> tuple[float, list[Answer]]:
        """Ask; the time before sending, and an answer of each. ``over``: the client is closed."""
        patience = patience_of(self._timeout, poll)
        await self._connected(poll, patience, over)
        under_way: dict[int, asyncio.Future[Any]] = {}
        sent_at = clock()
        try:
            for number in poll.only:
                answer = self._nodes[number].send(poll)
                if answer is not None:
                    under_way[number] = answer
            until = sent_at + patience
            while (left := until - clock()) > 0 and not over.done():
                pending = [f for f in under_way.values() if not f.done()]
                if not pending or self._enough(poll, under_way):
                    break
                await asyncio.wait(
                    [*pending, over], timeout=left, return_when=asyncio.FIRST_COMPLETED
                )
            answers = self._answers(poll, under_way)
        finally:
            for number, future in under_way.items():
                if future.done():
                    forget(future)
                else:
                    self._nodes[number].was_late(future)
        if over.done():
            raise closed_error()
        return sent_at, answers

    def _enough(self, poll: Poll, under_way: dict[int, asyncio.Future[Any]]) -> bool:
        """Whether only those are missing that were late before, and nothing depends on them."""
        missing = [number for number, future in under_way.items() if not future.done()]
        if not all(self._nodes[number].late for number in missing):
            return False
        return poll.decided(self._answers(poll, under_way), len(missing))

    def _answers(self, poll: Poll, under_way: dict[int, asyncio.Future[Any]]) -> list[Answer]:
        answers = []
        for number in poll.only:
            future = under_way.get(number)
            if future is None:
                sent, failure = number in poll.touched, self._nodes[number].failure
                answers.append(Answer(number, sent, False, error=failure))
            elif not future.done() or future.cancelled():
                answers.append(Answer(number, True, False))
            elif isinstance(error := future.exception(), FastlockError):
                answers.append(Answer(number, True, False, error=error))
            else:
                if is_nonsense(poll.verb, future.result()):
                    self._nodes[number].distrust()
                answers.append(Answer(number, True, True, future.result()))
        return answers

    # -- connecting

    async def _connected(self, poll: Poll, patience: float, over: asyncio.Future[None]) -> None:
        """As of ``Nodes``."""
        links = [node.link() for node in self._nodes]
        if None in links:
            longest = self._connect_timeout
            connecting = Connecting(self._nodes, poll.only, poll.until, longest, patience)
            while not over.done() and (left := connecting.left()) > 0:
                news: list[asyncio.Future[None]] = [over]
                news += [n.attempt for n in self._nodes if n.attempt is not None and n.connecting]
                await asyncio.wait(news, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            if over.done():
                raise closed_error()
            links = [node.link() for node in self._nodes]
        self._known = distinct(links, self._known)

    # -- the rest

    def give_back(self, what: GiveBack) -> None:
        """At once on the same connections, then confirmed by tasks."""
        for number in what.nodes:
            node = self._nodes[number]
            pair = (node.wire(what.key), what.token)
            node.client._give_back_pairs([pair], what.until, what.generation)

    def downgrade(self, lacking: Lacking) -> None:
        for number in lacking.nodes:
            link = self._nodes[number].link()
            if link is not None:
                link.downgrade(lacking.verb)

    async def close(self) -> None:
        """Close each client; what is given back is waited for, a second at most."""
        await _all(node.stop() for node in self._nodes)
        await _all(node.client.close() for node in self._nodes)


async def _all(closings: Iterable[Any]) -> None:
    await asyncio.gather(*closings)
