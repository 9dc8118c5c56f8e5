"""What both Pipes promise, on both, over real sockets.

Law: the far end is a script of raw bytes where the bytes themselves are the point, and a
real server where there are many callers.
"""

from __future__ import annotations

import gc
import os
import socket
import subprocess
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from _line import PING, Line, failure, until

from fastlock import _impl
from fastlock._resp import MALFORMED
from fastlock.errors import ServerError, TransportError

# ------------------------------------------------------------------ one caller


def test_a_call_gives_its_replies_in_order(line: Line) -> None:
    far = line.later(
        lambda: line.hear(PING * 3), lambda: line.far.sendall(b"+a\r\n-ERR b\r\n*1\r\n$-1\r\n")
    )
    replies = line.pipe.call(PING * 3, 3, 5)
    far.join()
    assert replies[0] == b"a"
    assert isinstance(replies[1], ServerError)
    assert str(replies[1]) == "ERR b"
    assert replies[2] == [None]
    assert line.pipe.owed == 0
    assert not line.pipe.broken


@pytest.mark.parametrize("reply", [b"+OK", b"$-1", b":0", b":1"])
def test_equal_replies_in_a_row_are_shared_out(line: Line, reply: bytes) -> None:
    value = {b"+OK": b"OK", b"$-1": None, b":0": 0, b":1": 1}[reply]
    late = failure(lambda: line.pipe.call(PING * 3, 3, 0.05))
    assert (late.timed_out, late.replies) == (True, [])
    line.pipe.post(PING * 2, 2)
    assert [line.pipe.defer(PING, 1), line.pipe.defer(PING, 1)] == [1, 2]
    line.far.sendall((reply + b"\r\n") * 11 + b":7\r\n" + reply + b"\r\n")
    assert line.pipe.call(PING * 6, 6, 5) == [value] * 4 + [7, value]
    assert line.pipe.settled == 2
    assert line.pipe.odd() == ([] if value == 1 else [(1, value), (2, value)])
    assert (line.pipe.owed, line.pipe.broken) == (0, False)


def test_more_equal_replies_than_anybody_asked_for_end_the_pipe(line: Line) -> None:
    line.far.sendall(b"+OK\r\n" * 5)
    assert line.pipe.call(PING * 2, 2, 5) == [b"OK"] * 2
    assert line.pipe.broken


def test_some_of_the_equal_replies_before_the_end_are_told(line: Line) -> None:
    line.far.sendall(b"+OK\r\n" * 5 + b"$-1\r\n")
    line.far.shutdown(socket.SHUT_WR)
    assert failure(lambda: line.pipe.call(PING * 9, 9, 5)).replies == [b"OK"] * 5 + [None]


def test_a_late_answer_is_dropped_and_the_stream_stays_in_step(line: Line) -> None:
    error = failure(lambda: line.pipe.call(PING, 2, 0.05))
    assert error.timed_out
    assert error.sent
    assert not line.pipe.broken
    assert line.pipe.owed == 1
    line.hear(PING)
    line.far.sendall(b"+late\r\n+later\r\n+mine\r\n")
    assert line.pipe.call(PING, 1, 5) == [b"mine"]
    assert line.pipe.owed == 0


def test_a_posted_command_is_sent_and_its_answer_dropped(line: Line) -> None:
    line.pipe.post(PING * 2, 2)
    line.hear(PING * 2)
    line.far.sendall(b"+1\r\n+2\r\n+3\r\n")
    assert line.pipe.call(PING, 1, 5) == [b"3"]


def test_pushes_answer_nobody(line: Line) -> None:
    push = b">2\r\n+invalidate\r\n*1\r\n+k\r\n"
    line.far.sendall(push + b"+a\r\n" + push + b"+b\r\n" + push)
    assert line.pipe.call(PING * 2, 2, 5) == [b"a", b"b"]


def test_what_had_arrived_before_the_end_is_told(line: Line) -> None:
    line.far.sendall(b"+a\r\n:1\r\n$5\r\nhal")
    line.far.shutdown(socket.SHUT_WR)
    error = failure(lambda: line.pipe.call(PING * 3, 3, 5))
    assert error.replies == [b"a", 1]
    assert error.sent
    assert not error.timed_out
    assert str(error) == "the server closed the connection"
    assert line.pipe.broken


def test_after_the_end_nothing_is_sent(line: Line) -> None:
    line.pipe.abort("for a test")
    for call in (lambda: line.pipe.call(PING, 1, 5), lambda: line.pipe.post(PING, 1)):
        error = failure(call)
        assert str(error) == "for a test"
        assert not error.sent
        assert error.replies in ((), [])


def test_the_first_reason_stays(line: Line) -> None:
    line.pipe.abort("first")
    line.pipe.abort("second")
    line.pipe.close()
    assert str(failure(lambda: line.pipe.call(PING, 1, 5))) == "first"


@pytest.mark.parametrize("noise", [b"HTTP/1.1 400\r\n", b"$99999999999\r\n", b"?"])
def test_noise_ends_the_pipe_after_the_good_replies(line: Line, noise: bytes) -> None:
    line.far.sendall(b"+good\r\n" + noise)
    error = failure(lambda: line.pipe.call(PING * 2, 2, 5))
    assert error.replies == [b"good"]
    assert str(error) == MALFORMED
    assert line.pipe.broken


def test_an_answer_nobody_asked_for_ends_the_pipe(line: Line) -> None:
    line.far.sendall(b"+mine\r\n+whose\r\n")
    assert line.pipe.call(PING, 1, 5) == [b"mine"]
    assert line.pipe.broken
    message = str(failure(lambda: line.pipe.call(PING, 1, 5)))
    assert message == "the server answered what nobody had asked"


def test_deferred_commands_are_sent_and_only_unusual_answers_kept(line: Line) -> None:
    assert line.pipe.settled == 0
    assert [line.pipe.defer(PING, 1) for _ in range(4)] == [1, 2, 3, 4]
    line.hear(PING * 4)
    assert line.pipe.owed == 4
    line.far.sendall(b":1\r\n:0\r\n-ERR no\r\n")
    with pytest.raises(TransportError):
        line.pipe.call(b"", 0, 0.2)
    assert line.pipe.settled == 3
    line.far.sendall(b"$1\r\n1\r\n")
    assert line.pipe.call(b"", 0, 5) == []
    assert line.pipe.settled == 4
    (second, nothing), (third, error), (fourth, text) = line.pipe.odd()
    assert (second, nothing, third, fourth, text) == (2, 0, 3, 4, b"1")
    assert isinstance(error, ServerError)
    assert str(error) == "ERR no"
    assert line.pipe.odd() == []
    assert line.pipe.owed == 0


def test_answers_to_deferred_commands_are_read_on_the_way(line: Line) -> None:
    line.pipe.defer(PING, 1)
    line.far.sendall(b":1\r\n+mine\r\n")
    assert line.pipe.call(PING, 1, 5) == [b"mine"]
    assert line.pipe.settled == 1
    assert line.pipe.odd() == []


def test_deferred_commands_of_a_broken_pipe_stay_unsettled(line: Line) -> None:
    line.pipe.defer(PING, 1)
    line.pipe.defer(PING, 1)
    line.far.sendall(b":0\r\n")
    line.far.shutdown(socket.SHUT_WR)
    with pytest.raises(TransportError):
        line.pipe.call(b"", 0, 5)
    assert line.pipe.broken
    assert line.pipe.settled == 1
    assert line.pipe.odd() == [(1, 0)]
    with pytest.raises(TransportError):
        line.pipe.defer(PING, 1)


def test_waiting_for_nothing_returns_at_once(line: Line) -> None:
    assert line.pipe.call(b"", 0, 5) == []
    assert line.pipe.owed == 0


@pytest.mark.parametrize("data", ["text", None, bytearray(b"x")])
def test_only_bytes_are_sent(line: Line, data: Any) -> None:
    with pytest.raises(TypeError):
        line.pipe.call(data, 1, 5)
    assert line.pipe.owed == 0


# ------------------------------------------------------------------ sizes


def echo_slowly(far: socket.socket, size: int, replies: int) -> None:
    """Take in ``size`` bytes in small sips, answering bit by bit."""
    taken = answered = 0
    while taken < size:
        taken += len(far.recv(300_000))
        due = replies * taken // size
        far.sendall(b"+OK\r\n" * (due - answered))
        answered = due


def test_a_hundred_thousand_commands_fit_no_buffer_and_pass(line: Line) -> None:
    count = 100_000
    far = line.later(lambda: echo_slowly(line.far, count * len(PING), count))
    replies = line.pipe.call(PING * count, count, 30)
    far.join()
    assert replies == [b"OK"] * count


def test_one_command_larger_than_any_buffer_passes(line: Line) -> None:
    data = b"*1\r\n$8000000\r\n" + bytes(8_000_000) + b"\r\n"
    far = line.later(lambda: echo_slowly(line.far, len(data), 1))
    assert line.pipe.call(data, 1, 30) == [b"OK"]
    far.join()


# ------------------------------------------------------------------ many callers


def test_every_thread_gets_its_own_answers(core: str, server_of: Any) -> None:
    port = server_of("valkey").port
    load = _impl.load(core)
    pipe = load.pipe(socket.create_connection(("127.0.0.1", port)))
    wrong: list[Any] = []

    def work(me: int) -> None:
        for turn in range(200):
            word = b"%d:%d" % (me, turn)
            count = 1 + turn % 3
            try:
                answer = pipe.call(load.pack(b"ECHO", word) * count, count, 10)
            except Exception as error:
                answer = error
            if answer != [word] * count:
                wrong.append((word, answer))
                return

    threads = [threading.Thread(target=work, args=(me,)) for me in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert pipe.owed == 0
    pipe.close()


@pytest.mark.parametrize("way", ["abort", "close", "far end"])
def test_the_end_wakes_everybody_at_once(line: Line, way: str) -> None:
    errors: list[TransportError] = []
    threads = [
        threading.Thread(target=lambda: errors.append(failure(lambda: line.pipe.call(PING, 1, 60))))
        for _ in range(5)
    ]
    for thread in threads:
        thread.start()
    line.hear(PING * 5)
    if way == "abort":
        line.pipe.abort("for a test")
    elif way == "close":
        line.pipe.close()
    else:
        line.far.close()
    for thread in threads:
        thread.join(5)
    reason = {
        "abort": "for a test",
        "close": "the client was closed",
        "far end": "the server closed the connection",
    }[way]
    assert [(str(error), error.sent, error.timed_out) for error in errors] == [
        (reason, True, False)
    ] * 5


def test_a_follower_leads_when_the_leader_has_gone(line: Line) -> None:
    leader = threading.Thread(target=lambda: failure(lambda: line.pipe.call(PING, 1, 0.2)))
    leader.start()
    until(lambda: line.pipe.owed == 1)
    got: list[Any] = []
    follower = threading.Thread(target=lambda: got.append(line.pipe.call(PING, 1, 5)))
    follower.start()
    leader.join()
    line.far.sendall(b"+leader's\r\n+follower's\r\n")
    follower.join(2)
    assert got == [[b"follower's"]]


# ------------------------------------------------------------------ forks, leaks


def test_a_child_lets_go_without_a_word(line: Line) -> None:
    child = os.fork()
    if child == 0:
        line.pipe.forked()
        with suppress(TransportError):
            line.pipe.call(PING, 1, 1)
            os._exit(1)
        line.pipe.close()
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    line.far.sendall(b"+parent\r\n")
    assert line.pipe.call(PING, 1, 5) == [b"parent"]
    line.hear(PING)


def test_a_fork_in_the_middle_of_others_calls(line: Line) -> None:
    got: list[Any] = []
    threads = [
        threading.Thread(target=lambda: got.append(line.pipe.call(PING, 1, 5))) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    line.hear(PING * 3)
    child = os.fork()
    if child == 0:
        line.pipe.forked()
        os._exit(0 if line.pipe.broken and line.pipe.owed == 0 else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    line.far.sendall(b"+x\r\n" * 3)
    for thread in threads:
        thread.join(5)
    assert got == [[b"x"]] * 3


def test_no_descriptor_is_left(core: str) -> None:
    def descriptors() -> int:
        return len(os.listdir("/proc/self/fd" if os.path.isdir("/proc/self/fd") else "/dev/fd"))

    before = descriptors()
    for end in ("close", "abort", "drop", "fault"):
        for _ in range(5):
            line = Line(core)
            if end == "close":
                line.pipe.close()
            elif end == "abort":
                line.pipe.abort("for a test")
            elif end == "fault":
                line.far.sendall(b"?")
                failure(lambda pipe=line.pipe: pipe.call(PING, 1, 5))  # type: ignore[misc]
            else:
                line.pipe.close()
                line.pipe.close()
            line.far.close()
            del line
    assert descriptors() == before


def resident() -> int:
    """KiB of memory that this process has now; its high-water mark would hide or invent growth."""
    try:
        pages = Path("/proc/self/statm").read_text().split()[1]
    except FileNotFoundError:
        asked = ["ps", "-o", "rss=", "-p", str(os.getpid())]
        return int(subprocess.run(asked, capture_output=True, check=True).stdout)
    return int(pages) * os.sysconf("SC_PAGE_SIZE") // 1024


@pytest.mark.memory
def test_memory_does_not_grow(core: str, server_of: Any) -> None:
    """Places, replies and buffers of 20,000 calls are recycled or freed."""
    load = _impl.load(core)
    pipe = load.pipe(socket.create_connection(("127.0.0.1", server_of("valkey").port)))
    data = load.pack(b"ECHO", b"x" * 100)

    def calls(count: int) -> None:
        for _ in range(count):
            pipe.call(data, 1, 5)
            pipe.post(data, 1)

    calls(2000)
    gc.collect()
    before = resident()
    calls(10_000)
    gc.collect()
    grown = resident() - before
    assert pipe.owed <= 1
    pipe.close()
    assert grown < 1024  # KiB; a leak of 100 bytes a call would be twice that


def test_the_surfaces_are_the_same() -> None:
    pipes = [_impl.load("python").pipe]
    with suppress(ImportError):
        pipes.append(_impl.load("cython").pipe)
    names = [{name for name in dir(pipe) if not name.startswith("_")} for pipe in pipes]
    assert all(found == names[0] for found in names)
    for name in names[0]:
        docs = [getattr(pipe, name).__doc__.split() for pipe in pipes]
        assert all(doc == docs[0] for doc in docs)
