"""Where and with what a run was made. Law: read from the system, never typed in."""

from __future__ import annotations

import os
import platform
import subprocess
from contextlib import suppress
from importlib import metadata
from pathlib import Path

from . import limit

PACKAGES = (
    "redis", "hiredis", "uvloop", "valkey", "python-redis-lock", "pottery", "coredis",
    "valkey-glide", "valkey-glide-sync",
)  # fmt: skip


def machine(cores: tuple[int, int]) -> dict[str, str]:
    """Processor, cores, kernel, load before the run."""
    model = platform.processor() or platform.machine()
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    virtual = "virtual" if _has_hypervisor() else ""
    load = ", ".join(f"{one:.2f}" for one in os.getloadavg())
    return {
        "processor": f"{os.cpu_count()} x {model} {virtual}".strip(),
        "system": platform.platform(),
        "cores": f"{cores[0]} and {cores[1]}",
        "load": load,
    }


def _has_hypervisor() -> bool:
    with suppress(OSError):
        return " hypervisor " in Path("/proc/cpuinfo").read_text().replace("\n", " ")
    return False


def versions() -> dict[str, str]:
    """Of everything that takes part, but the servers: a section names its own."""
    import fastlock

    found = {
        "python": platform.python_version(),
        "fastlock": f"{fastlock.__version__} ({_commit()})",
        "hiredis (C)": limit.hiredis_version(),
        "compiler": limit.compiler_version(),
    }
    for name in PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def _commit() -> str:
    def git(*words: str) -> str:
        command = ["git", "-C", str(limit.ROOT), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        dirty = "+changes" if git("status", "--porcelain", "--", "src", "setup.py") else ""
        return git("rev-parse", "--short", "HEAD") + dirty
    except (OSError, subprocess.CalledProcessError):
        return "no repository"
