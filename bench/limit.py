"""Builds the limits: C programs of our own in ``limit/``, two of them on libhiredis.

Law: the same hiredis sources as the compiled core, found by the rules of setup.py;
everything lands in build/bench, named by a hash of what went in, and is built once.
"""

from __future__ import annotations

import hashlib
import os
import re
import runpy
import shlex
import subprocess
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

ROOT = Path(__file__).resolve().parent.parent
SOURCES = Path(__file__).resolve().parent / "limit"
HIREDIS_UNITS = ("alloc", "async", "hiredis", "net", "read", "sds")
FLAGS = ("-O2", "-Wall", "-Wextra", "-Wno-unused-function")


def compiler() -> list[str]:
    """$CC, else cc."""
    return shlex.split(os.environ.get("CC", "")) or ["cc"]


@cache
def hiredis_files() -> dict[str, bytes]:
    """hiredis's C files by name: from FASTLOCK_HIREDIS_SDIST, else the sdist setup.py pins."""
    with patch("setuptools.setup"):  # its rules without its build
        rules: dict[str, Any] = runpy.run_path(str(ROOT / "setup.py"))
    named = os.environ.get("FASTLOCK_HIREDIS_SDIST", "").strip()
    source = Path(named) if named else rules["fetch"]()
    read = rules["read_tar"] if source.is_file() else rules["read_tree"]
    files: dict[str, bytes] = read(source)
    return files


def hiredis_version() -> str:
    """As its own header says."""
    header = hiredis_files()["hiredis.h"].decode()
    numbers = re.findall(r"#define HIREDIS_(?:MAJOR|MINOR|PATCH) (\d+)", header)
    return ".".join(numbers)


@cache
def compiler_version() -> str:
    """The first line of what the compiler says about itself."""
    command = [*compiler(), "--version"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return said.splitlines()[0]


@cache
def home() -> Path:
    """The folder of finished programs; builds them if these sources were never built."""
    ours = {file.name: file.read_bytes() for file in sorted(SOURCES.iterdir())}
    theirs = hiredis_files()
    digest = hashlib.sha256(repr((FLAGS, compiler_version())).encode())
    for name, content in [*ours.items(), *sorted(theirs.items())]:
        digest.update(name.encode() + b"\0" + content)
    folder = ROOT / "build" / "bench" / digest.hexdigest()[:16]
    if (folder / "done").exists():
        return folder
    sources = folder / "hiredis"
    sources.mkdir(parents=True, exist_ok=True)
    for name, content in theirs.items():
        (sources / name).write_bytes(content)
    objects = []
    for unit in HIREDIS_UNITS:
        objects.append(str(folder / f"{unit}.o"))
        run("-O2", "-w", "-c", str(sources / f"{unit}.c"), "-o", objects[-1])
    for file in sorted(SOURCES.glob("*.c")):
        links = objects if file.stem.endswith("_hiredis") else []
        built = str(folder / file.stem)
        run(*FLAGS, f"-I{sources}", f"-I{SOURCES}", str(file), *links, "-pthread", "-o", built)
    (folder / "done").touch()
    return folder


def run(*arguments: str) -> None:
    """The compiler, once; what it says is shown only when it fails."""
    done = subprocess.run([*compiler(), *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{compiler()[0]} {' '.join(arguments)}\n{done.stderr}")
    if done.stderr:
        print(done.stderr)


def program(name: str) -> str:
    """The path of one finished program."""
    return str(home() / name)


if __name__ == "__main__":
    print(home(), "hiredis", hiredis_version(), "by", compiler_version())
