"""A short run on each server finds nothing wrong; in one with a mistake the checker finds that.

Law: the run is that of ``make chaos``, only shorter; what it must have met is asserted too.
"""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import _servers
import pytest
from _harness import SERVERS

from chaos import _broken, _plan
from chaos._checker import Verdict
from chaos._conductor import CALM, Run, play
from chaos._history import History
from chaos._report import report

#: What no run may have been without.
MUST_STRIKE = (*_plan.SERVER_FAULTS, "kill", "freeze", "cancel")
MUST_CHECK = ("exclusion", "server", "fencing", "release", "loss", "leak")

KINDS = tuple(dict.fromkeys("valkey" if kind == "given" else kind for kind in SERVERS))


@pytest.fixture
def folder() -> Iterator[Path]:
    """For the logs of a run."""
    path = Path(tempfile.mkdtemp(prefix="fastlock-chaos-"))
    yield path
    shutil.rmtree(path)


def played(run: Run) -> tuple[History, Verdict]:
    """Again where the machine's clock was stepped meanwhile, which nobody here can help."""
    for seed in range(run.seed, run.seed + 3):
        folder = run.folder / str(seed)
        folder.mkdir()
        history, verdict = play(run._replace(seed=seed, folder=folder))
        if not verdict.void:
            break
    return history, verdict


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_wrong_whatever_is_broken(kind: str, folder: Path) -> None:
    if _servers.binary_of(kind) is None:
        pytest.skip(f"{kind}-server is not installed")
    faults: Counter[str] = Counter()
    checked: Counter[str] = Counter()
    for seed in (1, 11, 21):  # a slow machine gets through little, and has two more
        history, verdict = played(Run(seed, CALM + 11.0, kind, folder))
        text = report(history, verdict)
        assert verdict.violations == [], text
        assert not verdict.void, text
        faults.update(history.faults)
        checked.update(verdict.checked)
        missing = [fault for fault in MUST_STRIKE if not faults[fault]]
        missing += [rule for rule in MUST_CHECK if checked[rule] <= 10]
        if not history.handed["given"]:
            missing.append("hand-overs")
        if sum(lease.fair and lease.got is not None for lease in history.leases.values()) <= 10:
            missing.append("fair locks")
        if not missing:
            return
    pytest.fail(f"met too little of {missing}: {text}")


@pytest.mark.slow
@pytest.mark.parametrize("name", _broken.MISTAKES)
def test_a_mistake_is_found(name: str, folder: Path) -> None:
    """In the first seven seconds, or in the next: a slow machine gets through little."""
    mistake = _broken.MISTAKES[name]
    for seed in (1, 11, 21, 31):
        run = Run(seed, 7.0, KINDS[0], folder, name, calm=0.0, kinds=mistake.kinds)
        history, verdict = played(run)
        if mistake.rule in {violation.rule for violation in verdict.violations}:
            return
    pytest.fail(report(history, verdict))
