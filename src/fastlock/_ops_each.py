"""Floor 2, one command about each of many leases: releasing them, extending them.

Law: that of ``_ops.py``. What is answered is kept; only what is undecided is asked again. The
first trouble is raised after all leases have been tried.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from ._claim import deadline
from ._doubt import interrupted
from ._effects import Backoff, Call, Downgrade, Now, Op
from ._ops import extension_unknown, release_unknown, released, unheard
from ._ops_many import portions, up_to_nonsense
from ._replies import checked, extended, is_transient, lacks_command, not_ready, wants_spelling_out
from ._tokens import Pair
from .errors import FastlockError, OutcomeUnknown, ServerError, TransportError


class Loops(Protocol):
    """What of a core goes through many leases; see ``_pyleases``."""

    def held(self, leases: list[Any]) -> Sequence[int]: ...
    def release(
        self, leases: list[Any], places: Sequence[int]
    ) -> tuple[list[Pair], dict[int, int]]: ...
    def released(self, leases: list[Any], places: Sequence[int], results: list[bool]) -> None: ...


def release_many(
    leases: list[Any], results: list[bool], loops: Loops, retries: int, shares: int = 1
) -> Op[list[bool]]:
    """Release each; True or False for each, in order, False for None.

    ``results`` is that list: all False, and at every moment True for what is freed by then.

    The first OutcomeUnknown or ServerError is raised after all have been tried; those
    leases may be released again.
    """
    yield from _all(_Releases(leases, loops, results), loops.held(leases), retries, shares)
    return results


def extend_many(
    leases: list[Any], ttl: int | None, loops: Loops, retries: int, shares: int = 1
) -> Op[list[bool]]:
    """Replace the ttl of each by ``ttl`` ms, or renew its own; False for what is not ours.

    Raises as ``release_many``; those leases count with the earlier deadline.
    """
    results = [False] * len(leases)
    wanted: dict[int, list[int]] = {}
    for place in loops.held(leases):
        own = round(leases[place].ttl * 1000) if ttl is None else ttl
        wanted.setdefault(own, []).append(place)
    trouble: FastlockError | None = None
    for milliseconds, places in wanted.items():
        try:
            yield from _all(_Extensions(leases, results, milliseconds), places, retries, shares)
        except (OutcomeUnknown, ServerError) as error:
            trouble = trouble or error
    if trouble is not None:
        raise trouble
    return results


class _Work(Protocol):
    """What is to be done with leases, each named by its place."""

    verb: str
    args: tuple[Any, ...]

    def sending(self, places: Sequence[int], now: float) -> list[Pair]:
        """The command about these is sent now; whoever interrupts leaves it in doubt."""

    def usual(self, places: Sequence[int], replies: list[Any], sent_at: float) -> bool:
        """Whether every answer is the usual one; then all is noted."""

    def answered(self, place: int, reply: Any, sent_at: float, now: float) -> None:
        """Note what it means; raises OutcomeUnknown or ServerError."""

    def unanswered(self, place: int, sent: bool) -> None:
        """This sending surely did nothing, unless ``sent``."""

    def interrupted(self, place: int) -> None:
        """Whatever became of it, nobody will hear."""

    def unknown(self, place: int) -> OutcomeUnknown | None:
        """The error if an earlier sending may have done it."""


def _all(work: _Work, places: Sequence[int], retries: int, shares: int) -> Op[None]:
    trouble: FastlockError | None = None
    for portion in portions(places, shares):
        error = yield from _chunk(work, portion, retries)
        trouble = trouble or error
    if trouble is not None:
        raise trouble


def _chunk(work: _Work, places: Sequence[int], retries: int) -> Op[FastlockError | None]:
    """Until every place is answered; the first trouble."""
    failures = 0
    spelled_out = lacking = False
    trouble: FastlockError | None = None
    while places:
        now = yield Now()
        failure: TransportError | None = None
        again = []
        call: Call | None = None
        try:
            pairs = work.sending(places, now)
            call = Call(work.verb, (pairs, *work.args), len(pairs), spelled_out=spelled_out)
            try:
                sent_at, replies = yield call
            except TransportError as error:
                failure = error
                sent_at, replies = error.sent_at, error.replies
            except FastlockError:
                for place in places:
                    work.unanswered(place, False)
                raise
            if lacking and replies and not isinstance(replies[0], FastlockError):
                yield Downgrade(work.verb)
            spelled_out = lacking = False
            if failure is None and work.usual(places, replies, sent_at):
                break
            replies, failure = yield from up_to_nonsense(work.verb, sent_at, replies, failure)
            sent = failure is None or failure.sent
            now = yield Now()
            for index, place in enumerate(places):
                reply = replies[index] if index < len(replies) else failure
                if isinstance(reply, TransportError):
                    work.unanswered(place, sent if reply is failure else reply.sent)
                elif wants_spelling_out(reply) and not call.spelled_out:
                    spelled_out, lacking = True, lacks_command(reply)  # type: ignore[arg-type]
                    work.unanswered(place, False)
                elif is_transient(reply):
                    failure = failure or not_ready(reply)  # type: ignore[arg-type]
                    work.unanswered(place, False)
                else:
                    try:
                        work.answered(place, reply, sent_at, now)
                    except (OutcomeUnknown, ServerError) as error:
                        trouble = trouble or error
                    continue
                again.append(place)
        except FastlockError:
            raise
        except BaseException:
            for place in places:
                if call is None or call.left:
                    work.interrupted(place)
                else:
                    work.unanswered(place, False)
            raise
        places = again
        if failure is not None:
            failures += 1
            if failures > retries:
                for place in places:
                    unknown = work.unknown(place)
                    if unknown is not None:
                        raise unknown from failure
                raise failure
            yield Backoff(failures, None)
    return trouble


class _Releases:
    verb = "release_many"
    args = ()

    def __init__(self, leases: list[Any], loops: Loops, results: list[bool]) -> None:
        self._leases = leases
        self._loops = loops
        self._results = results
        self._doubts: dict[int, int] = {}  # before the present sending, where there was any

    def sending(self, places: Sequence[int], now: float) -> list[Pair]:
        pairs, self._doubts = self._loops.release(self._leases, places)
        return pairs

    def usual(self, places: Sequence[int], replies: list[Any], sent_at: float) -> bool:
        if replies.count(1) < len(places):
            return False
        self._loops.released(self._leases, places, self._results)
        return True

    def answered(self, place: int, reply: Any, sent_at: float, now: float) -> None:
        lease = self._leases[place]
        if isinstance(reply, ServerError):
            self.unanswered(place, False)
        checked(reply, lease.key)
        self._results[place] = released(lease, reply, lease.doubt is True, now)

    def unanswered(self, place: int, sent: bool) -> None:
        unheard(self._leases[place], sent, place not in self._doubts)

    def interrupted(self, place: int) -> None:
        interrupted(self._leases[place])

    def unknown(self, place: int) -> OutcomeUnknown | None:
        lease = self._leases[place]
        return release_unknown(lease) if lease.doubt is True else None


class _Extensions:
    verb = "extend_many"

    def __init__(self, leases: list[Any], results: list[bool], ttl: int) -> None:
        self.args = (ttl,)
        self._leases = leases
        self._results = results
        self._ttl = ttl
        self._before: dict[int, float] = {}  # deadlines that no extension of ours has touched
        self._doubtful: set[int] = set()  # an extension may have been carried out unheard

    def sending(self, places: Sequence[int], now: float) -> list[Pair]:
        end = deadline(now, self._ttl)
        pairs = []
        for place in places:
            lease = self._leases[place]
            before = self._before.setdefault(place, lease.deadline)
            lease.deadline = min(before, end)
            pairs.append(lease.pair)
        return pairs

    def usual(self, places: Sequence[int], replies: list[Any], sent_at: float) -> bool:
        if not all(map(extended, replies)):
            return False
        for place in places:
            self._extended(place, sent_at)
        return True

    def _extended(self, place: int, sent_at: float) -> None:
        lease = self._leases[place]
        lease.deadline, lease.ttl = deadline(sent_at, self._ttl), self._ttl / 1000
        self._results[place] = True

    def answered(self, place: int, reply: Any, sent_at: float, now: float) -> None:
        if extended(reply):
            self._extended(place, sent_at)
            return
        lease = self._leases[place]
        if place not in self._doubtful:
            lease.deadline = self._before[place]
        checked(reply, lease.key)
        lease.over = True

    def unanswered(self, place: int, sent: bool) -> None:
        if sent:
            self._doubtful.add(place)
        elif place not in self._doubtful:
            self._leases[place].deadline = self._before[place]

    def interrupted(self, place: int) -> None:
        """The earlier deadline stands."""

    def unknown(self, place: int) -> OutcomeUnknown | None:
        return extension_unknown(self._leases[place]) if place in self._doubtful else None
