"""The sum at a session's end, and the law of skips: the same with and without pytest -n.

Law: sessions of their own, with this suite's conftest and a few tests made for the purpose.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import pytest
from _harness import APIS, CORES

HERE = Path(__file__).resolve().parents[1]
PASSING = """
import pytest
from _harness import one_server

pytestmark = one_server


@pytest.mark.parametrize("turn", range(3))
async def test_a_fault(fl, turn):
    proxy = fl.proxy()
    client = await fl.warm(fl.client(proxy.uri))
    fault = proxy.fault("lose_reply")
    lease = await client.acquire(fl.key(), ttl=5)
    await fl.happened(fault)
    assert await lease.release() is True
"""
SKIPPING = """
import pytest


@pytest.mark.parametrize("turn", range(4))
def test_skips(turn):
    pytest.skip("no such thing here")
"""
MODULE = """
import pytest

pytest.skip("not on this machine", allow_module_level=True)
"""
HELPER = """
import pytest


def need():
    pytest.skip("nobody has it", allow_module_level=True)
"""
TIMED = """
import time
from pathlib import Path

import pytest


def run(name, seconds):
    begun = time.monotonic()
    time.sleep(seconds)
    (Path(__file__).parent / f"{name}.span").write_text(f"{begun} {time.monotonic()}")


@pytest.mark.parametrize("turn", range(20))
def test_beside_others(turn):
    run(f"other {turn}", 0.1)


@pytest.mark.alone
@pytest.mark.parametrize("turn", range(3))
def test_alone(turn):
    run(f"alone {turn}", 0.3)
"""
NEEDING = "import _need\n\n_need.need()\n"
ALIKE = "tests/test_a_module.py :: not on this machine :: it is so\n"
ENTRIES = ALIKE + "*skips* :: such thing :: none is needed\n*needing* :: nobody :: that is known\n"


class Session(NamedTuple):
    code: int
    out: str

    @property
    def sum(self) -> list[str]:
        """The lines of the closing section, without the machine's."""
        section = re.split(r"^=+ fastlock =+$", self.out, flags=re.MULTILINE)[1]
        lines = section.partition("\n=")[0].splitlines()
        return [line for line in lines if line and not line.startswith("python ")]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A project with this suite's settings and conftest, without its tests."""
    tests = tmp_path / "tests"
    tests.mkdir()
    for name in ("conftest", "_alone", "_harness", "_matrix", "_proxy", "_servers"):
        shutil.copy(HERE / f"{name}.py", tests)
    shutil.copy(HERE.parent / "pyproject.toml", tmp_path)
    (tests / "_need.py").write_text(HELPER)
    return tmp_path


#: pytest -n: all in the session's own process, or in two others.
ALONE, WORKERS = "0", "2"
both = pytest.mark.parametrize("workers", [ALONE, WORKERS], ids="n{}".format)


def session(folder: Path, workers: str, entries: str | None, **tests: str) -> Session:
    for name, text in tests.items():
        (folder / "tests" / f"test_{name}.py").write_text(text)
    if entries is not None:
        (folder / "tests" / "expected_skips.txt").write_text(entries)
    alone = {name: text for name, text in os.environ.items() if "PYTEST" not in name}
    alone["TMPDIR"] = str(folder)
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-n", workers, "--dist", "worksteal"],
        cwd=folder,
        env=alone,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=110,
        check=False,
    )
    return Session(run.returncode, run.stdout)


@both
def test_the_sum_is_exact(folder: Path, workers: str) -> None:
    ran = session(
        folder, workers, ENTRIES, passing=PASSING, skipping=SKIPPING, a_module=MODULE,
        needing=NEEDING, needing_too=NEEDING,
    )  # fmt: skip
    assert ran.code == 0, ran.out
    servers, ways, faults, *skips = ran.sum
    assert re.fullmatch(r"servers  \w+ [\d.]+", servers)
    taken = sorted(f"{api} {core} 3" for api in APIS for core in CORES)
    assert ways == f"ways     {', '.join(taken)}"
    assert faults == f"faults   lose_reply {3 * len(taken)}"
    assert sorted(skips) == [
        "skipped  1: not on this machine (it is so)",
        "skipped  2: nobody has it (that is known)",
        "skipped  4: no such thing here (none is needed)",
    ]


@pytest.mark.parametrize(
    ("workers", "entries"),
    [
        (ALONE, None),
        (ALONE, "*skips* :: another reason :: no\n"),
        (WORKERS, "tests/test_other.py :: no such thing :: no\n"),
    ],
    ids=["n0-no-file", "n0-other-reason", "n2-other-test"],
)
def test_a_skip_without_an_entry_fails_the_session(
    folder: Path, workers: str, entries: str | None
) -> None:
    tests = {"skipping": SKIPPING, "a_module": MODULE, "needing": NEEDING, "needing_too": NEEDING}
    ran = session(folder, workers, entries, **tests)
    assert ran.code == pytest.ExitCode.TESTS_FAILED, ran.out
    begin = "SKIPPED WITHOUT AN ENTRY IN expected_skips.txt: tests/test_"
    told = {line.removeprefix(begin) for line in ran.sum if line.startswith(begin)}
    assert told == {
        *(f"skipping.py::test_skips[{turn}]: no such thing here" for turn in range(4)),
        "a_module.py: not on this machine",
        "needing.py: nobody has it",
        "needing_too.py: nobody has it",
    }


@both
def test_an_entry_that_cannot_be_read_fails_the_session(folder: Path, workers: str) -> None:
    ran = session(folder, workers, "tests/* : no such thing", skipping=SKIPPING)
    assert ran.code not in (0, pytest.ExitCode.TESTS_FAILED), ran.out
    assert "not 'test :: reason :: why': 'tests/* : no such thing'" in ran.out


def test_a_worker_that_dies_is_not_passed_over(folder: Path) -> None:
    """It cannot hand over its counts any more: the sum says that they are missing."""
    dying = "import os\n\n\ndef test_dies():\n    os.abort()\n"
    ran = session(folder, WORKERS, "", dying=dying)
    assert ran.code == pytest.ExitCode.TESTS_FAILED, ran.out
    assert any(line.startswith("NOT COUNTED: what worker gw") for line in ran.sum), ran.out


def test_some_are_alone(folder: Path) -> None:
    ran = session(folder, WORKERS, "", timed=TIMED)
    assert ran.code == 0, ran.out
    spans = {
        path.stem: tuple(map(float, path.read_text().split()))
        for path in (folder / "tests").glob("*.span")
    }
    assert len(spans) == 23
    alone = [spans.pop(f"alone {turn}") for turn in range(3)]
    for begun, ended in alone:
        assert not [name for name, (a, z) in spans.items() if a < ended and z > begun]
    others = sorted(spans.values())
    assert any(late < ended for (_, ended), (late, _) in pairwise(others)), "nothing ran beside"
    assert not list(folder.glob("fastlock-*"))
