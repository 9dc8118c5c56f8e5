"""When the commands of tasks leave. Law: a real socket, whose far end looks within the tick."""

from __future__ import annotations

import asyncio
import socket

from fastlock import _impl
from fastlock._aiopipe import AsyncPipe

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
