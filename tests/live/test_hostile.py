"""A server, or somebody between, that says anything: no wrong lease, no wait without end, no
other error than ours; and when sense returns, the same client goes on.

Law: what is said is at the place of a real server's answer, over real sockets.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
from _harness import Ways, one_server
from _streams import BAD

import fastlock
from fastlock._resp import MAX_ANSWER, MAX_REPLY
from fastlock._slots import companion
from fastlock.errors import FastlockError

pytestmark = one_server

#: Whole replies that answer no command of ours, and what is no reply.
NONSENSE = [
    b":7\r\n", b"+PONG\r\n", b"*2\r\n$1\r\na\r\n:1\r\n", b"%1\r\n+a\r\n:1\r\n", b",1.5\r\n",
    b"(9999999999999999999999\r\n", b"=7\r\ntxt:abc\r\n", b">1\r\n+unasked\r\n:9\r\n", b"~0\r\n",
    b"$%d\r\n" % (MAX_REPLY + 1), b"*1\r\n" * 20, b"|1\r\n+a\r\n+b\r\n+OK\r\n",
    *[data for data in BAD if len(data) < 30 and data.endswith(b"\r\n")],
]  # fmt: skip


@pytest.mark.parametrize("said", NONSENSE, ids=lambda said: repr(said)[:30])
async def test_nonsense_is_no_answer(fl: Ways, said: bytes) -> None:
    """Each command is carried out, and nonsense comes instead of its answer."""
    proxy = fl.proxy()
    client = await fl.warm(fl.client(proxy.uri, retries=1))
    key = fl.key()

    nonsense = proxy.fault("replace_reply", data=said)
    lease = await client.try_acquire(key, ttl=30)
    nonsense.wait()
    assert lease.valid()  # the first try had taken it, and the second found that out
    assert fl.admin.get(key) == lease.token.encode()

    nonsense = proxy.fault("replace_reply", data=said)
    await lease.extend(60)
    nonsense.wait()
    assert 30 < lease.remaining() < 60 < 0.001 + fl.admin.pttl(key) / 1000 + 1

    nonsense = proxy.fault("replace_reply", data=said)
    assert await client.locked(key) is True
    nonsense.wait()
    if said[:1] not in b"+=":  # any text may be whose lock it is
        nonsense = proxy.fault("replace_reply", data=said)
        assert await client.holder(key) == lease.token.partition(".")[2]
        nonsense.wait()

    nonsense = proxy.fault("replace_reply", data=said)
    assert await lease.release() is True
    nonsense.wait()
    assert not fl.admin.exists(key)

    keys = [fl.key() for _ in range(5)]
    nonsense = proxy.fault("replace_reply", nth=3, data=said)
    leases = await client.try_acquire_many(keys)
    nonsense.wait()
    assert all(lease.valid() for lease in leases)
    nonsense = proxy.fault("replace_reply", nth=2, data=said)
    assert await client.release_many(leases) == [True] * 5
    nonsense.wait()
    assert not fl.admin.exists(*keys)


#: Whatever text or number comes as the answer to a try with ``fence=True`` may be one.
BELIEVED = (b":7\r\n", b"+PONG\r\n", b"=7\r\ntxt:abc\r\n", b">1\r\n+unasked\r\n:9\r\n")


@pytest.mark.parametrize(
    "said", [said for said in NONSENSE if said not in BELIEVED], ids=lambda said: repr(said)[:30]
)
async def test_nonsense_is_no_number(fl: Ways, said: bytes) -> None:
    """The repetition tells the number that was drawn by the try whose answer was nonsense."""
    proxy = fl.proxy()
    client = await fl.warm(fl.client(proxy.uri, retries=1))
    key = fl.key()
    drawn = 0
    for _ in range(2):
        nonsense = proxy.fault("replace_reply", data=said)
        lease = await client.try_acquire(key, fence=True)
        nonsense.wait()
        assert lease.fence > drawn
        drawn = lease.fence
        assert fl.admin.get(companion(key.encode())).startswith(b"%d " % drawn)
        assert await lease.release() is True

    keys = [fl.key() for _ in range(3)]
    for nth in (1, 3):
        nonsense = proxy.fault("replace_reply", nth=nth, data=said)
        leases = await client.try_acquire_many(keys, fence=True)
        nonsense.wait()
        assert all(lease.valid() and lease.fence for lease in leases)
        assert await client.release_many(leases) == [True] * 3
    nonsense = proxy.fault("replace_reply", data=said)
    async with client.lock_all(keys, fence=True) as leases:
        nonsense.wait()
        assert all(lease.valid() and lease.fence for lease in leases)
    assert not fl.admin.exists(*keys)


async def test_an_answer_to_somebody_else_is_not_believed(fl: Ways) -> None:
    """A middleman that answers twice puts every later answer one command late."""
    proxy = fl.proxy()
    client = await fl.warm(fl.client(proxy.uri))
    key = fl.key()
    fl.admin.set(key, "another's")
    twice = proxy.fault("replace_reply", verb="PING", data=b"+PONG\r\n+OK\r\n")
    with suppress(FastlockError):
        await client.ping()
    twice.wait()
    assert await client.try_acquire(key) is None
    assert await client.try_acquire(fl.key(), ttl=5) is not None


# ------------------------------------------------------------------ nothing but hostility

HELLO = (
    b"%7\r\n$6\r\nserver\r\n$5\r\nredis\r\n$7\r\nversion\r\n$5\r\n7.0.0\r\n$5\r\nproto\r\n:3\r\n"
    b"$2\r\nid\r\n:1\r\n$4\r\nmode\r\n$10\r\nstandalone\r\n$4\r\nrole\r\n$6\r\nmaster\r\n"
    b"$7\r\nmodules\r\n*0\r\n"
)


class Impostor:
    """Lets everybody in as a server would, and after ``greetings`` commands says only this."""

    def __init__(self, begin: bytes, rest: bytes) -> None:
        self.begin, self.rest = begin, rest
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.uri = f"redis://127.0.0.1:{self.listener.getsockname()[1]}"
        self.visitors: list[socket.socket] = []
        self.said = 0
        self.thread = threading.Thread(target=self._serve, name="impostor", daemon=True)
        self.thread.start()

    def _serve(self) -> None:
        threads = []
        while True:
            try:
                visitor, _ = self.listener.accept()
            except OSError:
                break
            self.visitors.append(visitor)
            threads.append(threading.Thread(target=self._talk, args=(visitor,), name="impostor"))
            threads[-1].start()
        for thread in threads:
            thread.join(10)

    def _talk(self, visitor: socket.socket) -> None:
        heard = b""
        with suppress(OSError):
            while b"SET" not in heard.replace(b"SETINFO", b""):
                chunk = visitor.recv(65536)
                if not chunk:
                    return
                heard += chunk
                for word, answer in (
                    (b"HELLO", HELLO), (b"SETINFO", b"+OK\r\n"), (b"INFO\r\n$6", b"$-1\r\n"),
                    (b"\r\n$2\r\nID\r\n", b":1\r\n"), (b"DELIFEQ", b"*0\r\n"),
                ):  # fmt: skip
                    visitor.sendall(answer * chunk.count(word))
            visitor.sendall(self.begin)
            while self.rest:
                visitor.sendall(self.rest)
                self.said += len(self.rest)
            visitor.recv(1)

    def close(self) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for visitor in self.visitors:
            with suppress(OSError):
                visitor.shutdown(socket.SHUT_RDWR)
        self.thread.join(10)
        for visitor in self.visitors:
            visitor.close()


@contextmanager
def impostor(begin: bytes, rest: bytes = b"") -> Iterator[Impostor]:
    made = Impostor(begin, rest)
    try:
        yield made
    finally:
        made.close()


ONSLAUGHTS = {
    "silence": (b"", b""),
    "half a reply": (b"$10\r\nabc", b""),
    "a line": (b"+", b"a" * 65536),
    "pushes": (b"", b">2\r\n+invalidate\r\n*1\r\n$1\r\nk\r\n" * 1000),
    "a string": (b"$%d\r\n" % MAX_REPLY, bytes(65536)),
    "answers": (b"", b"+OK\r\n" * 1000),
    "nesting": (b"", b"*1\r\n" * 1000),
}


@pytest.mark.parametrize("name", ONSLAUGHTS)
async def test_a_caller_is_told_in_time(fl: Ways, name: str) -> None:
    """The wait for an answer is bounded, whatever else comes."""
    with impostor(*ONSLAUGHTS[name]) as server:
        client = fl.client(server.uri, socket_timeout=0.5, retries=0)
        began = time.monotonic()
        with suppress(fastlock.OutcomeUnknown, fastlock.TransportError):
            lease: Any = await client.try_acquire(fl.key(), ttl=1)
            assert name == "answers"
            assert lease.valid()
        assert time.monotonic() - began < 30  # the machine may be busy; without a bound: for ever


@pytest.mark.memory
async def test_the_answer_to_one_call_is_bounded(fl: Ways) -> None:
    """Of a thousand large answers only so many are taken in."""
    with impostor(b"", b"$1000000\r\n" + bytes(1_000_000) + b"\r\n") as server:
        client = fl.client(server.uri, socket_timeout=60, retries=0)
        with pytest.raises(fastlock.OutcomeUnknown):
            await client.try_acquire_many([fl.key() for _ in range(1000)], ttl=0.1)
        await client.close()
        assert server.said < 4 * MAX_ANSWER
