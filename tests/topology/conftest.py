"""Clusters and quorums of real servers, one for a module and kind of server."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import _servers
import pytest
from _cluster import ClusterServers
from _harness import SERVERS, Ways
from _quorum import Masters, masters


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


@pytest.fixture(scope="module")
def started(met: dict[str, str]) -> Iterator[Masters]:
    """Three masters that know nothing of each other; a module may have others of this name."""
    with masters(3) as found:
        met["quorum of 3"] = f"quorum of {found.versions}"
        yield found


@pytest.fixture
def nodes(fl: Ways, started: Masters) -> Masters:
    """The same, mended at the end of the test."""
    fl.clients.append(started)
    return started
