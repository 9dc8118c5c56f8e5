"""tools/check-wheel, and which of several wheels pip takes.

Law: every fault that the tool knows is planted once in a real wheel; a wheel that came
from here has none but its tag, which auditwheel replaces.
"""

from __future__ import annotations

import secrets
import shutil
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from _builds import ROOT, Built, Run, execute

TOOL = ROOT / "tools" / "check-wheel"
#: Stands for any platform tag that an index takes.
REPAIRED = "manylinux_2_17_x86_64.manylinux2014_x86_64"

#: What is planted: file names and contents of a wheel in, the same out.
Change = Callable[[dict[str, bytes]], dict[str, bytes]]


def examined(*wheels: Path) -> Run:
    return execute(sys.executable, TOOL, *wheels)


def remade(built: Built, folder: Path, platform: str, change: Change) -> Path:
    """The wheel under another platform tag, with other contents."""
    head = built.wheel.stem.rpartition("-")[0]
    with zipfile.ZipFile(built.wheel) as old:
        files = change({name: old.read(name) for name in old.namelist()})
    path = folder / f"{head}-{platform}.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for name, content in files.items():
            new.writestr(name, content)
    return path


def faults(run: Run) -> list[str]:
    lines = run.output.splitlines()
    return [line.partition("FAULT: ")[2] for line in lines if "FAULT: " in line]


def same(files: dict[str, bytes]) -> dict[str, bytes]:
    return files


def test_ours_have_no_fault_but_the_tag(compiled: Built, pure: Built, tmp_path: Path) -> None:
    run = examined(pure.wheel)
    assert (run.code, faults(run)) == (0, [])
    run = examined(remade(compiled, tmp_path, REPAIRED, same), pure.wheel)
    assert (run.code, faults(run)) == (0, [])
    assert len(run.output.splitlines()) == 2
    if sys.platform == "linux":
        run = examined(compiled.wheel)
        assert run.code == 1
        (fault,) = faults(run)
        assert fault.startswith("platform linux_")


def test_without_a_wheel_it_says_how_it_is_called() -> None:
    run = examined()
    assert run.code == 2
    assert "tools/check-wheel dist/*.whl" in run.output


def plus(name: str, content: bytes = b"") -> Change:
    return lambda files: files | {name: content}


def without(part: str) -> Change:
    return lambda files: {name: data for name, data in files.items() if part not in name}


def unstripped(files: dict[str, bytes]) -> dict[str, bytes]:
    return {
        name: data + b"\0.symtab\0" if "_core." in name and data.startswith(b"\x7fELF") else data
        for name, data in files.items()
    }


@pytest.mark.parametrize(
    ("platform", "change", "fault"),
    [
        (REPAIRED, plus("fastlock/_core.c"), "does not belong: fastlock/_core.c"),
        (REPAIRED, plus("fastlock/_core.pyx"), "does not belong: fastlock/_core.pyx"),
        (REPAIRED, plus("fastlock/_posix.h"), "does not belong: fastlock/_posix.h"),
        (REPAIRED, plus("fastlock/tests/x.py"), "does not belong: fastlock/tests/x.py"),
        (REPAIRED, plus("tests/x.py"), "does not belong: tests/x.py"),
        (REPAIRED, plus("hiredis/x.py"), "does not belong: hiredis/x.py"),
        (REPAIRED, without("hiredis/COPYING"), "licences ['LICENSE']"),
        (
            REPAIRED,
            without("fastlock/_core."),
            (
                "compiled modules ['_codec', '_divide', '_heartbeat', '_leases', '_meter', '_mux', "
                "'_pack', '_scheduler', '_straight']"
            ),
        ),
        ("manylinux_2_34_x86_64", same, "needs glibc (2, 34)"),
    ],
)
def test_a_planted_fault_is_found(
    compiled: Built, tmp_path: Path, platform: str, change: Change, fault: str
) -> None:
    run = examined(remade(compiled, tmp_path, platform, change))
    assert run.code == 1
    assert fault in faults(run)


@pytest.mark.skipif(sys.platform != "linux", reason="only ELF files have these sections")
def test_symbols_left_in_a_module_are_found(compiled: Built, tmp_path: Path) -> None:
    (fault,) = faults(examined(remade(compiled, tmp_path, REPAIRED, unstripped)))
    assert fault.startswith("fastlock/_core.")
    assert fault.endswith("has .symtab")


def test_a_wheel_that_is_too_large_is_found(pure: Built, tmp_path: Path) -> None:
    # Random bytes do not compress.
    large = plus("fastlock/large.txt", secrets.token_bytes(1_000_000))
    told = faults(examined(remade(pure, tmp_path, "any", large)))
    assert any(fault.endswith("the limit is 1000000") for fault in told)


def test_a_pure_wheel_with_compiled_modules_is_found(pure: Built, tmp_path: Path) -> None:
    run = examined(remade(pure, tmp_path, "any", plus("fastlock/_core.so")))
    assert "a pure wheel with compiled modules" in faults(run)


# ------------------------------------------------------------------ which one pip takes


@pytest.fixture(scope="module")
def index(
    compiled: Built, pure: Built, sdist: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A folder as an index would offer it after a release."""
    folder = tmp_path_factory.mktemp("index")
    for file in (compiled.wheel, pure.wheel, sdist):
        shutil.copy(file, folder)
    return folder


def taken(index: Path, into: Path, *options: str) -> str:
    run = execute(
        sys.executable, "-m", "pip", "download", "--quiet", "--no-index", "--no-deps",
        "--find-links", index, "--dest", into, *options, "fastlock",
    )  # fmt: skip
    assert run.code == 0, run.output
    (file,) = into.iterdir()
    return file.name


def test_pip_takes_the_compiled_wheel_where_it_fits(
    index: Path, compiled: Built, tmp_path: Path
) -> None:
    assert taken(index, tmp_path / "here") == compiled.wheel.name


@pytest.mark.parametrize(
    "options",
    [
        ("--platform", "win_amd64"),
        ("--implementation", "pp"),
        ("--python-version", "3.99"),
    ],
)
def test_pip_takes_the_pure_wheel_elsewhere(
    index: Path, pure: Built, tmp_path: Path, options: tuple[str, ...]
) -> None:
    name = taken(index, tmp_path / "there", "--only-binary", ":all:", *options)
    assert name == pure.wheel.name
