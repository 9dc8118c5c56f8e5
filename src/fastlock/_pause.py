"""How long to pause, in seconds. Law: randomness lives here; no two waiters march in step."""

from __future__ import annotations

from random import uniform

#: Before the first new connection after a failure, and by how much each further pause grows.
FIRST_BACKOFF = 0.02
BACKOFF_FACTOR = 5
LONGEST_BACKOFF = 2.0
#: Before the second question to Sentinels for a master; it doubles up to the longest.
FIRST_SEARCH = 0.05
LONGEST_SEARCH = 0.25
#: Seconds that anybody sleeps without a look at the clock, which runs while a machine sleeps.
LONGEST_SLEEP = 60.0


def backoff_pause(failures: int) -> float:
    """Before another connection, after ``failures`` (from 1) in a row: exponential, jittered."""
    pause = FIRST_BACKOFF
    for _ in range(min(failures - 1, 8)):
        pause = min(LONGEST_BACKOFF, pause * BACKOFF_FACTOR)
    return pause * uniform(0.5, 1.0)


def search_pause(rounds: int) -> float:
    """Before Sentinels are asked again, after ``rounds`` (from 1) of asking them all."""
    doubled: float = FIRST_SEARCH * 2 ** min(rounds - 1, 8)
    return min(doubled, LONGEST_SEARCH) * uniform(0.5, 1.0)


def retry_pause(retry_timeout: float) -> float:
    """Between two tries for a lock somebody else holds: 0.8 to 1.0 of ``retry_timeout`` ms."""
    return retry_timeout / 1000 * uniform(0.8, 1.0)


def rivals_pause(retry_timeout: float) -> float:
    """Between two tries for a majority: 0.2 to 1.0 of ``retry_timeout`` ms.

    The span is wide: rivals who have split the votes must not meet again.
    """
    return retry_timeout / 1000 * uniform(0.2, 1.0)
