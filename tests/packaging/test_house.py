"""What contributors and reporters meet first: the tour, hooks, templates, decisions, changelog.

Law: what these say is run, or compared with what it speaks of.
"""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from _builds import ROOT, execute

from fastlock import __version__

DECISIONS = ROOT / "docs" / "decisions"


def read(name: str) -> str:
    return (ROOT / name).read_text()


# ------------------------------------------------------------------ the tour


def test_the_tour_prints_what_it_says() -> None:
    """An acquire driven by hand, as CONTRIBUTING.md has it."""
    blocks = re.findall(r"```(python|text)\n(.*?)```", read("CONTRIBUTING.md"), re.DOTALL)
    assert [kind for kind, _ in blocks] == ["python", "text"]
    (_, script), (_, printed) = blocks
    ran = execute(sys.executable, "-c", script)
    assert (ran.code, ran.output) == (0, printed)


def test_the_tour_and_the_pages_name_what_exists() -> None:
    """Files in backticks, and what is said to stand in one of them."""
    text = read("CONTRIBUTING.md")
    named = set(re.findall(r"`((?:[\w./-]+/)?[\w-]+\.(?:py|pyx|lua|md|toml|yml|txt|pml))`", text))
    places = (ROOT, ROOT / "src/fastlock", ROOT / "src/fastlock/_scripts", ROOT / "model")
    missing = {name for name in named if not any((place / name).exists() for place in places)}
    assert missing == set()
    assert len(named) > 40
    tour = text[text.index("| floor | look at") : text.index("asyncio has its own floor 1")]
    for names, file in re.findall(r"((?:`[\w.]+`(?:, then )?)+),? in `(\w+\.py)`", tour):
        source = read(f"src/fastlock/{file}")
        for name in re.findall(r"`(?:\w+\.)?(\w+)`", names):
            assert re.search(rf"(def|self\.) ?{name}\b", source), (name, file)


def test_the_first_exercise_can_be_done() -> None:
    """The line that it has readers break is there, once."""
    line = "recognised(claim, 0, reply, claim.first, until)"
    assert read("src/fastlock/_ops.py").count(line) == 1


# ------------------------------------------------------------------ hooks


def hooks() -> list[dict[str, Any]]:
    (local,) = yaml.safe_load(read(".pre-commit-config.yaml"))["repos"]
    assert local["repo"] == "local"
    listed: list[dict[str, Any]] = local["hooks"]
    return listed


def test_hooks_run_what_make_lint_runs() -> None:
    """The same programs with the same words, of the same environment."""
    recipe = re.search(r"^lint: .*\n((?:\t.*\n)+)", read("Makefile"), re.MULTILINE)
    assert recipe
    linted = []
    for line in recipe[1].splitlines():
        words = shlex.split(line.strip().lstrip("@").replace("$(BIN)", ".venv/bin"))
        if words[0].startswith("PATH="):
            words = words[1 : words.index("$(filter")]
        linted.append([word for word in words if word != "."])
    said = []
    for hook in hooks():
        assert hook["language"] == "system"
        words = shlex.split(hook["entry"])
        if words[0] == "env":
            words = words[2:]
        said.append([word for word in words if word != "--force-exclude"])
    assert said == linted


def test_hooks_are_valid_to_the_program_that_runs_them() -> None:
    pytest.importorskip("pre_commit", reason="pre-commit is not installed")
    config = ROOT / ".pre-commit-config.yaml"
    ran = execute(sys.executable, "-m", "pre_commit", "validate-config", config)
    assert (ran.code, ran.output) == (0, "")


# ------------------------------------------------------------------ templates


@pytest.mark.parametrize("name", ["bug", "feature"])
def test_issue_forms_are_of_the_form_that_github_reads(name: str) -> None:
    form = yaml.safe_load(read(f".github/ISSUE_TEMPLATE/{name}.yml"))
    assert set(form) == {"name", "description", "labels", "body"}
    ids = [field["id"] for field in form["body"] if field["type"] != "markdown"]
    assert len(ids) == len(set(ids))
    kinds = {"markdown", "textarea", "input", "dropdown", "checkboxes"}
    for field in form["body"]:
        assert field["type"] in kinds
        assert field["attributes"].get("label") or field["type"] == "markdown"
        assert field["type"] != "dropdown" or len(set(field["attributes"]["options"])) > 1


def test_who_reports_a_bug_is_asked_for_the_doctor() -> None:
    form = yaml.safe_load(read(".github/ISSUE_TEMPLATE/bug.yml"))
    (doctor,) = [field for field in form["body"] if field.get("id") == "doctor"]
    assert "`fastlock doctor`" in doctor["attributes"]["description"]
    assert doctor["validations"]["required"] is True


def test_targets_that_pages_name_exist() -> None:
    (phony,) = re.findall(r"^\.PHONY: (.*)$", read("Makefile"), re.MULTILINE)
    pages = [
        "README.md", "CONTRIBUTING.md", "CHANGELOG.md", ".github/PULL_REQUEST_TEMPLATE.md",
        ".github/workflows/ci.yml", ".pre-commit-config.yaml",
    ]  # fmt: skip
    text = "\n".join(map(read, pages))
    named = set(re.findall(r"(?:`|^|\s{2}|run: |&& )make ([a-z][a-z-]*)", text, re.MULTILINE))
    assert {"lint", "test", "test-ft", "model", "hooks"} <= named
    assert named - set(phony.split()) == set()


def test_extras_that_pages_and_workflows_name_exist() -> None:
    table = read("pyproject.toml").partition("[project.optional-dependencies]")[2]
    extras = set(re.findall(r"^([\w-]+) = \[", table.partition("\n[")[0], re.MULTILINE))
    pages = ["README.md", ".github/workflows/ci.yml", ".github/workflows/wheels.yml", ".ci/run"]
    pages += [f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")]
    text = "\n".join(map(read, pages))
    lists = re.findall(r"(?:fastlock|'\.|\.whl\)\"?|\*\.whl\))\[([\w,-]+)\]", text)
    named = {name for listed in lists for name in listed.split(",")}
    assert {"cli", "server", "test"} <= named
    assert named - extras == set()


# ------------------------------------------------------------------ decisions, links, the version


def test_each_decision_has_its_four_parts_and_stands_in_the_list() -> None:
    pages = sorted(path.name for path in DECISIONS.glob("[0-9]*.md"))
    listed = re.findall(r"^\| \[(\d+)\]\(([\w.-]+)\) \| (.+) \|$", read_list(), re.MULTILINE)
    assert [name for _, name, _ in listed] == pages
    for number, (written, name, _) in enumerate(listed, 1):
        assert name.startswith(written)
        assert int(written) == number
        text = (DECISIONS / name).read_text()
        assert text.startswith(f"# {written}: ")
        parts = ["Context", "Decision", "Tried and dropped", "Consequence"]
        assert re.findall(r"^## (.*)$", text, re.MULTILINE) == parts
        assert len(text.splitlines()) < 50


def read_list() -> str:
    return (DECISIONS / "README.md").read_text()


@pytest.mark.parametrize(
    "page",
    ["CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "docs/typing.md",
     *sorted(f"docs/decisions/{path.name}" for path in DECISIONS.glob("*.md"))],
)  # fmt: skip
def test_links_lead_somewhere(page: str) -> None:
    here = (ROOT / page).parent
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", read(page)):
        assert (here / target).exists(), target


def test_the_changelog_begins_with_this_version() -> None:
    versions = re.findall(r"^## (\S+)", read("CHANGELOG.md"), re.MULTILINE)
    assert versions[:2] == ["Unreleased", __version__]


def test_nobody_else_says_which_version_it_is() -> None:
    """But what was measured, and the changelog."""
    ends = {".py", ".md", ".toml", ".cfg", ".yml", ".yaml", ".pyx"}
    found = [
        path
        for folder in ("src", "docs", "tests", "tools", ".github", "bench")
        for path in (ROOT / folder).rglob("*")
        if path.suffix in ends and "results" not in path.parts and __version__ in path.read_text()
    ]
    assert found == [ROOT / "src/fastlock/_version.py"]
    for name in ("README.md", "pyproject.toml", "setup.py", "CONTRIBUTING.md", "Makefile"):
        assert __version__ not in Path(ROOT / name).read_text()
