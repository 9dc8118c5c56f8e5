"""Builds what the packaging tests look at. Law: once per session, never in the work tree.

The workers of pytest -n share what the first of them has built.

The order is that of a release: work tree -> sdist -> wheels. Wheels are built without
build isolation and without a package index: an sdist must need neither.
"""

from __future__ import annotations

import fcntl
import os
import pickle
import shutil
import sys
import sysconfig
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from _builds import ROOT, Builder, Built, Run, execute

#: Never part of a source tree, wherever it lies.
REFUSE = shutil.ignore_patterns(
    ".git", ".venv*", ".python-ft", "build", "dist", ".servers", "results", "*.egg-info", "*.so",
    "__pycache__", ".*_cache", ".hypothesis", ".benchmarks", "_build.json",
)  # fmt: skip


@pytest.fixture(scope="session")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the work tree as a fresh clone would have it."""
    copy = tmp_path_factory.mktemp("tree") / "fastlock"
    shutil.copytree(ROOT, copy, ignore=REFUSE)
    return copy


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Callable[[], Any]], Any]:
    """once(name, build): what ``build()`` gave to the first worker that asked, for all."""
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent

    def get(name: str, build: Callable[[], Any]) -> Any:
        result = shared / f"{name}.pickle"
        with open(shared / f"{name}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # others wait here while the first one builds
            if not result.exists():
                built = pickle.dumps(build())
                result.write_bytes(built)
            return pickle.loads(result.read_bytes())

    return get


@pytest.fixture(scope="session")
def sdist(tree: Path, once: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    def build() -> Path:
        folder = tmp_path_factory.mktemp("sdist")
        fetched = sorted((ROOT / "build").glob("hiredis-*.tar.gz"))
        known = {"FASTLOCK_HIREDIS_SDIST": str(fetched[-1])} if fetched else {}
        run = execute(
            sys.executable, "-m", "build", "--sdist", "--no-isolation", "-o", folder, tree,
            cwd=folder, **known,
        )  # fmt: skip
        assert run.code == 0, run.output
        (archive,) = folder.glob("*.tar.gz")
        return archive

    archive: Path = once("sdist", build)
    return archive


@pytest.fixture(scope="session")
def unpacked(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(sdist) as archive:
        # As an attribute: the argument came later than the first CPython 3.10.
        archive.extraction_filter = getattr(tarfile, "data_filter", None)
        archive.extractall(folder)
    (top,) = folder.iterdir()
    return top


@pytest.fixture(scope="session")
def no_compiler(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Environment of a machine on which no program can be found, a compiler least of all."""
    return {"PATH": str(tmp_path_factory.mktemp("empty-path"))}


@pytest.fixture(scope="session")
def quick(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Environment of a build whose code is not looked at: the compiler does not optimise."""
    script = tmp_path_factory.mktemp("quick") / "cc"
    script.write_text(f'#!/bin/sh\nexec {sysconfig.get_config_var("CC")} "$@" -O0\n')
    script.chmod(0o755)
    return {"CC": str(script)}


@pytest.fixture(scope="session")
def make_wheel(tmp_path_factory: pytest.TempPathFactory) -> Builder:
    """Build a wheel from a source tree; without a wheel the Run says why."""

    def build(source: Path, **environment: str) -> Built | Run:
        folder = tmp_path_factory.mktemp("wheel")
        environment.setdefault("PIP_NO_INDEX", "1")
        run = execute(
            sys.executable, "-m", "pip", "wheel", "-v", "--no-deps", "--no-build-isolation",
            "--wheel-dir", folder, source, cwd=folder, **environment,
        )  # fmt: skip
        wheels = list(folder.glob("*.whl"))
        assert bool(wheels) == (run.code == 0), run.output
        if not wheels:
            return run
        site = folder / "site"
        with zipfile.ZipFile(wheels[0]) as archive:
            archive.extractall(site)
        return Built(wheels[0], site, run)

    return build


@pytest.fixture(scope="session")
def compiled(make_wheel: Builder, unpacked: Path, once: Any) -> Built:
    built = once("compiled", lambda: make_wheel(unpacked, FASTLOCK_BUILD="cython"))
    assert isinstance(built, Built), built.output
    return built


@pytest.fixture(scope="session")
def pure(make_wheel: Builder, unpacked: Path, once: Any) -> Built:
    built = once("pure", lambda: make_wheel(unpacked, FASTLOCK_BUILD="pure"))
    assert isinstance(built, Built), built.output
    return built
