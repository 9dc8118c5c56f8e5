"""The command line itself: its help, its errors, what it imports."""

from __future__ import annotations

import subprocess
import sys

import pytest
from _cli import SECRET, cli, complaint

import fastlock


def test_version() -> None:
    ran = cli("--version")
    assert (ran.code, ran.out, ran.err) == (0, f"fastlock {fastlock.__version__}\n", "")


@pytest.mark.parametrize("args", [(), ("demo",), ("doctor",)])
def test_help(args: tuple[str, ...]) -> None:
    ran = cli(*args, "--help")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.startswith(" ".join(["usage: fastlock", *args]))


def test_no_command() -> None:
    ran = cli()
    assert (ran.code, ran.out) == (2, "")
    assert "demo" in ran.err
    assert "doctor" in ran.err


@pytest.mark.parametrize("args", [("dmeo",), (f"redis://u:{SECRET}@localhost",)])
def test_unknown_command(args: tuple[str, ...]) -> None:
    ran = cli(*args)
    assert ran.code == 2
    assert complaint(ran).startswith("fastlock: argument COMMAND: invalid choice")


@pytest.mark.parametrize("command", ["demo", "doctor"])
def test_a_command_says_no_to_what_it_does_not_know(command: str) -> None:
    ran = cli(command, "--nonsense")
    assert ran.code == 2
    assert "--nonsense" in complaint(ran)


def test_a_core_that_does_not_exist() -> None:
    ran = cli("demo", FASTLOCK_CORE="rust")
    assert ran.code == 2
    assert complaint(ran) == "fastlock: FASTLOCK_CORE: 'rust' is not one of auto, cython, python"


def test_help_needs_no_core_and_no_redis() -> None:
    code = (
        "import sys; from fastlock.cli import main\n"
        "try: main(['demo', '--help'])\n"
        "except SystemExit: pass\n"
        "print({'redis', 'asyncio', 'rich', 'fastlock._impl'} & set(sys.modules))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.splitlines()[-1] == "set()"
