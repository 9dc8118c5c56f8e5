"""What the sdist and the wheels hold.

Law: exact lists where they are ours, so that a new kind of file has to be thought about.
"""

from __future__ import annotations

import ctypes
import json
import re
import sys
import sysconfig
import tarfile
from email import message_from_string
from email.message import Message
from pathlib import Path

from _builds import Built

MODULES = (
    "_codec", "_core", "_divide", "_heartbeat", "_leases", "_meter", "_mux", "_pack", "_scheduler",
    "_straight",
)  # fmt: skip
SUFFIX = sysconfig.get_config_var("EXT_SUFFIX")
#: What of src/fastlock runs or is read by type checkers; the rest is for building.
TRAVELS = (".py", ".pyi", ".lua")


def shipped(tree: Path) -> set[str]:
    """The files of the package that every wheel must hold."""
    package = tree / "src" / "fastlock"
    return {
        f"fastlock/{file.relative_to(package).as_posix()}"
        for file in package.rglob("*")
        if file.suffix in TRAVELS or file.name == "py.typed"
    }


def in_package(built: Built) -> set[str]:
    return {name for name in built.names if not name.partition("/")[0].endswith(".dist-info")}


def metadata(built: Built) -> Message:
    return message_from_string(built.read(".dist-info/METADATA"))


def test_the_compiled_wheel_holds_the_package_and_its_modules(tree: Path, compiled: Built) -> None:
    modules = {f"fastlock/{module}{SUFFIX}" for module in MODULES}
    assert in_package(compiled) == shipped(tree) | modules | {"fastlock/_build.json"}


def test_the_pure_wheel_holds_the_package_alone(tree: Path, pure: Built) -> None:
    assert in_package(pure) == shipped(tree) | {"fastlock/_build.json"}


def test_tags_say_where_a_wheel_runs(compiled: Built, pure: Built) -> None:
    major, minor = sys.version_info[:2]
    assert re.search(rf"-cp{major}{minor}-cp{major}{minor}t?-(linux|macosx)_", compiled.wheel.name)
    assert pure.wheel.name.endswith("-py3-none-any.whl")
    assert "Root-Is-Purelib: false" in compiled.read(".dist-info/WHEEL")
    assert "Root-Is-Purelib: true" in pure.read(".dist-info/WHEEL")


def test_metadata_is_that_of_the_project(compiled: Built, pure: Built) -> None:
    for built in (compiled, pure):
        told = metadata(built)
        assert told["Name"] == "fastlock"
        assert told["License-Expression"] == "MIT"
        assert told["Requires-Python"] == ">=3.10"
        needs = [need for need in told.get_all("Requires-Dist", []) if "extra" not in need]
        assert [re.split(r"[^\w-]", need)[0] for need in needs] == ["redis"]
        assert "fastlock = fastlock.cli:main" in built.read("entry_points.txt")


def test_licences_travel_with_what_they_license(compiled: Built, pure: Built) -> None:
    def licences(built: Built) -> set[str]:
        return {name.partition("/licenses/")[2] for name in built.names if "/licenses/" in name}

    assert licences(pure) == {"LICENSE"}
    assert licences(compiled) == {"LICENSE", "hiredis/COPYING"}
    assert "Redistribution and use" in compiled.read("hiredis/COPYING")


def test_one_version_everywhere(sdist: Path, compiled: Built, pure: Built) -> None:
    (version,) = {metadata(compiled)["Version"], metadata(pure)["Version"]}
    assert sdist.name == f"fastlock-{version}.tar.gz"
    for built in (compiled, pure):
        run = built.python("import fastlock; print(fastlock.__version__)")
        assert (run.code, run.output.strip()) == (0, version)


def test_hiredis_stays_inside_its_module(compiled: Built) -> None:
    # Exported, its functions would be mixed up with those of another copy in the process.
    module = ctypes.CDLL(str(compiled.site / "fastlock" / f"_codec{SUFFIX}"))
    assert hasattr(module, "PyInit__codec")
    for name in ("redisReaderCreateWithFunctions", "sdsnewlen", "hi_malloc"):
        assert not hasattr(module, name)


def test_wheels_say_how_they_were_built(compiled: Built, pure: Built) -> None:
    told = json.loads(compiled.read("_build.json"))
    assert (told["asked"], told["core"], told["debug"]) == ("cython", "cython", False)
    assert told["hiredis"].endswith("(in the sdist)")
    told = json.loads(pure.read("_build.json"))
    assert (told["asked"], told["core"], told["hiredis"]) == ("pure", "python", "")
    assert told["why"] == "FASTLOCK_BUILD=pure was set"


def test_the_sdist_can_build_and_test(sdist: Path, tree: Path) -> None:
    with tarfile.open(sdist) as archive:
        names = {m.name.partition("/")[2] for m in archive.getmembers() if m.isfile()}
    sources = {
        file.relative_to(tree).as_posix()
        for folder in ("src/fastlock", "examples", "tests", "tools", "model")
        for file in (tree / folder).rglob("*")
        if file.is_file()
    }
    assert sources - names == set()
    assert {"pyproject.toml", "setup.py", "LICENSE", "README.md", "Makefile"} <= names
    units = {"alloc.c", "read.c", "sds.c"}
    hiredis = {Path(name).name for name in names if name.startswith("vendor/")}
    assert {n for n in hiredis if not n.endswith(".h")} == units | {"COPYING"}
    assert {"read.h", "alloc.h", "sds.h"} <= hiredis


def test_the_sdist_holds_nothing_generated(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        names = [m.name for m in archive.getmembers()]
    generated = re.compile(r"\.(so|pyc|o|html)$|_build\.json$|fastlock/_c\w+\.c$|\.venv|/\.git/")
    assert [name for name in names if generated.search(name)] == []
