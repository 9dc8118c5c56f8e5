"""Both cores' loops over a batch by slots: the same results, no reference too many or too few."""

from __future__ import annotations

import copy
import gc
import random
import sys
from typing import Any

import pytest

from fastlock import _impl, _slots
from fastlock.errors import ServerError

PAIRS = [(b"orders:%d" % number, b"token %d" % number) for number in range(300)]


class Master:
    """What serves slots; equal to every other one, and yet not the same."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Master)

    __hash__ = object.__hash__


def shared(masters: list[Any]) -> list[Any]:
    return [masters[number % len(masters)] for number in range(_slots.SLOTS)]


@pytest.fixture
def divide(core: str) -> Any:
    return _impl.load(core).divide


def test_slots_are_those_of_the_servers(core: str) -> None:
    slot = _impl.load(core).slot
    chance = random.Random(5)
    keys = [bytes(chance.choices(b"ab{}:\x00\xff", k=chance.randrange(1, 20))) for _ in range(5000)]
    keys += [b"", b"{}", b"{a}", b"}{", b"a{b}c{d}", b"{" * 70_000, bytes(range(256)) * 200]
    assert [slot(key) for key in keys] == [_slots.slot(key) for key in keys]
    assert slot(b"123456789") == 0x31C3  # as the cluster's specification has it
    with pytest.raises(TypeError):
        slot("a text")


@pytest.mark.parametrize("count", [1, 2, 3, 40])
def test_each_part_has_its_own_in_order(divide: Any, count: int) -> None:
    masters = [object() for _ in range(count)]
    serving = shared(masters)
    found = divide(PAIRS, serving)
    homes = [serving[_slots.slot(key)] for key, _ in PAIRS]
    assert found.servers == list(dict.fromkeys(homes))
    for server, part, places in zip(found.servers, found.parts, found.places(), strict=True):
        assert places == [place for place, home in enumerate(homes) if home is server]
        assert part == [PAIRS[place] for place in places]


def test_answers_come_back_in_the_order_of_the_pairs(divide: Any) -> None:
    found = divide(PAIRS, shared(["one", "two", None]))
    assert None in found.servers
    answers = [[b"of %d" % place for place in places] for places in found.places()]
    assert found.merged(answers) == [b"of %d" % place for place in range(len(PAIRS))]
    assert found.merged(answers) == [b"of %d" % place for place in range(len(PAIRS))]


def test_what_is_missing_or_refused_is_nobodys_usual_answer(divide: Any) -> None:
    found = divide(PAIRS, shared(["one", "two"]))
    whole = [[b"OK"] * len(part) for part in found.parts]
    assert found.merged(whole) == [b"OK"] * len(PAIRS)
    for odd in (None, [], whole[1][:-1], [*whole[1], b"OK"]):
        assert found.merged([whole[0], odd]) is None
    for place in (0, len(whole[1]) - 1):
        refused = whole[1].copy()
        refused[place] = ServerError("MOVED 1 127.0.0.1:1")
        assert found.merged([whole[0], refused]) is None
    with pytest.raises(ValueError, match="of each server"):
        found.merged(whole[:1])


def test_of_nothing_there_is_nothing(divide: Any) -> None:
    found = divide([], shared(["one"]))
    assert (found.servers, found.parts, found.places(), found.merged([])) == ([], [], [], [])


@pytest.mark.parametrize("wrong", [[None], [()], [("a text", b"t")], [b"ab"], [(1, 2)]])
def test_what_is_no_pair_is_an_error_and_no_crash(divide: Any, wrong: list[Any]) -> None:
    with pytest.raises((TypeError, ValueError)):
        divide(wrong, shared(["one"]))


def test_a_map_of_the_wrong_size_is_an_error(divide: Any) -> None:
    with pytest.raises(ValueError, match="each slot"):
        divide(PAIRS, ["one"])
    with pytest.raises(ValueError, match="each slot"):
        divide(PAIRS, [])


def test_it_belongs_to_one_call(divide: Any) -> None:
    with pytest.raises(TypeError, match="one call"):
        copy.copy(divide(PAIRS, shared(["one"])))


def test_no_reference_is_lost_or_kept(divide: Any) -> None:
    masters = [Master(), Master()]
    serving = shared(masters)
    pairs = [(b"key %d" % number, b"token") for number in range(50)]
    reply = object()

    def counts() -> list[int]:
        gc.collect()
        return [sys.getrefcount(one) for one in (*masters, reply, *pairs)]

    before = counts()
    for _ in range(20):
        found = divide(pairs, serving)
        merged = found.merged([[reply] * len(part) for part in found.parts])
        assert merged == [reply] * 50
        refused: list[list[Any]] = [[reply] * len(part) for part in found.parts]
        refused[-1][-1] = ServerError("MOVED 1 127.0.0.1:1")
        assert found.merged(refused) is None
        with pytest.raises((TypeError, ValueError)):
            divide([*pairs, None], serving)
        del found, merged, refused
    assert counts() == before
