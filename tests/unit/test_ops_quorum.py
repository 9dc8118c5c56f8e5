"""What a majority of answers means, without any server: each case is a list of answers.

Law: as of test_ops.py: the operation is driven by hand, and every effect is looked at.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from fastlock._effects import Backoff, Now
from fastlock._ops_quorum import (
    QuorumClaim,
    Votes,
    acquire,
    extend,
    locked,
    release,
    rest_of,
    try_acquire,
)
from fastlock._quorum_links import patience_of
from fastlock._quorum_polls import Answer, GiveBack, Pause, Poll, majority_of
from fastlock.errors import (
    AcquireTimeout,
    ConfigError,
    LockLost,
    OutcomeUnknown,
    ServerError,
    TransportError,
)

YES, NO = b"OK", None
SILENT, UNSENT = "silent", "unsent"
OOM = ServerError("OOM command not allowed")
WRONG = ConfigError("ssl_ca_certs", "there is no such file")


def answers(*said: Any) -> list[Answer]:
    """One of each node."""
    made = []
    for node, what in enumerate(said):
        if what is SILENT:
            made.append(Answer(node, True, False))
        elif what is UNSENT:
            made.append(Answer(node, False, False, error=TransportError("refused")))
        elif isinstance(what, ConfigError):
            made.append(Answer(node, False, False, error=what))
        else:
            made.append(Answer(node, True, True, what))
    return made


class Driver:
    """Drives one operation: polls are answered in order, the clock stands where it is put."""

    def __init__(self, op: Any, *rounds: tuple[Any, ...], now: float = 0.1) -> None:
        self.op = op
        self.rounds = [list(one) for one in rounds]
        self.now = now
        self.effects: list[Any] = []

    def run(self) -> Any:
        answer: Any = None
        try:
            while True:
                effect = self.op.send(answer)
                self.effects.append(effect)
                answer = self._answer(effect)
        except StopIteration as end:
            return end.value

    def _answer(self, effect: Any) -> Any:
        if not isinstance(effect, Poll):
            assert isinstance(effect, (Now, Pause, Backoff, GiveBack))
            return self.now
        said = self.rounds.pop(0)
        polled = [a for a in answers(*said) if a.node in effect.only]
        effect.touched.update(a.node for a in polled if a.sent)
        return 0.0, polled

    def given_back(self) -> list[list[int]]:
        return [list(e.nodes) for e in self.effects if isinstance(e, GiveBack)]


def claim(nodes: int = 3, ttl: int = 1000, until: float | None = None) -> QuorumClaim[Any]:
    tokens = iter([b"token-1", b"token-2", b"token-3"])

    def make(key: Any, token: bytes, ttl: int, end: float, votes: Votes) -> Any:
        return SimpleNamespace(token=token, deadline=end, votes=votes)

    return QuorumClaim("k", ttl, until, nodes, lambda: next(tokens), make, 0)


def lease(nodes: int = 3, holders: Any = None, voted: Any = None) -> Any:
    made = SimpleNamespace(key="k", pair=(b"k", b"token"), ttl=1.0, deadline=0.988, _generation=0)
    made.doubt = made.over = made.freed = False
    holders = range(nodes) if holders is None else holders
    made.votes = Votes(nodes, holders, holders if voted is None else voted, 1000)
    return made


def test_more_than_half() -> None:
    assert [majority_of(nodes) for nodes in (3, 5, 7)] == [2, 3, 4]


# ------------------------------------------------------------------ acquire


@pytest.mark.parametrize(
    ("said", "holders"),
    [
        ((YES, YES, YES), {0, 1, 2}),
        ((YES, NO, YES), {0, 2}),
        ((YES, YES, SILENT), {0, 1, 2}),
        ((UNSENT, YES, YES), {1, 2}),
    ],
)
def test_a_majority_is_a_lease(said: tuple[Any, ...], holders: set[int]) -> None:
    driver = Driver(try_acquire(claim()), said)
    got = driver.run()
    assert got.deadline == pytest.approx(0.988)
    assert set(got.votes.open()) == holders
    assert got.votes.voted == {node for node, what in enumerate(said) if what is YES}
    assert driver.given_back() == []


@pytest.mark.parametrize(
    ("said", "given"),
    [
        ((NO, NO, NO), []),
        ((YES, NO, NO), [[0]]),
        ((YES, NO, SILENT), [[0, 2]]),
        ((NO, NO, SILENT), [[2]]),
        ((YES, NO, OOM), [[0, 2]]),
    ],
)
def test_what_gets_no_majority_is_given_back(said: tuple[Any, ...], given: Any) -> None:
    driver = Driver(try_acquire(claim()), said)
    try:
        assert driver.run() is None
    except (OutcomeUnknown, TransportError):
        assert SILENT in said or OOM in said
    assert driver.given_back() == given


def test_whoever_is_interrupted_while_giving_back_still_knows_of_it() -> None:
    wanted = claim()
    driver = Driver(try_acquire(wanted), (YES, NO, SILENT))
    answer: Any = None
    while not isinstance(effect := driver.op.send(answer), GiveBack):
        answer = driver._answer(effect)
    with pytest.raises(KeyboardInterrupt):
        driver.op.throw(KeyboardInterrupt())
    assert list(wanted.trace(0.1).nodes) == [0, 2]


@pytest.mark.parametrize(
    ("said", "error"),
    [
        ((YES, SILENT, SILENT), OutcomeUnknown),
        ((SILENT, SILENT, NO), OutcomeUnknown),
        ((YES, UNSENT, UNSENT), TransportError),
        ((YES, UNSENT, OOM), TransportError),
        ((YES, OOM, OOM), ServerError),
        ((WRONG, WRONG, YES), ConfigError),
    ],
)
def test_too_few_answers_are_an_error(said: tuple[Any, ...], error: type[Exception]) -> None:
    driver = Driver(try_acquire(claim()), said)
    with pytest.raises(error) as caught:
        driver.run()
    assert "token" not in str(caught.value)


def test_votes_that_come_too_late_are_none() -> None:
    driver = Driver(try_acquire(claim()), (YES, YES, YES), now=0.988)
    assert driver.run() is None
    assert driver.given_back() == [[0, 1, 2]]


def test_each_round_has_a_token_of_its_own() -> None:
    driver = Driver(acquire(claim()), (YES, NO, NO), (UNSENT, UNSENT, YES), (YES, YES, NO))
    assert driver.run().token == b"token-3"
    given = [effect for effect in driver.effects if isinstance(effect, GiveBack)]
    assert [(one.token, list(one.nodes)) for one in given] == [(b"token-1", [0]), (b"token-2", [2])]
    assert sum(isinstance(effect, Pause) for effect in driver.effects) == 2


def test_the_last_round_is_sent_at_the_deadline() -> None:
    with pytest.raises(AcquireTimeout):
        Driver(acquire(claim(until=0.0)), (NO, NO, YES)).run()
    with pytest.raises(TransportError):
        Driver(acquire(claim(until=0.0)), (UNSENT, UNSENT, YES)).run()
    with pytest.raises(ServerError):  # no use in waiting
        Driver(acquire(claim(until=9.0)), (OOM, OOM, YES)).run()


# ------------------------------------------------------------------ release


@pytest.mark.parametrize(
    ("rounds", "freed"),
    [
        ([(1, 1, 1)], True),
        ([(1, 1, SILENT)], True),
        ([(0, 1, 1)], True),
        ([(0, 0, 1)], False),
        ([(0, 0, SILENT)], False),
        ([(SILENT, SILENT, 1), (0, SILENT, None)], True),  # what went unheard had freed it
        ([(UNSENT, UNSENT, 1), (0, 0, None)], False),  # nothing had gone there
    ],
)
def test_what_a_release_says(rounds: list[Any], freed: bool) -> None:
    held = lease()
    driver = Driver(release(held, retries=3), *rounds)
    assert driver.run() is freed
    assert (held.over, held.freed, held.doubt) == (True, freed, False)


def test_a_release_that_nobody_heard() -> None:
    held = lease()
    driver = Driver(release(held, retries=1), (SILENT, SILENT, 1), (SILENT, UNSENT, None))
    with pytest.raises(OutcomeUnknown):
        driver.run()
    assert driver.given_back() == [[0, 1]]
    assert held.doubt
    assert not held.over
    # Once more: the background may have freed it meanwhile.
    assert Driver(release(held, retries=1), (0, 1, None)).run() is True


def test_after_the_deadline_nobody_can_know() -> None:
    held = lease()
    with pytest.raises(OutcomeUnknown):
        Driver(release(held, retries=0), (SILENT, SILENT, 0), now=0.5).run()
    with pytest.raises(OutcomeUnknown):
        Driver(release(held, retries=1), (0, 0, None), now=0.99).run()


def test_a_vote_that_never_was_is_not_counted_as_freed() -> None:
    """Node 2 was silent at the acquire: that it has nothing now says nothing of what it had."""
    rounds = [(1, 0, SILENT), (None, None, 0)]
    with pytest.raises(OutcomeUnknown):
        Driver(release(lease(voted=[0, 1]), retries=1), *rounds).run()
    assert Driver(release(lease(), retries=1), *rounds).run() is True
    assert Driver(release(lease(voted=[0, 1]), retries=1), (1, 0, 1)).run() is True


def test_a_vote_is_had_as_long_as_extensions_say_so() -> None:
    held = lease(voted=[0, 1])
    Driver(extend(held, 5000, 3, now=0.0), (0, YES, YES)).run()
    assert held.votes.voted == {1, 2}
    with pytest.raises(OutcomeUnknown):
        Driver(extend(held, 5000, 0, now=0.0), (OOM, SILENT, YES)).run()
    assert held.votes.voted == {1, 2}


def test_a_release_that_is_interrupted_is_given_back_later() -> None:
    held = lease()
    driver = Driver(release(held, retries=0), (SILENT, SILENT, 1))
    answer: Any = None
    while not isinstance(effect := driver.op.send(answer), GiveBack):
        answer = driver._answer(effect)
    with pytest.raises(KeyboardInterrupt):
        driver.op.throw(KeyboardInterrupt())  # in the middle of it: nobody knows how far
    rest = rest_of(held, 0.2)
    assert rest is not None
    assert list(rest.nodes) == [0, 1]
    held.votes.given.update(rest.nodes)
    assert rest_of(held, 0.2) is None


def test_a_release_whose_answers_nobody_waited_for_is_given_back() -> None:
    held = lease()
    op = release(held, retries=0)
    poll = op.send(None)
    assert isinstance(poll, Poll)
    poll.touched.update({0, 1, 2})
    with pytest.raises(KeyboardInterrupt):
        op.throw(KeyboardInterrupt())
    rest = rest_of(held, 0.2)
    assert rest is not None
    assert list(rest.nodes) == [0, 1, 2]


def test_what_is_left_is_given_back_for_as_long_as_it_may_last() -> None:
    held = lease()
    rest = rest_of(held, 0.9)
    assert rest is not None
    assert rest.until == pytest.approx(1.9)
    held.freed = True
    held.votes.given.clear()
    assert rest_of(held, 0.9) is None
    # A shortening that went unheard has perhaps not shortened anything.
    held = lease()
    with pytest.raises(OutcomeUnknown):
        Driver(extend(held, 200, 0, now=0.0), (SILENT, SILENT, SILENT)).run()
    driver = Driver(release(held, retries=0), (SILENT, SILENT, 1))
    with pytest.raises(OutcomeUnknown):
        driver.run()
    (given,) = [effect for effect in driver.effects if isinstance(effect, GiveBack)]
    assert given.until == pytest.approx(1.1)
    # A lengthening that went unheard has perhaps been carried out.
    held = lease()
    with pytest.raises(OutcomeUnknown):
        Driver(extend(held, 60_000, 0, now=0.0), (SILENT, SILENT, SILENT)).run()
    rest = rest_of(held, 0.1)
    assert rest is not None
    assert rest.until == pytest.approx(60.1)


def test_nodes_that_never_had_it_are_not_asked() -> None:
    driver = Driver(release(lease(holders=[0, 2]), retries=1), (1, None, 1))
    assert driver.run() is True
    assert driver.effects[0].only == [0, 2]


# ------------------------------------------------------------------ extend


def test_a_majority_extends() -> None:
    held = lease()
    Driver(extend(held, 5000, 3, now=0.0), (YES, 1, SILENT)).run()
    assert held.ttl == 5.0
    assert held.deadline == pytest.approx(4.948)


@pytest.mark.parametrize("said", [(NO, 0, YES), (NO, NO, SILENT), (0, 0, 0)])
def test_no_majority_can_extend(said: tuple[Any, ...]) -> None:
    held = lease()
    driver = Driver(extend(held, 5000, 3, now=0.0), said)
    with pytest.raises(LockLost):
        driver.run()
    assert held.over
    assert driver.given_back() == [[0, 1, 2]]


def test_an_unheard_extension_counts_with_the_earliest_deadline() -> None:
    held = lease()
    with pytest.raises(OutcomeUnknown):
        Driver(extend(held, 500, 0, now=0.0), (YES, SILENT, SILENT)).run()
    assert held.deadline == pytest.approx(0.493)
    assert not held.over
    held = lease()
    with pytest.raises(TransportError):
        Driver(extend(held, 500, 0, now=0.0), (UNSENT, UNSENT, UNSENT)).run()
    assert held.deadline == pytest.approx(0.988)  # nothing has left


def test_an_extension_that_outlasts_the_lease_has_lost_it() -> None:
    held = lease()
    with pytest.raises(LockLost):
        Driver(extend(held, 5000, 3, now=0.0), (YES, SILENT, SILENT), now=0.988).run()


def test_a_majority_that_says_so_too_late_has_not_extended_it() -> None:
    held = lease()
    with pytest.raises(LockLost):
        Driver(extend(held, 500, 3, now=0.0), (YES, YES, YES), now=0.493).run()
    assert held.over


def test_an_extension_lasts_no_longer_than_a_renewal_behind_it_may_leave() -> None:
    held = lease()
    held.votes.may_land([2], 500)
    Driver(extend(held, 5000, 3, now=0.0), (YES, YES, YES)).run()
    assert held.deadline == pytest.approx(4.948)  # the other two keep it
    held = lease()
    held.votes.may_land([1, 2], 700)
    held.votes.may_land([2], 500)
    Driver(extend(held, 5000, 3, now=0.0), (YES, YES, YES)).run()
    assert held.deadline == pytest.approx(0.691)
    assert held.ttl == 5.0
    held = lease()
    held.votes.may_land([2], 500)
    Driver(extend(held, 5000, 3, now=0.0), (SILENT, YES, YES)).run()
    assert held.deadline == pytest.approx(0.493)
    Driver(extend(held, 100, 3, now=0.0), (YES, YES, YES), now=0.01).run()
    assert held.deadline == pytest.approx(0.097)


# ------------------------------------------------------------------ how long is waited


def test_a_short_ttl_is_not_spent_on_waiting() -> None:
    held = lease()
    held.ttl = 0.4
    for ttl, op in (
        (400, try_acquire(claim(ttl=400))),
        (400, release(held, retries=0)),
        (400, extend(held, 30_000, 0, now=0.0)),  # it may end before it is lengthened
        (300, extend(held, 300, 0, now=0.0)),
        (30_000, try_acquire(claim(ttl=30_000))),
    ):
        poll: Any = op.send(None)
        assert patience_of(0.2, poll) == min(0.2, ttl / 4000)
    assert patience_of(0.2, locked("k", 3).send(None)) == 0.2
