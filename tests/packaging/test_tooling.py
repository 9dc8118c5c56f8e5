"""The files around the package: Makefile, scripts.

Law: what they claim is compared with what the package says of itself.
"""

from __future__ import annotations

import re
import shutil
import sys
import sysconfig
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
    "script",
    [
        "tools/apt-aside", "tools/find-python", "tools/fuzz", "tools/get-free-threaded",
        "tools/get-server", "tools/make-sanitized", "tools/make-venv", "tools/make-wheels",
        "tools/sanitized", "tools/test-matrix", ".ci/run",
    ],
)  # fmt: skip
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


def test_a_python_without_the_gil_is_found_under_its_own_name_alone() -> None:
    look = (
        "import sys, sysconfig\n"
        "print('%d.%d' % sys.version_info[:2], sysconfig.get_config_var('Py_GIL_DISABLED') or 0)"
    )
    for version in ("3.10", "3.11", "3.12", "3.13", "3.14", "3.13t", "3.14t"):
        found = execute(ROOT / "tools/find-python", version)
        if found.code == 0:
            told = execute(found.output.strip(), "-c", look).output.split()
            assert told == [version.removesuffix("t"), str(int(version.endswith("t")))]
        else:
            assert f"no suitable CPython {version} found" in found.output


if not sysconfig.get_config_var("Py_GIL_DISABLED"):

    def test_a_python_with_the_gil_is_refused_where_it_must_be_without() -> None:
        asked = (sys.executable, "-m", "pytest", "--no-gil", "-p", "no:cacheprovider")
        ran = execute(*asked, ROOT / "tests/contract", cwd=ROOT)
        assert ran.code == pytest.ExitCode.USAGE_ERROR
        assert f"--no-gil: {sys.executable} is built with the GIL" in ran.output


def test_servers_have_names_and_folders_of_their_own(tmp_path: Path) -> None:
    unknown = execute(ROOT / "tools/get-server", "redis-1", tmp_path / "new")
    assert unknown.code == 1
    assert "names: valkey-9, valkey-8.1, redis-7, redis-8.6" in unknown.output
    (tmp_path / "mine").write_text("keep")
    refused = execute(ROOT / "tools/get-server", "redis-7", tmp_path)
    assert refused.code == 1
    assert f"{tmp_path} is in the way" in refused.output
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_an_interpreter_is_not_compiled_into_somebody_s_folder(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("keep")
    refused = execute(ROOT / "tools/get-free-threaded", tmp_path)
    assert refused.code == 1
    assert f"{tmp_path} is in the way" in refused.output
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_a_version_that_is_missing_fails_the_matrix() -> None:
    names = ("valkey-9", "valkey-8.1", "redis-7", "redis-8.6")
    named = ",".join(f"{name}={sys.executable}" for name in names)
    matrix = ROOT / "tools/test-matrix"
    ran = execute(matrix, sys.executable, cwd=ROOT, FASTLOCK_TEST_SERVERS=named)
    assert ran.code == 1
    assert f"redis-7: {sys.executable} is another version, or does not run" in ran.output
    assert "no valkey-9 valkey-8.1 redis-7 redis-8.6: nothing was tested" in ran.output
