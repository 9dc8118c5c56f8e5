"""How a client keeps out of the way of others: what it makes of its races for a key."""

from __future__ import annotations

import pytest

from fastlock._rivals import (
    COURTESY,
    FIRST,
    LATELY,
    LESS,
    LONGEST,
    MEMORY,
    MOMENT,
    MORE,
    MOST,
    PART,
    TRIES,
    Race,
    Rivals,
)

KEY = b"k"
TRIP = 0.00005  # seconds that a try takes here


def wait(rivals: Rivals, now: float, losses: int, length: float) -> Race:
    """One wait that the server ended; at ``now`` it has lasted ``length`` seconds."""
    race = Race(rivals, KEY)
    race.pause(now - length)
    for number in range(losses + 1):
        race.woken = True
        race.tries(now)
        if number < losses:
            race.again(now + TRIP)
    race.won()
    return race


def rest(rivals: Rivals, now: float) -> float:
    return Race(rivals, KEY).pause(now)


def test_who_loses_no_race_never_rests() -> None:
    rivals = Rivals()
    for number in range(1, 50):
        wait(rivals, number / 100, 0, 0.008)
        assert rest(rivals, number / 100) == 0.0


def test_the_rest_is_a_share_of_the_last_waits_that_grows_with_losses() -> None:
    rivals = Rivals()
    wait(rivals, 1.0, 2, 0.016)
    assert rest(rivals, 1.0) == pytest.approx(MORE * 0.008)  # half of it: before there was none
    wait(rivals, 1.0, 1, 0.008)
    assert rest(rivals, 1.0) == pytest.approx(2 * MORE * 0.008)
    wait(rivals, 1.0, 0, 0.008)
    assert rest(rivals, 1.0) == pytest.approx((2 * MORE - LESS) * 0.008)
    for _ in range(20):
        wait(rivals, 1.0, 1, 0.008)
    assert rest(rivals, 1.0) == pytest.approx(MOST * 0.008, rel=0.01)
    for _ in range(20):
        wait(rivals, 100.0, 1, 60.0)
    assert rest(rivals, 100.0) == LONGEST
    for _ in range(20):
        wait(rivals, 100.0, 0, 0.008)
    assert rest(rivals, 100.0) == 0.0


def test_it_rests_once_and_only_while_others_were_there_of_late() -> None:
    rivals = Rivals()
    wait(rivals, 1.0, 1, 0.016)
    race = Race(rivals, KEY)
    assert race.pause(1.05) > 0
    assert race.pause(1.06) == 0.0
    assert rest(rivals, 1.0 + 1.01 * LATELY) == 0.0
    assert Race(rivals, b"another").pause(1.0) == 0.0


def test_who_rests_leaves_time_to_be_told_and_to_try() -> None:
    rivals = Rivals()
    race = Race(rivals, KEY)
    race.pause(1.0)
    for _ in range(2):
        race.woken = True
        race.tries(1.0)
        race.again(1.001)  # one try takes a millisecond
    assert rest(rivals, 1.0) == 0.0  # nothing was lost yet, as far as it knows
    race.tries(1.0001)
    race.won()
    assert rest(rivals, 1.0) == pytest.approx(FIRST * 0.001)


def test_who_never_tried_has_measured_no_try() -> None:
    """As several locks and fair ones, which race beside the lines."""
    rivals = Rivals()
    wait(rivals, 1.0, 1, 0.001)
    before = rest(rivals, 1.0)
    race = Race(rivals, KEY)
    for _ in range(3):
        race.woken = True
        race.again(17000.0)
    assert race.lost == 3
    assert rest(rivals, 1.0) == before


def test_a_lock_that_is_held_for_a_moment_is_tried_for_and_not_watched() -> None:
    rivals = Rivals()
    wait(rivals, 1.0, 1, TRIP)
    rivals.held(KEY, MOMENT * TRIP * 0.99)
    race = Race(rivals, KEY)
    for _ in range(TRIES):
        assert race.pause(1.0) == pytest.approx(PART * MOMENT * TRIP * 0.99)
        assert race.woken
        race.tries(1.0)
        race.again(1.0 + TRIP)
    assert race.pause(1.0) == 0.0  # enough: have the server tell
    assert not race.woken
    for _ in range(3):
        rivals.held(KEY, 0.001)
    race = Race(rivals, KEY)
    assert race.pause(1.0) == pytest.approx(MORE * (MOMENT * TRIP * 0.99 + 0.001) / 2, abs=0.0002)
    assert race.pause(1.0) == 0.0  # it rests, and is told then


def test_what_others_of_the_client_hand_over_is_no_race_won() -> None:
    rivals = Rivals()
    wait(rivals, 1.0, 1, 0.016)
    before = rest(rivals, 1.0)
    race = Race(rivals, KEY)
    race.pause(0.0)
    race.tries(1.0)
    race.given()
    assert race.won() == 0.0  # no try has begun its time of holding
    assert rest(rivals, 1.0) == before


def test_what_is_old_is_forgotten_as_new_things_come() -> None:
    rivals = Rivals()
    assert not rivals.known
    for number in range(3000):
        now = number * 0.001
        rivals.woke(b"%d" % number, now)
        assert rivals.about(b"%d" % number, now)
    assert len(rivals.known) <= MEMORY / 0.001 + 2
    assert not rivals.about(b"0", 3.0)
    rivals.woke(b"x", 5.0)
    assert not rivals.about(b"2999", 5.0)


def test_who_may_wait_unheard_is_let_go_first_once() -> None:
    rivals = Rivals()
    rivals.suspect(KEY, 1.0)
    race = Race(rivals, KEY)
    assert race.pause(1.001) == COURTESY
    assert race.pause(1.002) == 0.0
    race.tries(1.002)
    race.won()
    assert not rivals.known  # there was nobody
    rivals.suspect(KEY, 1.0)
    race = Race(rivals, KEY)
    race.pause(1.0)
    race.woken = True  # there was: it was refused, and told
    race.tries(1.01)
    race.won()
    assert rivals.about(KEY, 1.02)
    rivals.suspect(KEY, 1.02)
    assert rest(rivals, 1.02) == 0.0  # known already


def test_who_was_let_go_first_and_came_is_known() -> None:
    rivals = Rivals()
    rivals.suspect(KEY, 1.0)
    race = Race(rivals, KEY)
    race.pause(1.0)
    race.tries(1.001)
    race.again(1.002)  # refused, and got it when the other one's time was over
    race.tries(1.01)
    race.won()
    assert rivals.about(KEY, 1.02)
    rivals.known[KEY].when = 1.03
    race = Race(rivals, KEY)
    race.pause(1.03)
    race.tries(1.04)
    race.won()
    assert rivals.about(KEY, 1.05), "it is no guess any more"


def test_who_tries_at_a_moment_s_rate_and_meets_nobody_forgets_the_others() -> None:
    rivals = Rivals()
    wait(rivals, 1.0, 1, 0.0002)
    now = 1.0
    for _ in range(2_000):
        if not rivals.about(KEY, now):
            break
        rivals.held(KEY, 3 * TRIP)
        race = Race(rivals, KEY)
        race.tries(now + race.pause(now))
        race.won()
        now += 4 * TRIP
    assert now < 1.0 + 1.1 * LATELY


def test_who_has_it_twice_in_a_row_rests_as_who_was_too_late() -> None:
    """Nobody else can have had it, if it is free earlier than others would leave it."""
    rivals = Rivals()
    rivals.woke(KEY, 1.0)
    rivals.held(KEY, 0.01)

    def again(at: float, met: bool) -> float:
        """What it rests after a wait of a millisecond."""
        race = Race(rivals, KEY)
        race.pause(at - 0.001)
        race.met = met
        race.tries(at)
        race.won()
        return rest(rivals, at)

    assert again(1.01, met=True) == 0.0
    assert again(1.01, met=False) == pytest.approx(MORE * 0.01)
    assert again(1.01, met=False) == pytest.approx(2 * MORE * 0.01)
    assert again(1.01, met=True) == pytest.approx((2 * MORE - LESS) * 0.01)
    rivals.held(KEY, 0.0009)  # another could have had it, and left again
    assert again(1.01, met=False) < (2 * MORE - LESS) * 0.01
