"""How often the tests for leaks do what they do."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session")
def operations(pytestconfig: pytest.Config) -> int:
    """Of all kinds together, each way: ``--leak-operations``."""
    number: int = pytestconfig.getoption("--leak-operations")
    return number
