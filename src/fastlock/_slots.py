"""Redis Cluster's slots: which key has which, and further keys that share the first one's.

Law: pure functions of bytes. The server hashes what stands between the first ``{`` and the
first ``}`` behind it, and the whole key where that is nothing or not there
(https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/#hash-tags).
"""

from __future__ import annotations

from array import array
from binascii import crc_hqx
from functools import cache

SLOTS = 16384

#: What a lock's companion key has behind the lock's own, and what its queue has.
SUFFIX = b":fastlock.fence"
QUEUE = b":fastlock.queue"


def slot(key: bytes) -> int:
    """0 to 16383, as ``CLUSTER KEYSLOT`` says it."""
    start, end = _tag(key)
    return crc_hqx(key[start:end], 0) % SLOTS


def companion(key: bytes) -> bytes:
    """The key of a lock's fencing numbers: begins with the lock's, and shares its slot.

    No two keys have the same one. ``k`` stands for the key:

        orders:{42}   k:fastlock.fence          has a hash tag, which goes on to hold
        orders:42     k:fastlock.fence:{k}      has no brace, so it can be the tag itself
        orders:42}    k:fastlock.fence:043126   else the least number in six octal digits
                                                that brings it to the slot
    """
    return _beside(key, SUFFIX)


def queue(key: bytes) -> bytes:
    """The key of those who wait for a lock; named as its companion, by ``fastlock.queue``."""
    return _beside(key, QUEUE)


def turns(key: bytes) -> bytes:
    """What the keys begin with by which those who wait for a lock are told that they are next.

    Behind it stands whose it is. Where a queue's name has digits at its end, theirs stand in front:

        orders:42}    fastlock.queue:{243113}:orders:42}:    the tag alone hashes to the slot
    """
    if _tag(key) != (0, len(key)) or not (b"{" in key or b"}" in key):
        return queue(key) + b":"
    return b"fastlock.queue:{%06o}:%b:" % (_numbers()[slot(key)], key)


def _beside(key: bytes, suffix: bytes) -> bytes:
    stem = key + suffix
    if b"{" not in key and b"}" not in key:  # the usual one
        return b"%b:{%b}" % (stem, key)
    if _tag(key) != (0, len(key)):
        return stem
    # The digits change the hash by a value of their own, whatever stands before them.
    without = crc_hqx(bytes(6), crc_hqx(stem + b":", 0))
    return b"%b:%06o" % (stem, _numbers()[(crc_hqx(key, 0) ^ without) % SLOTS])


def _tag(key: bytes) -> tuple[int, int]:
    """Where in the key it stands what is hashed."""
    start = key.find(b"{") + 1
    end = key.find(b"}", start)
    return (start, end) if 0 < start < end else (0, len(key))


@cache
def _numbers() -> array[int]:
    """For each slot the least number whose six octal digits alone hash to it."""
    numbers = array("L", [0]) * SLOTS
    for number in reversed(range(92_160)):  # these reach every slot
        numbers[crc_hqx(b"%06o" % number, 0) % SLOTS] = number
    return numbers
