"""Floor 1, asyncio: how a task waits for a lock that somebody else holds.

Law: that of ``_waiting.py``. All who wait are tasks of one event loop; those of a loop that has
ended are forgotten by the first of another.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from . import _fork
from ._aiopipe import within
from ._clock import clock
from ._handover import PATIENCE, SILENCE, Offer, Verdict
from ._ops import GRACE
from ._pause import LONGEST_SLEEP, retry_pause
from ._queue import Place
from ._rivals import LATELY
from ._topology import closed_error
from ._watch import asking, worth
from .errors import TransportError

if TYPE_CHECKING:
    from ._aio_driver import Driver
    from ._effects import WaitFor


#: So many bells at most share a timer: to look through more costs more than a timer each.
MOST_BELLS = 64


class Alarm:
    """Rings bells of a loop whose time has come: one timer for all, since most are rung before."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._due: dict[Bell, float] = {}  # by the loop's clock
        self._timer: Any = None
        self._at = 0.0  # when it ends

    @property
    def full(self) -> bool:
        """Whether the next bell had better have a timer of its own."""
        return len(self._due) >= MOST_BELLS

    def add(self, bell: Bell, seconds: float) -> None:
        """Ring it then."""
        self._due[bell] = at = self.loop.time() + seconds
        if self._timer is None or at < self._at:
            self._wait(at)

    def remove(self, bell: Bell) -> None:
        """It needs no ringing any more."""
        self._due.pop(bell, None)
        if not self._due and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _wait(self, at: float) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()
        self._at = at
        self._timer = self.loop.call_at(at, self._ring)

    def _ring(self) -> None:
        now = max(self.loop.time(), self._at)  # the clock of some loops ticks in milliseconds
        self._timer = None
        try:
            for bell in [bell for bell, at in self._due.items() if at <= now]:
                del self._due[bell]
                bell.set()
        finally:
            if self._due:
                self._wait(min(self._due.values()))


class Bell:
    """An event of a loop, set once and for all; one task waits for it."""

    __slots__ = ("_alarm", "_rung")

    def __init__(self, alarm: Alarm) -> None:
        self._alarm = alarm
        self._rung = alarm.loop.create_future()

    def set(self) -> None:
        """In the loop, or when that has ended."""
        if not (self._rung.done() or self._alarm.loop.is_closed()):  # then its tasks wait for ever
            self._rung.set_result(None)

    async def wait(self, timeout: float) -> None:
        """At most ``timeout`` seconds."""
        alarm = self._alarm
        if alarm.full:
            timer = alarm.loop.call_later(timeout, self.set)
            try:
                await self._rung
            finally:
                timer.cancel()
            return
        alarm.add(self, timeout)
        try:
            await self._rung
        finally:
            alarm.remove(self)


class Bells:
    """Makes a client's bells, for the loop in which it waits now."""

    def __init__(self) -> None:
        self._alarm: Alarm | None = None

    def are_of(self, loop: asyncio.AbstractEventLoop) -> bool:
        """Whether they are made for that loop."""
        return self._alarm is not None and self._alarm.loop is loop

    def move(self, loop: asyncio.AbstractEventLoop) -> bool:
        """Make them for this loop from now on; whether they were another one's."""
        before, self._alarm = self._alarm, Alarm(loop)
        return before is not None

    def new(self) -> Bell:
        """One more, after the first ``move``."""
        assert self._alarm is not None
        return Bell(self._alarm)


async def wait_for(client: Driver, effect: WaitFor) -> float:
    """Wait for our turn, then until the keys may be free; at most ``effect.until``. The time.

    Or until the lock was handed over meanwhile, as ``effect.verdict`` tells.
    """
    place = effect.place
    if not isinstance(place, Place):
        loop = asyncio.get_running_loop()
        if not client._bells.are_of(loop) and client._bells.move(loop):
            client._queue.forget()
        place = effect.place = Place(client._queue, effect.keys[0], None, effect.lined)
    until = float("inf") if effect.until is None else effect.until
    offer = None if effect.claim is None else Offer(effect.claim)
    place.run, place.offer = None, offer
    if effect.tried:
        place.race.again(clock())
    if not place.heads:
        await _sleep(client, place, until, for_turn=True)
    over = place.told or clock() >= until or (offer is not None and offer.taken)
    over = over or await _in_patience(client, place, until)
    over = over or await _out_of_the_way(client, place, until)
    if not (over or await _watched(client, effect, place, until) or place.told) and effect.tried:
        pause = retry_pause(client.config.retry_timeout)
        if client.config.push:
            held_for = worth(place, await _held_for(client, effect, until))
            pause = min(pause, client._listener.back_in, held_for)
        await _sleep(client, place, min(until, clock() + pause))
    if client._closed:
        raise closed_error()
    place.told = False
    if offer is not None and not offer.close():
        end = max(until, clock()) + GRACE
        effect.verdict = offer.verdict or await _outcome(client, place, offer, end)
        return clock()
    if place.turn is not None:
        now = clock()
        await _sleep(client, place, min(until, now + place.turn.rest(now)))
        place.told = False
    now = clock()
    if place.lined:
        place.race.tries(now)
    return now


async def _in_patience(client: Driver, place: Place, until: float) -> bool:
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


async def _out_of_the_way(client: Driver, place: Place, until: float) -> bool:
    """Let other clients go first; whether it is time to try then."""
    now = clock()
    pause = place.race.pause(now) if place.lined else 0.0
    if not pause:
        return False
    await _sleep(client, place, min(until, now + pause))
    return True


async def _outcome(client: Driver, place: Place, offer: Offer, end: float) -> Verdict:
    """What comes of the hand-over that has begun; SILENCE after ``end``."""
    generation = _fork.generation
    while True:
        verdict = offer.verdict
        if verdict is not None:
            return verdict
        news = place.news = client._bells.new()
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


async def _watched(client: Driver, effect: WaitFor, place: Place, until: float) -> bool:
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
    return await client._listener.wait(place, effect.keys, until, about, effect.turn)


async def _held_for(client: Driver, effect: WaitFor, until: float) -> float:
    """Seconds until the lock ends by itself, as far as the server says so."""
    link = client._server.serving(effect.keys)
    timeout = min(client._patience, until - clock())
    if link is None or link.mute or timeout <= 0:
        return float("inf")
    keys = effect.keys if effect.turn is None else (effect.turn,)
    try:
        answer = link.pipe.call(*asking(client._core.pack, keys))
        return link.held_for(await within(answer, timeout))
    except TransportError:  # the next try will meet it
        return float("inf")


async def _sleep(client: Driver, place: Place, end: float, for_turn: bool = False) -> None:
    """Until ``end``, unless it is told to try, or it is its turn before."""
    generation = _fork.generation
    while True:
        news = place.news = client._bells.new()
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
        if place.told or (not for_turn and clock() >= end):
            return
