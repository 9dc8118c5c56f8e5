"""What both Heartbeats promise, on both, over real sockets.

Law: the far end is a script of raw bytes where the bytes themselves are the point, and a real
server where there are many entries. Deadlines are far away but where they are the point.
"""

from __future__ import annotations

import copy
import gc
import os
import pickle
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import pairwise
from typing import Any

import pytest
from _harness import CORES
from _line import PING, Line, until
from test_pipe import resident

from fastlock import _impl
from fastlock.errors import ServerError

PERIOD = 0.2  # s
SPAN = 60.0  # s
#: For what stays unanswered for a while: its connection is given up after 20 seconds. Due soon.
SLOW: Any = {"period": 20.0, "span": 200.0, "left": 15.0}
FAR = 1e9  # s from now


class Rhythm:
    """A Heartbeat over a Line, whose far end the test plays."""

    def __init__(self, core: str, patience: float = 20.0) -> None:
        self.core = _impl.load(core)
        self.line = Line(core)
        self.heart = self.core.heartbeat(patience)
        self.clock = self.core.clock

    def add(
        self,
        data: bytes = PING,
        usual: bytes | int = b"OK",
        period: float = PERIOD,
        span: float = SPAN,
        left: float | None = None,
        until: float = FAR,
    ) -> Any:
        """An entry that has ``left`` seconds (None: the span) until its deadline."""
        now = self.clock()
        deadline = now + (span if left is None else left)
        return self.heart.add(data, usual, period, span, deadline, now + until)

    def together(self, count: int, **entry: Any) -> list[Any]:
        """So many, which leave at once and in one write: only then there is a connection."""
        beats = [self.add(**entry) for _ in range(count)]
        self.attach_late()
        return beats

    def attach_late(self) -> None:
        """When all that was added is due."""
        time.sleep(0.3)
        assert self.news() == [(0, "broken", None)]
        self.attach()

    def attach(self) -> None:
        self.heart.attach(self.line.pipe)

    def hear(self, count: int = 1, data: bytes = PING, answer: bytes = b"") -> float:
        """Wait until so many have come, answer; when they came."""
        self.line.hear(data * count)
        now = self.clock()
        if answer:
            self.line.far.sendall(answer)
        return now

    def silent(self, seconds: float) -> None:
        """Nothing comes meanwhile."""
        self.line.far.settimeout(seconds)
        with pytest.raises(TimeoutError):
            self.line.far.recv(1)
        self.line.far.settimeout(20)

    def news(self, *more: str, timeout: float = 30.0) -> list[tuple[int, str, Any]]:
        """Wait until there is some, but for what is named in ``more``."""
        end = time.monotonic() + timeout
        found: list[tuple[int, str, Any]] = []
        while time.monotonic() < end:
            found += [one for one in self.heart.wait(0.2) if one[1] not in more]
            if found:
                return found
        return found

    def close(self) -> None:
        self.heart.stop()
        self.line.pipe.close()
        self.heart.join()
        self.line.far.close()


@pytest.fixture
def rhythm(core: str) -> Iterator[Rhythm]:
    made = Rhythm(core)
    yield made
    made.close()


# ------------------------------------------------------------------ saying it


def test_it_is_said_every_period_and_each_answer_moves_the_deadline(rhythm: Rhythm) -> None:
    rhythm.attach()
    start = rhythm.clock()
    beat = rhythm.add()
    assert start + SPAN <= beat.deadline <= rhythm.clock() + SPAN
    assert rhythm.heart.count == 1
    times = [start]
    for _ in range(4):
        times.append(rhythm.hear(answer=b"+OK\r\n"))
        until(lambda: beat.deadline > times[-2] + SPAN)
        assert beat.deadline <= times[-1] + SPAN
    assert all(late - early > 0.75 * PERIOD for early, late in pairwise(times))
    assert rhythm.heart.wait(0) == []


def test_a_bulk_string_and_an_integer_may_be_usual_too(rhythm: Rhythm) -> None:
    beats = [rhythm.add(usual=1), rhythm.add(usual=b"0123456789abcdef"), rhythm.add(usual=b"")]
    before = [beat.deadline for beat in beats]
    rhythm.attach_late()
    rhythm.hear(3, answer=b":1\r\n$16\r\n0123456789abcdef\r\n$0\r\n\r\n")
    until(lambda: all(beat.deadline > was for beat, was in zip(beats, before, strict=True)))
    assert rhythm.heart.wait(0) == []


def test_what_is_due_at_about_the_same_time_leaves_in_one_write(rhythm: Rhythm) -> None:
    rhythm.attach()
    beats: list[Any] = []
    sizes: list[int] = []
    start = rhythm.clock()
    for _ in range(100):
        beats.append(rhythm.add(period=2.0))
        time.sleep(0.01)
    adding = rhythm.clock() - start
    while sum(sizes) < 100 * len(PING):
        sizes.append(len(rhythm.line.far.recv(100_000)))
        rhythm.line.far.sendall(b"+OK\r\n" * (sizes[-1] // len(PING)))
    assert len(sizes) <= 2 + adding / 0.25


def test_nothing_is_said_after_the_end_that_was_set(rhythm: Rhythm) -> None:
    rhythm.attach()
    over, going_on = rhythm.add(left=1.0, until=0.0), rhythm.add()
    rhythm.hear(answer=b"+OK\r\n")
    rhythm.hear(answer=b"+OK\r\n")
    assert rhythm.news() == [(over.number, "expired", None)]
    assert rhythm.clock() >= over.deadline
    assert going_on.deadline > rhythm.clock()


def test_a_deadline_is_never_moved_back_by_saying_it(rhythm: Rhythm) -> None:
    """More is left than an answer would leave."""
    rhythm.attach()
    beat = rhythm.add(left=61.0)
    before = beat.deadline
    heard = rhythm.hear(answer=b"+OK\r\n")
    assert heard > before - SPAN - 0.05
    until(lambda: beat.deadline != before)
    assert beat.deadline > before


# ------------------------------------------------------------------ other answers


def test_another_answer_ends_it(rhythm: Rhythm) -> None:
    replies = [b"$-1\r\n", b":0\r\n", b"$2\r\nNO\r\n", b"*0\r\n", b":1\r\n", b"+OK\r\n"]
    beats = rhythm.together(len(replies))
    before = beats[0].deadline
    rhythm.hear(len(beats), answer=b"".join(replies))
    assert rhythm.news() == [(beat.number, "refused", None) for beat in beats[:-1]]
    until(lambda: beats[-1].deadline > before)
    assert beats[0].deadline == before
    rhythm.hear(1, answer=b"+OK\r\n")  # the last one's alone
    assert rhythm.heart.wait(0) == []


def test_an_error_is_told_and_tried_again_until_the_deadline(rhythm: Rhythm) -> None:
    rhythm.attach()
    beat = rhythm.add(left=6.0)
    before = beat.deadline
    for text in ("LOADING not yet", "ERR no"):
        rhythm.hear(answer=b"-%s\r\n" % text.encode())
        ((number, what, said),) = rhythm.news()
        assert (number, what, type(said), str(said)) == (beat.number, "trouble", ServerError, text)
        assert beat.unsure
        assert beat.deadline == before
    refusing = threading.Event()

    def refuse() -> None:
        rhythm.line.far.settimeout(0.05)
        while not refusing.is_set():
            with suppress(TimeoutError):
                rhythm.line.hear(PING)
                rhythm.line.far.sendall(b"-ERR no\r\n")

    thread = threading.Thread(target=refuse)
    thread.start()
    assert rhythm.news("trouble") == [(beat.number, "expired", None)]
    assert rhythm.clock() >= before
    refusing.set()
    thread.join()
    rhythm.silent(2 * PERIOD)
    assert beat.deadline == before


def test_a_run_of_answers_is_shared_out_with_an_error_in_between(rhythm: Rhythm) -> None:
    beats = rhythm.together(7)
    before = [beat.deadline for beat in beats]
    rhythm.hear(7, answer=b"+OK\r\n+OK\r\n-ERR x\r\n+OK\r\n$-1\r\n$-1\r\n+OK\r\n")
    found = rhythm.news()
    assert sorted((number, what) for number, what, _ in found) == [
        (beats[2].number, "trouble"), (beats[4].number, "refused"), (beats[5].number, "refused"),
    ]  # fmt: skip
    moved = [beat.deadline > was for beat, was in zip(beats, before, strict=True)]
    assert moved == [True, True, False, True, False, False, True]


def test_an_answer_after_the_deadline_does_not_count(rhythm: Rhythm) -> None:
    rhythm.attach()
    beat = rhythm.add(**{**SLOW, "left": 3.0})
    before = beat.deadline
    rhythm.hear()
    until(lambda: rhythm.clock() > before)
    rhythm.line.far.sendall(b"+OK\r\n")
    assert rhythm.news() == [(beat.number, "expired", None)]
    assert beat.deadline == before


def test_the_end_is_told_while_others_wait_for_an_answer(rhythm: Rhythm) -> None:
    beats = rhythm.together(2, **SLOW)
    rhythm.hear(2)
    told: list[tuple[int, str, Any]] = []
    while len(told) < 2:
        told += rhythm.news()
    assert told == [(beat.number, "expired", None) for beat in beats]
    assert rhythm.line.pipe.owed == 1


# ------------------------------------------------------------------ connections


def test_without_a_connection_one_is_asked_for_once(rhythm: Rhythm) -> None:
    beat = rhythm.add()
    assert rhythm.news() == [(0, "broken", None)]
    assert rhythm.heart.wait(0.2) == []
    rhythm.attach()
    rhythm.hear(answer=b"+OK\r\n")
    assert rhythm.heart.wait(0.05) == []
    assert beat.deadline > rhythm.clock()


def test_after_a_lost_connection_it_is_said_anew_at_once(rhythm: Rhythm) -> None:
    rhythm.attach()
    beat = rhythm.add(**{**SLOW, "left": 30.0})
    rhythm.hear()
    rhythm.line.far.close()
    assert rhythm.news() == [(0, "broken", None)]
    assert beat.unsure
    near, rhythm.line.far = socket.socketpair()
    rhythm.line.far.settimeout(20)
    rhythm.line.pipe = rhythm.core.pipe(near)
    rhythm.attach()
    rhythm.hear(answer=b"+OK\r\n")
    until(lambda: not beat.unsure)
    assert beat.deadline > rhythm.clock() + 100


def test_some_were_answered_before_the_connection_was_lost(rhythm: Rhythm) -> None:
    beats = rhythm.together(5)
    before = [beat.deadline for beat in beats]
    rhythm.hear(5, answer=b"+OK\r\n$-1\r\n+OK\r\n$2\r\nO")
    rhythm.line.far.close()
    found = [*rhythm.news(), *rhythm.heart.wait(0.1)]
    assert set(found) == {(0, "broken", None), (beats[1].number, "refused", None)}
    moved = [beat.deadline > was for beat, was in zip(beats, before, strict=True)]
    assert moved == [True, False, True, False, False]


def test_a_connection_that_keeps_silent_is_given_up(core: str) -> None:
    rhythm = Rhythm(core, patience=0.3)
    try:
        rhythm.attach()
        beat = rhythm.add(**SLOW)
        heard = rhythm.hear()
        assert rhythm.news("expired") == [(0, "broken", None)]
        assert rhythm.clock() - heard >= 0.25
        assert rhythm.line.pipe.broken
        assert beat.unsure
    finally:
        rhythm.close()


def test_a_short_period_shortens_the_patience_to_a_second_at_least(rhythm: Rhythm) -> None:
    rhythm.attach()
    beat = rhythm.add()
    heard = rhythm.hear()
    assert rhythm.news("expired") == [(0, "broken", None)]
    assert 0.9 < rhythm.clock() - heard < 15
    assert beat.unsure


def test_callers_and_the_heartbeat_share_a_connection(rhythm: Rhythm) -> None:
    """Whoever reads, each gets its own."""
    rhythm.attach()
    beat = rhythm.add()
    before = beat.deadline
    got: list[Any] = []
    caller = threading.Thread(target=lambda: got.append(rhythm.line.pipe.call(PING, 1, 5)))
    rhythm.hear()
    caller.start()
    rhythm.hear()
    rhythm.line.far.sendall(b"+OK\r\n+mine\r\n")
    caller.join(5)
    assert got == [[b"mine"]]
    until(lambda: beat.deadline > before)


def test_an_answer_read_by_another_reaches_it(rhythm: Rhythm) -> None:
    rhythm.attach()
    got: list[Any] = []
    leader = threading.Thread(target=lambda: got.append(rhythm.line.pipe.call(PING, 2, 5)))
    leader.start()
    rhythm.hear()
    beat = rhythm.add()
    before = beat.deadline
    rhythm.hear()
    rhythm.line.far.sendall(b"+a\r\n+b\r\n+OK\r\n")
    leader.join(5)
    assert got == [[b"a", b"b"]]
    until(lambda: beat.deadline > before)


# ------------------------------------------------------------------ by hand


def test_while_it_is_paused_nothing_is_said(rhythm: Rhythm) -> None:
    rhythm.attach()
    beat = rhythm.add()
    assert beat.pause(0) is True
    rhythm.silent(2 * PERIOD)
    beat.deadline = before = rhythm.clock() + 90
    beat.resume(PING, b"OK", 0.1, 90)
    rhythm.hear(answer=b"+OK\r\n")
    until(lambda: beat.deadline > before)


def test_pausing_waits_for_what_is_under_way(rhythm: Rhythm) -> None:
    rhythm.attach()
    beat = rhythm.add(**SLOW)
    before = beat.deadline
    rhythm.hear()
    assert beat.pause(0) is False
    assert beat.pause(0.05) is False
    answering = threading.Timer(0.1, lambda: rhythm.line.far.sendall(b"+OK\r\n"))
    answering.start()
    assert beat.pause(20) is True
    assert beat.deadline > before
    rhythm.silent(2 * PERIOD)
    answering.join()


def test_a_paused_one_expires_like_any_other(rhythm: Rhythm) -> None:
    rhythm.attach()
    beat = rhythm.add(left=60)
    beat.pause(0)
    beat.deadline = rhythm.clock() + 0.2  # sooner than anybody expected
    assert rhythm.news() == [(beat.number, "expired", None)]
    beat.resume(PING, b"OK", PERIOD, SPAN)
    rhythm.silent(2 * PERIOD)


def test_a_longer_span_counts_once_the_shorter_one_is_answered(rhythm: Rhythm) -> None:
    """Unanswered, it may still arrive, and leave less than the longer one says."""
    sure, unsure = rhythm.together(2, period=20.0, span=100.0, left=10.0)
    rhythm.hear(2)
    assert not unsure.pause(0)  # before the answer: the error would soon be tried again
    rhythm.line.far.sendall(b"+OK\r\n-ERR x\r\n")
    for beat in (sure, unsure):
        assert beat.pause(20)
    assert (sure.unsure, unsure.unsure) == (False, True)
    now = rhythm.clock()
    for beat in (sure, unsure):
        beat.deadline = now + 300
        beat.resume(PING, b"OK", 0.5, 300)
    assert sure.deadline == now + 300
    assert abs(unsure.deadline - (now + 100)) < 1e-6
    rhythm.hear(2, answer=b"+OK\r\n+OK\r\n")
    until(lambda: min(sure.deadline, unsure.deadline) > now + 300)


def test_a_shorter_span_counts_at_once(rhythm: Rhythm) -> None:
    rhythm.attach()
    beat = rhythm.add()
    rhythm.hear(answer=b"-ERR x\r\n")
    until(lambda: beat.unsure)
    beat.pause(5)
    beat.deadline = now = rhythm.clock() + 10
    beat.resume(PING, b"OK", PERIOD, 10)
    assert beat.deadline == now


def test_other_words_do_not_change_what_is_under_way(rhythm: Rhythm) -> None:
    rhythm.attach()
    beat = rhythm.add()
    before = beat.deadline
    rhythm.hear()
    beat.recode(b"*1\r\n$4\r\nECHO\r\n", 1)
    rhythm.line.far.sendall(b"+OK\r\n")
    until(lambda: beat.deadline > before)
    now = beat.deadline
    rhythm.hear(data=b"*1\r\n$4\r\nECHO\r\n", answer=b":1\r\n")
    until(lambda: beat.deadline > now)
    assert rhythm.heart.wait(0) == []


def test_an_overdue_answer_makes_unsure(rhythm: Rhythm) -> None:
    rhythm.attach()
    beat = rhythm.add(period=2.0, span=60.0, left=60.0)
    assert not beat.unsure
    rhythm.hear()
    until(lambda: beat.unsure)
    rhythm.line.far.sendall(b"+OK\r\n")
    until(lambda: not beat.unsure)


# ------------------------------------------------------------------ ends


def test_what_is_removed_is_said_no_more(rhythm: Rhythm) -> None:
    beats = [rhythm.add(**SLOW) for _ in range(4)]
    beats[0].remove()
    beats[0].remove()
    assert rhythm.heart.count == 3
    assert rhythm.news() == [(0, "broken", None)]
    time.sleep(0.3)
    rhythm.attach()
    rhythm.hear(3)
    beats[1].remove()
    before = beats[2].deadline
    del beats[3]  # an entry ends with its Beat
    gc.collect()
    assert rhythm.heart.count == 1
    rhythm.line.far.sendall(b"$-1\r\n+OK\r\n$-1\r\n")
    until(lambda: beats[2].deadline > before)
    beats[2].pause(0)
    beats[2].resume(PING, b"OK", PERIOD, SLOW["span"])
    rhythm.hear(1, answer=b"+OK\r\n")
    assert rhythm.heart.wait(0) == []
    for beat in beats[:2]:  # nothing of this does anything
        beat.deadline = 1.0
        assert beat.deadline == 1.0
        assert beat.pause(0) is True
        beat.resume(PING, b"OK", PERIOD, SPAN)
        beat.recode(PING, 1)
    assert rhythm.heart.count == 1


def test_news_of_what_was_removed_is_no_news(rhythm: Rhythm) -> None:
    beats = rhythm.together(4)
    rhythm.hear(4, answer=b"$-1\r\n-ERR x\r\n$-1\r\n$-1\r\n")
    until(lambda: beats[1].unsure)
    until(lambda: rhythm.line.pipe.owed == 0)
    beats[0].remove()
    beats[1].remove()
    last = beats[3].number
    del beats[2]
    gc.collect()
    assert rhythm.news() == [(last, "refused", None)]


def test_stopping_ends_it_for_good(rhythm: Rhythm) -> None:
    rhythm.attach()
    beat = rhythm.add(**SLOW)
    waiting: list[Any] = []
    waiter = threading.Thread(target=lambda: waiting.append(rhythm.heart.wait(60)))
    waiter.start()
    rhythm.hear()  # and the answer is under way for ever
    before = beat.deadline
    rhythm.heart.stop()
    waiter.join(5)
    assert waiting == [[]]
    assert rhythm.heart.wait(60) == []
    assert beat.pause(60) is True
    with pytest.raises(RuntimeError):
        rhythm.add()
    rhythm.line.pipe.close()
    rhythm.heart.join()
    assert beat.deadline == before


def test_a_child_has_none_of_its_parents(rhythm: Rhythm) -> None:
    beats = rhythm.together(3)
    rhythm.hear(3)
    before = beats[0].deadline
    child = os.fork()
    if child == 0:
        code = 1
        with suppress(BaseException):
            rhythm.heart.forked()
            rhythm.line.pipe.forked()
            assert rhythm.heart.count == 0
            assert beats[0].deadline == before
            assert beats[0].pause(60) is True
            beats[0].resume(PING, b"OK", PERIOD, SPAN)
            beats[1].remove()
            del beats[2]
            own = Line("cython" if rhythm.core.name == "cython" else "python")
            rhythm.heart.attach(own.pipe)
            mine = rhythm.add()
            own.hear(PING)
            own.far.sendall(b"$-1\r\n")
            assert rhythm.news() == [(mine.number, "refused", None)]
            code = 0
        os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    rhythm.line.far.sendall(b"+OK\r\n" * 3)
    until(lambda: min(beat.deadline for beat in beats) > before)
    rhythm.hear(3, answer=b"+OK\r\n" * 3)


def test_one_that_is_dropped_leaves_no_thread(core: str) -> None:
    def threads() -> int:
        return len(os.listdir("/proc/self/task"))

    count = threads if os.path.isdir("/proc/self/task") else threading.active_count
    before = count()
    for _ in range(5):
        rhythm = Rhythm(core)
        rhythm.attach()
        beat = rhythm.add()
        rhythm.hear()
        if core == "python":  # its thread is Python's, and knows it for seconds more
            rhythm.heart.stop()
        rhythm.line.pipe.close()
        rhythm.line.far.close()
        del rhythm, beat
    gc.collect()
    until(lambda: count() <= before)


# ------------------------------------------------------------------ arguments


def test_bad_arguments_are_refused(rhythm: Rhythm) -> None:
    for usual in ("OK", None, 1.0, b"x" * 17, [b"OK"]):
        with pytest.raises(TypeError):
            rhythm.add(usual=usual)  # type: ignore[arg-type]
    for data in ("PING", None, bytearray(b"x")):
        with pytest.raises(TypeError):
            rhythm.add(data)  # type: ignore[arg-type]
    for period, span in ((0, 1), (1, 0), (-1, 1), (float("nan"), 1), (1, float("inf"))):
        with pytest.raises(ValueError, match="above 0"):
            rhythm.add(period=period, span=span, left=1)
    assert rhythm.heart.count == 0
    beat = rhythm.add()
    with pytest.raises(TypeError):
        beat.recode("PING", 1)
    with pytest.raises(ValueError, match="above 0"):
        beat.resume(PING, 1, 0, 1)
    for thing in (rhythm.heart, beat):
        for copying in (copy.copy, pickle.dumps):
            with pytest.raises(TypeError):
                copying(thing)
    for arguments in ((), (None,)):
        with pytest.raises(TypeError):
            type(beat)(*arguments)


def test_only_a_pipe_of_its_own_kind_carries_it(core: str) -> None:
    load, line = _impl.load(core), Line("python")
    load.tls_heartbeat(1.0).attach(line.pipe)  # on TLS that is Python's, with any core
    if core == "cython":
        with pytest.raises(TypeError, match="Pipe"):
            load.heartbeat(1.0).attach(line.pipe)
    line.pipe.close()
    line.far.close()


# ------------------------------------------------------------------ many


def test_a_thousand_leave_in_one_write_and_the_rest_in_the_next(rhythm: Rhythm) -> None:
    beats = rhythm.together(2500)
    last = max(beat.deadline for beat in beats)
    for count in (1000, 1000, 500):  # the next comes when the one before is answered
        rhythm.hear(count)
        rhythm.line.far.sendall(b"+OK\r\n" * count)
    until(lambda: min(beat.deadline for beat in beats) > last)


def test_threads_that_add_change_and_remove(core: str, server_of: Any) -> None:
    load = _impl.load(core)
    pipe = load.pipe(socket.create_connection(("127.0.0.1", server_of("valkey").port)))
    heart = load.heartbeat(5.0)
    heart.attach(pipe)
    data = load.pack(b"PING", b"OK")
    wrong: list[Any] = []
    stop = threading.Event()

    def guarded(body: Callable[[], None]) -> Callable[[], None]:
        def run() -> None:
            try:
                body()
            except BaseException as error:
                wrong.append(error)

        return run

    def work() -> None:
        while not stop.is_set():
            now = load.clock()
            beats = [heart.add(data, b"OK", 0.01, 60.0, now + 60, now + 99) for _ in range(20)]
            time.sleep(0.004)
            for place, beat in enumerate(beats):
                if place % 4 == 0:
                    assert beat.pause(30) is True
                    beat.deadline = load.clock() + 50
                    beat.resume(data, b"OK", 0.02, 50.0)
                elif place % 4 == 1:
                    beat.remove()
                elif place % 4 == 2:
                    beat.recode(load.pack(b"PING", b"no"), b"OK")
                assert beat.deadline > now
            time.sleep(0.004)

    def listen() -> None:
        while not stop.is_set():
            for _, what, _ in heart.wait(0.05):
                assert what == "refused"

    threads = [threading.Thread(target=guarded(body)) for body in [work] * 6 + [listen]]
    for thread in threads:
        thread.start()
    time.sleep(1.5)
    stop.set()
    for thread in threads:
        thread.join()
    assert wrong == []
    gc.collect()
    assert heart.count == 0
    heart.stop()
    pipe.close()
    heart.join()


@pytest.mark.memory
def test_memory_does_not_grow(core: str, server_of: Any) -> None:
    load = _impl.load(core)
    pipe = load.pipe(socket.create_connection(("127.0.0.1", server_of("valkey").port)))
    heart = load.heartbeat(5.0)
    heart.attach(pipe)
    refused = load.pack(b"PING", b"x" * 100)
    failing = load.pack(b"NOSUCHCOMMAND", b"x" * 100)

    def entries(count: int) -> None:
        for turn in range(count):
            now = load.clock()
            # Every other one is due at once; nobody asks for news of most.
            beat = heart.add(
                failing if turn % 3 else refused, b"OK", 5.0, 15.0, now + turn % 2 * 15, now + 99
            )
            beat.recode(refused, 1)
            if turn % 500 == 0:
                heart.wait(0.01)

    entries(2000)
    gc.collect()
    before = resident()
    entries(10_000)
    gc.collect()
    grown = resident() - before
    assert heart.count == 0
    heart.stop()
    pipe.close()
    heart.join()
    assert grown < 1024  # KiB; a leak of 100 bytes each would be as much


def test_the_surfaces_are_the_same() -> None:
    hearts = [_impl.load(name).heartbeat for name in CORES]
    names = [{name for name in dir(heart) if not name.startswith("_")} for heart in hearts]
    beats = [heart(1.0).add(PING, 1, 1.0, 1.0, 1.0, 1.0) for heart in hearts]
    of_beats = [{name for name in dir(beat) if not name.startswith("_")} for beat in beats]
    assert names == [names[0]] * len(names)
    assert of_beats == [of_beats[0]] * len(of_beats)


def test_what_has_ended_goes_on_by_no_longer_span(rhythm: Rhythm, core: str) -> None:
    """A hand that comes too late to extend it."""
    rhythm.attach()
    beat = rhythm.add(left=1.0)
    rhythm.hear()
    rhythm.line.far.close()  # its try has failed
    assert [what for _, what, _ in rhythm.news("broken")] == ["expired"]
    assert beat.pause(1.0)
    beat.deadline = rhythm.clock() + 3 * SPAN
    beat.resume(PING, b"OK", PERIOD, 2 * SPAN)
    another = Line(core)
    rhythm.heart.attach(another.pipe)
    another.far.settimeout(1.0)
    with pytest.raises(TimeoutError):
        another.far.recv(1)
    rhythm.heart.stop()
    another.pipe.close()
    another.far.close()
