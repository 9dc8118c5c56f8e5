"""When the commands of tasks leave. Law: a real socket, whose far end looks within the tick."""

from __future__ import annotations

import asyncio
import socket

from _strikes import Interrupt, struck_at

from fastlock import _impl
from fastlock._aiopipe import AsyncPipe
from fastlock.errors import TransportError

PING = b"*1\r\n$4\r\nPING\r\n"


class Far:
    """The other end of a Pipe."""

    def __init__(self) -> None:
        self.near, self.sock = socket.socketpair()
        self.sock.setblocking(False)

    def heard(self) -> bytes:
        """What has left until now."""
        try:
            return self.sock.recv(1000)
        except BlockingIOError:
            return b""

    async def answer(self, calls: list[asyncio.Future[bytes]]) -> None:
        self.sock.sendall(b"+OK\r\n" * len(calls))
        assert await asyncio.gather(*calls) == [b"OK"] * len(calls)


def test_a_lone_command_leaves_at_once_and_others_together(core: str) -> None:
    far = Far()

    async def play() -> None:
        loop = asyncio.get_running_loop()
        pipe = AsyncPipe(_impl.load(core).decoder(), 20.0)
        transport, _ = await loop.create_connection(asyncio.Protocol, sock=far.near)
        pipe.attach(transport)

        async def at_the_end_of_the_tick(many: int) -> list[asyncio.Future[bytes]]:
            calls = [pipe.one(PING) for _ in range(many)]
            assert far.heard() == b""
            await asyncio.sleep(0)
            assert far.heard() == many * PING
            return calls

        await far.answer(await at_the_end_of_the_tick(1))  # who knows whether more come
        for _ in range(3):
            calls = [pipe.one(PING)]
            assert far.heard() == PING
            await far.answer(calls)
        calls = [pipe.one(PING)]
        assert far.heard() == PING
        await far.answer(calls + await at_the_end_of_the_tick(3))  # the connection was not idle
        for many in (3, 2, 1):  # it is, but they come together
            await far.answer(await at_the_end_of_the_tick(many))
        calls = [pipe.one(PING)]
        assert far.heard() == PING
        await far.answer(calls)
        await pipe.close()

    asyncio.run(play())
    far.sock.close()


def test_an_interrupt_while_it_is_sent_gives_nobody_another_s_answer(core: str) -> None:
    struck: list[str] = []
    gone = 0

    async def play(step: int) -> bool:
        """Whether the interrupt came."""
        nonlocal gone
        far = Far()
        loop = asyncio.get_running_loop()
        pipe = AsyncPipe(_impl.load(core).decoder(), 20.0)
        transport, _ = await loop.create_connection(asyncio.Protocol, sock=far.near)
        pipe.attach(transport)
        for _ in range(2):
            call = pipe.one(b"0")
            await asyncio.sleep(0)
            assert far.heard() == b"0"
            await far.answer([call])
        try:
            with struck_at(step) as where:
                pipe.one(b"1")
        except Interrupt:
            pass
        struck.extend(where)
        try:
            call = pipe.one(b"2")
            await asyncio.sleep(0)
            for said in far.heard().decode():
                far.sock.sendall(f"+{said}\r\n".encode())
            assert await asyncio.wait_for(call, 10) == b"2"
            await pipe.close()
        except TransportError:
            gone += 1
        far.sock.close()
        return bool(where)

    step = 1
    while asyncio.run(play(step)):
        step += 1
    assert step > 8
    assert {line.rpartition(" ")[2] for line in struck} >= {"one", "_send_lone", "_flush"}
    assert 0 < gone < step - 1
