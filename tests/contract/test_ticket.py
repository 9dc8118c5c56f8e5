"""Both cores' calls in two steps: sent now, waited for later, or never.

Law: that of ``test_pipe.py``.
"""

from __future__ import annotations

import copy
import gc
import threading
import time
from typing import Any

import pytest
from _line import PING, Line, failure, until

from fastlock import _pymux
from fastlock.errors import TransportError


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody looks by itself whether somebody leads: who is not woken hangs."""
    monkeypatch.setattr(_pymux, "PATIENCE", 100.0)


def has_hung_up(line: Line) -> bool:
    """Whether the Pipe has let its end of the socket go."""
    line.far.settimeout(5)
    try:
        while line.far.recv(65536):
            pass
    except ConnectionResetError:
        pass
    return True


def test_it_is_sent_before_anybody_waits(line: Line) -> None:
    first, second = line.pipe.ticket(), line.pipe.ticket()
    first.send(PING * 2, 2)
    second.send(PING, 1)
    line.hear(PING * 3)
    line.far.sendall(b"+a\r\n$-1\r\n:3\r\n")
    assert second.wait(5) == [3]
    assert first.wait(5) == [b"a", None]
    assert (line.pipe.owed, line.pipe.broken) == (0, False)


@pytest.mark.usefixtures("patient")
def test_who_has_not_come_back_yet_holds_nobody_up(line: Line) -> None:
    """Neither does its place lead, nor does it end the row of those who wake each other."""
    answers: list[Any] = []

    def call(number: int) -> None:
        answers.append((number, line.pipe.call(PING, 1, 20)))

    threads = []
    tickets = []
    for number in range(6):
        thread = threading.Thread(target=call, args=(number,))
        thread.start()
        threads.append(thread)
        until(lambda number=number: line.pipe.owed == 2 * number + 1)
        ticket = line.pipe.ticket()
        ticket.send(PING, 1)
        tickets.append(ticket)
    for number in range(6):
        line.far.sendall(b":%d\r\n+late\r\n" % number)
        threads[number].join(20)
        assert not threads[number].is_alive()
    assert sorted(answers) == [(number, [number]) for number in range(6)]
    assert [ticket.wait(5) for ticket in tickets] == [[b"late"]] * 6


@pytest.mark.usefixtures("patient")
def test_answers_that_come_together_reach_all(line: Line) -> None:
    answers: list[Any] = []
    threads = []
    tickets = []
    for number in range(8):
        ticket = line.pipe.ticket()
        ticket.send(PING, 1)
        tickets.append(ticket)
        thread = threading.Thread(target=lambda: answers.append(line.pipe.call(PING, 1, 20)))
        thread.start()
        threads.append(thread)
        until(lambda number=number: line.pipe.owed == 2 * number + 2)
    line.far.sendall(b"+t\r\n+c\r\n" * 8)
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()
    assert answers == [[b"c"]] * 8
    assert [ticket.wait(5) for ticket in tickets] == [[b"t"]] * 8


def test_who_waits_too_short_is_told_that_it_was_sent(line: Line) -> None:
    ticket = line.pipe.ticket()
    ticket.send(PING * 2, 2)
    line.far.sendall(b"+a\r\n")
    late = failure(lambda: ticket.wait(0.05))
    assert (late.timed_out, late.sent, late.replies) == (True, True, [b"a"])
    line.far.sendall(b"+b\r\n+c\r\n")
    assert line.pipe.call(PING, 1, 5) == [b"c"]


def test_what_is_left_is_dropped_when_it_comes(line: Line) -> None:
    ticket = line.pipe.ticket()
    ticket.leave()  # nothing was sent
    ticket.send(PING, 1)
    ticket.leave()
    ticket.leave()
    forgotten = line.pipe.ticket()
    forgotten.send(PING, 1)
    forgotten.leave()
    line.far.sendall(b"+dropped\r\n+dropped\r\n+mine\r\n")
    assert line.pipe.call(PING, 1, 5) == [b"mine"]
    assert line.pipe.owed == 0


def test_the_end_of_the_pipe_reaches_it(line: Line) -> None:
    under_way = line.pipe.ticket()
    under_way.send(PING, 1)
    line.hear(PING)
    line.pipe.abort("enough of it")
    late = failure(lambda: under_way.wait(5))
    assert (str(late), late.sent, late.timed_out) == ("enough of it", True, False)
    refused = failure(lambda: line.pipe.ticket().send(PING, 1))
    assert (str(refused), refused.sent) == ("enough of it", False)
    assert has_hung_up(line)


def test_more_than_the_socket_takes_leaves_by_and_by(line: Line) -> None:
    """Nobody blocks in sending: the rest is written by who waits."""
    size = 4_000_000 // len(PING)
    ticket = line.pipe.ticket()
    began = time.monotonic()
    ticket.send(PING * size, size)
    assert time.monotonic() - began < 10
    far = line.later(lambda: line.hear(PING * size), lambda: line.far.sendall(b"+OK\r\n" * size))
    assert ticket.wait(60) == [b"OK"] * size
    far.join()


def test_it_is_used_once_and_in_order(line: Line) -> None:
    ticket = line.pipe.ticket()
    with pytest.raises(RuntimeError, match="nothing is under way"):
        ticket.wait(1)
    ticket.send(PING, 1)
    with pytest.raises(RuntimeError, match="sent already"):
        ticket.send(PING, 1)
    with pytest.raises(TypeError, match="Ticket"):
        copy.copy(ticket)
    line.far.sendall(b"+a\r\n")
    assert ticket.wait(5) == [b"a"]
    with pytest.raises(RuntimeError, match="nothing is under way"):
        ticket.wait(1)


def test_tickets_of_many_threads_beside_calls(line: Line) -> None:
    stop = threading.Event()

    def serve() -> None:
        line.far.settimeout(0.2)
        rest = b""
        while not stop.is_set():
            try:
                rest += line.far.recv(65536)
            except TimeoutError:
                continue
            whole = len(rest) // len(PING)
            line.far.sendall(b"+PONG\r\n" * whole)
            rest = rest[whole * len(PING) :]

    server = threading.Thread(target=serve)
    server.start()
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for turn in range(60):
                count = (number + turn) % 5 + 1
                ticket = line.pipe.ticket()
                ticket.send(PING * count, count)
                assert line.pipe.call(PING, 1, 20) == [b"PONG"]
                if turn % 7:
                    assert ticket.wait(20) == [b"PONG"] * count
                else:
                    ticket.leave()
        except BaseException as error:
            failures.append(error)

    workers = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
        assert not worker.is_alive()
    assert not failures
    assert line.pipe.call(b"", 0, 5) == []
    assert (line.pipe.owed, line.pipe.broken) == (0, False)
    stop.set()
    server.join()


def test_an_ended_pipe_closes_when_the_last_ticket_has_gone(line: Line) -> None:
    ticket = line.pipe.ticket()
    ticket.send(PING, 1)
    line.pipe.abort("over")
    with pytest.raises(TransportError):
        ticket.wait(1)
    del ticket
    gc.collect()
    assert has_hung_up(line)
