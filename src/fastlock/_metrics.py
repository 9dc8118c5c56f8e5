"""What a client counts and times, and what ``stats()`` shows of it.

Law: names, numbers and values; no clock, no I/O. The counting is done by a core's Meter
(``_meter.pyx``, ``_pymeter.py``), by everybody who comes by; nothing here is kept up to date.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, ClassVar, Protocol

from ._logs import INFO, tell
from .errors import (
    AcquireTimeout,
    ConfigError,
    NotReplicated,
    OutcomeUnknown,
    ProtocolError,
    ServerError,
    TransportError,
)

#: Upper bounds of all histograms' buckets, in seconds, each inclusive; one more bucket is above
#: the last. ``_meter.h`` has the same.
BOUNDS: tuple[float, ...] = (
    0.00002, 0.00005, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2,
    0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0, 5000.0,
)  # fmt: skip

#: Places of the counters in a Meter, by the names of the fields of Stats.
COUNTERS = (
    "acquired", "adopted", "refused", "timeouts", "handed_over", "released", "lost", "unknown",
    "failed", "retries", "connections", "reconnects", "left_behind",
)  # fmt: skip
(
    ACQUIRED, ADOPTED, REFUSED, TIMEOUTS, HANDED_OVER, RELEASED, LOST, UNKNOWN, FAILED, RETRIES,
    CONNECTIONS, RECONNECTS, LEFT_BEHIND,
) = range(len(COUNTERS))  # fmt: skip
#: What happens to each server of a quorum by itself; of the rest its client counts what it does.
BY_NODE = (RETRIES, CONNECTIONS, RECONNECTS, LEFT_BEHIND)
#: Places of the histograms.
TIMES = ("wait", "hold", "round_trip")
WAIT, HOLD, TRIP = range(len(TIMES))


class MeterLike(Protocol):
    """One client's counters and histograms; see ``_pymeter.Meter``."""

    def count(self, which: int, many: int = 1) -> None: ...
    def time(self, which: int, seconds: float, many: int = 1) -> None: ...
    def now(self) -> float: ...
    @property
    def ticks(self) -> Iterator[bool]: ...
    @property
    def frees(self) -> Iterator[bool]: ...
    def held(self, lease: Any, sent_at: float) -> None: ...
    def sample(self, sent_at: float) -> None: ...
    def took(self, sent_at: float) -> None: ...
    def refused(self, sent_at: float) -> None: ...
    def freed(self, lease: Any, sent_at: float) -> None: ...
    def answered(self, sent_at: float) -> None: ...
    def waited(self, since: float) -> None: ...
    def counts(self) -> list[int]: ...
    def times(self, which: int) -> tuple[list[int], float]: ...
    def forked(self) -> None: ...


#: For exporters: every field of Stats, and in a line what it says; those that go up and down are
#: gauges.
MEANINGS = {
    "acquired": "Leases that callers got",
    "adopted": "Leases taken over from elsewhere by their tokens",
    "refused": "Locks that single tries found held",
    "timeouts": "Acquires whose time was over before they had the lock",
    "waited": "Acquires that had to wait",
    "waiting": "Acquires that wait at this moment",
    "handed_over": "Leases that went on to another caller of the same client",
    "released": "Leases freed by their holders",
    "renewed": "Extensions by auto_renew that were answered in time",
    "lost": "Leases that had ended before they were released",
    "unknown": "Calls of which nobody can know what came of them",
    "failed": "Calls that ended by trouble of the connection, the server or its replicas",
    "retries": "Further attempts after a failure",
    "connections": "Connections made for commands",
    "reconnects": "Connections that took a lost one's place",
    "left_behind": "Locks that could not be given back and stay until their ttl ends",
    "wait": "Seconds that acquires waited",
    "hold": "Seconds that leases were held until they were released",
    "round_trip": "Seconds from sending a command to its answer",
}
KINDS = {name: "gauge" if name == "waiting" else "counter" for name in MEANINGS}


@dataclass(frozen=True, slots=True)
class Histogram:
    """How long something took, how often.

    Attributes:
        bounds: the buckets' upper bounds in seconds, each inclusive; the same for all.
        counts: how often in each bucket; the last one is above the last bound.
        sum: seconds, of all together.
    """

    counts: tuple[int, ...]
    sum: float
    bounds: ClassVar[tuple[float, ...]] = BOUNDS

    @property
    def count(self) -> int:
        """How often, in all."""
        return sum(self.counts)

    @property
    def mean(self) -> float:
        """Seconds; 0.0 of nothing."""
        count = self.count
        return self.sum / count if count else 0.0

    def cumulated(self) -> Iterator[tuple[float, int]]:
        """Each bound, infinity last, and how often it was not exceeded."""
        return zip((*BOUNDS, float("inf")), accumulate(self.counts), strict=True)

    def quantile(self, share: float) -> float:
        """Seconds that ``share`` (0 to 1) of all did not exceed; as exact as the buckets are.

        Within a bucket all is taken to be spread evenly. 0.0 of nothing, and the last bound
        for what is above it. ValueError: not a share.
        """
        if not 0 <= share <= 1:
            raise ValueError(f"{share!r} is not a share, from 0 to 1")
        wanted = share * self.count
        lower, before = 0.0, 0
        for bound, count in self.cumulated():
            if count >= wanted and count > before:
                if bound == float("inf"):
                    break
                return lower + (bound - lower) * max(0.0, wanted - before) / (count - before)
            lower, before = min(bound, BOUNDS[-1]), count
        return lower if before or self.counts[-1] else 0.0


@dataclass(frozen=True, slots=True)
class Stats:
    """What a client has counted and timed since it was made, or since its process was forked.

    All of one instant but for what other threads did while it was read. What each figure means,
    and at which value somebody should act: docs/metrics.md.

    Attributes:
        acquired: leases that callers got, each of a batch or of ``lock_all`` counted.
        adopted: leases taken over by ``adopt``.
        refused: locks that ``try_acquire`` and ``try_acquire_many`` found held.
        timeouts: acquires that ended as AcquireTimeout.
        waited: acquires that had to wait, however that ended.
        waiting: acquires that wait at this moment.
        handed_over: leases that went on to another caller of this client at their release.
        released: leases freed by us; a deferred release counts when it is sent.
        renewed: extensions by ``auto_renew`` that were answered in time.
        lost: leases that had ended before they were released, as far as it was found out.
        unknown: calls that ended as OutcomeUnknown.
        failed: calls that ended as TransportError, ServerError, ProtocolError or NotReplicated.
        retries: further attempts after a failure of the connection or a server that was not ready.
        connections: connections made for commands, the first one included; not those beside it,
            for locks that replicas confirm, for waiting or for renewals.
        reconnects: those of them that took another one's place.
        left_behind: locks that nobody waits for and that could not be given back: they stay
            until their ttl ends.
        wait: seconds from the moment an acquire began to wait until it ended.
        hold: seconds from the sending that took a lock to that of its release, or to the answer
            where the release did not go straight.
        round_trip: seconds from sending to answer, of commands about locks.
    """

    acquired: int
    adopted: int
    refused: int
    timeouts: int
    waited: int
    waiting: int
    handed_over: int
    released: int
    renewed: int
    lost: int
    unknown: int
    failed: int
    retries: int
    connections: int
    reconnects: int
    left_behind: int
    wait: Histogram
    hold: Histogram
    round_trip: Histogram


def stats_of(client: Any, waiting: int, nodes: Iterable[MeterLike] = ()) -> Stats:
    """What its meter has counted, and its heartbeat; ``waiting`` acquires wait now.

    ``nodes`` are the meters of a quorum's servers, whose BY_NODE are its own too.
    """
    if client._timed is None:
        raise ConfigError("metrics", "it is False for this client, which therefore has no stats()")
    meter: MeterLike = client._meter
    wait, hold, trip = (
        Histogram(tuple(counts), total) for counts, total in map(meter.times, range(len(TIMES)))
    )
    counts = meter.counts()
    for node in nodes:
        of_node = node.counts()
        for which in BY_NODE:
            counts[which] += of_node[which]
    named = dict(zip(COUNTERS, counts, strict=True))
    return Stats(
        **named, waited=wait.count, waiting=waiting, renewed=client._keeper.renewed,
        wait=wait, hold=hold, round_trip=trip,
    )  # fmt: skip


def asked(client: Any) -> Stats:
    """The figures of what an exporter was given; ConfigError if it has none."""
    if isinstance(client, type) or not hasattr(client, "stats"):
        what = f"the class {client.__name__}" if isinstance(client, type) else type(client).__name__
        raise ConfigError(
            "client", f"{what} has no figures; give a Client or a QuorumClient, sync or asyncio"
        )
    stats: Stats = client.stats()
    return stats


def places_of(client: Any) -> str:
    """Its address, by which exporters tell it from others; of a quorum all of them."""
    configs = getattr(client, "configs", None) or (client.config,)
    return " ".join(config.address for config in configs)


def count_acquired(meter: MeterLike, acquired: Any) -> None:
    """A lease or None, or a list of these."""
    if type(acquired) is not list:
        meter.count(REFUSED if acquired is None else ACQUIRED)
        return
    refused = acquired.count(None)
    meter.count(ACQUIRED, len(acquired) - refused)
    if refused:
        meter.count(REFUSED, refused)


def count_released(client: Any, leases: list[Any], results: list[bool]) -> None:
    """What is known when leases were released together, also where that raises."""
    meter: MeterLike = client._meter
    freed = results.count(True)
    meter.count(RELEASED, freed)
    for seconds, many in client._loops.holds(leases, results, meter.now()):
        meter.time(HOLD, seconds, many)
    if freed < len(leases):
        count_lost(leases)


def count_lost(leases: list[Any]) -> None:
    """Those that the server had no more; not where a release may have ended it unheard."""
    for lease in leases:
        if lease is not None and lease.over and not lease.freed and lease.doubt is not True:
            lease._count_lost()


def count_failure(meter: MeterLike, error: BaseException) -> None:
    """An operation has ended so."""
    if isinstance(error, OutcomeUnknown):
        meter.count(UNKNOWN)
    elif isinstance(error, AcquireTimeout):
        meter.count(TIMEOUTS)
    elif isinstance(error, (TransportError, ServerError, ProtocolError, NotReplicated)):
        meter.count(FAILED)


def connected(renew: Callable[[], None], meter: MeterLike, address: str, again: bool) -> None:
    """A connection for commands was made, for which tokens are drawn anew.

    ``again``: where another one was before.
    """
    renew()
    meter.count(CONNECTIONS)
    if again:
        meter.count(RECONNECTS)
    event = "reconnected" if again else "connected"
    tell(INFO, event, "%s to %s", event, address, address=address)


def retrying(meter: MeterLike, failures: int, pause: float) -> None:
    """After so many failures in a row there is another attempt in ``pause`` seconds."""
    meter.count(RETRIES)
    tell(INFO, "retry", "failure %d in a row; another attempt in %.3f s", failures, pause,
         failures=failures, seconds=pause)  # fmt: skip
