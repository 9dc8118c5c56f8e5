"""The command line itself: its help, its errors, what it imports."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from _cli import SECRET, cli, cli_without, complaint, here

import fastlock
from fastlock.cli import _exits, _parser


def test_version() -> None:
    ran = cli("--version")
    assert (ran.code, ran.out, ran.err) == (0, f"fastlock {fastlock.__version__}\n", "")


COMMANDS = ["bench", "completion", "demo", "doctor", "release", "run", "status", "watch"]


@pytest.mark.parametrize("args", [(), *[(command,) for command in COMMANDS]])
def test_help(args: tuple[str, ...]) -> None:
    ran = here(*args, "--help")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.startswith(" ".join(["Usage: fastlock", *args]))


def test_no_command() -> None:
    ran = cli()
    assert (ran.code, ran.out) == (2, "")
    assert [word for word in COMMANDS if f"\n  {word} " in ran.err] == COMMANDS


@pytest.mark.parametrize("args", [("dmeo",), (f"redis://u:{SECRET}@localhost",)])
def test_unknown_command(args: tuple[str, ...]) -> None:
    ran = cli(*args)
    assert ran.code == 2
    assert complaint(ran).startswith("fastlock: No such command")


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_says_no_to_what_it_does_not_know(command: str) -> None:
    ran = here(command, "--nonsense")
    assert ran.code == 2
    assert "--nonsense" in complaint(ran)


def test_a_core_that_does_not_exist() -> None:
    ran = cli("demo", FASTLOCK_CORE="rust")
    assert ran.code == 2
    assert complaint(ran) == "fastlock: FASTLOCK_CORE: 'rust' is not one of auto, cython, python"


def test_help_needs_no_core_and_no_redis() -> None:
    code = (
        "import sys; from fastlock.cli import main\n"
        "assert main(['run', '--help']) == 0\n"
        "print({'redis', 'asyncio', 'rich', 'fastlock._impl'} & set(sys.modules))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.splitlines()[-1] == "set()"


# ------------------------------------------------------------------ without the extra


def test_without_click_one_line_says_what_to_install() -> None:
    ran = cli_without(("click",), "run", "job", "--", "true")
    assert ran.code == 2
    assert "pip install 'fastlock[cli]'" in complaint(ran)


def test_without_click_the_doctor_works(nobody: str) -> None:
    ran = cli_without(("click",), "doctor", "--url", nobody, "--json")
    assert (ran.code, ran.err) == (1, "")
    assert "refused the connection" in json.loads(ran.out)["problems"][0]["problem"]
    ran = cli_without(("click",), "doctor", "--ulr", f"redis://u:{SECRET}@localhost")
    assert ran.code == 2
    assert complaint(ran).startswith("fastlock doctor: unrecognized arguments: --ulr (a uri)")


# ------------------------------------------------------------------ shells


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_gets_its_script(shell: str) -> None:
    ran = here("completion", shell)
    assert (ran.code, ran.err) == (0, "")
    assert "_FASTLOCK_COMPLETE" in ran.out


def test_the_words_that_a_shell_is_offered() -> None:
    asked = {"_FASTLOCK_COMPLETE": "bash_complete", "COMP_WORDS": "fastlock r", "COMP_CWORD": "1"}
    ran = cli(**asked)
    assert (ran.err, ran.lines) == ("", ["plain,release", "plain,run"])
    asked |= {"COMP_WORDS": "fastlock run --on-lost ", "COMP_CWORD": "3"}
    assert cli(**asked).lines == ["plain,stop", "plain,warn", "plain,ignore"]


def test_bash_completes_in_a_real_shell() -> None:
    """The script as a user loads it: fastlock itself is what it calls."""
    words = (
        'eval "$(fastlock completion bash)"; COMP_WORDS=(fastlock wat); COMP_CWORD=1; '
        '_fastlock_completion fastlock; echo "${COMPREPLY[@]}"'
    )
    path = f"{os.path.dirname(sys.executable)}{os.pathsep}{os.environ['PATH']}"
    ran = subprocess.run(
        ["bash", "-c", words], capture_output=True, text=True, check=False, timeout=60,
        env={**os.environ, "PATH": path},
    )  # fmt: skip
    assert (ran.stdout, ran.stderr) == ("watch\n", "")


# ------------------------------------------------------------------ the page about it


def test_the_page_names_every_option_and_exit_code() -> None:
    page = (Path(__file__).parents[2] / "docs" / "cli.md").read_text()
    for command in _parser.fastlock.commands.values():
        for parameter in command.params:
            for option in [*parameter.opts, *parameter.secondary_opts]:
                if option.startswith("--"):
                    assert f"`{option}" in page or f" {option} " in page, (command.name, option)
    for name, code in vars(_exits).items():
        if name.isupper() and name not in ("SIGNALLED", "INTERRUPTED"):
            assert f"| {code} |" in page or ("Exit code: 0" in page and f" {code} " in page), name
