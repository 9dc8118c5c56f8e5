"""The files around the package: wheel matrix, Makefile, scripts.

Law: what they claim is compared with what the package says of itself.
"""

from __future__ import annotations

import importlib.util
import re
import shutil
import sys
from pathlib import Path

import pytest
from _builds import ROOT, execute

MINORS = range(10, 15)


@pytest.mark.parametrize("platform", ["linux", "macos"])
def test_cibuildwheel_accepts_its_configuration(platform: str, tmp_path: Path) -> None:
    if importlib.util.find_spec("cibuildwheel") is None:
        assert sys.version_info < (3, 11)
        pytest.skip("cibuildwheel is not installed")
    run = execute(
        sys.executable, "-m", "cibuildwheel", "--print-build-identifiers", "--platform", platform,
        "--archs", "all", "--config-file", ROOT / "cibuildwheel.toml", ROOT, cwd=tmp_path,
    )  # fmt: skip
    assert run.code == 0, run.output
    pythons = set(re.findall(r"^cp\d+t?(?=-)", run.output, re.MULTILINE))
    assert pythons == {f"cp3{minor}" for minor in MINORS}


def test_classifiers_name_the_pythons_that_wheels_are_built_for() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    named = re.findall(r'"Programming Language :: Python :: 3\.(\d+)"', text)
    assert [int(minor) for minor in named] == list(MINORS)
    assert 'requires-python = ">=3.10"' in text


def test_the_makefile_explains_its_targets() -> None:
    make = shutil.which("make")
    assert make, "make is not installed"
    listed = execute(make, "-s", "help", cwd=ROOT)
    assert listed.code == 0, listed.output
    (phony,) = re.findall(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert re.findall(r"^  make (\w+)", listed.output, re.MULTILINE) == phony.split()


@pytest.mark.parametrize("script", ["tools/find-python", "tools/make-venv"])
def test_scripts_are_valid(script: str) -> None:
    bash = shutil.which("bash")
    assert bash, "bash is not installed"
    assert execute(bash, "-n", ROOT / script).output == ""


def test_a_python_is_found_and_a_missing_one_is_said_to_be() -> None:
    found = execute(ROOT / "tools/find-python")
    assert found.code == 0, found.output
    assert Path(found.output.strip()).is_file()
    missing = execute(ROOT / "tools/find-python", "3.99")
    assert missing.code == 1
    assert "no suitable CPython 3.99 found" in missing.output
