"""The files around the package: Makefile, scripts.

Law: what they claim is compared with what the package says of itself.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from _builds import ROOT, execute


def test_the_makefile_explains_its_targets() -> None:
    make = shutil.which("make")
    assert make, "make is not installed"
    listed = execute(make, "-s", "help", cwd=ROOT)
    assert listed.code == 0, listed.output
    (phony,) = re.findall(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert re.findall(r"^  make ([\w-]+)", listed.output, re.MULTILINE) == phony.split()


@pytest.mark.parametrize(
    "script", ["tools/find-python", "tools/make-venv", "tools/make-wheels", ".ci/run"]
)
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
