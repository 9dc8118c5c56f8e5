"""Floor 1, what both clients of a quorum have in common, and what its leases know.

Law: no I/O. Which servers may stand together is decided here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from . import _args
from ._clock import clock
from ._metrics import MeterLike
from ._ops_quorum import Votes, rest_of
from ._pause import backoff_pause, rivals_pause
from ._quorum_polls import Answer, Poll
from .config import Config
from .errors import ConfigError
from .lease import BaseLock

#: Seconds that one node's answer is waited for.
NODE_TIMEOUT = 0.2
LONGEST_NODE_TIMEOUT = 60.0


def configs_of(sources: object, options: Mapping[str, Any]) -> tuple[Config, ...]:
    """The nodes' settings, checked: an odd number of servers, at least three, each one once."""
    if isinstance(sources, (str, bytes, Config)):
        raise ConfigError("sources", f"{sources!r} is one server; pass a list of at least three")
    try:
        listed = list(sources)  # type: ignore[call-overload]
    except TypeError:
        raise ConfigError("sources", f"{sources!r} is not a list of uris or Configs") from None
    if len(listed) < 3 or len(listed) % 2 == 0:
        raise ConfigError(
            "sources", f"{len(listed)} servers make no quorum; pass an odd number, at least three"
        )
    if any(source is None for source in listed):
        raise ConfigError("sources", "None is no server; pass uris or Configs")
    configs = tuple(Config.of(source, options) for source in listed)
    for config in configs:
        if config.cluster is not None or config.sentinels is not None:
            raise ConfigError(
                "sources", f"{config.address} is not one server; each must be a master of its own, "
                "which nobody replaces by another"
            )  # fmt: skip
    seen: dict[tuple[object, ...], int] = {}
    for number, config in enumerate(configs):
        where: tuple[object, ...] = (config.unix_socket,)
        if config.unix_socket is None:
            where = (config.host.lower(), config.port)
        if seen.setdefault(where, number) != number:
            raise ConfigError(
                "sources", f"{config.address} is named twice, be it for another database; each "
                "must be a master of its own"
            )  # fmt: skip
    return configs


def node_timeout_of(seconds: object) -> float:
    """How long one node's answer is waited for, in seconds."""
    number = not isinstance(seconds, bool) and isinstance(seconds, (int, float))
    if not number or not 0.001 <= seconds <= LONGEST_NODE_TIMEOUT:  # type: ignore[operator]
        raise ConfigError(
            "node_timeout", f"{seconds!r} is not a number of seconds from 0.001 to 60"
        )
    return float(seconds)  # type: ignore[arg-type]


def refuse(fence: object, fair: object) -> None:
    """What independent servers cannot give."""
    if fence is not False:
        raise ConfigError(
            "fence", "independent servers have no common counter, so a quorum has no fencing "
            "numbers; take one server for it, or a number of the resource's own"
        )  # fmt: skip
    if fair is not False:
        raise ConfigError("fair", "independent servers have no common queue; leave it out")


def pause_of(effect: Any, retry_timeout: float, now: float) -> float:
    """Seconds that a Pause or a Backoff takes; ``retry_timeout`` in ms."""
    failures = getattr(effect, "failures", None)
    pause = rivals_pause(retry_timeout) if failures is None else backoff_pause(failures)
    return pause if effect.until is None else min(pause, max(0.0, effect.until - now))


class Waits:
    """The acquires of one client that wait, each since when. Any thread, and signal handlers."""

    def __init__(self, meter: MeterLike) -> None:
        self._meter = meter
        self.forked()

    def forked(self) -> None:
        """In a forked child: they are the parent's."""
        self._since: dict[object, float] = {}

    def __len__(self) -> int:
        return len(self._since)

    def begin(self, whose: object) -> None:
        """It waits from now on, if it does not yet."""
        self._since.setdefault(whose, self._meter.now())

    def end(self, whose: object) -> None:
        """It waits no more, if it has; twice does no harm."""
        since = self._since.pop(whose, None)
        if since is not None:
            self._meter.waited(since)


def time_poll(meter: MeterLike, poll: Poll, sent_at: float, answers: Sequence[Answer]) -> None:
    """A majority has just answered, or too few have, of which there is no time."""
    if sum(answer.heard for answer in answers) >= poll.majority:
        meter.answered(sent_at)


def described(kind: str, configs: Sequence[Config], core: str) -> str:
    """For people; without users and passwords."""
    places = " ".join(config.address for config in configs)
    return f"<fastlock.{kind} {places} core={core}>"


def blank(
    kind: type[Any],
    client: Any,
    generation: int,
    key: str | bytes,
    token: bytes,
    ttl: int,
    until: float,
    votes: Votes,
) -> Any:
    """A lease of ``kind``, held until ``until``; ``ttl`` in ms."""
    lease: Any = object.__new__(kind)
    lease._client = client
    lease._generation = generation
    lease._turn = None
    lease.key = key
    lease.pair = (_args.wire_key(key, b""), token)
    lease.ttl = ttl / 1000
    lease._deadline = until
    lease.since = None
    lease.doubt = lease.over = lease.freed = False
    lease.votes = votes
    return lease


class GivesBack:
    """What leases of both APIs do with what nobody releases any more."""

    __slots__ = ()
    doubt: int

    def _abandon(self: Any) -> None:
        """Interrupted while releasing: let the background see to it."""
        self._let_go()
        if not self.over:
            self.doubt = True  # what comes of it nobody hears
        self._give_back()

    def _give_back(self: Any) -> None:
        rest = rest_of(self, clock())
        if rest is not None:
            self._client._nodes.give_back(rest)
            self.votes.given.update(rest.nodes)  # behind it: an interrupt leaves them to the next


def no_pickling(lock: BaseLock) -> TypeError:
    """A spec knows one client; whoever unpickles it has another list of servers, or passwords."""
    return TypeError(f"{lock!r} of a quorum cannot be pickled; make it from a client there")
