"""Commands, wheels and how they are looked at. Law: no fixture and no assertion."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Run:
    """A finished command: its exit code and all it printed, stderr too."""

    code: int
    output: str

    @property
    def loud(self) -> list[str]:
        return [line.strip() for line in self.output.splitlines() if "!!!! fastlock" in line]


@dataclass
class Built:
    """A wheel, and a folder into which it is unpacked."""

    wheel: Path
    site: Path
    run: Run

    @property
    def names(self) -> set[str]:
        with zipfile.ZipFile(self.wheel) as archive:
            return set(archive.namelist())

    def read(self, name: str) -> str:
        with zipfile.ZipFile(self.wheel) as archive:
            (full,) = [n for n in archive.namelist() if n.endswith(name)]
            return archive.read(full).decode()

    def python(self, code: str, **environment: str) -> Run:
        """Run ``code`` in a new interpreter that imports this wheel's fastlock."""
        return python(code, PYTHONPATH=str(self.site), **environment)


def execute(*command: object, cwd: Path | None = None, **environment: str) -> Run:
    """Run a command without any of our variables but those given."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("FASTLOCK_")}
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env=env | environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=110,
        check=False,
    )
    return Run(done.returncode, done.stdout)


def python(code: str, **environment: str) -> Run:
    return execute(sys.executable, "-c", code, cwd=Path(sys.prefix), **environment)


#: The fixture make_wheel; without a wheel, the Run says why.
Builder = Callable[..., "Built | Run"]
