"""How a cluster's client sends what goes to several nodes, when something comes in between."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import pytest

import fastlock
from fastlock import _fork
from fastlock._cluster import Parcel
from fastlock._effects import Call
from fastlock._resp import Reentered
from fastlock.errors import FastlockError, TransportError


@pytest.fixture
def client() -> Any:
    with fastlock.Client("redis+cluster://127.0.0.1:1") as made:
        yield made


def parcel(pairs: int, asking: bool, **server: Any) -> Any:
    call = Call("acquire_many", ([(b"k%d" % n, b"t") for n in range(pairs)], 1000), pairs)
    node = SimpleNamespace(server=SimpleNamespace(strays=[], ready=lambda: None, **server))
    return Parcel(node, call, asking)


class Wire:
    """A connection on which this comes."""

    broken = False

    def __init__(self, outcome: Any) -> None:
        self.outcome = outcome
        self.aborted = threading.Event()

    def call(self, data: bytes, count: int, timeout: float) -> Any:
        outcome = self.outcome(self) if callable(self.outcome) else self.outcome
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    def abort(self, reason: str) -> None:
        self.aborted.set()

    def close(self) -> None: ...


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


def test_what_is_given_back_lands_behind_what_an_interrupted_caller_sends(client: Any) -> None:
    """A thread for another node may be just about to send: its connection ends before."""

    def held(wire: Wire) -> Any:
        wire.aborted.wait(10)
        return TransportError("aborted", sent=True)

    other = link(client, held)
    first = parcel(1, False, link=lambda timeout: link(client, KeyboardInterrupt()))
    second = parcel(1, False, link=lambda timeout: other)
    second.node.server.ready = lambda: other
    with pytest.raises(KeyboardInterrupt):
        client._send([first, second])
    assert other.pipe.aborted.is_set()


def test_a_child_forked_in_the_middle_is_told_so(
    client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forked(wire: Wire) -> Any:
        monkeypatch.setattr(_fork, "generation", _fork.generation + 1)
        return [b"OK"]

    first = parcel(1, False, link=lambda timeout: link(client, forked))
    second = parcel(1, False, link=lambda timeout: link(client, [b"OK"]))
    with pytest.raises(FastlockError, match="forked in the middle"):
        client._send([first, second])
