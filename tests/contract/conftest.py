"""Both cores' Pipe, one after the other."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from _line import Line


@pytest.fixture
def line(core: str) -> Iterator[Line]:
    made = Line(core)
    yield made
    made.pipe.close()
    made.far.close()
