"""Standard streams that are closed, full or know no Unicode, and keys that are no UTF-8."""

from __future__ import annotations

import json
import os
import shlex
import sys
from typing import Any

import pytest
from _cli import Ran, cli, cli_without, complaint, ended, line, started

US = f"{shlex.quote(sys.executable)} -m fastlock"
SHELL = ("-c", "import os, sys; os.execvp('sh', ['sh', '-c', *sys.argv[1:]])")
#: A locale that knows ASCII alone, and is believed.
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


def shell(script: str, **env: str) -> Ran:
    """A script in which fastlock's streams are what it says."""
    return ended(started(script, python=SHELL, **env))


@pytest.mark.parametrize(
    ("streams", "open_ones"), [("<&-", 6), (">&-", 5), ("2>&-", 3), ("<&- >&- 2>&-", 0)]
)
def test_closed_ones_are_in_nobodys_way(shop: Any, streams: str, open_ones: int) -> None:
    """What the command inherits is closed as well, and no socket of ours."""
    count = (
        "import os; code = 8\n"
        "for number in range(3):\n"
        "    try: os.fstat(number)\n"
        "    except OSError: continue\n"
        "    code += 2**number\n"
        "os._exit(code)"
    )
    counts = f"{shlex.quote(sys.executable)} -ISc {shlex.quote(count)}"
    ran = shell(f"{US} run closed -- {counts} {streams}", FASTLOCK_URL=shop.uri)
    assert tuple(ran) == (8 + open_ones, "", "")
    assert shop.admin.exists("closed") == 0


@pytest.mark.parametrize("command", ["status a", "--help"])
def test_nobody_can_read_a_closed_output(shop: Any, command: str) -> None:
    assert tuple(shell(f"{US} {command} >&-", FASTLOCK_URL=shop.uri)) == (0, "", "")


def test_there_is_nobody_to_ask_behind_a_closed_input(shop: Any) -> None:
    shop.admin.set("stuck", "x", px=30_000)
    ran = shell(f"{US} release --force stuck <&-", FASTLOCK_URL=shop.uri)
    assert (ran.code, complaint(ran)) == (
        2, "fastlock: nobody to ask: say --yes to end the lock unasked"
    )  # fmt: skip
    assert shop.admin.get("stuck") == b"x"


if os.path.exists("/dev/full"):

    @pytest.mark.parametrize("command", ["status a", "watch --once"])
    def test_a_full_disk_is_no_mistake_of_ours(shop: Any, command: str) -> None:
        ran = shell(f"{US} {command} >/dev/full", FASTLOCK_URL=shop.uri)
        assert ran.code == 1
        assert complaint(ran) == "fastlock: No space left on device (writing the output)"

    def test_what_cannot_be_said_is_no_reason_to_end_differently(shop: Any) -> None:
        """A full disk under stderr, and a pipe that nobody reads."""
        env = {"FASTLOCK_URL": shop.uri}
        shop.admin.set("held", "x", px=60_000)
        lose = f"{US} run lost --ttl 0.6 --max-hold 0.2 -- sleep 60"
        for errors in ("2>/dev/full", "2>&1 >/dev/null | true"):
            wrap = "set -o pipefail; {} " + errors
            for command, code in (
                (f"{US} run free -- sh -c 'exit 7'", 7),
                (f"{US} run held --timeout 0 -- true", 75),
                (lose, 79),
                (f"{US} status", 2),
            ):
                bash = ("-c", "import os, sys; os.execvp('bash', ['bash', '-c', *sys.argv[1:]])")
                ran = ended(started(wrap.format(command), python=bash, **env))
                assert (ran.code, ran.out) == (code, ""), (command, errors)


def test_who_reads_no_further(shop: Any) -> None:
    """As SIGPIPE would end it, and without a word."""
    shop.admin.mset({f"many:{number}": "x" for number in range(3000)})
    script = f"set -o pipefail; {US} status --match 'many:*' --foreign --json | head -n 1"
    bash = ("-c", "import os, sys; os.execvp('bash', ['bash', '-c', *sys.argv[1:]])")
    ran = ended(started(script, python=bash, FASTLOCK_URL=shop.uri))
    assert tuple(ran) == (141, "[\n", "")


def test_what_an_encoding_has_no_sign_for_is_spelled_out(shop: Any) -> None:
    for env in ({"PYTHONIOENCODING": "ascii"}, ASCII):
        ran = cli("status", "schlüssel", FASTLOCK_URL=shop.uri, **env)
        assert (ran.code, ran.err) == (0, "")
        assert "schl\\xfcssel" in ran.out


@pytest.mark.parametrize("without", [(), ("rich",)])
def test_what_is_spelled_out_has_its_width(shop: Any, without: tuple[str, ...]) -> None:
    shop.admin.mset(dict.fromkeys(("weit:öäü", "weit:a"), f"{'x' * 22}-1.label"))
    ran = cli_without(without, "status", "--match", "weit*", FASTLOCK_URL=shop.uri, **ASCII)
    places = {line.index("label") for line in ran.lines if "label" in line}
    assert len(places) == 1, ran.out
    assert "weit:\\xf6\\xe4\\xfc" in ran.out


@pytest.mark.parametrize(
    ("word", "wire", "env"),
    [("k\udcff", b"k\xff", {}), ("schlüssel", "schlüssel".encode(), ASCII)],
)
def test_a_key_is_the_bytes_that_were_typed(
    shop: Any, word: str, wire: bytes, env: dict[str, str]
) -> None:
    """Also those of another encoding than the locale's, and of a locale that has none."""
    env = {**env, "FASTLOCK_URL": shop.uri}
    tell = ("sh", "-c", 'printf %s "$FASTLOCK_KEY" | od -An -v -tx1')
    ran = cli("run", word, "--", *tell, **env)
    assert (ran.code, ran.err) == (0, "")
    assert bytes.fromhex("".join(ran.out.split())) == wire
    shop.admin.set(wire, "x", px=30_000)
    (look,) = json.loads(cli("status", word, "--json", **env).out)
    assert look["held"] is True
    assert "was held by unknown; ended" in cli("release", "--force", "--yes", word, **env).out
    assert shop.admin.exists(wire) == 0


def test_a_key_of_odd_bytes_is_held_while_the_command_runs(shop: Any) -> None:
    words = ("sh", "-c", "echo runs; exec sleep 60")
    process = started("run", "odd\udcfe", "--", *words, FASTLOCK_URL=shop.uri)
    assert line(process) == "runs"
    assert shop.admin.exists(b"odd\xfe") == 1
    process.terminate()
    assert tuple(ended(process)) == (143, "", "")
    assert shop.admin.exists(b"odd\xfe") == 0
