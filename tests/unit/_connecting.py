"""What the tests of connecting share: three ways to connect with one face, and odd peers.

Law: an error that is met here holds no secret, in no frame and in no context.
"""

from __future__ import annotations

import asyncio
import socket
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest

from fastlock._connect import open_async, open_sync
from fastlock.config import Config
from fastlock.errors import ConfigError, FastlockError, TransportError

SECRET = "s3sam-Xq"


class Talk:
    """A connection that was taken over, for a test to speak through."""

    def __init__(self, opened: Any) -> None:
        self.opened = opened

    def __call__(self, command: str) -> bytes:
        """The first bytes of the answer to an inline command."""
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError


class SyncTalk(Talk):
    def __call__(self, command: str) -> bytes:
        self.opened.sock.settimeout(5)
        self.opened.sock.sendall(command.encode() + b"\r\n")
        answer: bytes = self.opened.sock.recv(65536)
        return answer

    def close(self) -> None:
        self.opened.sock.close()


class AsyncTalk(Talk, asyncio.Protocol):
    def __init__(self, opened: Any, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(opened)
        self.loop = loop
        self.arrived: asyncio.Queue[bytes] = asyncio.Queue()
        self.lost = loop.create_future()
        opened.transport.set_protocol(self)
        opened.transport.resume_reading()

    def data_received(self, data: bytes) -> None:
        self.arrived.put_nowait(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set_result(exc)

    def __call__(self, command: str) -> bytes:
        self.opened.transport.write(command.encode() + b"\r\n")
        return self.loop.run_until_complete(asyncio.wait_for(self.arrived.get(), 5))

    def close(self) -> None:
        self.opened.transport.abort()
        self.loop.run_until_complete(asyncio.wait_for(self.lost, 5))


class Way:
    """How to open: synchronously (no loop) or in a loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop | None) -> None:
        self.loop = loop
        self.talks: list[Talk] = []

    def open(self, config: Config, timeout: float = 5.0) -> Talk:
        talk: Talk
        if self.loop is None:
            talk = SyncTalk(open_sync(config, timeout))
        else:
            opened = self.loop.run_until_complete(open_async(config, timeout))
            talk = AsyncTalk(opened, self.loop)
        self.talks.append(talk)
        return talk

    def refused(self, kind: type[FastlockError], config: Config, timeout: float = 5.0) -> str:
        """The text of the error, which is ``kind`` and holds no secret."""
        with pytest.raises(FastlockError) as caught:
            self.open(config, timeout)
        error = caught.value
        assert type(error) is kind, repr(error)
        assert SECRET not in "".join(traceback.format_exception(error))
        assert error.__context__ is None
        assert SECRET not in repr(error.__dict__)
        for frame, _ in traceback.walk_tb(error.__traceback__):
            # What a crash reporter would send along.
            if "fastlock" in frame.f_code.co_filename:
                assert SECRET not in repr(frame.f_locals)
        if isinstance(error, TransportError):
            assert error.sent is False
        if not isinstance(error, ConfigError):
            assert config.address in str(error)
        return str(error)


@contextmanager
def peer(talk: Callable[[socket.socket], None]) -> Iterator[int]:
    """The port of a listener that treats each visitor as ``talk`` does."""
    listener = socket.create_server(("127.0.0.1", 0))
    visitors: list[socket.socket] = []

    def serve() -> None:
        while True:
            try:
                visitor, _ = listener.accept()
            except OSError:
                return
            visitors.append(visitor)
            with suppress(OSError):
                talk(visitor)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        for visitor in visitors:
            visitor.close()
        thread.join(10)
        assert not thread.is_alive()
        for visitor in visitors:  # one that came at the last moment
            visitor.close()


@contextmanager
def bounded(seconds: float) -> Iterator[None]:
    """Not over before ``seconds``, nor minutes later."""
    begin = time.monotonic()
    yield
    assert seconds * 0.9 <= time.monotonic() - begin < seconds + 10
