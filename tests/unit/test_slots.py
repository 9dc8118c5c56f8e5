"""Keys beside locks, without a server: always in the lock's slot, and no two locks share one.

Law: what a slot is, the servers say; tests/live/test_fencing_keys.py asks them.
"""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fastlock._slots import QUEUE, SLOTS, SUFFIX, companion, queue, slot, turns

#: Bytes among which braces stand in every odd position.
BRACED = st.lists(st.sampled_from([b"{", b"}", b"a", b"\x00", b"\xff"]), min_size=1, max_size=12)
KEYS = BRACED.map(b"".join) | st.binary(min_size=1, max_size=40)


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        # Of the specification, and of redis-py's own tests.
        (b"123456789", 0x31C3),
        (b"foo", 12182),
        (b"bar", 5061),
        (b"{foo}bar", 12182),
        (b"a{foo}b{bar}", 12182),
        (b"{}foo", 9500),
        (b"{foo", slot(b"x{{foo}")),
    ],
)
def test_slots_are_those_of_the_specification(key: bytes, expected: int) -> None:
    assert slot(key) == expected


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        (b"orders:42", b"orders:42:fastlock.fence:{orders:42}"),
        (b"orders:{42}", b"orders:{42}:fastlock.fence"),
        (b"{42}", b"{42}:fastlock.fence"),
        (b"orders:42}", b"orders:42}:fastlock.fence:043126"),
        (b"}{", b"}{:fastlock.fence:200102"),
        (b"{}x", b"{}x:fastlock.fence:061371"),
        (b"{", b"{:fastlock.fence:242052"),
    ],
)
def test_the_names_that_processes_of_all_versions_agree_on(key: bytes, expected: bytes) -> None:
    assert companion(key) == expected


def test_a_queue_s_name_is_made_in_the_same_way() -> None:
    assert queue(b"orders:42") == b"orders:42:fastlock.queue:{orders:42}"
    assert queue(b"orders:{42}") == b"orders:{42}:fastlock.queue"
    assert queue(b"orders:42}") == b"orders:42}:fastlock.queue:042326"


def test_what_tells_a_waiter_of_its_turn_is_named_after_the_queue() -> None:
    assert turns(b"orders:42") == b"orders:42:fastlock.queue:{orders:42}:"
    assert turns(b"orders:{42}") == b"orders:{42}:fastlock.queue:"
    assert turns(b"orders:42}") == b"fastlock.queue:{243113}:orders:42}:"


@given(KEYS, st.binary(max_size=40))
@example(b"{}x", b"a")
@example(b"{", b"}")
def test_it_shares_the_slot_of_the_lock_whatever_stands_behind(key: bytes, more: bytes) -> None:
    assert slot(turns(key) + more) == slot(key)


@given(KEYS)
@example(b"{")
@example(b"}")
@example(b"{}")
@example(b"}{")
@example(b"{}{a}")
@example(b"a{b}c}")
@example(b"k" * 65536)
def test_it_begins_with_the_lock_s_key_and_shares_its_slot(key: bytes) -> None:
    for beside, suffix in ((companion(key), SUFFIX), (queue(key), QUEUE)):
        assert beside.startswith(key + suffix)
        assert 0 <= slot(beside) == slot(key) < SLOTS


@given(KEYS, KEYS)
@example(b"a", b"{a}")
@example(b"a", b"a:fastlock.fence:{a}")
@example(b"{a}", b"{a}:fastlock.fence")
def test_no_two_locks_share_one(one: bytes, other: bytes) -> None:
    assert (companion(one) == companion(other)) == (one == other)
    assert (queue(one) == queue(other)) == (one == other)
    assert (turns(one) == turns(other)) == (one == other)
    assert queue(one) != companion(other)
