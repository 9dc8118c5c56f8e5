"""The component on both cores. The framework is synchronous, and so are these tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from _harness import SERVERS, Ways, leftovers
from _pip import Pip


@pytest.fixture
def api() -> str:
    """The framework knows no asyncio."""
    return "sync"


@pytest.fixture
def server(request: pytest.FixtureRequest, server_of: object) -> object:
    """One kind will do: what differs between servers is the client's affair."""
    return server_of(getattr(request, "param", SERVERS[0]))  # type: ignore[operator]


@pytest.fixture
def pip(fl: Ways) -> Iterator[Pip]:
    """Makes components on this core; closes them, and sees that nothing stays behind."""
    before = leftovers()
    made = Pip(fl)
    yield made
    made.close()
    fl._check(before)
