"""FASTLOCK_BUILD and its companions: each value, each failure.

Law: what is demanded is done or refused; only mode auto falls back, and never silently.
"""

from __future__ import annotations

import json
import shutil
import sys
import tarfile
from pathlib import Path

import pytest
from _builds import Builder, Built, Run, execute

pytestmark = pytest.mark.slow

PROBE = "import fastlock, fastlock._impl as i; print(fastlock.core, '|', *i.explain())"


def failed(result: Built | Run) -> str:
    assert isinstance(result, Run), "a wheel was built"
    return result.output


def built(result: Built | Run) -> Built:
    assert isinstance(result, Built), result.output
    return result


@pytest.mark.parametrize(
    ("variable", "value", "allowed"),
    [
        ("FASTLOCK_BUILD", "fast", "auto, cython, pure"),
        ("FASTLOCK_BUILD", "1", "auto, cython, pure"),
        ("FASTLOCK_BUILD", "Cython", "auto, cython, pure"),
        ("FASTLOCK_HIREDIS", "bundled", "system"),
        ("FASTLOCK_DEBUG", "yes", "0, 1, fuzz"),
    ],
)
def test_an_unknown_value_is_refused_with_the_known_ones(
    unpacked: Path, variable: str, value: str, allowed: str
) -> None:
    run = execute(sys.executable, "setup.py", "--name", cwd=unpacked, **{variable: value})
    assert run.code != 0
    assert f"{variable}='{value}' is unknown; it can be {allowed}" in run.output


def test_cython_and_pure_do_what_they_say(compiled: Built, pure: Built) -> None:
    assert compiled.run.loud == pure.run.loud == []
    assert compiled.python(PROBE).output.startswith("cython |")
    told = pure.python(PROBE).output
    assert told.startswith("python |")
    assert "FASTLOCK_BUILD=pure was set" in told


@pytest.mark.parametrize("value", [{}, {"FASTLOCK_BUILD": ""}])
def test_without_a_compiler_auto_says_so_and_builds_a_pure_wheel(
    make_wheel: Builder, unpacked: Path, no_compiler: dict[str, str], value: dict[str, str]
) -> None:
    wheel = built(make_wheel(unpacked, **no_compiler, **value))
    (line,) = wheel.run.loud
    assert "the C compiler" in line
    assert "is not on PATH" in line
    assert "FASTLOCK_BUILD=cython" in line
    assert wheel.wheel.name.endswith("-py3-none-any.whl")
    assert not any(name.endswith(".so") for name in wheel.names)
    assert json.loads(wheel.read("_build.json"))["asked"] == "auto"
    told = wheel.python(PROBE).output
    assert told.startswith("python |")
    assert "the C compiler" in told


def test_without_a_compiler_cython_fails(
    make_wheel: Builder, unpacked: Path, no_compiler: dict[str, str]
) -> None:
    output = failed(make_wheel(unpacked, FASTLOCK_BUILD="cython", **no_compiler))
    assert "the C compiler" in output
    assert "!!!!" not in output


def test_a_compile_error_falls_back_too(
    make_wheel: Builder, unpacked: Path, tmp_path: Path, quick: dict[str, str]
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(unpacked, broken, ignore=shutil.ignore_patterns("build"))
    header = broken / "vendor" / "hiredis" / "alloc.h"
    header.write_text(header.read_text() + "\n#error planted\n")
    wheel = built(make_wheel(broken, **quick))
    assert len(wheel.run.loud) == 1
    assert wheel.wheel.name.endswith("-py3-none-any.whl")


def test_pure_works_where_cython_and_compiler_are_missing(
    make_wheel: Builder, unpacked: Path, no_compiler: dict[str, str]
) -> None:
    wheel = built(make_wheel(unpacked, FASTLOCK_BUILD="pure", **no_compiler))
    assert wheel.run.loud == []


def test_named_hiredis_sources_that_are_not_there_are_an_error_even_in_mode_auto(
    make_wheel: Builder, unpacked: Path, tmp_path: Path
) -> None:
    nowhere = str(tmp_path / "nowhere")
    output = failed(make_wheel(unpacked, FASTLOCK_HIREDIS_SDIST=nowhere))
    assert f"FASTLOCK_HIREDIS_SDIST='{nowhere}' does not exist" in output
    output = failed(make_wheel(unpacked, FASTLOCK_HIREDIS_SDIST=str(tmp_path)))
    assert "holds no hiredis sources" in output


def test_a_system_hiredis_must_be_there(make_wheel: Builder, unpacked: Path) -> None:
    # FASTLOCK_HIREDIS=system is asked of a machine that has a compiler, but no pkg-config.
    environment = {"FASTLOCK_HIREDIS": "system", "PKG_CONFIG": "no-such-pkg-config"}
    output = failed(make_wheel(unpacked, **environment))
    assert "FASTLOCK_HIREDIS=system needs no-such-pkg-config, which is not on PATH" in output


def test_fetched_sources_must_have_the_pinned_hash(
    make_wheel: Builder, unpacked: Path, tmp_path: Path
) -> None:
    """The sdist without its copy of hiredis, and an index that offers another file."""
    bare = tmp_path / "bare"
    shutil.copytree(unpacked, bare, ignore=shutil.ignore_patterns("build", "vendor"))
    offered = tmp_path / "offered"
    offered.mkdir()
    with tarfile.open(offered / "hiredis-3.5.0.tar.gz", "w:gz") as archive:
        archive.add(unpacked / "vendor", "hiredis-3.5.0/vendor")
    output = failed(make_wheel(bare, FASTLOCK_BUILD="cython", PIP_FIND_LINKS=str(offered)))
    assert "the C sources of hiredis 3.5.0 could not be fetched" in output
    assert "HASHES" in output


def test_without_sources_auto_says_what_to_set(
    make_wheel: Builder, unpacked: Path, tmp_path: Path
) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(unpacked, bare, ignore=shutil.ignore_patterns("build", "vendor"))
    empty = tmp_path / "empty"
    empty.mkdir()
    wheel = built(make_wheel(bare, PIP_FIND_LINKS=str(empty)))
    (line,) = wheel.run.loud
    assert "FASTLOCK_HIREDIS_SDIST" in line


def test_auto_compiles_in_place_and_pure_removes_it_again(
    unpacked: Path, tmp_path: Path, quick: dict[str, str]
) -> None:
    place = tmp_path / "place"
    shutil.copytree(unpacked, place, ignore=shutil.ignore_patterns("build"))
    package = place / "src" / "fastlock"

    def install(mode: str) -> Run:
        run = execute(
            sys.executable, "-m", "pip", "install", "-v", "--no-deps", "--no-build-isolation",
            "--no-index", "--ignore-installed", "--target", tmp_path / mode, "-e", place,
            FASTLOCK_BUILD=mode, **quick,
        )  # fmt: skip
        assert run.code == 0, run.output
        return run

    assert install("auto").loud == []
    assert len(list(package.glob("*.so"))) == len(list(package.glob("*.pyx")))
    assert json.loads((package / "_build.json").read_text())["core"] == "cython"
    install("pure")
    assert list(package.glob("*.so")) == []
    assert json.loads((package / "_build.json").read_text())["core"] == "python"
