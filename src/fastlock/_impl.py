"""Picks the core. Law: the only module that imports one.

``FASTLOCK_CORE`` is auto (default), cython or python; a named core never falls
back, an unknown name is an error.
"""

from __future__ import annotations

import functools
import importlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from typing import Any, Protocol

from ._metrics import MeterLike
from ._sockets import patched_by
from .errors import ConfigError

VARIABLE = "FASTLOCK_CORE"
_MODULES = {"cython": "fastlock._core", "python": "fastlock._pycore"}
_STRAIGHT = {"cython": "fastlock._straight", "python": "fastlock._pystraight"}
_METERS = {"cython": "fastlock._meter", "python": "fastlock._pymeter"}
_HEARTBEATS = {"cython": "fastlock._heartbeat", "python": "fastlock._pyheartbeat"}


class DecoderLike(Protocol):
    """Bytes in, replies out."""

    @property
    def spent(self) -> int: ...
    def feed(self, data: bytes, /) -> list[Any]: ...


class DivisionLike(Protocol):
    """A batch by the servers of its keys' slots; see ``_pydivide.Division``."""

    @property
    def servers(self) -> list[Any]: ...
    @property
    def parts(self) -> list[list[tuple[bytes, bytes]]]: ...
    def places(self) -> list[list[int]]: ...
    def merged(self, answers: list[Any]) -> list[Any] | None: ...


class TicketLike(Protocol):
    """A call in two steps; see ``_pycore.Ticket``."""

    def send(self, data: bytes, count: int) -> None: ...
    def wait(self, timeout: float) -> list[Any]: ...
    def leave(self) -> None: ...


class PipeLike(Protocol):
    """One shared, pipelined connection; see ``_pycore.Pipe``."""

    @property
    def broken(self) -> bool: ...
    @property
    def owed(self) -> int: ...
    def call(self, data: bytes, count: int, timeout: float) -> list[Any]: ...
    def ticket(self) -> TicketLike: ...
    def post(self, data: bytes, count: int) -> None: ...
    @property
    def settled(self) -> int: ...
    def defer(self, data: bytes, usual: int) -> int: ...
    def odd(self) -> list[tuple[int, Any]]: ...
    def abort(self, reason: str) -> None: ...
    def close(self) -> None: ...
    def forked(self) -> None: ...


class StraightLike(Protocol):
    """One try, one release, without a stop; see ``_pystraight.Straight``."""

    @property
    def freed(self) -> bytes: ...
    @property
    def freed_at(self) -> float: ...
    def take(
        self,
        key: str | bytes,
        ttl: int,
        span: float,
        generation: int,
        timeout: float,
        trace: list[tuple[bytes, bytes]],
    ) -> Any: ...
    def free(self, lease: Any, generation: int, timeout: float) -> Any: ...


class BeatLike(Protocol):
    """One entry of a heartbeat; see ``_pyheartbeat.Beat``."""

    @property
    def number(self) -> int: ...
    @property
    def deadline(self) -> float: ...
    @deadline.setter
    def deadline(self, deadline: float) -> None: ...
    @property
    def unsure(self) -> bool: ...
    def pause(self, timeout: float) -> bool: ...
    def resume(self, data: bytes, usual: bytes | int, period: float, span: float) -> None: ...
    def recode(self, data: bytes, usual: bytes | int) -> None: ...
    def remove(self) -> None: ...


class HeartbeatLike(Protocol):
    """Repeats what has to be said in time; see ``_pyheartbeat.Heartbeat``."""

    @property
    def count(self) -> int: ...
    @property
    def renewed(self) -> int: ...
    def add(
        self,
        data: bytes,
        usual: bytes | int,
        period: float,
        span: float,
        deadline: float,
        until: float,
    ) -> BeatLike: ...
    def attach(self, pipe: Any) -> None: ...
    def wait(self, timeout: float) -> list[tuple[int, str, Any]]: ...
    def stop(self) -> None: ...
    def join(self) -> None: ...
    def forked(self) -> None: ...


@dataclass(frozen=True)
class Core:
    """One core's parts, so that both can serve clients in the same process."""

    name: str
    clock: Callable[[], float]
    pack: Callable[..., bytes]
    prepare: Callable[..., Any]
    numbered: Callable[[bytes, bytes], Any]
    leases: Callable[[type], Any]
    divide: Callable[[list[tuple[bytes, bytes]], list[Any]], DivisionLike]
    slot: Callable[[bytes], int]
    meter: Callable[[], MeterLike]
    decoder: Callable[[], DecoderLike]
    pipe: Callable[[Any], PipeLike]
    tls_pipe: Callable[[Any], PipeLike]
    straight: Callable[..., StraightLike]
    heartbeat: Callable[[float], HeartbeatLike]
    tls_heartbeat: Callable[[float], HeartbeatLike]


def load(name: str) -> Core:
    """The core called "cython" or "python"; ImportError if it cannot load."""
    module = importlib.import_module(_MODULES[name])
    python = importlib.import_module(_MODULES["python"])
    heartbeats = [importlib.import_module(_HEARTBEATS[of]).Heartbeat for of in (name, "python")]
    decoder = module.Decoder
    ways = {module.Pipe: importlib.import_module(_STRAIGHT[name]).Straight}
    other = importlib.import_module(_STRAIGHT["python"]).Straight

    def straight(client: Any, leases: Any, pipe: Any, *rest: Any) -> Any:
        # The compiled one goes over a compiled Pipe only.
        return ways.get(type(pipe), other)(client, leases, pipe, *rest)

    return Core(
        name=name,
        clock=module.clock,
        pack=module.pack,
        prepare=module.prepare,
        numbered=module.Numbered,
        leases=module.Leases,
        divide=module.Division,
        slot=module.slot,
        meter=importlib.import_module(_METERS[name]).Meter,
        decoder=decoder,
        pipe=module.Pipe,
        straight=straight,
        tls_pipe=lambda sock: python.Pipe(sock, decoder()),
        heartbeat=heartbeats[0],
        tls_heartbeat=heartbeats[1],
    )


def _choose() -> tuple[Core, list[str]]:
    wanted = os.environ.get(VARIABLE) or "auto"
    if wanted not in ("auto", *_MODULES):
        raise ConfigError(VARIABLE, f"{wanted!r} is not one of auto, cython, python")
    if wanted != "auto":
        try:
            return load(wanted), [f"{VARIABLE}={wanted} names the core"]
        except ImportError as error:
            raise ImportError(
                f"{VARIABLE}={wanted}: that core cannot be loaded ({error}); {_why_not_built()}; "
                f"unset {VARIABLE} to let fastlock choose"
            ) from error
    green = patched_by()
    if green:
        return load("python"), [_yields(green)]
    try:
        return load("cython"), ["the compiled core is installed and loads"]
    except ImportError as error:
        return load("python"), [f"the compiled core cannot be loaded ({error})", _why_not_built()]


def _yields(green: str) -> str:
    return f"{green} has patched the socket module, and only the Python core yields to it"


def _why_not_built() -> str:
    """What the build left behind about itself."""
    try:
        text = resources.files("fastlock").joinpath("_build.json").read_text()
        why = json.loads(text).get("why")
    except (OSError, ValueError):
        why = None
    return f"built without it: {why}" if why else "the build left no reason behind"


def explain() -> list[str]:
    """Which core runs and why, in sentences for people."""
    now = fit(core)
    green = patched_by()
    return [f"core {now.name}", *(_reasons if now is core or not green else [_yields(green)])]


core, _reasons = _choose()
_named = bool(os.environ.get(VARIABLE)) and os.environ[VARIABLE] != "auto"
_python = functools.cache(functools.partial(load, "python"))


def fit(wanted: Core) -> Core:
    """The core of a client made now: ``wanted``, unless it was chosen before a patch.

    A core chosen for sockets that were patched since does not yield: the Python core does.
    """
    return wanted if _named or wanted is not core or not patched_by() else _python()


__all__ = [
    "BeatLike", "Core", "DecoderLike", "DivisionLike", "HeartbeatLike", "PipeLike", "TicketLike",
    "core", "explain", "fit", "load",
]  # fmt: skip
