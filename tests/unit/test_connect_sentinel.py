"""Searches for a master that fail: what the error says, and that it holds no secret.

Law: as of ``_connecting.py``; what works stands in ``tests/topology``.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from typing import Any

import pytest
from _connecting import SECRET, Way, bounded, peer
from _servers import free_port

from fastlock.config import Config
from fastlock.errors import ConfigError, ServerError, TransportError

MASTER = {"flags": "master", "name": "main", "ip": "127.0.0.1", "num-other-sentinels": "2"}


def looking(*ports: int, **options: Any) -> Config:
    """Settings with a secret of each kind."""
    where = [f"127.0.0.1:{port}" for port in ports]
    secrets = {"password": SECRET, "sentinel_password": SECRET}
    return Config(sentinels=where, service="main", **(secrets | options))


def says(answer: bytes) -> Callable[[socket.socket], None]:
    """A peer that lets everybody in, and answers so to SENTINEL MASTERS."""

    def talk(visitor: socket.socket) -> None:
        while data := visitor.recv(65536):
            for word in (b"AUTH", b"SETINFO"):
                if word in data:
                    visitor.sendall(b"+OK\r\n" * data.count(word))
                    data = data.replace(word, b"")
            if b"SENTINEL" in data:
                visitor.sendall(answer)

    return talk


def masters(port: int, **changes: str) -> bytes:
    """What SENTINEL MASTERS answers about one that is up."""
    words = [part for pair in ({**MASTER, "port": str(port)} | changes).items() for part in pair]
    body = "".join(f"${len(word)}\r\n{word}\r\n" for word in words)
    return f"*1\r\n*{len(words)}\r\n{body}".encode()


def test_nobody_there(way: Way) -> None:
    ports = free_port(), free_port()
    said = way.refused(TransportError, looking(*ports))
    assert "no Sentinel answers: " in said
    for port in ports:
        assert f"redis://127.0.0.1:{port}/0 refused the connection" in said


def test_silent_ones_share_the_time(way: Way) -> None:
    with peer(lambda visitor: None) as one, peer(lambda visitor: None) as other:
        config = looking(one, other)
        begun = time.monotonic()
        said = way.refused(TransportError, config, 0.6)
        assert time.monotonic() - begun < 5
    assert f"no answer from redis://127.0.0.1:{one}/0 within 0." in said
    assert f"no answer from redis://127.0.0.1:{other}/0 within 0." in said


@pytest.mark.parametrize(
    "answer",
    [
        b":1\r\n",
        b"*1\r\n:1\r\n",
        b"*1\r\n*2\r\n+name\r\n+main\r\n",
        b"*1\r\n*1\r\n+name\r\n",
        masters(1).replace(b"$1\r\n1\r\n", b"$1\r\nx\r\n"),
        masters(1).replace(b"num-other-sentinels", b"num-other-sentinelz"),
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"$5000000\r\n" + b"x" * 5_000_000,
    ],
    ids=lambda answer: repr(answer[:30]),
)
def test_nonsense_is_no_answer(way: Way, answer: bytes) -> None:
    with peer(says(answer)) as port:
        said = way.refused(TransportError, looking(port))
    assert "no Sentinel answers: " in said
    assert "answers, but not as a Redis or Valkey server does" in said


def test_what_is_refused_keeps_its_code(way: Way) -> None:
    with peer(says(f"-WRONGPASS {SECRET} is wrong\r\n".encode())) as port:
        said = way.refused(ServerError, looking(port))
    assert said.startswith("WRONGPASS *** is wrong")


def test_the_services_that_are_known_are_told(way: Way) -> None:
    names = masters(1, name="m-0")[4:]
    many = b"".join(names.replace(b"m-0", f"m{n:02}".encode()) for n in range(12))
    with peer(says(b"*12\r\n" + many)) as port, pytest.raises(ConfigError) as caught:
        way.open(looking(port))
    assert "they know 'm00', 'm01', 'm02', 'm03'" in str(caught.value)
    assert "'m09', ... (" in str(caught.value)


@pytest.mark.parametrize("flags", ["master,s_down", "master,o_down,failover_in_progress", "slave"])
def test_a_master_that_is_down_is_asked_about_until_the_time_is_over(way: Way, flags: str) -> None:
    with peer(says(masters(1, flags=flags))) as port, bounded(0.6):
        said = way.refused(TransportError, looking(port), 1.0)
    assert "the master, 127.0.0.1:1, is down, and no other has been promoted yet" in said


def test_another_one_is_asked_first_in_the_next_round(way: Way) -> None:
    """The first may be the last to learn of a promotion."""
    asked: list[str] = []

    def told_by(name: str) -> Callable[[socket.socket], None]:
        def talk(visitor: socket.socket) -> None:
            asked.append(name)
            says(masters(1, flags="master,s_down"))(visitor)

        return talk

    with peer(told_by("one")) as one, peer(told_by("other")) as other:
        way.refused(TransportError, looking(one, other), 1.0)
    assert asked[:4] == ["one", "other", "other", "one"]


def test_a_server_that_nobody_can_be_is_refused(way: Way) -> None:
    for answer in (masters(1, ip="a b"), masters(1, ip=""), masters(70000)):
        with peer(says(answer)) as port:
            said = way.refused(TransportError, looking(port))
        assert "name no usable master: " in said


def test_a_file_that_cannot_be_used(way: Way) -> None:
    config = looking(free_port(), ssl=True, ssl_ca_certs="/no/such/file")
    assert "ssl_ca_certs" in way.refused(ConfigError, config)


def test_a_credential_provider_that_fails_is_asked_once(way: Way) -> None:
    asked = []

    class Provider:
        def get_credentials(self) -> tuple[str]:
            asked.append(1)
            raise LookupError

    with peer(lambda visitor: None) as server, peer(says(masters(server))) as port:
        config = looking(port, password=None, credential_provider=Provider())
        with pytest.raises(TransportError, match="provider failed with LookupError") as caught:
            way.open(config)
    assert isinstance(caught.value.__cause__, LookupError)
    assert len(asked) == 1


def test_a_silent_master_does_not_take_all_the_time(way: Way) -> None:
    """Another one may be named meanwhile."""
    asked: list[float] = []

    def tells(visitor: Any) -> None:
        asked.append(time.monotonic())
        says(masters(mute))(visitor)

    with peer(lambda visitor: None) as mute, peer(tells) as port, bounded(0.4):
        said = way.refused(TransportError, looking(port), 0.6)
    assert len(asked) >= 2
    assert asked[1] - asked[0] < 0.5
    assert f"no answer from redis://127.0.0.1:{mute}/0 within" in said
    assert "it is the one that redis+sentinel://" in said
