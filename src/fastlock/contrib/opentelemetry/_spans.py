"""Spans for a lock: ``fastlock.acquire``, ``fastlock.hold`` and ``fastlock.release``.

Law: what happens to the lock is the spec's alone; a span begins and ends around it, whatever
comes out, and a failure of the acquire or of the body is on its span as an exception.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from types import TracebackType
from typing import Any

from opentelemetry.trace import Tracer, TracerProvider, get_tracer

from fastlock._version import __version__

Kind = type[BaseException] | None


def traced(
    lock: Any, *, record_key: bool = False, tracer_provider: TracerProvider | None = None
) -> Traced:
    """The lock with spans, for one block: ``with traced(client.lock(...)) as lease:``.

    ``fastlock.acquire`` lasts while it is waited for, ``fastlock.hold`` while the block runs, and
    ``fastlock.release`` while it is freed; what the block starts is within ``fastlock.hold``.

    Args:
        lock: what ``client.lock`` or ``client.lock_all`` gave; one of an asyncio client for
            ``async with``.
        record_key: put the key on the spans, as ``fastlock.key``, or the list ``fastlock.keys`` of
            ``lock_all``: only where keys may be seen by all who see traces.
        tracer_provider: None: the global one.
    """
    return Traced(lock, record_key, get_tracer("fastlock", __version__, tracer_provider))


def _text(value: Any) -> Any:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


class Traced:
    """A lock for one block, with spans around what it does. Raises what the lock raises."""

    def __init__(self, lock: Any, record_key: bool, tracer: Tracer) -> None:
        self._lock = lock
        self._tracer = tracer
        self._attributes: dict[str, Any] = {}
        for name in ("key", "ttl", "fair"):
            value = getattr(lock, name, None)
            if value is not None and (name != "key" or record_key):
                self._attributes[f"fastlock.{name}"] = _text(value)
        keys = getattr(lock, "keys", None)
        if keys is not None:
            self._attributes["fastlock.locks"] = len(keys)
            if record_key:
                self._attributes["fastlock.keys"] = [_text(key) for key in keys]
        self._block: Any = None  # the generator that is inside

    def _span(self, name: str) -> Any:
        return self._tracer.start_as_current_span(f"fastlock.{name}", attributes=self._attributes)

    def __enter__(self) -> Any:
        self._block = self._blocking()
        return self._block.__enter__()

    def __exit__(self, kind: Kind, error: BaseException | None, trace: TracebackType | None) -> Any:
        return self._block.__exit__(kind, error, trace)

    async def __aenter__(self) -> Any:
        self._block = self._awaiting()
        return await self._block.__aenter__()

    async def __aexit__(
        self, kind: Kind, error: BaseException | None, trace: TracebackType | None
    ) -> Any:
        return await self._block.__aexit__(kind, error, trace)

    @contextmanager
    def _blocking(self) -> Iterator[Any]:
        held = None
        try:
            with self._span("acquire"):
                held = self._lock.__enter__()
            with self._span("hold"):
                yield held
        except BaseException as error:
            if held is not None:
                self._leave(type(error), error, error.__traceback__)
            raise
        self._leave(None, None, None)

    def _leave(self, *error: Any) -> None:
        """Whatever becomes of the span, the lock is released."""
        leaving = False
        try:
            with self._span("release"):
                leaving = True
                self._lock.__exit__(*error)
        except BaseException:
            if not leaving:
                self._lock.__exit__(*error)
            raise

    @asynccontextmanager
    async def _awaiting(self) -> AsyncIterator[Any]:
        held = None
        try:
            with self._span("acquire"):
                held = await self._lock.__aenter__()
            with self._span("hold"):
                yield held
        except BaseException as error:
            if held is not None:
                await self._leave_later(type(error), error, error.__traceback__)
            raise
        await self._leave_later(None, None, None)

    async def _leave_later(self, *error: Any) -> None:
        leaving = False
        try:
            with self._span("release"):
                leaving = True
                await self._lock.__aexit__(*error)
        except BaseException:
            if not leaving:
                await self._lock.__aexit__(*error)
            raise
