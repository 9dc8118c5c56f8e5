"""The examples that work in the background: celery, a leader, a pool of tasks, a fenced table.

Law: real processes; each is killed, or stopped for longer than its ttl, while it holds a lock.
"""

from __future__ import annotations

import ast
import os
import signal
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from _program import program
from _running import EXAMPLES, example, holder, needs, said, until
from _servers import Server

import fastlock

pytestmark = pytest.mark.slow

ASK = """
import sys
from celery_task import synchronize
sent = [synchronize.delay(name, float(seconds)) for name, seconds in zip(*[iter(sys.argv[1:])] * 2)]
print("sent", flush=True)
for result in sent:
    print(result.get(timeout=60), flush=True)
"""


def overlap(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return bool(one["began"] < other["ended"] and other["began"] < one["ended"])


@pytest.fixture
def messages() -> Iterator[Server]:
    """A server for what celery sends, so that the one of the locks can be away."""
    server = Server("valkey")
    yield server
    server.discard()


def test_celery(own_server: Server, messages: Server) -> None:
    needs("celery_task")
    uri, broker = f"{own_server.uri}/0", f"{messages.uri}/0"
    quiet = (
        "--concurrency", "3", "--loglevel", "ERROR", "--without-gossip", "--without-mingle",
        "--without-heartbeat",
    )  # fmt: skip

    def ask(*words: str) -> Any:
        named = {"FASTLOCK_URL": uri, "BROKER_URL": broker, "PYTHONPATH": str(EXAMPLES)}
        return program("-W", "ignore", "-c", ASK, *words, **named)

    with example("celery_task", uri, *quiet, LOCK_TTL="1", BROKER_URL=broker) as worker:
        customers = ["bob", "bob", "alice", "alice", "alice"]
        with (
            fastlock.Client(own_server.uri) as client,
            example("celery_task", uri, "send", *customers, BROKER_URL=broker) as sends,
        ):
            lease = client.acquire("customer:alice", ttl=60)
            results = [ast.literal_eval(sends.said()) for _ in range(2)]  # bob's go on meanwhile
            assert lease.release() is True
            results += [ast.literal_eval(sends.said()) for _ in range(3)]
            assert sends.ended()[0] == 0
        assert [result["customer"] for result in results] == customers
        for one, other in combinations(results, 2):
            assert one["customer"] != other["customer"] or not overlap(one, other)

        with ask("carol", "0.6") as asks:
            assert asks.said() == "sent"
            killed = until(lambda: holder(own_server, "customer:carol"))
            os.kill(killed, signal.SIGKILL)
            assert 0 < own_server.admin.pttl("customer:carol") <= 1000
            assert ast.literal_eval(asks.said())["by"] != killed
            assert asks.ended()[0] == 0

        assert own_server.admin.keys("customer:*") == []
        own_server.stop()
        with ask("dave", "0") as asks:  # nobody can have a lock: it is put off
            kept = messages.admin
            until(lambda: any(b'"RETRY"' in kept.get(key) for key in kept.keys("celery-task-*")))
            own_server.start()
            assert ast.literal_eval(asks.said() and asks.said())["customer"] == "dave"
            assert asks.ended()[0] == 0
        worker.signal(signal.SIGTERM)
        assert worker.ended()[0] == 0
    assert own_server.admin.keys("customer:*") == []


def test_leader(own_server: Server) -> None:
    admin = own_server.admin
    with ExitStack() as stack:
        programs = [
            stack.enter_context(example("leader", own_server.uri, LOCK_TTL="1")) for _ in range(3)
        ]
        by_pid = {process.pid: process for process in programs}

        def next_term(*, but: int | None = None) -> tuple[Any, int]:
            """Who leads now, and the number of that term."""
            pid = until(lambda: leads if (leads := holder(own_server, "leader")) != but else None)
            return by_pid[pid], int(said(by_pid[pid], "leads")[2])

        for process in programs:
            said(process, "stands")
        first, number = next_term()
        assert said(first, "works")[2] == str(number)
        first.signal(signal.SIGKILL)
        assert 0 < admin.pttl("leader") <= 1000
        second, later = next_term(but=first.pid)
        assert later > number

        second.signal(signal.SIGSTOP)
        third, latest = next_term(but=second.pid)
        assert latest > later
        second.signal(signal.SIGCONT)
        assert said(second, "steps")[3] == f"{later}:"
        assert holder(own_server, "leader") == third.pid

        third.signal(signal.SIGTERM)
        assert third.ended()[0] == 0
        again, number = next_term(but=third.pid)
        assert (again, number > latest) == (second, True)
        admin.delete("leader")
        assert said(second, "steps")[3] == f"{number}:"
        said(second, "leads")  # it may try again

        own_server.stop()
        assert said(second, "steps")[1] == "steps"
        assert said(second, "server:")[1:4] == ["has", "no", "server:"]
        own_server.start()
        said(second, "leads")
        second.signal(signal.SIGTERM)
        assert second.ended()[0] == 0
    assert not admin.exists("leader")


def test_worker_pool_loses_no_booking(own_server: Server, tmp_path: Path) -> None:
    jobs = ["alice", "bob", "carol"] * 5
    with (
        example("worker_pool", own_server.uri, str(tmp_path), *jobs) as one,
        example("worker_pool", own_server.uri, str(tmp_path), *jobs) as other,
    ):
        for pool in (one, other):
            assert pool.ended() == (0, "15 jobs\n15 done, 0 left\n", "")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        "alice": "10", "bob": "10", "carol": "10",
    }  # fmt: skip


def test_worker_pool_ends_in_order(own_server: Server, tmp_path: Path) -> None:
    """One works, others wait for its lock, or for one that is never free, or have not begun."""
    admin, balance = own_server.admin, tmp_path / "alice"
    admin.set("customer:bob", "somebody who has it for ever")
    jobs = ["alice"] * 5 + ["bob"] * 95
    with example("worker_pool", own_server.uri, str(tmp_path), *jobs, WORK="1") as pool:
        until(lambda: admin.exists("customer:alice"))
        pool.signal(signal.SIGTERM)
        assert pool.ended() == (0, "100 jobs\n1 done, 99 left\n", "")
    assert balance.read_text() == "1"
    assert admin.keys() == [b"customer:bob"]
    assert not (tmp_path / "bob").exists()


def test_worker_pool_does_a_job_again_whose_lock_was_lost(
    own_server: Server, tmp_path: Path
) -> None:
    admin, balance = own_server.admin, tmp_path / "alice"
    balance.write_text("1")
    with (
        example("worker_pool", own_server.uri, str(tmp_path), "alice", LOCK_TTL="0.3") as pool,
        balance.open() as opened,
    ):
        until(lambda: admin.exists("customer:alice"))
        pool.signal(signal.SIGSTOP)
        with fastlock.Client(own_server.uri).lock("customer:alice"):
            balance.write_text("100")
        pool.signal(signal.SIGCONT)
        assert pool.ended()[:2] == (0, "1 jobs\n1 done, 0 left\n")
        assert opened.read() == "100"  # written beside, and put in its place as a whole
    assert balance.read_text() == "101"
    assert admin.keys() == []


def test_worker_pool_cuts_a_job_short_whose_lock_was_lost(
    own_server: Server, tmp_path: Path
) -> None:
    admin, key, named = own_server.admin, "customer:alice", {"LOCK_TTL": "0.3", "WORK": "60"}
    with example(
        "worker_pool", own_server.uri, str(tmp_path), "alice", *"bcdefgh", **named
    ) as pool:
        token = until(lambda: admin.get(key))
        admin.delete(key)
        until(lambda: admin.get(key) not in (None, token))  # begun again, not a minute later
        own_server.stop()
        code, _, complaint = pool.ended()
        assert (code, "Traceback" in complaint) == (1, False)
    assert not (tmp_path / "alice").exists()


def test_fenced_table(own_server: Server, tmp_path: Path) -> None:
    database = tmp_path / "orders.db"
    with example("fenced_table", own_server.uri, DATABASE=str(database)) as process:
        stopped = int(said(process, "has")[1])
        ours = int(said(process, "paid,")[1])
        assert said(process, "refused:")[-4:] == [str(stopped), "is", "too", "low"]
        code, table, complaint = process.ended()
    assert (code, complaint) == (0, "")
    assert ours > stopped
    assert table == f"table    [('42', 'shipped', {ours})]\n"
    db = sqlite3.connect(database)
    assert db.execute("SELECT * FROM orders").fetchall() == [("42", "shipped", ours)]
    with pytest.raises(sqlite3.IntegrityError):  # which would refuse everybody from then on
        db.execute("INSERT INTO orders VALUES ('43', 'paid', NULL)")
    db.close()
