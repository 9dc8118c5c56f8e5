"""Floor 1, sync: how a thread waits for a lock that somebody else holds.

Law: no lock logic; this carries ``WaitFor`` out. Whoever changes what a waiter should know does
so first and wakes it then; the waiter makes a new event first and looks then.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from . import _fork
from ._clock import clock
from ._event import Event
from ._handover import PATIENCE, SILENCE, Offer, Verdict
from ._ops import GRACE
from ._pause import LONGEST_SLEEP, retry_pause
from ._queue import Place
from ._rivals import LATELY
from ._topology import closed_error
from ._watch import asking, worth
from .errors import TransportError

if TYPE_CHECKING:
    from ._effects import WaitFor
    from ._sync_driver import Driver


def wait_for(client: Driver, effect: WaitFor) -> float:
    """Wait for our turn, then until the keys may be free; at most ``effect.until``. The time.

    Or until the lock was handed over meanwhile, as ``effect.verdict`` tells.
    """
    place = effect.place
    if not isinstance(place, Place):
        who = threading.get_ident()
        place = effect.place = Place(client._queue, effect.keys[0], who, effect.lined)
    until = float("inf") if effect.until is None else effect.until
    offer = None if effect.claim is None else Offer(effect.claim)
    place.run, place.offer = None, offer
    if effect.tried:
        place.race.again(clock())
    if not place.heads:
        _sleep(client, place, until, for_turn=True)
    over = place.told or clock() >= until or (offer is not None and offer.taken)
    over = over or _in_patience(client, place, until)
    over = over or _out_of_the_way(client, place, until)
    if not (over or _watched(client, effect, place, until) or place.told) and effect.tried:
        pause = retry_pause(client.config.retry_timeout)
        if client.config.push:
            held_for = worth(place, _held_for(client, effect, until))
            pause = min(pause, client._listener.back_in, held_for)
        _sleep(client, place, min(until, clock() + pause))
    if client._closing.is_set():
        raise closed_error()
    place.told = False
    if offer is not None and not offer.close():
        end = max(until, clock()) + GRACE
        effect.verdict = offer.verdict or _outcome(client, place, offer, end)
        return clock()
    if place.turn is not None:
        now = clock()
        _sleep(client, place, min(until, now + place.turn.rest(now)))
        place.told = False
    now = clock()
    if place.lined:
        place.race.tries(now)
    return now


def _in_patience(client: Driver, place: Place, until: float) -> bool:
    """Wait for a lease of this client that holds the lock; whether it was told to try."""
    holder = client._queue.holder(place.key) if place.lined else None
    lease = None if holder is None else holder()
    if lease is None or place.trusted is holder:
        return False
    place.trusted = holder
    end = min(until, lease.deadline, clock() + PATIENCE)
    del lease
    _sleep(client, place, end)
    return place.told


def _out_of_the_way(client: Driver, place: Place, until: float) -> bool:
    """Let other clients go first; whether it is time to try then."""
    now = clock()
    pause = place.race.pause(now) if place.lined else 0.0
    if not pause:
        return False
    _sleep(client, place, min(until, now + pause))
    return True


def _outcome(client: Driver, place: Place, offer: Offer, end: float) -> Verdict:
    """What comes of the hand-over that has begun; SILENCE after ``end``."""
    generation = _fork.generation
    while True:
        verdict = offer.verdict
        if verdict is not None:
            return verdict
        news = place.news = Event()
        verdict = offer.verdict
        if verdict is not None:
            return verdict
        if client._closing.is_set():
            raise closed_error()
        left = end - clock()
        if generation != _fork.generation:  # forked by a handler: the driver says so
            return SILENCE
        if left <= 0:
            return offer.give_up()
        news.wait(min(left, LONGEST_SLEEP))


def _watched(client: Driver, effect: WaitFor, place: Place, until: float) -> bool:
    """Wait for the server to tell of a change; False if it does not.

    Not for long before a try that finds out whether the key holds a lock at all: what else it
    holds may stay for ever.
    """
    if not client.config.push:
        return False
    if not effect.asked:
        if effect.tried:
            return True
        until = min(until, clock() + LATELY)
    about = client._server.ready()
    return client._listener.wait(place, effect.keys, until, about, effect.turn)


def _held_for(client: Driver, effect: WaitFor, until: float) -> float:
    """Seconds until the lock ends by itself, as far as the server says so."""
    link = client._server.serving(effect.keys)
    timeout = min(client._patience, until - clock())
    if link is None or link.mute or timeout <= 0:
        return float("inf")
    keys = effect.keys if effect.turn is None else (effect.turn,)
    try:
        replies = link.pipe.call(*asking(client._core.pack, keys), timeout)
        return link.held_for(replies)
    except TransportError:  # the next try will meet it
        return float("inf")


def _sleep(client: Driver, place: Place, end: float, for_turn: bool = False) -> None:
    """Until ``end``, unless it is told to try, or it is its turn before."""
    generation = _fork.generation
    while True:
        news = place.news = Event()
        place.join()
        if client._closing.is_set():
            raise closed_error()
        now = clock()
        wakes_at = min(end, now + place.patience()) if for_turn else end
        place.wakes_at = wakes_at if wakes_at < end or not for_turn else float("inf")
        if place.told or now >= end or (for_turn and place.first):
            return
        if generation != _fork.generation:  # forked by a handler: the driver says so
            return
        news.wait(min(wakes_at - now, LONGEST_SLEEP))
        if place.told or (not for_turn and clock() >= end):
            return
