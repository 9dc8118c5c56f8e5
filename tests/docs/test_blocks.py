"""Every code block of README and the pages is run, or parsed, or has its reason here.

Law: Python runs in a process for each page, against real servers (``_run_page.py``); commands of
``fastlock`` run in a shell (``_shell.py``); JSON, YAML and TOML are parsed. What is none
of this is listed, and an entry that fits no block fails.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from fnmatch import fnmatch
from functools import cache
from pathlib import Path

import _run_page
import pytest
import yaml
from _pages import PAGES, Block, blocks, inline, name
from _shell import INSTEAD, SCENES, Shell, places

import fastlock

#: (page, how the command or the block begins) -> why it is not run. Python is compiled anyhow.
NOT_RUN = {
    ("*", "pip install"): "it would put another fastlock beside the one under test",
    ("*", "docker run"): "it takes a container's daemon; the tests start such a server",
    ("README.md", "make "): "make test runs this test; make demo is fastlock demo: tests/cli",
    ("docs/performance.md", "make bench"): "it takes minutes of a machine that does nothing else",
    ("docs/installing.md", "FASTLOCK_CORE="): "app.py is the reader's; tests/packaging tries it",
    ("docs/cli.md", "fastlock run KEY [options]"): "a form, not a command",
    ("docs/api/errors.md", "FastlockError"): "a picture of the tree; the reference is below it",
    ("docs/installing.md", "gil"): "output without the GIL; tests/cli/test_doctor_gil.py sees it",
    ("docs/recipes.md", "python examples/"): "tests/examples starts each, as these lines do",
    ("docs/security.md", "Valkey 9.1   ACL"): "tests/security/test_acl.py applies these lines",
    ("docs/security.md", "to look"): "tests/cli/test_look.py applies these lines",
    ("docs/topologies.md", "A  -> old master"): "a sequence of events; tests/topology plays it",
}
#: Of text that is checked below.
CHECKED = {
    ("docs/configuration.md", "port: 70000"),
    ("docs/configuration.md", "redis://[user"),
    ("docs/fencing.md", "ACL SETUSER"),
}
ALL = [block for page in PAGES for block in blocks(page)]


def why_not(block: Block, begins: str) -> str | None:
    """The reason, if it is listed."""
    page = name(block.page)
    for (where, start), why in NOT_RUN.items():
        if fnmatch(page, where) and begins.startswith(start):
            return why
    return None


def of(*languages: str) -> list[Block]:
    return [block for block in ALL if block.language in languages]


def where(block: Block) -> str:
    return block.where


# ------------------------------------------------------------------ nothing is left out


def test_every_block_is_dealt_with() -> None:
    for block in ALL:
        assert block.language in ("python", "sh", "console", "json", "yaml", "toml", "text"), (
            f"{block.where}: {block.language or 'no language'}: what is it?"
        )
        if block.language == "text":
            checked = any(
                (name(block.page), start) in CHECKED and block.text.startswith(start)
                for _, start in CHECKED
            )
            assert checked or why_not(block, block.text), f"{block.where}: give a reason above"
        if block.language == "sh":
            for command in block.commands:
                assert "fastlock " in command or why_not(block, command), (
                    f"{block.where}: {command!r}: give a reason above"
                )


def test_every_reason_is_needed() -> None:
    begins = [(name(block.page), block.text) for block in ALL]
    begins += [(name(block.page), command) for block in of("sh") for command in block.commands]
    for page, start in [*NOT_RUN, *CHECKED]:
        assert any(fnmatch(one, page) and text.startswith(start) for one, text in begins), (
            f"nothing in {page} begins with {start!r} any more"
        )
    commands = {command for block in of("sh", "console") for command in block.commands}
    assert set(INSTEAD) <= commands, set(INSTEAD) - commands


# ------------------------------------------------------------------ Python


@cache
def python_of(page: Path) -> list[Block]:
    return [block for block in blocks(page) if block.language == "python"]


@pytest.mark.parametrize("page", [page for page in PAGES if python_of(page)], ids=name)
def test_its_python_runs(page: Path, shell: Shell) -> None:
    left_out = [block for block in python_of(page) if why_not(block, block.text)]
    for block in left_out:
        compile(block.text, block.where, "exec", dont_inherit=True)
    text = "".join(block.text for block in python_of(page) if block not in left_out)
    words = [f"{old}->{new}" for old, new in places(text, shell).items()]
    words += [f"@{block.line}" for block in left_out]
    command = [sys.executable, "-W", "error", _run_page.__file__, str(page), *words]
    ran = subprocess.run(
        command, capture_output=True, text=True, timeout=60, env=shell.variables, cwd=shell.folder
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "Traceback" not in ran.stderr, ran.stderr  # of a thread's
    assert shell.left() == [], f"{name(page)} leaves locks behind"


@pytest.mark.parametrize(
    ("block", "said"),
    [
        ("print(n)  # there", "page.md:8 says 'there'"),
        ("if not n:\n    print(n)  # here", r"never printed: lines \{9\}"),
        ("n.gone", "no attribute 'gone'"),
        ("import warnings\nwarnings.warn('old')", "old"),
        ("print(n, await asyncio.sleep(0, 2))  # here ...: and so on", None),
    ],
)
def test_the_runner_believes_nothing(block: str, said: str | None, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    first = "```python\nimport asyncio\n\nn = 'nowhere'\n```\n"
    page.write_text(f"{first}\n```python\n{block}\n```\n")
    if said is None:
        _run_page.main(page, "nowhere->here")
    else:
        with pytest.raises((AssertionError, AttributeError, UserWarning), match=said):
            _run_page.main(page, "nowhere->here")
        _run_page.main(page, "@8")


# ------------------------------------------------------------------ a shell


@pytest.mark.parametrize("block", of("sh"), ids=where)
def test_its_commands_run(block: Block, shell: Shell) -> None:
    with SCENES.get(name(block.page), shell.scene)(shell):
        for command in block.commands:
            if why_not(block, command) is None:
                shell.run(command)


@pytest.mark.slow
@pytest.mark.parametrize("block", of("console"), ids=where)
def test_its_session_goes_as_it_says(block: Block, shell: Shell) -> None:
    with SCENES.get(name(block.page), shell.scene)(shell):
        shell.session(block)


# ------------------------------------------------------------------ settings and data


@pytest.mark.parametrize("block", of("json", "yaml", "toml"), ids=where)
def test_it_can_be_parsed(block: Block, shell: Shell) -> None:
    if block.language == "json":
        parsed = json.loads(block.text)
        if name(block.page) == "docs/cli.md":
            (shown,) = json.loads(shell.run("fastlock status --json orders:43"))
            assert list(shown) == list(parsed)
        return
    if block.language == "toml":
        tomllib = pytest.importorskip("tomllib" if sys.version_info >= (3, 11) else "tomli")
        tomllib.loads(block.text)
        return
    parsed = yaml.safe_load(block.text)
    if isinstance(parsed, dict) and "connection" in parsed:
        assert fastlock.Config.from_mapping(parsed).host == parsed["connection"]["host"]
    if name(block.page) == "docs/pip-services4.md":
        from pip_services4_components.config import ConfigParams

        from fastlock.contrib.pip_services4 import RedisLock

        for component in parsed:
            RedisLock().configure(ConfigParams.from_value(component))


WRONG = {
    "port": lambda: fastlock.Config(port=70000),
    "hots": lambda: fastlock.Config(hots="h"),
    "FASTLOCK_PROTOCL": lambda: fastlock.Config.from_env({"FASTLOCK_PROTOCL": "2"}),
    "password": lambda: fastlock.Config("redis://:one@host", password="two"),
}


def test_its_errors_are_those_of_config() -> None:
    (block,) = (one for one in of("text") if one.text.startswith("port: 70000"))
    lines = block.text.splitlines()
    assert [line.partition(":")[0] for line in lines] == list(WRONG)
    for line in lines:
        with pytest.raises(fastlock.ConfigError, match=f"^{re.escape(line)}$"):
            WRONG[line.partition(":")[0]]()


def test_its_user_may_take_fenced_locks(shell: Shell) -> None:
    (block,) = (one for one in of("text") if one.text.startswith("ACL SETUSER"))
    _, _, user, *rules = block.text.split()
    (password,) = (rule[1:] for rule in rules if rule.startswith(">"))
    shell.server.admin.execute_command("ACL", "SETUSER", user, *rules)
    with fastlock.Client(shell.server.uri, username=user, password=password) as client:
        with client.lock("orders:42", fence=True) as lease:
            assert lease.fence
        with pytest.raises(fastlock.ServerError, match="NOPERM"):
            client.try_acquire("other:42", fence=True)
    shell.server.admin.acl_deluser(user)


def filled_in(form: str) -> str:
    """ "redis://[user@]host[:port]" -> "redis://user@host:6379": all that may be there."""
    form = form.replace("[,host[:port]...]", ",other:1234").replace("username=...&password=...", "")
    form = form.replace("&...", "").replace("db=0&", "db=0").replace("/path/to", "/run")
    form = form.replace("[", "").replace("]", "").replace("setting=value", "retries=5")
    return form.replace(":port", ":6379").replace("/db", "/0")


def test_its_uris_are_understood() -> None:
    (block,) = (one for one in of("text") if one.text.startswith("redis://[user"))
    before = ""
    for form in (line.split()[0] for line in block.text.splitlines()):
        scheme, _, rest = form.partition("://")
        before = before if rest == "..." else rest  # "the same"
        assert fastlock.Config.of(filled_in(f"{scheme}://{before}"), {}), form
    said = [
        token.content.replace("...", "h")
        for page in PAGES
        for _, token in inline(page, "code_inline")
        if re.fullmatch(r"(rediss?|unix)(\+\w+)?://[^\s*<>]+", token.content)
    ]
    assert len(said) > 3
    for uri in said:
        assert fastlock.Config.of(uri, {}), uri
