"""Floor 2, asking several independent servers the same: what is asked, and what was heard.

Law: that of ``_effects.py``: a value and no more. An operation yields it and is sent what came
of it:

    Poll(verb, ...)         -> (time before sending, an Answer of each node asked, in order)
    GiveBack(...)           -> now; these nodes free the token as soon as they can
    Pause(until, whose)     -> now, after a random pause between two tries
    Lacking(verb, nodes)    -> now; these nodes run a script for it from here on
    Backoff(n, until), Now  -> as in ``_effects``

Nothing is said of a node that was not heard: its answer counts for neither side.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from ._effects import Op
from ._replies import is_nonsense, is_transient, lacks_native, told, wants_spelling_out
from .errors import FastlockError, ServerError, TransportError

#: No connection is waited for longer than an answer: the lease may end meanwhile.
AT_ONCE = 0.0


class Answer(NamedTuple):
    """What came of one command to one node."""

    node: int
    sent: bool  #: whether it may have arrived
    heard: bool  #: whether ``reply`` is its answer
    reply: Any = None
    error: FastlockError | None = None  #: why it was not heard; None: it is late


class Poll:
    """Ask nodes the same, all of them before any is awaited.

    ``yes`` says which reply counts for us: a node that was late before is waited for only while
    ``majority`` of these may depend on it. ``touched`` is the caller's: each node is added before
    anything leaves for it, and taken out if surely nothing has.
    """

    __slots__ = (
        "key", "majority", "only", "rest", "spelled_out", "touched", "ttl", "until", "verb", "yes",
    )  # fmt: skip

    def __init__(
        self,
        verb: str,
        key: str | bytes,
        rest: tuple[Any, ...],
        only: Iterable[int],
        majority: int,
        yes: Callable[[Any], bool],
        until: float | None = None,
        ttl: int | None = None,
        touched: set[int] | None = None,
    ) -> None:
        self.verb = verb
        self.key = key  # as the caller wrote it: each node has a prefix of its own
        self.rest = rest  # the other arguments of the verb
        self.only = sorted(only)
        self.majority = majority
        self.yes = yes
        self.until = until  # the caller's deadline, for which a majority is connected; or AT_ONCE
        self.ttl = ttl  # ms; the lease does not last while more is waited for; None: no lease
        self.touched = set() if touched is None else touched
        self.spelled_out = False

    def decided(self, answers: Iterable[Answer], missing: int) -> bool:
        """Whether what is missing can change nothing."""
        yes = sum(answer.heard and self.yes(answer.reply) for answer in answers)
        return yes >= self.majority or yes + missing < self.majority


class GiveBack(NamedTuple):
    """Free ``token`` on these nodes, at once and then confirmed, until ``until``."""

    key: str | bytes
    token: bytes
    nodes: Sequence[int]
    until: float
    generation: int


class Pause(NamedTuple):
    """Between two tries, ``until`` at most; ``whose`` is the acquiring that waits."""

    until: float | None
    whose: object


class Lacking(NamedTuple):
    """These nodes run a script for the verb from now on."""

    verb: str
    nodes: Sequence[int]


def majority_of(nodes: int) -> int:
    """More than half."""
    return nodes // 2 + 1


def spell(replies: Sequence[Answer]) -> list[int]:
    """The nodes that want it said in other words."""
    return [a.node for a in replies if a.heard and wants_spelling_out(a.reply)]


def heard(poll: Poll) -> Op[tuple[float, list[Answer]]]:
    """The poll's answers, after spelling the verb out where a node does not know it.

    A refusal that will pass ("not now") surely has done nothing: not sent.
    """
    sent_at, answers = yield poll
    again = spell(answers) if poll.verb in ("release", "extend") else []
    if again:
        by_node = {answer.node: answer for answer in answers}
        native = [node for node in again if lacks_native(by_node[node].reply)]
        poll.only, poll.spelled_out = again, True
        _, second = yield poll
        for answer in second:
            by_node[answer.node] = answer
        able = [a.node for a in second if a.heard and not isinstance(a.reply, ServerError)]
        if downgraded := [node for node in native if node in able]:
            yield Lacking(poll.verb, downgraded)
        answers = [by_node[node] for node in sorted(by_node)]
    return sent_at, [_settled(poll.verb, answer) for answer in answers]


def _settled(verb: str, answer: Answer) -> Answer:
    if not answer.heard:
        return answer
    if is_transient(answer.reply):
        error = TransportError(f"the server is not ready: {told(answer.reply)}")
        return Answer(answer.node, False, False, error=error)
    if is_nonsense(verb, answer.reply):
        return Answer(answer.node, True, False)
    return answer


class Tally:
    """Answers to one poll, counted."""

    def __init__(self, answers: Sequence[Answer], yes: Callable[[Any], bool]) -> None:
        self.yes = 0
        self.no = 0
        self.refused = 0  # by an error of the server's
        self.silent = 0  # it may have been done
        self.unsent = 0
        self.error: FastlockError | None = None  # the first one
        self.permanent = 0  # refused, or not even connected to, for a reason that will stay
        self.refusal: FastlockError | None = None  # the first one of these
        for answer in answers:
            if not answer.heard:
                self.silent += answer.sent
                self.unsent += not answer.sent
                self.error = self.error or answer.error
                if answer.error is not None and not isinstance(answer.error, TransportError):
                    self.permanent += 1
                    self.refusal = self.refusal or answer.error
            elif isinstance(answer.reply, ServerError):
                self.refused += 1
                self.permanent += 1
                self.refusal = self.refusal or answer.reply
            elif yes(answer.reply):
                self.yes += 1
            else:
                self.no += 1

    @property
    def open(self) -> int:
        """How many may still be, or become, a yes."""
        return self.silent + self.unsent + self.refused

    def why(self) -> str:
        """For people: what was not heard, and why."""
        total = self.yes + self.no + self.open
        cause = "" if self.error is None else f" ({self.error})"
        return f"{self.silent + self.unsent} of {total} nodes gave no answer in time{cause}"
