"""Every input that a fuzzer has found worth keeping, and what else a session has time for.

Law: the oracles are those of the fuzzer; the mutants are the same in every session.
"""

from __future__ import annotations

import random

import pytest
from _corpus import HERE, inputs
from _streams import BAD, GOOD
from _targets import MOST_BYTES, TARGETS

STREAMS = [data for data, _ in GOOD] + BAD


@pytest.mark.parametrize("name", TARGETS)
def test_the_corpus(name: str) -> None:
    found = inputs(name)
    assert len(found) > 20
    for data in found:
        TARGETS[name](data)


@pytest.mark.parametrize("name", TARGETS)
def test_mutants_of_the_corpus(name: str) -> None:
    chance = random.Random(7)
    found = inputs(name)
    for _ in range(1000):
        TARGETS[name](_mutant(chance, found))


def _mutant(chance: random.Random, found: list[bytes]) -> bytes:
    data = bytearray(chance.choice(found))
    for _ in range(chance.randrange(1, 5)):
        place = chance.randrange(len(data) + 1)
        other = chance.choice([*STREAMS, chance.choice(found), chance.randbytes(3)])
        match chance.randrange(4):
            case 0:
                data[place:place] = other
            case 1:
                del data[place : place + chance.randrange(1, 9)]
            case 2 if place < len(data):
                data[place] ^= 1 << chance.randrange(8)
            case _:
                data[place : place + len(other)] = other
    return bytes(data[:MOST_BYTES])


def test_each_target_has_its_file() -> None:
    assert {path.stem for path in (HERE / "corpus").glob("*.txt")} == set(TARGETS)
