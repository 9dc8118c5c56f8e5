"""E1: the documentation's example runs; and what the extra means to who has it not."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from _pip import Pip

import fastlock

ROOT = Path(__file__).resolve().parents[3]
PAGE = ROOT / "docs" / "pip-services4.md"


def python(code: str, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *options, "-c", code]
    env = {**os.environ, **environment}
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)


def test_E1_the_example_runs_as_printed(pip: Pip) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    (example,) = [block for block in blocks if "RedisLock()" in block]
    port = str(pip.fl.server.address[1])
    assert example.count("6379") == 1
    pip.fl.admin.delete("orders:42")
    run = python(example.replace("6379", port), "-W", "error", FASTLOCK_CORE=pip.fl.core)
    assert (run.returncode, run.stdout) == (0, "processing order 42\n"), run.stderr
    assert pip.fl.admin.exists("orders:42") == 0


def test_the_page_s_defaults_are_the_component_s() -> None:
    from fastlock.contrib.pip_services4 import _settings

    rows = dict(re.findall(r"^\| `options\.(\w+)` \| `(\d+)` \|", PAGE.read_text(), re.MULTILINE))
    known = _settings._OPTIONS
    assert rows == {name: str(default) for name, (default, _, _) in known.items()}
    config = fastlock.Config()
    assert known["retry_timeout"][0] == config.retry_timeout
    assert known["retries"][0] == config.retries
    assert known["connect_timeout"][0] == config.connect_timeout * 1000
    assert known["socket_timeout"][0] == config.socket_timeout * 1000


def test_fastlock_itself_does_without_the_framework() -> None:
    run = python(
        "import sys, fastlock, fastlock.sync, fastlock.aio, fastlock.cli\n"
        "print([name for name in sys.modules if 'pip_services' in name or 'contrib' in name])"
    )
    assert (run.returncode, run.stdout.strip()) == (0, "[]"), run.stderr


@pytest.fixture
def bare(tmp_path: Path) -> str:
    """A path on which there is fastlock and nothing else."""
    (tmp_path / "fastlock").symlink_to(Path(fastlock.__file__).parent, target_is_directory=True)
    return str(tmp_path)


def test_without_the_extra_its_name_is_told(bare: str) -> None:
    code = "import fastlock\nprint(fastlock.__version__)\nimport fastlock.contrib.pip_services4"
    run = python(code, "-S", PYTHONPATH=bare)  # -S: without site-packages
    assert (run.returncode, run.stdout.strip()) == (1, fastlock.__version__)
    last = run.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: fastlock.contrib.pip_services4 needs the pip-services4")
    assert last.endswith("pip install 'fastlock[pip-services4]'")


@pytest.mark.parametrize("module", ["components.refer", "components.context", "logic.lock"])
def test_it_imports_after_any_part_of_the_framework(module: str) -> None:
    run = python(f"import pip_services4_{module}\nimport fastlock.contrib.pip_services4", "-Werror")
    assert run.returncode == 0, run.stderr
