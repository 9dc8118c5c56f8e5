"""Installs the rivals and what draws: python -m bench.install, as ``make bench`` does once.

Law: what the extra ``bench`` of pyproject.toml names, and nothing else. All at once, else one
by one: a rival without a wheel for this machine is no reason to measure nothing; the tables
say who was not there.
"""

from __future__ import annotations

import subprocess
import sys
from importlib import metadata

EXTRA = 'extra == "bench"'


def wanted() -> list[str]:
    """The requirements of the extra."""
    lines = [line.partition(";") for line in metadata.requires("fastlock") or []]
    chosen = [
        (name.strip(), marker.replace(EXTRA, "").strip().removesuffix("and").strip())
        for name, _, marker in lines
        if EXTRA in marker
    ]
    return [f"{name}; {marker}" if marker else name for name, marker in chosen]


def install(*requirements: str) -> bool:
    """Whether pip installed them."""
    command = [sys.executable, "-m", "pip", "install", "-qq", *requirements]
    return subprocess.run(command, stderr=subprocess.DEVNULL, check=False).returncode == 0


def main() -> None:
    names = wanted()
    print(f"-- installing the rivals: {', '.join(names)}", flush=True)
    if install(*names):
        return
    for name in names:
        if not install(name):
            print(f"-- not installed: {name}", flush=True)


if __name__ == "__main__":
    main()
