"""What both Pipes promise to signal handlers, and to others when a handler raises."""

from __future__ import annotations

import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from _line import PING, Line, failure, until

import fastlock
from fastlock._resp import Reentered
from fastlock.errors import TransportError

HOME = str(Path(fastlock.__file__).parent)


class Interrupted(BaseException):
    pass


@pytest.fixture
def alarm() -> Iterator[Callable[[float, Callable[[], Any]], None]]:
    """Run a handler in the main thread after some seconds."""
    before = signal.getsignal(signal.SIGALRM)

    def set_alarm(delay: float, handler: Callable[[], Any]) -> None:
        signal.signal(signal.SIGALRM, lambda *_: handler())
        signal.setitimer(signal.ITIMER_REAL, delay)

    yield set_alarm
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("role", ["leader", "follower"])
def test_handlers_run_while_the_main_thread_waits(line: Line, alarm: Any, role: str) -> None:
    others = []
    if role == "follower":
        thread = threading.Thread(target=lambda: line.pipe.call(PING, 1, 5))
        thread.start()
        others.append(thread)
        line.hear(PING)
    replies = b"+x\r\n" * (1 + len(others))
    alarm(0.05, lambda: line.far.sendall(replies))
    assert line.pipe.call(PING, 1, 5) == [b"x"]
    for thread in others:
        thread.join()


@pytest.mark.parametrize("role", ["leader", "follower"])
def test_an_exception_of_a_handler_leaves_the_truth_behind(
    line: Line, core: str, alarm: Any, role: str
) -> None:
    """Compiled: the place is abandoned. Python: a leader's interrupt ends the Pipe."""
    others: list[Any] = []

    def raising() -> None:
        raise Interrupted

    if role == "follower":
        thread = threading.Thread(target=lambda: others.append(line.pipe.call(PING, 1, 5)))
        thread.start()
        line.hear(PING)
    alarm(0.05, raising)
    with pytest.raises(Interrupted):
        line.pipe.call(PING, 1, 5)
    if core == "python" and role == "leader":
        assert line.pipe.broken
        return
    assert not line.pipe.broken
    line.far.sendall(b"+first\r\n" * (1 + (role == "follower")))
    if role == "follower":
        thread.join()
        assert others == [[b"first"]]
    line.far.sendall(b"+mine\r\n")
    assert line.pipe.call(PING, 1, 5) == [b"mine"]


def test_a_handler_may_call_the_pipe_it_interrupted(line: Line, core: str, alarm: Any) -> None:
    """Compiled: it just works. Python: Reentered, nothing sent, for a spare connection."""
    inner: list[Any] = []

    def call_again() -> None:
        try:
            line.far.sendall(b"+outer\r\n+inner\r\n")
            inner.append(line.pipe.call(PING, 1, 5))
        except Reentered as error:
            inner.append(error.sent)

    alarm(0.05, call_again)
    if core == "python":
        # The scripted far end has answered both; only one had asked.
        assert line.pipe.call(PING, 1, 5) == [b"outer"]
        assert inner == [False]
    else:
        assert line.pipe.call(PING, 1, 5) == [b"outer"]
        assert inner == [[b"inner"]]


def test_somebody_else_leads_while_the_main_thread_runs_a_handler(line: Line, alarm: Any) -> None:
    """The leader leaves while the next in line, the main thread, is in a signal handler."""
    got: list[Any] = []
    others = [
        threading.Thread(target=lambda: got.append(line.pipe.call(PING, 1, 5))) for _ in range(2)
    ]
    served: list[bool] = []

    def long_handler() -> None:
        others[1].start()
        line.hear(PING * 3)
        line.far.sendall(b"+leader\r\n")
        others[0].join(2)
        line.far.sendall(b"+main\r\n+follower\r\n")
        others[1].join(2)
        served.append(not others[1].is_alive())

    others[0].start()
    until(lambda: line.pipe.owed == 1)
    alarm(0.05, long_handler)
    assert line.pipe.call(PING, 1, 5) == [b"main"]
    assert served == [True]
    assert got == [[b"leader"], [b"follower"]]


def test_an_interrupt_wherever_answers_are_handed_out_reaches_the_others(core: str) -> None:
    """Of the Python core, that is: no signal's handler runs inside the compiled one."""

    def struck(step: int) -> bool:
        line = Line(core)
        outcome: list[Any] = []

        def follow() -> None:
            try:
                outcome.append(line.pipe.call(PING, 1, 60))
            except TransportError as error:
                outcome.append((line.pipe.broken, error.sent, error.timed_out))

        follower = threading.Thread(target=follow)
        left, delivering = step, False

        def strike(frame: Any, event: str, _: Any) -> None:
            nonlocal left, delivering
            delivering |= frame.f_code.co_name == "_deliver"
            ours = frame.f_code.co_filename.startswith(HOME)
            if delivering and ours and event in ("call", "c_return"):
                left -= 1
                if not left:
                    sys.setprofile(None)
                    raise Interrupted

        far = line.later(
            lambda: line.hear(PING),
            follower.start,
            lambda: line.hear(PING),
            lambda: line.far.sendall(b"+leader's\r\n+follower's\r\n"),
        )
        before = sys.getprofile()
        sys.setprofile(strike)
        try:
            with suppress(Interrupted):
                assert line.pipe.call(PING, 1, 60) == [b"leader's"]
        finally:
            sys.setprofile(before)
        far.join(5)
        follower.join(5)
        assert outcome in ([[b"follower's"]], [(True, True, False)])
        line.pipe.close()
        line.far.close()
        return not left

    steps = 1
    while struck(steps):
        steps += 1
    assert (steps > 10) == (core == "python")


def test_an_interrupt_anywhere_in_a_lone_call_leaves_the_answers_in_step(core: str) -> None:
    """Of the Python core, as above."""

    def struck(step: int) -> bool:
        line = Line(core)
        heard = 0

        def answer() -> None:
            nonlocal heard
            with suppress(OSError):
                while line.far.recv(len(PING), socket.MSG_WAITALL):
                    heard += 1
                    line.far.sendall(b"+%d\r\n" % heard)

        left = step

        def strike(frame: Any, event: str, _: Any) -> None:
            nonlocal left
            ours = frame.f_code.co_filename.startswith(HOME)
            if ours and event in ("call", "c_call", "c_return"):
                left -= 1
                if not left:
                    sys.setprofile(None)
                    raise Interrupted

        far = line.later(answer)
        before = sys.getprofile()
        sys.setprofile(strike)
        try:
            with suppress(Interrupted):
                assert line.pipe.call(PING, 1, 60) == [b"1"]
        finally:
            sys.setprofile(before)
        if line.pipe.broken:
            assert failure(lambda: line.pipe.call(PING, 1, 60)).sent is False
        else:
            assert line.pipe.call(PING, 1, 5) == [b"%d" % heard]
            assert line.pipe.owed == 0
        line.pipe.close()
        line.far.shutdown(socket.SHUT_RDWR)
        far.join(5)
        line.far.close()
        return not left

    steps = 1
    while struck(steps):
        steps += 1
    assert (steps > 10) == (core == "python")
