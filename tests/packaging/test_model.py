"""The model of the protocol: what its checker says can be relied on.

Law: each way in which a check of the model must fail is made to happen.
"""

from __future__ import annotations

import importlib.util
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from _builds import ROOT, execute

pytestmark = pytest.mark.slow

MODEL = ROOT / "model"

spin = pytest.mark.skipif(shutil.which("spin") is None, reason="spin is not installed")


@pytest.fixture(scope="module")
def check() -> Any:
    """model/check.py, imported."""
    spec = importlib.util.spec_from_file_location("model_check", MODEL / "check.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["model_check"] = module  # where its dataclasses look themselves up
    spec.loader.exec_module(module)
    return module


def faults(check: Any, defines: str, breaks: str | None = None, folder: Path = MODEL) -> list[str]:
    case = check.Case("tried", defines, breaks)
    said: list[str] = check.faults(case, check.search(case, folder / "lock.pml"))
    return said


def change(folder: Path, old: str, new: str) -> None:
    """Copy the model; in the copy a caller does otherwise."""
    shutil.copytree(MODEL, folder, dirs_exist_ok=True)
    text = (folder / "caller.pml").read_text()
    assert text.count(old) == 1
    (folder / "caller.pml").write_text(text.replace(old, new))


@spin
def test_the_right_protocol_breaks_no_law_and_reaches_every_goal(check: Any) -> None:
    assert faults(check, "") == []


@spin
def test_a_protocol_that_breaks_a_law_fails(check: Any) -> None:
    assert faults(check, "WRONG_NO_MARGIN ONLY_EXCLUSIVE") == ["breaks 'exclusive'"]


@spin
def test_a_mistake_that_is_not_found_fails(check: Any) -> None:
    said = faults(check, "", "exclusive")
    assert said == ["the mistake was not found; it breaks the law 'exclusive'"]


@spin
def test_a_mistake_found_by_another_law_fails(check: Any) -> None:
    said = faults(check, "WRONG_NO_MARGIN", "truthful")
    assert said == ["found by 'exclusive' and not, as it must be, by 'truthful'"]


@spin
def test_a_goal_that_is_not_reached_fails(check: Any) -> None:
    said = faults(check, "CALM")
    assert "never reached: acquire is left early" in said
    assert "never reached: a holder crashes" not in said  # it is not in that model
    assert "never reached: release says True" not in said


@spin
def test_a_caller_that_waits_in_vain_fails(check: Any, tmp_path: Path) -> None:
    after = "goto trying\n        :: heard == left"
    change(tmp_path, after, after.replace("goto trying", "false"))
    assert faults(check, "", folder=tmp_path) == ["breaks 'stuck'"]


@spin
def test_a_search_that_is_cut_short_fails(check: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "DEPTH", 1000)
    assert "the search was not completed" in faults(check, "")


@spin
def test_a_goal_that_spin_cannot_tell_from_another_is_refused(check: Any, tmp_path: Path) -> None:
    goal = 'goal("%d: => acquire is refused, tried again'
    change(tmp_path, f"true -> {goal}", goal)
    with pytest.raises(check.CannotCheck, match="tried again' has no state of its own"):
        faults(check, "", folder=tmp_path)


@spin
def test_a_mistake_is_told_as_a_story() -> None:
    told = execute(MODEL / "check.py", "--trace", "retry-by-plain-set")
    assert told.code == 0, told.output
    assert re.search(r"0: the connection breaks\n.*0: => acquire is refused\n", told.output, re.S)


def test_without_spin_it_says_what_is_missing(tmp_path: Path) -> None:
    told = execute(sys.executable, MODEL / "check.py", PATH=str(tmp_path))
    assert told.code == 1
    assert "spin is missing; Debian and Ubuntu: apt-get install spin gcc" in told.output


def test_every_mistake_in_the_model_is_searched_for_and_explained(check: Any) -> None:
    cases = (*check.RIGHT, *check.WRONG)
    text = "".join(file.read_text() for file in MODEL.glob("*.pml"))
    switches = re.findall(r"^#.*", text, re.MULTILINE)
    names = set(
        re.findall(r"WRONG_\w+|ONLY_\w+|NO_KILL|SHORTER|TWO|HANDOVER|CALM", "".join(switches))
    )
    assert {name for case in cases for name in case.defines.split()} == names
    readme = (MODEL / "README.md").read_text()
    assert [case.name for case in cases if f"`{case.name}`" not in readme] == []
    assert {case.breaks for case in check.WRONG} == set(check.LAWS)
