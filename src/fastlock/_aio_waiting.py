"""Floor 1, asyncio: how a task waits for a lock that somebody else holds.

Law: that of ``_waiting.py``. All who wait are tasks of one event loop; those of a loop that has
ended are forgotten by the first of another.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

from . import _fork
from ._clock import clock
from ._handover import PATIENCE, SILENCE, Offer, Verdict
from ._ops import GRACE
from ._pause import LONGEST_SLEEP, retry_pause
from ._queue import LATELY, Place
from ._topology import closed_error
from ._watch import MOST_VAIN, asking, worth
from .errors import TransportError

if TYPE_CHECKING:
    from ._effects import WaitFor
    from .aio import Client


class Bell:
    """An event of the running loop, set once and for all; one task waits for it."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._rung = self._loop.create_future()

    def set(self) -> None:
        """In the loop, or when that has ended."""
        if not self._rung.done():
            with suppress(RuntimeError):  # the loop is closed, and its tasks wait for ever
                self._rung.set_result(None)

    async def wait(self, timeout: float) -> None:
        """At most ``timeout`` seconds."""
        timer = self._loop.call_later(timeout, self.set)
        try:
            await self._rung
        finally:
            timer.cancel()


async def wait_for(client: Client, effect: WaitFor) -> float:
    """Wait for our turn, then until the keys may be free; at most ``effect.until``. The time.

    Or until the lock was handed over meanwhile, as ``effect.verdict`` tells.
    """
    place = effect.place
    if not isinstance(place, Place):
        loop = asyncio.get_running_loop()
        if client._waiting_in is not loop:
            client._queue.forget()
            client._waiting_in = loop
        place = effect.place = Place(client._queue, effect.keys[0], None, effect.lined)
    until = float("inf") if effect.until is None else effect.until
    offer = None if effect.claim is None else Offer(effect.claim)
    place.run, place.offer = None, offer
    place.beaten, place.woken = place.beaten or place.woken, False
    await _sleep(client, place, until, for_turn=True)
    over = place.told or clock() >= until or (offer is not None and offer.taken)
    over = over or await _in_patience(client, place, until)
    if not (over or await _watched(client, effect, place, until) or place.told) and effect.tried:
        pause = retry_pause(client.config.retry_timeout)
        if client.config.push and not effect.kept:
            held_for = worth(place, await _held_for(client, effect, until))
            pause = min(pause, client._listener.back_in, held_for)
        await _sleep(client, place, min(until, clock() + pause))
    if client._closed:
        raise closed_error()
    place.told = False
    if place.woken and place.lined:
        client._queue.race(place.key, clock())
    if offer is not None and not offer.close():
        effect.verdict = await _outcome(client, place, offer, until + GRACE)
    elif place.turn is not None:
        now = clock()
        await _sleep(client, place, min(until, now + place.turn.rest(now)))
        place.told = False
    return clock()


async def _in_patience(client: Client, place: Place, until: float) -> bool:
    """Wait for a lease of this client that holds the lock; whether it was told to try."""
    holder = client._queue.holder(place.key) if place.lined else None
    lease = None if holder is None else holder()
    if lease is None or place.trusted is holder:
        return False
    place.trusted = holder
    end = min(until, lease.deadline, clock() + PATIENCE)
    del lease
    await _sleep(client, place, end)
    return place.told


async def _outcome(client: Client, place: Place, offer: Offer, end: float) -> Verdict:
    """What comes of the hand-over that has begun; SILENCE after ``end``."""
    generation = _fork.generation
    while True:
        news = place.news = Bell()
        verdict = offer.verdict
        if verdict is not None:
            return verdict
        if client._closed:
            raise closed_error()
        left = end - clock()
        if generation != _fork.generation:  # the driver says so
            return SILENCE
        if left <= 0:
            return offer.give_up()
        await news.wait(min(left, LONGEST_SLEEP))


async def _watched(client: Client, effect: WaitFor, place: Place, until: float) -> bool:
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
    if effect.kept:
        place.vain = MOST_VAIN  # that it is free is no reason to try
    about = client._server.ready()
    return await client._listener.wait(place, effect.keys, until, about)


async def _held_for(client: Client, effect: WaitFor, until: float) -> float:
    """Seconds until the lock ends by itself, as far as the server says so."""
    link = client._server.serving(effect.keys)
    timeout = min(client._patience, until - clock())
    if link is None or link.mute or timeout <= 0:
        return float("inf")
    try:
        answer = link.pipe.call(*asking(client._core.pack, effect.keys))
        return link.held_for(await client._within(answer, timeout))
    except TransportError:  # the next try will meet it
        return float("inf")


async def _sleep(client: Client, place: Place, end: float, for_turn: bool = False) -> None:
    """Until ``end``, unless it is told to try, or it is its turn before."""
    generation = _fork.generation
    while True:
        news = place.news = Bell()
        place.join()
        if client._closed:
            raise closed_error()
        now = clock()
        wakes_at = min(end, now + place.patience()) if for_turn else end
        place.wakes_at = wakes_at if wakes_at < end or not for_turn else float("inf")
        if place.told or now >= end or (for_turn and place.first):
            return
        if generation != _fork.generation:  # the driver says so
            return
        await news.wait(min(wakes_at - now, LONGEST_SLEEP))
