"""What type checkers say of users' code: of mypy and of pyright, line by line.

The samples beside this say it in comments of their own: ``#: TYPE`` behind a ``reveal_type`` is
what both reveal, and ``#! mypy CODE; pyright RULE`` is the mistake that each finds in the line.
basedpyright stands for pyright: it brings its own engine, and asks nobody for one when it runs.

Law: nothing but what the comments say. A mistake that nobody expects fails, and so does one that
nobody finds. Settings are those that docs/typing.md recommends.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
SAMPLES = sorted(path.name for path in HERE.glob("*.py") if path.name != Path(__file__).name)
#: The oldest Python that is supported.
VERSION = "3.10"
#: What mypy does not look for by itself, not even with --strict.
CODES = ("truthy-bool", "unused-awaitable")

Said = dict[tuple[str, int], set[str]]


def expected(checker: str) -> Said:
    """(file, line) -> what ``checker`` is to say there: codes, and types with "->" before them."""
    said: Said = defaultdict(set)
    for name in SAMPLES:
        for number, line in enumerate((HERE / name).read_text().splitlines(), 1):
            where, (_, mark, comment) = (name, number), re.split(r"#([:!])", line + "#: #:")[:3]
            if mark == "!":
                for part in comment.split(";"):
                    who, _, codes = part.strip().partition(" ")
                    assert who in ("mypy", "pyright"), line
                    if who == checker:
                        said[where] |= set(codes.split(", "))
            elif comment.strip():
                said[where].add("-> " + comment.strip())
    return dict(said)


def plain(revealed: str) -> str:
    """A type as people write it: without modules, and by pyright's words for functions."""
    revealed = re.sub(r"\b(?:\w+\.)+(?=\w)", "", revealed)
    revealed = re.sub(r"Literal\[('\w+')\](?: \| Literal\[('\w+')\])+", _joined, revealed)
    revealed = re.sub(r"CoroutineType\b", "Coroutine", revealed)
    return re.sub(r" =( \S+?)?(?=[,)])", " = ...", revealed.removeprefix("def "))


def _joined(found: re.Match[str]) -> str:
    names = re.findall(r"'\w+'", found[0])
    return f"Literal[{', '.join(names)}]"


def run(*command: object) -> str:
    ran = subprocess.run(
        [str(word) for word in command], cwd=HERE, capture_output=True, text=True, timeout=110
    )
    assert ran.returncode in (0, 1), ran.stdout + ran.stderr
    return ran.stdout


@pytest.mark.slow
def test_mypy_says_what_the_samples_say(tmp_path: Path) -> None:
    enabled = [f"--enable-error-code={code}" for code in CODES]
    told = run(
        sys.executable, "-m", "mypy", "--strict", "--config-file=", "--output=json",
        f"--python-version={VERSION}", f"--cache-dir={tmp_path}", *enabled, *SAMPLES,
    )  # fmt: skip
    said: Said = defaultdict(set)
    for entry in map(json.loads, told.splitlines()):
        revealed = re.fullmatch(r'Revealed type is "(.*)"', entry["message"])
        if revealed:
            said[entry["file"], entry["line"]].add("-> " + plain(revealed[1]))
        elif entry["severity"] == "error":
            said[entry["file"], entry["line"]].add(entry["code"])
    assert_same(said, "mypy")


@pytest.mark.slow
def test_pyright_says_what_the_samples_say(tmp_path: Path) -> None:
    checker = shutil.which("basedpyright", path=str(Path(sys.executable).parent))
    if checker is None:
        pytest.skip("basedpyright is not installed")
    settings: dict[str, Any] = {
        "typeCheckingMode": "strict",
        "pythonVersion": VERSION,
        "include": [str(HERE / name) for name in SAMPLES],
    }
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(settings))
    told = run(checker, "--project", tmp_path, "--pythonpath", sys.executable, "--outputjson")
    said: Said = defaultdict(set)
    for entry in json.loads(told)["generalDiagnostics"]:
        where = Path(entry["file"]).name, entry["range"]["start"]["line"] + 1
        revealed = re.fullmatch(r'Type of ".*" is "(.*)"', entry["message"], re.DOTALL)
        said[where].add("-> " + plain(revealed[1]) if revealed else entry["rule"])
    assert_same(said, "pyright")


def assert_same(said: Said, checker: str) -> None:
    wanted = {
        where: {plain(word) if word.startswith("->") else word for word in words}
        for where, words in expected(checker).items()
    }
    assert len(wanted) > 100
    differences = [
        f"{name}:{line}: {checker} should say {sorted(wanted.get((name, line), ()))}, "
        f"and says {sorted(said.get((name, line), ()))}"
        for name, line in sorted({*wanted, *said})
        if wanted.get((name, line), set()) != said.get((name, line), set())
    ]
    assert not differences, "\n".join(["", *differences])


def test_the_page_for_users_says_what_is_tested() -> None:
    page = (HERE.parents[1] / "docs" / "typing.md").read_text()
    rows = re.findall(r"^\| .* \| `([\w-]+)`.* \| `(\w+)`.* \|$", page, re.MULTILINE)
    assert len(rows) == 7
    for place, checker in enumerate(("mypy", "pyright")):
        seen = set().union(*expected(checker).values())
        assert {row[place] for row in rows} <= seen
    assert f"enable_error_code = {json.dumps(list(CODES))}" in page
    switched_on = "reportUnnecessaryComparison=true"
    assert switched_on in (HERE / "wrong_aio.py").read_text()
    assert switched_on.replace("=", " = ") in page
