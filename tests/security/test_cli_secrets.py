"""The command line with a password in its environment: nobody sees it in the list of processes,
nor in what is printed.

Law: the list is ``ps``'s, read again and again while the command runs.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest
from _servers import Server
from _spying import OTHER_PASSWORD, PASSWORD, Spy

from fastlock import _impl


@pytest.fixture(scope="module")
def guarded() -> Iterator[Server]:
    server = Server("valkey")
    server.admin.execute_command("ACL", "SETUSER", "alice", "on", f">{PASSWORD}", "~*", "+@all")
    server.admin.execute_command("ACL", "SETUSER", "default", f">{OTHER_PASSWORD}")
    yield server
    server.discard()


def run(*args: str, **variables: str) -> tuple[int, Spy]:
    """Its exit code; its output, and every process's command line while it ran."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("FASTLOCK_")}
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        [sys.executable, "-m", "fastlock", *args], text=True, stdin=subprocess.DEVNULL,
        stdout=pipe, stderr=pipe, env={**kept, "FASTLOCK_CORE": _impl.core.name, **variables},
    )  # fmt: skip
    spy = Spy()
    seen = 0
    while process.poll() is None:
        listed = subprocess.run(["ps", "-ewwo", "pid,args"], capture_output=True, text=True)
        assert listed.returncode == 0
        seen += f"-m fastlock {' '.join(args)}" in listed.stdout
        spy.shown.append(listed.stdout)
        time.sleep(0.05)
    spy.shown += process.communicate(timeout=60)
    assert seen
    return process.returncode, spy


@pytest.mark.parametrize("password", [PASSWORD, OTHER_PASSWORD])
@pytest.mark.parametrize("apart", [False, True])
def test_doctor(guarded: Server, password: str, apart: bool) -> None:
    where = f"127.0.0.1:{guarded.port}"
    variables = {"FASTLOCK_URL": f"redis://alice:{password}@{where}"}
    if apart:
        variables = {"FASTLOCK_URL": f"redis://alice@{where}", "FASTLOCK_PASSWORD": password}
    code, spy = run("doctor", **variables)
    spy.look_for([password])
    assert code == (0 if password == PASSWORD else 1), spy.shown[-2:]
    assert ("WRONGPASS" in spy.shown[-2]) is (password == OTHER_PASSWORD)


@pytest.mark.parametrize("password", [PASSWORD, OTHER_PASSWORD])
def test_demo(guarded: Server, password: str) -> None:
    url = f"redis://alice:{password}@127.0.0.1:{guarded.port}"
    args = ("demo", "--env", "--seconds", "1", "--threads", "2", "--tasks", "2")
    code, spy = run(*args, FASTLOCK_URL=url)
    spy.look_for([password])
    assert code == (0 if password == PASSWORD else 69), spy.shown[-2:]
    if code == 0:
        assert "(the one of FASTLOCK_* variables)" in spy.shown[-2]


@pytest.mark.parametrize("password", [PASSWORD, OTHER_PASSWORD])
@pytest.mark.parametrize(
    "args",
    [
        ("run", "job", "--", "sleep", "0.3"),
        ("status", "job", "--json"),
        ("watch", "--once"),
        ("release", "--force", "--yes", "job"),
    ],
)
def test_the_others(guarded: Server, password: str, args: tuple[str, ...]) -> None:
    """Nor is a token shown, of the lock that they look at."""
    guarded.admin.execute_command("AUTH", "alice", PASSWORD)
    secret = "A" * 22
    if args[0] != "run":
        guarded.admin.set("job", f"{secret}-1.label", px=60_000)
    url = f"redis://alice:{password}@127.0.0.1:{guarded.port}"
    code, spy = run(*args, FASTLOCK_URL=url)
    spy.look_for([password, secret])
    assert code == (0 if password == PASSWORD else 69), spy.shown[-2:]
    assert ("WRONGPASS" in spy.shown[-1]) is (password == OTHER_PASSWORD)
    if code == 0 and args[0] != "run":
        assert "label" in spy.shown[-2]


def test_wrong_settings(guarded: Server) -> None:
    for variables in (
        {"FASTLOCK_URL": f"redis//alice:{PASSWORD}@x"}, {"FASTLOCK_PASWORD": PASSWORD},
        {"FASTLOCK_URL": f"redis://{PASSWORD}:{PASSWORD}:1@x"},
    ):  # fmt: skip
        given: Any = variables
        code, spy = run("doctor", **given)
        spy.look_for([PASSWORD])
        assert code == 1
