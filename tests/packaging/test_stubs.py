"""The stubs against what they describe: the compiled core, and its twin in Python.

Law: one pair of stubs for both cores. The few lines in which the twins differ on purpose
stand here (ON_PURPOSE) and nowhere else.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import venv
from pathlib import Path

import pytest
from _builds import Built, execute

#: Stub of the compiled core -> the stub that its twin in Python must fit.
TWINS = {
    "_pack.pyi": "_pypack.pyi",
    "_codec.pyi": "_pycodec.pyi",
    "_leases.pyi": "_pyleases.pyi",
    "_divide.pyi": "_pydivide.pyi",
    "_scheduler.pyi": "_pyscheduler.pyi",
    "_heartbeat.pyi": "_pyheartbeat.pyi",
    "_mux.pyi": "_pymux.pyi",
    "_core.pyi": "_pycore.pyi",
    "_straight.pyi": "_pystraight.pyi",
}
ON_PURPOSE = [
    ("from ._codec import", "from ._pycodec import"),
    ("from ._divide import", "from ._pydivide import"),
    ("from ._leases import", "from ._pyleases import"),
    ("from ._mux import", "from ._pymux import"),
    ("from ._pack import", "from ._pypack import"),
    ("from ._scheduler import", "from ._pyscheduler import"),
    (
        "def __new__(cls, kind: type) -> Leases: ...",
        "def __init__(self, kind: type) -> None: ...",
    ),
    (
        "def __new__(cls, patience: float) -> Heartbeat: ...",
        "def __init__(self, patience: float) -> None: ...",
    ),
    (
        "def __new__(cls, patience: float) -> Scheduler: ...",
        "def __init__(self, patience: float) -> None: ...",
    ),
    (
        "def __new__(cls, pairs: list[tuple[bytes, bytes]], serving: list[Any]) -> Division: ...",
        "def __init__(self, pairs: list[tuple[bytes, bytes]], serving: list[Any]) -> None: ...",
    ),
    (
        "def __new__(cls, pipe: Pipe) -> Ticket: ...",
        "def __init__(self, pipe: Pipe) -> None: ...",
    ),
    ('name: Final = "cython"', 'name: Final = "python"'),
    # There a partial, which costs one call less.
    ("def clock() -> float: ...", "clock: Callable[[], float]"),
    (
        "def __new__(cls, prefix: bytes, suffix: bytes) -> Numbered: ...",
        "def __init__(self, prefix: bytes, suffix: bytes) -> None: ...",
    ),
    ("def __new__(\n        cls,\n", "def __init__(\n        self,\n"),
    (") -> Straight: ...", ") -> None: ..."),
    # On TLS the Python Pipe serves both cores, with the core's own decoder.
    (
        "def __new__(cls, sock: socket) -> Pipe: ...",
        "def __init__(self, sock: socket, decoder: Any = None) -> None: ...",
    ),
    (
        "def __new__(cls, sock: socket) -> Mux: ...",
        "def __init__(self, sock: socket, decoder: Any = None) -> None: ...",
    ),
]

NOT_COMPARED = [
    # Of a function without arguments that is not bound newer CPythons say: "($self, /)".
    "fastlock._core.clock",
    # Made by prepare() alone, which knows how.
    "fastlock._pypack.Prepared.__init__",
    # A class with fields in C can be no base beside another; type checkers hardly know that yet.
    "fastlock._mux.Mux",
    "fastlock._scheduler.Scheduler",
    # An entry ends with its Beat; the compiled one has a destructor that shows nowhere.
    "fastlock._pyheartbeat.Beat.__del__",
]


def test_stubs_fit_both_cores(compiled: Built, tmp_path: Path) -> None:
    package = tmp_path / "fastlock"
    shutil.copytree(compiled.site / "fastlock", package)
    changed = set()
    for stub, twin in TWINS.items():
        text = (package / stub).read_text()
        for here, there in ON_PURPOSE:
            if here in text:
                changed.add(here)
                text = text.replace(here, there)
        (package / twin).write_text(
            "from collections.abc import Callable\nfrom typing import Any\n" + text
        )
    assert changed == {here for here, _ in ON_PURPOSE}
    modules = [f"fastlock.{name.removesuffix('.pyi')}" for pair in TWINS.items() for name in pair]
    allowed = tmp_path / "allowed"
    allowed.write_text("\n".join(NOT_COMPARED))
    run = execute(
        sys.executable, "-m", "mypy.stubtest", "--concise", "--allowlist", allowed,
        "--ignore-unused-allowlist", *modules,
        cwd=tmp_path, PYTHONPATH=str(tmp_path), MYPYPATH=str(tmp_path),
    )  # fmt: skip
    assert (run.code, run.output) == (0, "")


@pytest.fixture
def installed(compiled: Built, tmp_path: Path) -> Path:
    """An environment with the wheel in it: only site-packages ask for py.typed."""
    venv.create(tmp_path / "venv", with_pip=False)
    (packages,) = (tmp_path / "venv").glob("lib/python*/site-packages")
    shutil.copytree(compiled.site, packages, dirs_exist_ok=True)
    return tmp_path / "venv" / "bin"


def test_type_checkers_see_the_types_of_an_installed_package(
    installed: Path, tmp_path: Path
) -> None:
    """py.typed travels, and what users call has types."""
    user = tmp_path / "user.py"
    user.write_text(
        "import fastlock\n"
        "import fastlock.aio\n"
        "client = fastlock.Client('redis://localhost')\n"
        "reveal_type(client.try_acquire('k', ttl=1))\n"
        "reveal_type(fastlock.aio.Client().try_acquire)\n"
        "client.try_acquire('k', tll=1)\n"
    )
    run = execute(
        sys.executable, "-m", "mypy", "--strict", "--config-file=", "user.py",
        "--python-executable", installed / "python", cwd=tmp_path,
    )  # fmt: skip
    notes = [line for line in run.output.splitlines() if "Revealed type" in line]
    assert len(notes) == 2, run.output
    assert re.search(r"fastlock\.\w+\.Lease \| None", notes[0])
    assert "Coroutine" in notes[1]
    assert 'Unexpected keyword argument "tll"' in run.output
    assert "Found 1 error in 1 file" in run.output


def test_all_that_users_see_is_typed_for_pyright(installed: Path, tmp_path: Path) -> None:
    """Nothing left to be inferred, which each checker does in its own way."""
    checker = shutil.which("basedpyright", path=str(Path(sys.executable).parent))
    if checker is None:
        pytest.skip("basedpyright is not installed")
    ran = execute(
        checker, "--verifytypes", "fastlock", "--ignoreexternal", "--outputjson",
        cwd=tmp_path, PATH=f"{installed}{os.pathsep}{os.environ['PATH']}",
    )  # fmt: skip
    report = json.loads(ran.output)["typeCompleteness"]
    assert "fastlock.sync" in {module["name"] for module in report["modules"]}, ran.output
    unclear = {
        symbol["name"]
        for symbol in report["symbols"]
        if not symbol["isTypeKnown"] or symbol["isTypeAmbiguous"]
    }
    # Subclasses of a framework's classes, which have no types, or are not installed there.
    framework = ("fastlock.contrib.pip_services4.", "fastlock.contrib.prometheus.FastlockCollector")
    assert {name for name in unclear if not name.startswith(framework)} == set()
