"""A server for the pages' commands and blocks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import _servers
import pytest
from _shell import Shell


@pytest.fixture(scope="module")
def _page_server() -> Iterator[_servers.Server]:
    server = _servers.Server("valkey")
    yield server
    server.discard()


@pytest.fixture
def shell(_page_server: _servers.Server, tmp_path: Path) -> Shell:
    """Every test with an empty server, and a folder of its own."""
    _page_server.admin.flushall()
    return Shell(_page_server, tmp_path)
