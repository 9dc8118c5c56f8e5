"""Which Pythons and machines: pyproject.toml, cibuildwheel.toml, workflows and scripts agree.

Law: requires-python and the classifiers are the truth; everything else is compared with
them, as its own reader understands it (cibuildwheel, a YAML parser, bash).
"""

from __future__ import annotations

import importlib.util
import re
import sys
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import yaml
from _builds import ROOT, execute

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

#: What a wheel with the compiled core exists for, beside the Python.
LINUX = {"x86_64", "aarch64"}
MACOS = {"x86_64", "arm64"}
#: Pythons without the GIL that wheels are built for: those since it is no experiment.
FREE_THREADED = {"cp314t"}


def toml(name: str) -> Any:
    return tomllib.loads((ROOT / name).read_text())


def workflow(name: str) -> Any:
    return yaml.safe_load((ROOT / ".github" / "workflows" / name).read_text())


def minors() -> list[int]:
    """The supported minor versions of Python 3, from the classifiers."""
    found = [
        re.fullmatch(r"Programming Language :: Python :: 3\.(\d+)", line)
        for line in toml("pyproject.toml")["project"]["classifiers"]
    ]
    return [int(match[1]) for match in found if match]


def pythons() -> set[str]:
    return {f"3.{minor}" for minor in minors()}


def test_classifiers_are_without_a_gap_and_begin_where_requires_python_does() -> None:
    known = minors()
    assert known == list(range(known[0], known[-1] + 1))
    project = toml("pyproject.toml")["project"]
    assert project["requires-python"] == f">=3.{known[0]}"
    tool = toml("pyproject.toml")["tool"]
    assert tool["mypy"]["python_version"] == f"3.{known[0]}"
    assert tool["ruff"]["target-version"] == f"py3{known[0]}"


def identifiers(platform: str, cwd: Path, **environment: str) -> set[str]:
    """The wheels that cibuildwheel would build if it could build for every machine."""
    if importlib.util.find_spec("cibuildwheel") is None:
        assert sys.version_info < (3, 11)
        pytest.skip("cibuildwheel is not installed")
    run = execute(
        sys.executable, "-m", "cibuildwheel", "--print-build-identifiers", "--platform", platform,
        "--archs", "all", "--config-file", ROOT / "cibuildwheel.toml", ROOT, cwd=cwd,
        **environment,
    )  # fmt: skip
    assert run.code == 0, run.output
    return set(run.output.split())


def wheels() -> dict[str, set[str]]:
    """Every wheel with a compiled core that a release must have."""
    tags = {f"cp3{minor}" for minor in minors()} | FREE_THREADED
    systems = {
        "linux": {f"{libc}_{arch}" for libc, arch in product(["manylinux", "musllinux"], LINUX)},
        "macos": {f"macosx_{arch}" for arch in MACOS},
        "windows": set[str](),
    }
    return {
        system: {f"{tag}-{machine}" for tag, machine in product(tags, machines)}
        for system, machines in systems.items()
    }


@pytest.mark.parametrize("platform", ["linux", "macos", "windows"])
def test_cibuildwheel_builds_exactly_these_wheels(platform: str, tmp_path: Path) -> None:
    assert identifiers(platform, tmp_path) == wheels()[platform]


@pytest.mark.parametrize("platform", ["linux", "macos"])
def test_every_free_threaded_python_that_cibuildwheel_offers_gets_wheels(
    platform: str, tmp_path: Path
) -> None:
    """Of the versions supported here; those of tomorrow come with their classifier."""
    offered = identifiers(platform, tmp_path, CIBW_BUILD="cp*t-*")
    tags = {name.partition("-")[0] for name in offered}
    assert tags & {f"cp3{minor}t" for minor in minors()} == FREE_THREADED


def test_every_compiled_module_declares_that_it_does_without_the_gil() -> None:
    """One that does not would switch it on for the whole process."""
    sources = sorted((ROOT / "src/fastlock").glob("*.pyx"))
    assert sources
    told = {
        source.name: "# cython: freethreading_compatible=True" in source.read_text().splitlines()
        for source in sources
    }
    assert [name for name, declared in told.items() if not declared] == []
    classifiers = toml("pyproject.toml")["project"]["classifiers"]
    assert [line for line in classifiers if " :: Free Threading :: " in line]


def test_cibuildwheel_asks_for_no_machine_in_vain() -> None:
    options = toml("cibuildwheel.toml")["tool"]["cibuildwheel"]
    assert set(options["linux"]["archs"]) == LINUX
    assert set(options["macos"]["archs"]) == MACOS


def test_wheels_are_tested_with_a_part_of_the_test_extra() -> None:
    options = toml("cibuildwheel.toml")["tool"]["cibuildwheel"]
    extras = toml("pyproject.toml")["project"]["optional-dependencies"]
    assert set(options["test-requires"]) <= set(extras["test"])
    assert options["test-extras"] == ["server", "live"]
    assert re.fullmatch(r"fastlock\[.*\blive\b.*\]", extras["test"][0])
    assert not any("hiredis" in need for need in [*options["test-requires"], *extras["live"]])


def test_the_wheels_workflow_has_a_machine_for_every_wheel() -> None:
    jobs = workflow("wheels.yml")["jobs"]
    machines = {(m["system"], m["arch"]) for m in jobs["compiled"]["strategy"]["matrix"]["include"]}
    assert machines == set(product(["linux"], LINUX)) | set(product(["macos"], MACOS))
    tried = {m["python"] for m in jobs["pure-installed"]["strategy"]["matrix"]["include"]}
    assert {f"3.{minors()[0]}", f"3.{minors()[-1]}"} <= tried


def test_the_wheels_workflow_runs_the_cibuildwheel_that_is_tested_here() -> None:
    steps = workflow("wheels.yml")["jobs"]["compiled"]["steps"]
    (install,) = [step["run"] for step in steps if "cibuildwheel==" in step.get("run", "")]
    dev = toml("pyproject.toml")["project"]["optional-dependencies"]["dev"]
    (floor,) = [need for need in dev if need.startswith("cibuildwheel")]
    major = re.search(r"cibuildwheel==(\d+)\.", install)
    wanted = re.search(r"cibuildwheel>=(\d+)", floor)
    assert major
    assert wanted
    assert major[1] == wanted[1]


def test_only_a_tag_is_published_and_only_after_everything() -> None:
    release = workflow("wheels.yml")
    # YAML 1.1 reads the key "on" as a truth value.
    assert release[True]["push"] == {"tags": ["v*"]}
    jobs = release["jobs"]
    publish = jobs["publish"]
    assert set(publish["needs"]) == set(jobs) - {"publish"}
    assert publish["if"] == "github.event_name == 'push' && github.ref_type == 'tag'"
    assert publish["environment"]["name"] == "pypi"
    assert publish["permissions"] == {"id-token": "write"}
    assert not any("permissions" in job for name, job in jobs.items() if name != "publish")
    assert "secrets." not in (ROOT / ".github/workflows/wheels.yml").read_text()


def test_the_ci_workflow_runs_every_python_on_both_servers() -> None:
    matrix = workflow("ci.yml")["jobs"]["test"]["strategy"]["matrix"]
    assert set(matrix["python"]) == pythons()
    kinds = {re.sub(r".*/|:.*", "", server) for server in matrix["server"]}
    assert kinds == {"redis", "valkey"}
    steps = workflow("ci.yml")["jobs"]["free-threaded"]["steps"]
    (without,) = [step["with"]["python-version"] for step in steps if step.get("id") == "without"]
    assert f"cp{without.replace('.', '')}" in FREE_THREADED
    pure = workflow("ci.yml")["jobs"]["pure"]["strategy"]["matrix"]["python"]
    assert {f"3.{minors()[0]}", f"3.{minors()[-1]}"} == set(pure)


@pytest.mark.parametrize("name", ["ci.yml", "wheels.yml"])
def test_workflows_are_bounded_and_read_only(name: str) -> None:
    told = workflow(name)
    assert told["permissions"] == {"contents": "read"}
    for job in told["jobs"].values():
        assert job["timeout-minutes"] <= 60
        assert "latest" not in str(job["runs-on"])
        for step in job["steps"]:
            assert ("uses" in step) != ("run" in step)
            used = step.get("uses", "actions/checkout@v6")
            assert re.fullmatch(r"(actions|pypa)/[a-z-]+@(v\d+|release/v\d+)", used), used


@pytest.mark.parametrize("script", ["tools/find-python", "tools/make-wheels", ".ci/run"])
def test_scripts_look_for_every_python(script: str) -> None:
    text = (ROOT / script).read_text()
    listed = re.findall(r"(?<![\d.])3\.\d+(?: 3\.\d+){2,}", text)
    assert listed
    for line in listed:
        assert set(line.split()) == pythons()
