"""``fastlock run``: who runs when, what comes out, what is known of the lock."""

from __future__ import annotations

import json
import stat
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from _cli import (
    SECRET,
    children,
    cli,
    complaint,
    ended,
    here,
    line,
    running,
    signal,
    started,
    until,
)

#: Says that it runs, and does until it is told to end.
WAITS = ("sh", "-c", "echo runs; exec sleep 60")


def free(server: Any, key: str) -> bool:
    return server.admin.exists(key) == 0


# ------------------------------------------------------------------ one after the other


@pytest.mark.smoke
def test_the_second_waits_and_then_runs(shop: Any, core: str, tmp_path: Path) -> None:
    log = tmp_path / "log"
    work = f"echo in >> {log}; sleep 0.4; echo out >> {log}"
    env = {"FASTLOCK_URL": shop.uri, "FASTLOCK_CORE": core}
    both = [started("run", f"turns-{core}", "--", "sh", "-c", work, **env) for _ in range(2)]
    assert [tuple(ended(process)) for process in both] == [(0, "", "")] * 2
    assert log.read_text().split() == ["in", "out"] * 2
    assert free(shop, f"turns-{core}")


def test_fair_ones_run_in_the_order_in_which_they_came(shop: Any, tmp_path: Path) -> None:
    log = tmp_path / "log"
    shop.admin.set("fair", "x", px=30_000)
    queue = "fair:fastlock.queue:{fair}"
    waiting: list[Any] = []
    for number in range(3):
        work = ("sh", "-c", f"echo {number} >> {log}")
        waiting.append(started("run", "fair", "--fair", "--", *work, FASTLOCK_URL=shop.uri))
        until(lambda: shop.admin.zcount(queue, 1, "+inf") == len(waiting))
    shop.admin.delete("fair")
    assert [ended(process).code for process in waiting] == [0, 0, 0]
    assert log.read_text().split() == ["0", "1", "2"]


def test_the_lock_is_kept_for_as_long_as_the_command_runs(shop: Any, core: str) -> None:
    key = f"kept-{core}"
    process = started(
        "run", key, "--ttl", "2", "--", "sleep", "3", FASTLOCK_URL=shop.uri, FASTLOCK_CORE=core
    )
    until(lambda: not free(shop, key))
    token, seen = shop.admin.get(key), 0
    while process.poll() is None:
        now = shop.admin.get(key)
        assert now == token or process.wait(5) == 0
        seen += 1
        time.sleep(0.02)
    assert seen > 10
    assert tuple(ended(process)) == (0, "", "")
    assert free(shop, key)


def test_killed_by_force_it_is_free_after_its_ttl(shop: Any) -> None:
    first = started("run", "forced", "--ttl", "3", "--", *WAITS, FASTLOCK_URL=shop.uri)
    assert line(first) == "runs"
    child = children(first)
    first.kill()
    first.wait(10)
    assert not free(shop, "forced")
    began = time.monotonic()
    second = cli("run", "forced", "--", "true", FASTLOCK_URL=shop.uri)
    assert tuple(second) == (0, "", "")
    assert time.monotonic() - began < 20
    if sys.platform == "linux":  # elsewhere a command outlives it
        until(lambda: not running(child))


# ------------------------------------------------------------------ exit codes


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("true",), 0),
        (("sh", "-c", "exit 7"), 7),
        (("sh", "-c", "exit 255"), 255),
        (("sh", "-c", "kill -KILL $$"), 137),
    ],
)
def test_the_commands_code_comes_through(shop: Any, words: tuple[str, ...], code: int) -> None:
    ran = cli("run", "codes", "--", *words, FASTLOCK_URL=shop.uri)
    assert tuple(ran) == (code, "", "")
    assert free(shop, "codes")


def test_over_tls_and_a_unix_socket(
    shop: Any, tls_server: Any, certificates: Any, core: str
) -> None:
    for uri in (shop.unix_uri, f"{tls_server.uri}?ssl_ca_certs={certificates.ca}"):
        words = ("run", "ways", "--ttl", "2", "--url", uri, "--", "sh", "-c", "sleep 2.2; exit 3")
        assert tuple(cli(*words, FASTLOCK_CORE=core)) == (3, "", "")


@pytest.mark.parametrize("timeout", ["0", "0.3"])
def test_a_key_that_holds_no_lock(shop: Any, timeout: str) -> None:
    shop.admin.rpush("a-list", "x")
    ran = cli("run", "a-list", "--timeout", timeout, "--", "true", FASTLOCK_URL=shop.uri)
    assert ran.code == 69
    assert "WRONGTYPE" in complaint(ran)
    assert complaint(ran).endswith("; try: name another key")


def test_not_to_be_had_in_time(shop: Any) -> None:
    shop.admin.set("taken", "another library's", px=30_000)
    run = ("run", "taken", "--", "echo", "ran")
    ran = cli(*run[:2], "--timeout", "0", *run[2:], FASTLOCK_URL=shop.uri)
    assert ran.code == 75
    assert "'taken' is held by unknown" in complaint(ran)
    assert "try: " in complaint(ran)
    began = time.monotonic()
    ran = cli(*run[:2], "--timeout", "0.5", "-E", "1", *run[2:], FASTLOCK_URL=shop.uri)
    assert ran.code == 1
    assert time.monotonic() - began >= 0.5
    assert shop.admin.get("taken") == b"another library's"


def test_there_is_no_such_command(shop: Any, nobody: str, tmp_path: Path) -> None:
    """Nor is the lock asked for."""
    for words in (("no-such-command",), (str(tmp_path / "none"), "--help"), ("",)):
        ran = cli("run", "none", "--", *words, FASTLOCK_URL=nobody)
        assert ran.code == 127
        assert complaint(ran) == f"fastlock: {words[0] or repr('')}: command not found"
    script = tmp_path / "script"
    script.write_text("#!/no/such/interpreter\n")
    script.chmod(0o755)
    assert cli("run", "none", "--", str(script), FASTLOCK_URL=shop.uri).code == 127
    assert free(shop, "none")


def test_it_cannot_be_executed(shop: Any, nobody: str, tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_bytes(b"\x00no program")
    ran = cli("run", "data", "--", str(program), FASTLOCK_URL=nobody)
    assert (ran.code, complaint(ran)) == (126, f"fastlock: {program}: cannot be executed")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    ran = cli("run", "data", "--", str(program), FASTLOCK_URL=shop.uri)
    assert ran.code == 126
    assert complaint(ran) == f"fastlock: {program}: cannot be executed: Exec format error"
    assert free(shop, "data")


def test_the_server_is_in_trouble(shop: Any, nobody: str, babbler: str) -> None:
    shop.admin.execute_command("ACL", "SETUSER", "kim", "on", ">another", "~*", "+@all")
    wrong = f"redis://kim:{SECRET}@127.0.0.1:{shop.port}"
    for uri, said in ((nobody, "refused"), (babbler, "not as a Redis"), (wrong, "WRONGPASS")):
        ran = cli("run", "job", "--url", uri, "--", "echo", "ran")
        assert ran.code == 69
        assert said in complaint(ran)
        assert "try: " in complaint(ran)
    for uri, do in (
        (f"redis+cluster://127.0.0.1:{shop.port}", "write redis:// instead of redis+cluster://"),
        (f"redis://127.0.0.1:{shop.port}/4096", "name another database"),
    ):
        ran = cli("run", "job", "--url", uri, "--", "echo", "ran")
        assert ran.code == 69
        assert f"; try: {do}" in complaint(ran)
    shop.admin.rpush("a-list", "x")
    ran = cli("run", "a-list", "--", "echo", "ran", FASTLOCK_URL=shop.uri)
    assert (ran.code, "WRONGTYPE" in complaint(ran)) == (69, True)


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ((), "Missing argument 'KEY'"),
        (("job",), "there is no command"),
        (("job", "--"), "there is no command"),
        (("job", "--max-hold", "9", "--no-auto-renew", "--", "true"), "--max-hold bounds"),
        (("job", "--ttl", "soon", "--", "true"), "'soon' is not a valid float"),
        (("job", "--on-lost", "cry", "--", "true"), "is not one of"),
        (("job", "ls", "-la"), "-l'; options of the command stand behind --: fastlock run KEY"),
        (("job", "--tt", "3", "--", "true"), "'--tt' (perhaps --timeout or --ttl); options of the"),
        (("job", "--ttl"), "requires an argument; see fastlock run --help"),
        (("job", "--grace", "nan", "--", "true"), "must be a number from 0"),
        (("job", "--url", f"u:{SECRET}@localhost", "--", "true"), "redis://"),
    ],
)
def test_wrong_usage(args: tuple[str, ...], said: str) -> None:
    ran = here("run", *args)
    assert ran.code == 2
    assert said in complaint(ran)


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("",), "key: it is empty"),
        (("job", "--ttl", "nan"), "ttl: nan is not a number of seconds"),
        (("job", "--timeout", "-1"), "timeout: -1.0 is neither"),
        (("job", "--max-hold", "0"), "max_hold: 0.0 is neither"),
    ],
)
def test_what_the_client_refuses(args: tuple[str, ...], said: str, nobody: str) -> None:
    ran = cli("run", *args, "--", "true", FASTLOCK_URL=nobody)
    assert ran.code == 2
    assert said in complaint(ran)


# ------------------------------------------------------------------ what the command gets


def test_its_environment(shop: Any) -> None:
    tell = ("sh", "-c", 'echo "$FASTLOCK_KEY/$FASTLOCK_FENCE/$FASTLOCK_TOKEN"')
    outer = {"FASTLOCK_URL": shop.uri, "FASTLOCK_TOKEN": "another's", "FASTLOCK_FENCE": "1"}
    assert cli("run", "env", "--", *tell, **outer).out == "env//\n"
    fences = [cli("run", "env", "--fence", "--", *tell, **outer).out.split("/")[1] for _ in "ab"]
    assert 0 < int(fences[0]) < int(fences[1])
    look = (sys.executable, "-c", "import os; print(os.environ['FASTLOCK_TOKEN'])")
    process = started("run", "env", "--pass-token", "--", *look, FASTLOCK_URL=shop.uri)
    random, _, label = ended(process).out.strip().partition(".")
    assert len(random) > 22
    assert label.endswith(f":{process.pid}")


def test_a_command_that_uses_fastlock_itself(shop: Any) -> None:
    """The variables that it is given are no settings."""
    asks = (sys.executable, "-m", "fastlock", "status", "outer", "--json")
    process = started("run", "outer", "--fence", "--", *asks, FASTLOCK_URL=shop.uri)
    (said,) = json.loads(ended(process).out)
    assert (said["key"], said["held"]) == ("outer", True)
    assert said["holder"].endswith(f":{process.pid}")
    assert 15 < said["ttl"] <= 30


def test_its_input_output_and_signals_are_ours(shop: Any) -> None:
    masks = "import signal; print(signal.pthread_sigmask(signal.SIG_BLOCK, [])); input()"
    process = started("run", "io", "--", sys.executable, "-c", masks, FASTLOCK_URL=shop.uri)
    out, err = process.communicate(timeout=30)
    assert out == "set()\n"
    assert "EOFError" in err  # the command's own


# ------------------------------------------------------------------ signals


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGUSR1"])
def test_signals_are_passed_on_once(shop: Any, name: str) -> None:
    number = getattr(signal, name)
    counts = (
        "import signal, time; told = []\n"
        f"signal.signal(signal.{name}, lambda *_: told.append(1))\n"
        "print('runs', flush=True)\n"
        "while not told: time.sleep(0.01)\n"
        "time.sleep(0.2); raise SystemExit(40 + len(told))"
    )
    process = started("run", "told", "--", sys.executable, "-c", counts, FASTLOCK_URL=shop.uri)
    assert line(process) == "runs"
    process.send_signal(number)
    assert tuple(ended(process)) == (41, "", "")
    assert free(shop, "told")


def test_sigterm_ends_the_command_and_its_own_children(shop: Any) -> None:
    process = started(
        "run", "ended", "--", "sh", "-c", "sleep 60 & echo $!; wait", FASTLOCK_URL=shop.uri
    )
    grandchild = int(line(process))
    process.send_signal(signal.SIGTERM)
    assert tuple(ended(process)) == (143, "", "")
    assert free(shop, "ended")
    until(lambda: not running({grandchild}))


def test_what_was_ignored_stays_so(shop: Any) -> None:
    """As nohup means it, for the command too."""
    fastlock = f"{sys.executable} -W error -W ignore::ResourceWarning -m fastlock"
    nohup = f"trap '' HUP; exec {fastlock} run nohup -- sh -c 'kill -HUP $$; echo runs; sleep 60'"
    program = "import os, sys; os.execvp('sh', ['sh', '-c', sys.argv[1]])"
    process = started(nohup, python=("-c", program), FASTLOCK_URL=shop.uri)
    assert line(process) == "runs"
    process.send_signal(signal.SIGHUP)
    process.send_signal(signal.SIGTERM)
    assert tuple(ended(process)) == (143, "", "")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_waiting_leaves_the_queue(shop: Any, number: signal.Signals) -> None:
    shop.admin.set("busy", "x", px=30_000)
    queue = "busy:fastlock.queue:{busy}"
    process = started("run", "busy", "--fair", "--", "echo", "ran", FASTLOCK_URL=shop.uri)
    until(lambda: shop.admin.zcard(queue) == 2)
    process.send_signal(number)
    assert tuple(ended(process)) == (128 + number, "", "")
    assert shop.admin.zcard(queue) == 0
    assert shop.admin.get("busy") == b"x"


# ------------------------------------------------------------------ a lost lock


def lose(shop: Any, key: str, *options: str, work: str) -> tuple[int, str, list[str]]:
    """Have it lost while the work goes on: code, output, complaints."""
    process = started(
        "run", key, "--ttl", "0.6", *options, "--", "sh", "-c", work, FASTLOCK_URL=shop.uri
    )
    assert line(process) == "runs"
    shop.admin.set(key, "a thief", px=30_000)
    code, out, err = ended(process)
    assert shop.admin.get(key) == b"a thief"
    # A shell says of its own children how they ended.
    return code, out, [line for line in err.splitlines() if line.startswith("fastlock: ")]


def test_lost_the_command_is_told_to_end(shop: Any) -> None:
    work = "trap 'echo told; exit 5' TERM; echo runs; sleep 60"
    code, out, (lost, end) = lose(shop, "lost-1", work=work)
    assert (code, out) == (79, "told\n")
    assert lost.startswith("fastlock: 'lost-1' was lost: ")
    assert end == "fastlock: the command ended with 5"


def test_lost_a_deaf_command_is_killed(shop: Any) -> None:
    work = "trap '' TERM; echo runs; sleep 60"
    code, _, (_, end) = lose(shop, "lost-2", "--grace", "0.2", work=work)
    assert (code, end) == (79, "fastlock: the command ended with 137")


def test_lost_the_command_is_warned_only(shop: Any) -> None:
    work = "trap 'told=1' TERM; echo runs; while [ -z $told ]; do sleep 0.05; done; sleep 0.4"
    options = ("--on-lost", "warn", "--grace", "0")
    code, _, (_, end) = lose(shop, "lost-3", *options, work=work)
    assert (code, end) == (79, "fastlock: the command ended with 0")


def test_lost_and_nobody_minds(shop: Any) -> None:
    code, out, (lost,) = lose(
        shop, "lost-4", "--on-lost", "ignore", work="echo runs; sleep 1; echo on; exit 3"
    )
    assert (code, out) == (3, "on\n")
    assert "'lost-4' was lost" in lost


@pytest.mark.parametrize("options", [("--no-auto-renew",), ("--max-hold", "0.3")])
def test_it_is_held_for_so_long_at_most(shop: Any, options: tuple[str, ...]) -> None:
    work = ("--ttl", "0.5", *options, "--", "sleep", "60")
    ran = cli("run", "bounded", *work, FASTLOCK_URL=shop.uri)
    assert ran.code == 79
    assert "'bounded' was lost: " in ran.err
    assert ran.err.endswith("fastlock: the command ended with 143\n")


def test_the_server_dies(own_server: Any) -> None:
    process = started("run", "job", "--ttl", "1", "--", *WAITS, FASTLOCK_URL=own_server.uri)
    assert line(process) == "runs"
    own_server.kill()
    ran = ended(process)
    assert ran.code == 79
    assert "'job' was lost: no renewal was answered before its deadline" in ran.err
