"""The drop-in's tests run on redis-py's own Lock too: as one more core.

Law: what is true of fastlock alone asks for ``ours``, and says why in docs/redis-py.md.
"""

from __future__ import annotations

import _drop_in
import pytest
from _harness import CORES, Ways


@pytest.fixture(params=("redis-py", *CORES))
def core(request: pytest.FixtureRequest) -> str:
    """redis-py's Lock, then ours on both cores."""
    name: str = request.param
    return name


@pytest.fixture(params=[False, True], ids=["bytes", "decoded"])
def decode(request: pytest.FixtureRequest) -> bool:
    """Whether the redis-py client decodes what it reads."""
    on: bool = request.param
    return on


@pytest.fixture
def rp(fl: Ways, decode: bool) -> _drop_in.Locks:
    """Locks of the class under test."""
    return _drop_in.Locks(fl, decode)
