"""Both cores' loops over many leases: the same results, and no reference too many or too few."""

from __future__ import annotations

import copy
import gc
import sys
from typing import Any

import pytest
from _harness import CORES

from fastlock import _impl, aio, sync
from fastlock._doubt import UNDER_WAY

KINDS = {"sync": sync.Lease, "asyncio": aio.Lease}
FIELDS = ("_client", "_generation", "_turn", "key", "pair", "ttl", "deadline")


class Client:
    """Whose leases they are."""


class Named:
    """Has a field of a lease's, but no slot for it."""

    _client = None


@pytest.fixture(params=KINDS.values(), ids=KINDS)
def kind(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
def loops(core: str, kind: Any) -> Any:
    return _impl.load(core).leases(kind)


def made(loops: Any, client: Any, replies: list[Any]) -> list[Any]:
    keys = [f"k{i}" for i in range(len(replies))]
    pairs = [(b"k%d" % i, b"t%d" % i) for i in range(len(replies))]
    leases: list[Any] = loops.make(client, 7, keys, pairs, replies, 30.0, 99.5)
    return leases


def test_a_lease_for_each_ok_and_none_for_each_nil(loops: Any, kind: Any) -> None:
    client = Client()
    leases = made(loops, client, [b"OK", None, b"OK"])
    assert [type(lease) for lease in leases] == [kind, type(None), kind]
    assert [getattr(leases[2], name) for name in FIELDS] == [
        client, 7, None, "k2", (b"k2", b"t2"), 30.0, 99.5,
    ]  # fmt: skip
    assert (leases[2].doubt, leases[2].over, leases[2].freed) == (False, False, False)
    assert made(loops, client, []) == []


@pytest.mark.parametrize("odd", [b"ok", b"OKAY", b"", 1, "OK", KeyError("x")])
def test_the_first_unusual_reply_ends_it(loops: Any, odd: Any) -> None:
    assert [lease and lease.key for lease in made(loops, Client(), [b"OK", None, odd, b"OK"])] == [
        "k0",
        None,
    ]


def test_as_many_keys_and_pairs_as_replies(loops: Any) -> None:
    with pytest.raises(ValueError, match="as many keys and pairs"):
        loops.make(Client(), 7, ["k"], [(b"k", b"t")], [b"OK"] * 2, 30.0, 99.5)


def test_whose_they_are(loops: Any) -> None:
    client = Client()
    leases = [None, *made(loops, client, [b"OK", b"OK"])]
    assert loops.foreign(client, 7, leases) == -1
    assert loops.foreign(client, 8, leases) == 1
    assert loops.foreign(Client(), 7, leases) == 1
    assert loops.foreign(client, 7, [*leases, "k"]) == 3
    assert loops.foreign(client, 7, []) == -1


def test_a_release_from_doubt_to_certainty(loops: Any) -> None:
    leases = [*made(loops, Client(), [b"OK"] * 4), None]
    leases[1].over = True
    leases[3].doubt = True
    places = loops.held(leases)
    assert places == [0, 2, 3]
    assert loops.release(leases, places) == ([(b"k%d" % i, b"t%d" % i) for i in places], {3: True})
    assert [lease.doubt for lease in leases[:4]] == [UNDER_WAY, False, UNDER_WAY, True]
    # The same lease twice: neither was in doubt before.
    assert loops.release([leases[1]] * 2, [0, 1]) == ([(b"k1", b"t1")] * 2, {})
    assert loops.release([leases[0]], [0]) == ([(b"k0", b"t0")], {0: UNDER_WAY})
    results = [False] * 5
    loops.released(leases, places, results)
    assert results == [True, False, True, True, False]
    assert [(lease.over, lease.freed, lease.doubt) for lease in leases[:4]] == [
        (True, True, False),
        (True, False, UNDER_WAY),
        (True, True, False),
        (True, True, False),
    ]
    assert loops.held(leases) == []


def test_references_are_kept_and_given_back(loops: Any) -> None:
    # Made here: without the GIL, CPython does not count the references to constants.
    things = (Client(), (bytes(3), bytes(5)), "".join(["a key ", "of its own"]))

    def counts() -> list[int]:
        return [sys.getrefcount(thing) for thing in things]

    before = counts()
    client, pair, key = things
    own = 1  # of this frame, for each
    leases = loops.make(client, 7, [key] * 500, [pair] * 500, [b"OK"] * 500, 30.0, 99.5)
    assert counts() == [count + own + 500 for count in before]
    places = loops.held(leases)
    loops.release(leases, places)
    loops.released(leases, places, [False] * 500)
    assert counts() == [count + own + 500 for count in before]
    assert all(gc.is_tracked(lease) for lease in leases)
    del leases
    gc.collect()
    assert counts() == [count + own for count in before]


if "cython" in CORES:  # which reads memory where a lease has its slots

    @pytest.mark.parametrize("odd", ["no lease", object(), aio.Lease, None])
    def test_what_is_no_lease_is_refused_before_it_is_touched(odd: Any) -> None:
        loops = _impl.load("cython").leases(sync.Lease)
        with pytest.raises(TypeError, match="is not of"):
            loops.release([odd], [0])
        with pytest.raises(TypeError, match="is not of"):
            loops.released([odd], [0], [False])
        if odd is not None:
            with pytest.raises(TypeError, match="is not of"):
                loops.held([odd])
        with pytest.raises(TypeError, match="is no slot"):
            _impl.load("cython").leases(Named)
        with pytest.raises(TypeError, match="cannot be pickled or copied"):
            copy.copy(loops)
