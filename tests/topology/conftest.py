"""Clusters of real servers, one for a module and kind of server."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import _servers
import pytest
from _cluster import ClusterServers
from _harness import SERVERS


@pytest.fixture(scope="module", params=SERVERS)
def cluster(request: pytest.FixtureRequest, met: dict[str, str]) -> Iterator[ClusterServers]:
    """Three masters and three replicas; a test that breaks it heals it."""
    kind = "valkey" if request.param == "given" else request.param
    if _servers.binary_of(kind) is None:
        pytest.skip(f"{kind}-server is not installed")
    found = ClusterServers(kind)
    met[f"{kind} cluster"] = f"{found.version} as a cluster"
    yield found
    found.discard()


@pytest.fixture
def server(cluster: ClusterServers) -> Any:
    """What ``fl`` leads to."""
    return cluster
