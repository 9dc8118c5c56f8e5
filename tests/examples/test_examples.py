"""What all examples have in common, and that the pages about them say what is there.

Law: an example without a header, a page and a word for who has no server is not one.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from _running import EXAMPLES, example
from _servers import free_port

DOCS = EXAMPLES.parent / "docs"
NAMES = sorted(path.stem for path in EXAMPLES.glob("*.py"))
MIGRATIONS = [name for name in NAMES if name.startswith("migrate_")]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def source(name: str) -> str:
    return (EXAMPLES / f"{name}.py").read_text()


def header(name: str) -> str:
    return ast.get_docstring(ast.parse(source(name))) or ""


def code(name: str) -> list[str]:
    """Its lines below the header, without blank ones and comments."""
    below = source(name).splitlines()[ast.parse(source(name)).body[0].end_lineno :]
    return [line for line in below if line.strip() and not line.strip().startswith("#")]


def test_there_are_examples_and_nothing_else() -> None:
    files = [path.name for path in EXAMPLES.iterdir() if path.name != "__pycache__"]
    assert sorted(files) == [f"{name}.py" for name in NAMES]
    assert len(NAMES) == 10


@pytest.mark.parametrize("name", NAMES)
def test_a_header_says_what_it_shows_how_to_run_it_and_what_it_promises(name: str) -> None:
    parts = re.findall(r"^(Shows|Run|Server|Promises): ", header(name), re.MULTILINE)
    assert parts == ["Shows", "Run", "Server", "Promises"]
    assert f"python examples/{name}.py" in header(name)
    assert 20 <= len(code(name)) <= 80


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_without_a_server_it_says_what_to_do(name: str, tmp_path: Path) -> None:
    database = str(tmp_path / "orders.db")
    nobody = f"redis://localhost:{free_port()}"
    with example(name, nobody, DATABASE=database) as process:
        code, _, err = process.ended()
    assert code == 1
    assert "refused the connection" in err
    assert err.endswith("Start a server, or name one: FASTLOCK_URL=redis://host:6379\n")
    assert "Traceback" not in err


# ------------------------------------------------------------------ the pages


def test_every_example_has_a_place_on_a_page() -> None:
    recipes = (DOCS / "recipes.md").read_text()
    linked = re.findall(r"\]\(\.\./examples/(\w+)\.py\)", recipes)
    commands = re.findall(r"^python examples/(\w+)\.py", recipes, re.MULTILINE)
    assert linked == list(dict.fromkeys(commands))
    migration = (DOCS / "migration.md").read_text()
    linked += re.findall(r"\]\(\.\./examples/(\w+)\.py\)", migration)
    assert sorted(linked) == NAMES


def test_commands_of_the_page_are_those_of_the_headers() -> None:
    recipes = (DOCS / "recipes.md").read_text()
    for command in re.findall(r"^python examples/.*$", recipes, re.MULTILINE):
        name = command.split("/")[1].partition(".")[0]
        assert command in header(name), command


def test_code_before_and_after_is_that_of_the_examples() -> None:
    sources = [source(name) for name in MIGRATIONS]
    blocks = BLOCK.findall((DOCS / "migration.md").read_text())
    for block in blocks:
        assert any(block in text for text in sources), block
    for text in sources:
        for function in ("before", "after"):
            (found,) = re.findall(rf"^def {function}\(.*?(?=^def |\Z)", text, re.M | re.S)
            assert any(found.strip() in block for block in blocks), found
