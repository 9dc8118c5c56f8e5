"""``fastlock watch``: what it shows while locks come and go; and ``fastlock bench``."""

from __future__ import annotations

import asyncio
import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from _cli import SECRET, cli, cli_without, ended, line, signal, started, until
from _terminal import CTRL_C, terminal

import fastlock
from fastlock.cli import bench
from fastlock.cli._servers import Servers
from fastlock.cli.watch import Scene

TTL = 30


@contextmanager
def load(uri: str, keys: int = 4) -> Iterator[None]:
    """Threads that take and free locks as fast as they can."""
    over = threading.Event()

    def work(client: fastlock.Client, number: int) -> None:
        while not over.is_set():
            with client.lock(f"load:{number}", TTL):
                pass

    with fastlock.Client(uri, label="busy") as client:
        threads = [threading.Thread(target=work, args=(client, n)) for n in range(keys)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            over.set()
            for thread in threads:
                thread.join()


def last_frame(shown: str) -> str:
    """The last table that is complete: a title stands above each."""
    frames = shown.split(" held, ")
    return frames[-2] if len(frames) > 2 else "load:long"


def test_under_load_at_a_terminal(shop: Any, core: str) -> None:
    """Held ones are seen as they come and as they go, busy ones by their changes."""
    env = {"FASTLOCK_URL": shop.uri, "FASTLOCK_CORE": core}
    watch = ("watch", "load:", "--interval", "0.2")
    with (
        load(shop.uri),
        fastlock.Client(shop.uri, label="the-holder") as client,
        terminal(*watch, **env) as at,
    ):
        at.until("held, ")
        lease = client.acquire("load:long", TTL)
        token = lease.token.partition(".")[0]
        at.until("load:long")
        at.until("the-holder")
        with client.lock("elsewhere", TTL):
            for number in range(4):
                at.until(f"load:{number}")
            at.until("busy")
            assert lease.release()
            at.shown = ""
            until(lambda: at.read(1) and "load:long" not in last_frame(at.shown))
        at.type(CTRL_C)
        assert at.ended() == 0
    assert re.search(r"load:\d +\S+ .* [1-9]\d*\.\d\n", at.shown)  # changes a second
    assert "elsewhere" not in at.shown
    assert token not in at.shown


def test_told_to_end_it_gives_the_cursor_back(shop: Any) -> None:
    with terminal("watch", "--interval", "0.2", FASTLOCK_URL=shop.uri) as at:
        at.until("\x1b[?25l")
        at.process.send_signal(signal.SIGTERM)
        assert at.ended() == 143
    assert at.shown.rindex("\x1b[?25h") > at.shown.rindex("\x1b[?25l")


def test_json_line_by_line(shop: Any) -> None:
    process = started("watch", "seen:", "--json", "--interval", "0.1", FASTLOCK_URL=shop.uri)
    first = json.loads(line(process))
    assert (first["told"], first["locks"]) == (True, [])
    with fastlock.Client(shop.uri, label="the-holder") as client:
        lease = client.acquire("seen:a", TTL)

        def held() -> list[Any]:
            found: list[Any] = json.loads(line(process))["locks"]
            return found

        (seen,) = until(held)
        assert (seen["key"], seen["holder"], seen["waiters"]) == ("seen:a", "the-holder", 0)
        assert lease.release()
        until(lambda: not held())
        lease = client.acquire("seen:b", TTL)
        until(held)
        shop.admin.flushall()
        until(lambda: not held())
    process.send_signal(signal.SIGINT)
    assert ended(process).code == 0


def test_what_came_with_all_data_at_once_is_found(shop: Any, own_server: Any) -> None:
    """A replica that takes a master's data over tells of a flush, and of none of the keys."""
    shop.admin.config_set("repl-diskless-sync-delay", 0)
    own_server.admin.config_set("repl-diskless-load", "swapdb")  # it goes on answering meanwhile
    with fastlock.Client(shop.uri, label="the-holder") as client:
        lease = client.acquire("synced:a", TTL)
        words = ("watch", "synced:", "--json", "--interval", "0.2")
        process = started(*words, FASTLOCK_URL=own_server.uri)
        first = json.loads(line(process))
        assert (first["told"], first["locks"]) == (True, [])
        own_server.admin.execute_command("REPLICAOF", "127.0.0.1", shop.port)
        (seen,) = until(lambda: json.loads(line(process))["locks"])
        assert (seen["key"], seen["holder"]) == ("synced:a", "the-holder")
        assert lease.release()
    process.send_signal(signal.SIGINT)
    assert ended(process).code == 0


def test_who_waits(shop: Any) -> None:
    shop.admin.set("fair:x", "another library's", px=TTL * 1000)
    process = started("run", "fair:x", "--fair", "--", "true", FASTLOCK_URL=shop.uri)
    until(lambda: shop.admin.exists("fair:x:fastlock.queue:{fair:x}"))
    watcher = started("watch", "fair:", "--json", "--interval", "0.1", FASTLOCK_URL=shop.uri)

    def waited() -> Any:
        return [(lock["key"], lock["waiters"]) for lock in json.loads(line(watcher))["locks"]]

    # The queue is told of with the waiter's next step, for the holder is no fastlock.
    assert until(waited) == [("fair:x", 1)]
    watcher.send_signal(signal.SIGINT)
    assert ended(watcher).code == 0
    shop.admin.delete("fair:x")
    assert ended(process).code == 0


def test_once_and_without_being_told(shop: Any) -> None:
    acl = ("ACL", "SETUSER", "reader", "reset", "on", f">{SECRET}", "~*")
    rights = "+hello +getrange +pttl +zcount +zrange +time +scan".split()  # noqa: SIM905
    shop.admin.execute_command(*acl, *rights)
    url = f"redis://reader:{SECRET}@127.0.0.1:{shop.port}"
    with fastlock.Client(shop.uri, label="the-holder") as client:
        leases = client.try_acquire_many([f"once:{number}" for number in range(5)], TTL)
        ran = cli("watch", "once:", "--once", "--json", "--url", url)
        (only,) = map(json.loads, ran.lines)
        assert (only["told"], only["more"]) == (False, False)
        assert [lock["key"] for lock in only["locks"]] == [f"once:{n}" for n in range(5)]
        assert {lock["changes_per_second"] for lock in only["locks"]} == {None}
        assert {lock["held_for"] for lock in only["locks"]} == {None}  # that takes two looks
        shop.admin.execute_command(*acl, *rights, "+client|tracking", "+ping")
        (only,) = map(json.loads, cli("watch", "once:", "--once", "--json", "--url", url).lines)
        assert (only["told"], len(only["locks"])) == (True, 5)
        words = ("watch", "once:", "--once", "--limit", "3")
        ran = cli(*words, FASTLOCK_URL=shop.uri)
        assert (ran.code, ran.err) == (0, "")
        assert sum("the-holder" in shown for shown in ran.lines) == 3
        assert "there are more than 3; --limit shows more" in ran.lines
        plain = cli_without(("rich",), *words, FASTLOCK_URL=shop.uri)
        assert plain.lines[0] == ran.lines[0]
        assert plain.out.split()[:9] == ran.out.split()[:9]
        client.release_many(leases)


def test_other_strings_hide_no_lock(shop: Any) -> None:
    """--limit counts locks. What changes besides is no lock either."""
    shop.admin.mset({f"crowd:{number}": "no lock" for number in range(3000)})
    words = ("watch", "crowd:", "--json", "--limit", "2", "--interval", "0.1")
    with fastlock.Client(shop.uri, label="the-holder") as client:
        leases = client.try_acquire_many(["crowd:a", "crowd:b"], TTL)
        (seen,) = map(json.loads, cli(*words, "--once", FASTLOCK_URL=shop.uri).lines)
        assert ([lock["key"] for lock in seen["locks"]], seen["more"]) == (
            ["crowd:a", "crowd:b"],
            False,
        )
        watcher = started(*words, FASTLOCK_URL=shop.uri)

        def look() -> tuple[list[str], bool]:
            seen = json.loads(line(watcher))
            return [lock["key"] for lock in seen["locks"]], seen["more"]

        assert look() == (["crowd:a", "crowd:b"], False)
        shop.admin.mset({f"crowd:{number}": "changed" for number in range(3000)})
        third = client.acquire("crowd:c", TTL)
        until(lambda: look() == (["crowd:a", "crowd:b"], True))
        client.release_many(leases)
        until(lambda: look() == (["crowd:c"], False))  # it comes up when there is room
        assert third.release()
    watcher.send_signal(signal.SIGINT)
    assert ended(watcher).code == 0


def test_a_lock_in_steady_use_does_not_come_and_go(shop: Any) -> None:
    config = fastlock.Config(shop.uri)
    with Servers(config) as servers, fastlock.Client(config) as client:
        scene = Scene(servers, config, "steady:", 10)

        def seen() -> list[tuple[str, bool]]:
            return [(one.look.key, one.look.holder is not None) for one in scene.look()]

        lease = client.acquire("steady:a", TTL)
        assert seen() == [("steady:a", True)]
        assert lease.release()
        with client.lock("steady:a", TTL):
            pass
        assert seen() == [("steady:a", False)]
        assert seen() == []


def test_the_server_dies_and_comes_back(own_server: Any) -> None:
    watcher = started("watch", "--json", "--interval", "0.1", FASTLOCK_URL=own_server.uri)
    assert json.loads(line(watcher))["locks"] == []
    own_server.restart()
    with fastlock.Client(own_server.uri, label="the-holder") as client, client.lock("back", TTL):
        (seen,) = until(lambda: json.loads(line(watcher))["locks"])
    assert (seen["key"], seen["holder"]) == ("back", "the-holder")
    watcher.send_signal(signal.SIGINT)
    ran = ended(watcher)
    assert ran.code == 0
    (told,) = ran.err.splitlines()
    assert told.endswith("; trying again")


def test_a_lost_connection_makes_it_forget_nothing(shop: Any) -> None:
    watcher = started("watch", "long:", "--json", "--interval", "0.1", FASTLOCK_URL=shop.uri)
    with fastlock.Client(shop.uri, label="the-holder") as client, client.lock("long:a", TTL):
        until(lambda: json.loads(line(watcher))["locks"])
        time.sleep(0.5)
        (number,) = [one["id"] for one in shop.admin.client_list() if "B" in one["flags"]]
        shop.admin.client_kill_filter(_id=number)
        assert "; trying again" in watcher.stderr.readline()
        told = time.time()
        seen = until(lambda: (now := json.loads(line(watcher)))["time"] > told and now)
        (lock,) = seen["locks"]
        assert lock["held_for"] >= 0.5
    watcher.send_signal(signal.SIGINT)
    assert ended(watcher).code == 0


def test_the_server_dies_before_a_terminal(own_server: Any) -> None:
    with terminal("watch", "--interval", "0.2", FASTLOCK_URL=own_server.uri) as at:
        at.until("0 held")
        own_server.kill()
        at.until("; trying again")
        at.type(CTRL_C)
        assert at.ended() == 0


# ------------------------------------------------------------------ bench


@pytest.mark.parametrize("form", ["table", "json"])
def test_bench(shop: Any, form: str) -> None:
    words = ("bench", "--seconds", "0.5", "--threads", "2", "--tasks", "4")
    ran = cli(*words, *(["--json"] if form == "json" else []), FASTLOCK_URL=shop.uri)
    assert (ran.code, ran.err) == (0, "")
    names = [
        "round trips (PING)", "pairs, 1 thread", "pairs, 2 threads", "pairs, 2 threads, 1 key",
        "pairs, 4 tasks",
    ]  # fmt: skip
    assert shop.admin.keys("fastlock-bench:*") == []
    if form == "table":
        assert [name for name in names if f"\n{name}  " in ran.out] == names
        return
    said = json.loads(ran.out)
    assert f"{said['server']['name']} {said['server']['version']}" == shop.version
    assert [row["name"] for row in said["rows"]] == names
    for row in said["rows"]:
        assert row["count"] > 0
        assert 0 < row["ms"]["p50"] <= row["ms"]["p99"]


def test_bench_has_a_figure_however_short_its_time_is(shop: Any) -> None:
    """On a busy machine no worker may have begun when the time is over."""
    config = fastlock.Config(shop.uri)
    rows = [bench._threads("threads", config, 3, str, 0.0)]
    rows += [bench._threads("one key", config, 3, lambda _: "bench-same", 0.0)]
    rows += [asyncio.run(bench._tasks("tasks", config, 3, str, 0.0))]
    for row in rows:
        assert row.rate > 0
        assert 0 < row.milliseconds(50) <= row.milliseconds(99)


def test_bench_finds_locks_that_do_not_hold(shop: Any) -> None:
    process = started("bench", "--seconds", "4", FASTLOCK_URL=shop.uri)
    while process.poll() is None:
        for key in shop.admin.scan_iter("fastlock-bench:*", count=1000):
            shop.admin.delete(key)
    ran = ended(process)
    assert ran.code == 1
    assert "the lock was lost while held" in ran.err
