"""Every operation times every cut point: the outcome is right or honestly unknown.

Law: a cell judges its operation by the server, not by the client: what was said to be held is
the key's value there, what was said to be freed is gone, what raised left nothing that stays.
A fault that never happened fails its cell. Totals are printed in the session's footer.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from _harness import Ways, clock, one_server
from _matrix import TOTALS, summary
from _proxy import Proxy
from _waiting import waiting

import fastlock
from fastlock import _ops

TTL = 20  # so long that expiry never does what giving back should
KEYS = 3

#: Cut point -> the proxy's fault, and whether the server has carried the command out.
CUTS: dict[str, dict[str, Any]] = {
    "before": {"name": "cut_before"},
    "before, reset": {"name": "cut_before", "rst": True},
    "after": {"name": "cut_after"},
    "after, reset": {"name": "cut_after", "rst": True},
    "reply lost": {"name": "lose_reply"},
    "reply lost, reset": {"name": "lose_reply", "rst": True},
    "reply cut at 1": {"name": "cut_reply", "size": 1},
    "reply cut at 2": {"name": "cut_reply", "size": 2},
    "reply cut at 3": {"name": "cut_reply", "size": 3},
    "half-closed": {"name": "half_close"},
    "single bytes": {"name": "split_reply"},
    "late": {"name": "delay_reply", "seconds": 0.03},
    "command stalls": {"name": "hold_command"},
    "reply stalls": {"name": "hold_reply"},
}


class Cell:
    """One operation under one fault."""

    def __init__(self, fl: Ways, client: Any, proxy: Proxy, cut: str) -> None:
        self.fl, self.client, self.proxy, self.cut = fl, client, proxy, cut
        self.key = fl.key("cut")
        self.keys = [f"{self.key}:{number}" for number in range(KEYS)]
        self.leases: list[Any] = []  # known to be held, at some time

    async def under(self, call: Callable[[], Awaitable[Any]]) -> Any:
        """What ``call`` says with the fault in its way."""
        fault = self.proxy.fault(**CUTS[self.cut])
        TOTALS["operations"] += 1
        said = await call()
        await self.fl.happened(fault)
        TOTALS["faults"] += 1
        fault.go()
        return said

    def value(self, key: str) -> Any:
        return self.fl.admin.get(key)

    def held(self, lease: Any) -> None:
        """The server says so too, and not for shorter than the lease does."""
        self.leases.append(lease)
        assert lease.valid()
        assert self.value(lease.key) == lease.token.encode()
        asked, left = clock(), lease.remaining()
        assert 0 < left <= self.fl.admin.pttl(lease.key) / 1000 + (clock() - asked) + 0.001

    def nothing_stays(self) -> None:
        """Of the locks on the server each is somebody's: a lease's, or the test's own."""
        mine = [self.key, *self.keys]
        ours = {lease.token.encode() for lease in self.leases}
        strange = set(self.fl.admin.mget(mine)) - ours - {None, b"taken", b"somebody's"}
        self.fl.admin.delete(*mine)
        assert not strange
        assert not waiting(self.fl.admin, self.key)

    def free(self, *keys: str) -> None:
        assert self.fl.admin.exists(*keys) == 0


OPERATIONS: dict[str, Callable[[Cell], Awaitable[None]]] = {}


def operation(function: Callable[[Cell], Awaitable[None]]) -> Callable[[Cell], Awaitable[None]]:
    OPERATIONS[function.__name__.replace("_", " ")] = function
    return function


def freed(cell: Cell, said: Any, *keys: str) -> None:
    """All of them, by us."""
    assert said == ([True] * len(keys) if isinstance(said, list) else True)
    cell.free(*keys)


# ------------------------------------------------------------------ acquiring


@operation
async def try_acquire(cell: Cell) -> None:
    cell.held(await cell.under(lambda: cell.client.try_acquire(cell.key, TTL)))


@operation
async def try_acquire_of_a_taken_one(cell: Cell) -> None:
    cell.fl.admin.set(cell.key, "taken", px=60_000)
    assert await cell.under(lambda: cell.client.try_acquire(cell.key, TTL)) is None
    assert cell.value(cell.key) == b"taken"


@operation
async def acquire(cell: Cell) -> None:
    cell.held(await cell.under(lambda: cell.client.acquire(cell.key, TTL, 15)))


@operation
async def acquire_that_times_out(cell: Cell) -> None:
    cell.fl.admin.set(cell.key, "taken", px=60_000)

    async def call() -> None:
        with pytest.raises(fastlock.AcquireTimeout):
            await cell.client.acquire(cell.key, TTL, 0)

    await cell.under(call)
    assert cell.value(cell.key) == b"taken"


@operation
async def try_acquire_fenced(cell: Cell) -> None:
    lease = await cell.under(lambda: cell.client.try_acquire(cell.key, TTL, fence=True))
    cell.held(lease)
    assert await lease.release() is True
    later = await cell.client.try_acquire(cell.key, TTL, fence=True)
    cell.held(later)
    assert later.fence > lease.fence


@operation
async def acquire_fenced(cell: Cell) -> None:
    lease = await cell.under(lambda: cell.client.acquire(cell.key, TTL, 15, fence=True))
    cell.held(lease)
    assert isinstance(lease.fence, int)


@operation
async def acquire_fair(cell: Cell) -> None:
    cell.held(await cell.under(lambda: cell.client.acquire(cell.key, TTL, 15, fair=True)))


@operation
async def acquire_fair_fenced(cell: Cell) -> None:
    call = lambda: cell.client.acquire(cell.key, TTL, 15, fair=True, fence=True)  # noqa: E731
    lease = await cell.under(call)
    cell.held(lease)
    assert isinstance(lease.fence, int)


@operation
async def acquire_fair_that_waits(cell: Cell) -> None:
    """The first step is struck; a later one takes what has ended by then."""
    cell.fl.admin.set(cell.key, "taken", px=1_000)
    cell.held(await cell.under(lambda: cell.client.acquire(cell.key, TTL, 15, fair=True)))


@operation
async def acquire_fair_that_times_out(cell: Cell) -> None:
    cell.fl.admin.set(cell.key, "taken", px=60_000)

    async def call() -> None:
        with pytest.raises(fastlock.AcquireTimeout):
            await cell.client.acquire(cell.key, TTL, 0, fair=True)

    await cell.under(call)
    assert cell.value(cell.key) == b"taken"


@operation
async def try_acquire_many(cell: Cell) -> None:
    cell.fl.admin.set(cell.keys[1], "taken", px=60_000)
    leases = await cell.under(lambda: cell.client.try_acquire_many(cell.keys, TTL))
    assert leases[1] is None
    assert cell.value(cell.keys[1]) == b"taken"
    cell.held(leases[0])
    cell.held(leases[2])


@operation
async def try_acquire_many_fenced(cell: Cell) -> None:
    leases = await cell.under(lambda: cell.client.try_acquire_many(cell.keys, TTL, fence=True))
    for lease in leases:
        cell.held(lease)
        assert isinstance(lease.fence, int)


@operation
async def enter_lock(cell: Cell) -> None:
    block = cell.client.lock(cell.key, TTL)
    cell.held(await cell.under(block.__aenter__))
    await block.__aexit__(None, None, None)
    cell.free(cell.key)


@operation
async def enter_lock_all(cell: Cell) -> None:
    block = cell.client.lock_all(cell.keys, TTL, 15)
    for lease in await cell.under(block.__aenter__):
        cell.held(lease)
    await block.__aexit__(None, None, None)
    cell.free(*cell.keys)


@operation
async def enter_lock_all_fenced(cell: Cell) -> None:
    block = cell.client.lock_all(cell.keys, TTL, 15, fence=True)
    for lease in await cell.under(block.__aenter__):
        cell.held(lease)
    await block.__aexit__(None, None, None)
    cell.free(*cell.keys)


# ------------------------------------------------------------------ what is held


@operation
async def release(cell: Cell) -> None:
    lease = await cell.client.acquire(cell.key, TTL)
    freed(cell, await cell.under(lease.release), cell.key)
    assert await lease.release() is False


@operation
async def release_of_a_lost_one(cell: Cell) -> None:
    """Where the answer was lost, the repetition can't tell it from our own: the key can."""
    lease = await cell.client.acquire(cell.key, TTL)
    cell.fl.admin.set(cell.key, "somebody's", px=60_000)
    await cell.under(lease.release)
    assert cell.value(cell.key) == b"somebody's"
    assert not lease.valid()


@operation
async def release_deferred(cell: Cell) -> None:
    lease = await cell.client.acquire(cell.key, TTL)

    async def call() -> None:
        assert await lease.release(wait=False) is None
        await cell.fl.until(lambda: not cell.fl.admin.exists(cell.key), 15)

    if cell.cut == "command stalls":  # nothing else waits for it, so it must go on itself
        fault = cell.proxy.fault(**CUTS[cell.cut])
        TOTALS["operations"] += 1
        assert await lease.release(wait=False) is None
        await cell.fl.happened(fault)
        TOTALS["faults"] += 1
        fault.go()
        await cell.fl.until(lambda: not cell.fl.admin.exists(cell.key), 15)
    else:
        await cell.under(call)
    assert not lease.valid()


@operation
async def release_many(cell: Cell) -> None:
    leases = await cell.client.try_acquire_many(cell.keys, TTL)
    freed(cell, await cell.under(lambda: cell.client.release_many(leases)), *cell.keys)


@operation
async def leave_lock(cell: Cell) -> None:
    block = cell.client.lock(cell.key, TTL)
    await block.__aenter__()
    await cell.under(lambda: block.__aexit__(None, None, None))
    cell.free(cell.key)


@operation
async def leave_lock_all(cell: Cell) -> None:
    block = cell.client.lock_all(cell.keys, TTL, 15)
    await block.__aenter__()
    await cell.under(lambda: block.__aexit__(None, None, None))
    cell.free(*cell.keys)


async def _hand_over(cell: Cell, **options: object) -> None:
    """The fault meets the swap, by which a release gives the lock to the next of the client."""
    lease = await cell.client.acquire(cell.key, TTL, **options)
    waiter = cell.fl.spawn(cell.client.acquire(cell.key, TTL, 15, **options))
    raw = cell.fl.raw(cell.client)

    def ready() -> bool:
        place = raw._queue.first(cell.key.encode())
        return place is not None and place.watched and place.offer is not None

    await cell.fl.until(ready)
    await cell.fl.sleep(0.02)  # what it asks the server is answered
    assert await cell.under(lease.release) is True
    taken = await waiter
    assert not lease.valid()
    assert await lease.release() is False
    cell.held(taken)
    if options:
        assert taken.fence > lease.fence


@operation
async def hand_over(cell: Cell) -> None:
    await _hand_over(cell)


@operation
async def hand_over_fenced(cell: Cell) -> None:
    await _hand_over(cell, fence=True)


@operation
async def extend(cell: Cell) -> None:
    lease = await cell.client.acquire(cell.key, TTL)
    await cell.under(lambda: lease.extend(60))
    assert lease.remaining() > 40
    cell.held(lease)


@operation
async def extend_to_less(cell: Cell) -> None:
    lease = await cell.client.acquire(cell.key, 60)
    await cell.under(lambda: lease.extend(TTL))
    assert lease.remaining() <= TTL
    cell.held(lease)


@operation
async def extend_of_a_lost_one(cell: Cell) -> None:
    lease = await cell.client.acquire(cell.key, TTL)
    cell.fl.admin.set(cell.key, "somebody's", px=60_000)

    async def call() -> None:
        with pytest.raises(fastlock.LockLost):
            await lease.extend(60)

    await cell.under(call)
    assert cell.value(cell.key) == b"somebody's"
    assert not lease.valid()


@operation
async def extend_many(cell: Cell) -> None:
    leases = await cell.client.try_acquire_many(cell.keys, TTL)
    assert await cell.under(lambda: cell.client.extend_many(leases, 60)) == [True] * KEYS
    for lease in leases:
        assert lease.remaining() > 40
        cell.held(lease)


@operation
async def adopt(cell: Cell) -> None:
    lease = await cell.client.acquire(cell.key, TTL)
    cell.held(await cell.under(lambda: cell.client.adopt(cell.key, lease.token)))


# ------------------------------------------------------------------ questions


@operation
async def locked(cell: Cell) -> None:
    cell.fl.admin.set(cell.key, "taken", px=60_000)
    assert await cell.under(lambda: cell.client.locked(cell.key)) is True
    assert await cell.client.locked(f"{cell.key}:other") is False


@operation
async def holder(cell: Cell) -> None:
    lease = await cell.client.acquire(cell.key, TTL)
    cell.held(lease)
    label = await cell.under(lambda: cell.client.holder(cell.key))
    assert lease.token.endswith(f".{label}")


@operation
async def force_release(cell: Cell) -> None:
    """Sent once: whether its answer came decides whether it can say so."""
    cell.fl.admin.set(cell.key, "taken", px=60_000)
    comes = cell.cut in ("half-closed", "single bytes", "late")

    async def call() -> None:
        if comes:
            assert await cell.client.force_release(cell.key) is True
            return
        with pytest.raises(fastlock.OutcomeUnknown) as caught:
            await cell.client.force_release(cell.key)
        assert caught.value.key == cell.key

    await cell.under(call)
    assert cell.proxy.verbs().count("GETDEL") == 1
    fault = CUTS[cell.cut]["name"]
    if fault == "cut_before":
        assert cell.value(cell.key) == b"taken"
    elif fault == "hold_command":  # it may arrive yet
        assert cell.value(cell.key) in (b"taken", None)
    elif fault == "cut_after":  # it is on its way
        await cell.fl.until(lambda: not cell.fl.admin.exists(cell.key))
    else:
        cell.free(cell.key)


# ------------------------------------------------------------------ the matrix


async def judge(fl: Ways, name: str, cut: str) -> None:
    """Run one cell; AssertionError, or what the operation should not have raised."""
    proxy = fl.proxy()
    client = await fl.warm(fl.client(proxy.uri, socket_timeout=0.4))
    cell = Cell(fl, client, proxy, cut)
    if "fenced" in name:  # so that the server knows these scripts as well
        async with client.lock(f"{cell.key}:warm", TTL, fence=True):
            pass
        async with client.lock_all([f"{cell.key}:warm"], TTL, fence=True):
            pass
    if "fair" in name:
        async with client.lock(f"{cell.key}:warm", TTL, fair=True):
            pass
    try:
        await OPERATIONS[name](cell)
    except BaseException:
        TOTALS["violations"] += 1
        print(f"violated: {name}, cut point: {cut}")
        raise
    await client.close()
    try:
        await fl.until(lambda: not proxy.open)
        cell.nothing_stays()
    except AssertionError:
        TOTALS["leaks"] += 1
        print(f"leaked: {name}, cut point: {cut}")
        raise


@one_server
@pytest.mark.parametrize("name", OPERATIONS)
async def test_every_cut_point(fl: Ways, name: str) -> None:
    for cut in CUTS:
        await judge(fl, name, cut)


# ------------------------------------------------------------------ the judge is judged


def repeats_plainly(patch: pytest.MonkeyPatch) -> None:
    """A repetition does not ask whose the lock is: its own looks like somebody else's."""
    patch.setattr(_ops.Claim, "asking", _ops.Claim.plain[0])


def counts_from_the_reply(patch: pytest.MonkeyPatch) -> None:
    """A repetition is taken for the first try: its deadline begins too late."""
    true = _ops.recognised

    def wrong(claim: Any, index: int, reply: Any, first: Any, until: Any) -> Any:
        return true(claim, index, reply, clock() + 1, until)

    patch.setattr(_ops, "recognised", wrong)


def believes_refusals(patch: pytest.MonkeyPatch) -> None:
    """A release that finds the lock gone after a lost answer says that it was not ours."""
    true = _ops.released
    patch.setattr(_ops, "released", lambda lease, reply, doubt, now: true(lease, reply, False, now))


@one_server
@pytest.mark.parametrize(
    ("variant", "name", "cut"),
    [
        (repeats_plainly, "try acquire", "reply lost"),
        (repeats_plainly, "try acquire many", "after"),
        (counts_from_the_reply, "acquire", "reply stalls"),
        (believes_refusals, "release", "reply lost"),
        (believes_refusals, "hand over", "reply lost"),
    ],
)
async def test_a_wrong_variant_is_caught(
    fl: Ways, monkeypatch: pytest.MonkeyPatch, variant: Any, name: str, cut: str
) -> None:
    counted = TOTALS.copy()
    variant(monkeypatch)
    try:
        with pytest.raises((AssertionError, AttributeError, fastlock.FastlockError)):
            await judge(fl, name, cut)
    finally:
        monkeypatch.undo()
        caught = TOTALS.copy()
        TOTALS.clear()
        TOTALS.update(counted)
        fl.admin.delete(*(fl.admin.keys(f"{fl._name}*") or [fl.key()]))
    assert caught["violations"] + caught["leaks"] > counted["violations"] + counted["leaks"]


def test_the_totals_say_what_was_wrong() -> None:
    """The line of the footer, of a session in which one cell failed."""
    counted = type(TOTALS)(operations=40, faults=39, violations=1)
    assert summary(counted) == "40 operations under 39 faults, 1 violations, 0 leaks"
    assert summary(type(TOTALS)()) == ""
