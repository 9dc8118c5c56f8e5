"""What a server's first answers decide, for versions that no test starts.

Law: the answers are such as servers give; what is decided is read from the bytes to be sent.
"""

from __future__ import annotations

import re
from pathlib import Path

import _servers
import pytest

from fastlock import _commands, _impl, _replies
from fastlock.errors import ServerError

REFUSED = ServerError("NOPERM this user has no permissions to run the 'info' command")
KNOWN, UNKNOWN = [b"name", 3], None


def info(**facts: str) -> bytes:
    lines = ["# Server", *(f"{name}:{value}" for name, value in facts.items())]
    return "\r\n".join(lines).encode()


def valkey(version: str) -> bytes:
    return info(redis_version="7.2.4", server_name="valkey", valkey_version=version, run_id="a")


def redis(version: str) -> bytes:
    return info(redis_version=version, run_id="a")


NOTHING = [UNKNOWN] * 3


@pytest.mark.parametrize(
    ("said", "known", "server", "release", "extend"),
    [
        (valkey("9.0.0"), [KNOWN, UNKNOWN, UNKNOWN], "valkey 9.0.0", "DELIFEQ", "SET"),
        (valkey("8.1.0"), NOTHING, "valkey 8.1.0", "EVALSHA", "SET"),
        (valkey("8.10.0"), NOTHING, "valkey 8.10.0", "EVALSHA", "SET"),
        (valkey("8.1.0-rc2"), NOTHING, "valkey 8.1.0-rc2", "EVALSHA", "SET"),
        (valkey("8.0.9"), NOTHING, "valkey 8.0.9", "EVALSHA", "EVALSHA"),
        (valkey("7.2.11"), NOTHING, "valkey 7.2.11", "EVALSHA", "EVALSHA"),
        (redis("8.4.0"), [UNKNOWN, KNOWN, KNOWN], "redis 8.4.0", "DELEX", "SET"),
        (redis("8.2.1"), NOTHING, "redis 8.2.1", "EVALSHA", "EVALSHA"),
        (redis("6.2.14"), NOTHING, "redis 6.2.14", "EVALSHA", "EVALSHA"),
        # The user may not ask, or not be told.
        (REFUSED, [KNOWN, UNKNOWN, UNKNOWN], "unknown unknown", "DELIFEQ", "SET"),
        (REFUSED, [UNKNOWN, KNOWN, UNKNOWN], "unknown unknown", "DELEX", "SET"),
        (REFUSED, REFUSED, "unknown unknown", "EVALSHA", "EVALSHA"),
        (valkey("8.1.1"), REFUSED, "valkey 8.1.1", "EVALSHA", "SET"),
        (info(server_name="valkey"), NOTHING, "valkey unknown", "EVALSHA", "EVALSHA"),
    ],
)
def test_it_is_decided_by_what_the_server_says(
    said: object, known: object, server: str, release: str, extend: str
) -> None:
    packing = _impl.load("python")
    commands, facts = _commands.dialect(packing, [7, said, known], 3)
    assert f"{facts.name} {facts.version}" == server
    assert facts.release_command == commands.release_command == release
    assert commands.release(b"k", b"t").split(b"\r\n")[2] == release.encode()
    assert commands.extend(b"k", b"t", 5000).split(b"\r\n")[2] == extend.encode()


def test_the_documentation_s_table_is_what_tests_expect() -> None:
    text = (Path(__file__).parents[2] / "docs/servers.md").read_text()
    rows = re.findall(r"^\| ([\w. ]+) \| `.*` \| `(\w+).*` \| `(.*)` \| `(.*)` \|$", text, re.M)
    told = {
        where.lower(): (release, "IFEQ" in extend, "MSETEX" in many)
        for where, release, extend, many in rows
    }
    versions = ("valkey 9.1", "valkey 9.0", "valkey 8.1", "redis 8.4")
    expected = {
        version: (
            _servers.release_command(version),
            _servers.has_ifeq(version),
            _servers.has_msetex(version),
        )
        for version in (*versions, "anything else")
    }
    assert told == expected
    # The version before each of them is another line's.
    for before, line in [
        ("valkey 9.0.9", "valkey 9.0"),
        ("valkey 8.9.9", "valkey 8.1"),
        ("valkey 8.0.9", "anything else"),
        ("redis 8.3.9", "anything else"),
    ]:
        assert told[line] == (
            _servers.release_command(before),
            _servers.has_ifeq(before),
            _servers.has_msetex(before),
        )


@pytest.mark.parametrize(
    "said",
    [
        "READONLY You can't write against a read only replica.",
        "READONLY You can't write against a read only replica. script: 1f, on @user_script:3.",
        # Redis 6.2, of a script
        "ERR Error running script (call to f_1f): @user_script:3: -READONLY You can't write ",
        "LOADING Redis is loading the dataset in memory",
        "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
        "NOREPLICAS Not enough good replicas to write.",
    ],
)
def test_what_a_master_says_that_is_one_no_more(said: str) -> None:
    assert _replies.is_demoted(ServerError(said))


@pytest.mark.parametrize(
    "reply",
    [ServerError("ERR READONLY"), ServerError("OOM command not allowed"), b"READONLY x", None, 1],
)
def test_what_says_nothing_of_that(reply: object) -> None:
    assert not _replies.is_demoted(reply)
