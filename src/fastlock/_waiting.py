"""Floor 1, sync: how a thread waits for a lock that somebody else holds.

Law: no lock logic; this carries ``WaitFor`` out. Whoever changes what a waiter should know does
so first and wakes it then; the waiter makes a new event first and looks then.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from . import _args, _fork
from ._clock import clock
from ._event import Event
from ._pause import LONGEST_SLEEP, retry_pause
from ._queue import Place
from ._topology import closed_error
from ._watch import MOST_VAIN, asking
from .errors import TransportError

if TYPE_CHECKING:
    from ._ops import WaitFor
    from .sync import Client


def in_line(client: Client, key: str | bytes) -> bool:
    """Whether others of this client wait for the key."""
    return _args.wire_key(key, client._prefix) in client._queue.lines


def wait_for(client: Client, effect: WaitFor) -> float:
    """Wait for our turn, then until the keys may be free; at most ``effect.until``. The time."""
    place = effect.place
    if not isinstance(place, Place):
        who = threading.get_ident()
        place = effect.place = Place(client._queue, effect.keys[0], who, effect.lined)
    until = float("inf") if effect.until is None else effect.until
    _sleep(client, place, until, for_turn=True)
    if place.told or clock() >= until or _watched(client, effect, place, until):
        pass  # it is time to try
    elif effect.tried and not place.told:
        pause = retry_pause(client.config.retry_timeout)
        if client.config.push:
            pause = min(pause, client._listener.back_in, _held_for(client, effect, until))
        _sleep(client, place, min(until, clock() + pause))
    if client._closing.is_set():
        raise closed_error()
    place.told = False
    return clock()


def _watched(client: Client, effect: WaitFor, place: Place, until: float) -> bool:
    """Wait for the server to tell of a change; False if it does not.

    But not before a try that finds out whether the key holds a lock at all: what else it holds
    may stay for ever.
    """
    if not client.config.push:
        return False
    if effect.tried and not effect.asked:
        return True
    if effect.kept:
        place.vain = MOST_VAIN  # that it is free is no reason to try
    about = client._server.ready()
    return client._listener.wait(place, effect.keys, until, about)


def _held_for(client: Client, effect: WaitFor, until: float) -> float:
    """Seconds until the lock ends by itself, as far as the server says so."""
    link = client._server.ready()
    timeout = min(client._patience, until - clock())
    if link is None or link.mute or timeout <= 0:
        return float("inf")
    try:
        replies = link.pipe.call(*asking(client._core.pack, effect.keys), timeout)
        return link.held_for(replies)
    except TransportError:  # the next try will meet it
        return float("inf")


def _sleep(client: Client, place: Place, end: float, for_turn: bool = False) -> None:
    """Until ``end``, unless it is told to try, or it is its turn before."""
    generation = _fork.generation
    while True:
        news = place.news = Event()
        place.join()
        if client._closing.is_set():
            raise closed_error()
        now = clock()
        if place.told or now >= end or (for_turn and place.first):
            return
        if generation != _fork.generation:  # forked by a handler: the driver says so
            return
        news.wait(min(end - now, LONGEST_SLEEP))
