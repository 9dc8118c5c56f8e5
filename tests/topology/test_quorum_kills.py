"""Servers killed in the middle of acquires: nobody ever holds a lock that somebody else holds.

The checker of tests/chaos judges. With servers that keep what they have said
(``--appendonly yes --appendfsync always``) it finds nothing; with one that comes back empty at
once it must find the double hold. ``--quorum-kills 1000`` makes the short run a long one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from _harness import Ways
from _quorum import Masters, masters, quorum
from _quorum_run import TTL, Tale, run

KEEPING = {"appendonly": "yes", "appendfsync": "always"}


@pytest.fixture(scope="module")
def started(met: dict[str, str]) -> Iterator[Masters]:
    with masters(3, **KEEPING) as found:
        met["quorum of 3, kept"] = f"quorum of {found.versions} with appendfsync always"
        yield found


@pytest.fixture(scope="module")
def forgetful() -> Iterator[Masters]:
    with masters(3) as found:
        yield found


@pytest.fixture
def server(started: Masters) -> Any:
    return started[0]


@pytest.mark.slow
async def test_servers_killed_amid_acquires_make_no_second_holder(
    fl: Ways, nodes: Masters, pytestconfig: pytest.Config
) -> None:
    kills = pytestconfig.getoption("--quorum-kills")
    tale, middle = await run(fl, nodes, kills)
    verdict = tale.verdict()
    print(f"{kills} kills, {middle} amid an acquire; {dict(tale.seen)}; {dict(verdict.checked)}")
    assert not verdict.void
    assert [str(violation) for violation in verdict.violations] == []
    assert not verdict.excused
    assert middle >= kills / 2
    assert verdict.checked["exclusion"] > kills / 2
    for key in {event["key"] for event in tale.events if event["e"] == "try"}:
        await fl.until(lambda key=key: nodes.free(key), 5 + TTL)


async def two_say_yes_and_one_restarts(fl: Ways, nodes: Masters) -> tuple[Tale, Any]:
    """``a`` has two votes of three; one of the two comes back at once, and ``b`` tries."""
    tale, key = Tale(), fl.key()
    first, second = quorum(fl, nodes.uris), quorum(fl, nodes.uris)
    nodes[2].admin.set(key, "somebody else", px=60_000)
    name, lease = await tale.take("a", first, key, 5)
    nodes[2].admin.delete(key)
    assert nodes.held(key) == [lease.token.encode(), lease.token.encode(), None]
    nodes.kill(1)
    nodes.start(1)
    other_name, other = await tale.take("b", second, key, 0.3)
    if other is not None:
        await tale.give("b", other_name, other)
    await tale.give("a", name, lease)
    return tale, other


async def test_a_server_that_forgets_makes_a_second_holder(fl: Ways, forgetful: Masters) -> None:
    """The caveat in the documentation, and the proof that the checker sees what it is for."""
    tale, other = await two_say_yes_and_one_restarts(fl, forgetful)
    assert other is not None
    verdict = tale.verdict()
    assert [violation.rule for violation in verdict.violations if violation.rule == "exclusion"]
    assert not verdict.excused


async def test_a_server_that_keeps_its_word_does_not(fl: Ways, nodes: Masters) -> None:
    tale, other = await two_say_yes_and_one_restarts(fl, nodes)
    assert other is None
    assert [str(violation) for violation in tale.verdict().violations] == []
