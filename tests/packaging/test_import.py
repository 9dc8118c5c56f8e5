"""What `import fastlock` does to a process, and what FASTLOCK_CORE does to it.

Law: every case in an interpreter of its own, with a wheel whose core is known.
"""

from __future__ import annotations

from typing import Any

import pytest
from _builds import Built

CORE = "import fastlock; print(fastlock.core)"


def test_importing_is_light(compiled: Built, record_property: Any) -> None:
    """Names and errors: no core, no I/O, nothing of redis-py or asyncio, no component."""
    heavy = (
        "redis",
        "valkey",
        "asyncio",
        "hiredis",
        "ssl",
        "socket",
        "threading",
        "uvloop",
        "rich",
    )
    run = compiled.python(f"import sys, fastlock; print([m for m in {heavy} if m in sys.modules])")
    assert (run.code, run.output.strip()) == (0, "[]")
    ours = "import sys, fastlock; print(*sorted(m for m in sys.modules if 'fastlock' in m))"
    assert compiled.python(ours).output.split() == [
        "fastlock", "fastlock._version", "fastlock.errors",
    ]  # fmt: skip
    # Told, not judged: microseconds, with all that Python itself had not yet imported.
    timed = compiled.python("import fastlock", PYTHONPROFILEIMPORTTIME="1").output
    last = timed.strip().splitlines()[-1]
    assert last.split("|")[-1].strip() == "fastlock"
    record_property("import_fastlock_us", int(last.split("|")[1]))


@pytest.mark.parametrize("core", ["cython", "python"])
def test_a_client_needs_redis_py_only_when_it_connects(compiled: Built, core: str) -> None:
    code = (
        "import sys, fastlock; fastlock.Client('redis://localhost').lock('k'); "
        "print([m for m in ('redis', 'hiredis', 'uvloop', 'rich') if m in sys.modules])"
    )
    run = compiled.python(code, FASTLOCK_CORE=core)
    assert (run.code, run.output.strip()) == (0, "[]")


def test_no_public_name_is_missing(compiled: Built) -> None:
    run = compiled.python(
        "import fastlock; print([n for n in fastlock.__all__ if not hasattr(fastlock, n)])"
    )
    assert (run.code, run.output.strip()) == (0, "[]")


@pytest.mark.parametrize("value", ["", "auto", "cython", "python"])
def test_the_core_that_a_compiled_package_runs(compiled: Built, value: str) -> None:
    run = compiled.python(CORE, FASTLOCK_CORE=value)
    expected = "python" if value == "python" else "cython"
    assert (run.code, run.output.strip()) == (0, expected)


@pytest.mark.parametrize("value", ["", "auto", "python"])
def test_the_core_that_a_pure_package_runs(pure: Built, value: str) -> None:
    run = pure.python(CORE, FASTLOCK_CORE=value)
    assert (run.code, run.output.strip()) == (0, "python")


def test_a_named_core_never_falls_back(pure: Built) -> None:
    run = pure.python(CORE, FASTLOCK_CORE="cython")
    assert run.code != 0
    last = run.output.strip().splitlines()[-1]
    assert last.startswith("ImportError: FASTLOCK_CORE=cython")
    assert "FASTLOCK_BUILD=pure was set" in last


@pytest.mark.parametrize("value", ["Cython", "c", "0", "pure"])
def test_an_unknown_core_is_refused(compiled: Built, value: str) -> None:
    run = compiled.python(CORE, FASTLOCK_CORE=value)
    assert run.code != 0
    last = run.output.strip().splitlines()[-1]
    assert "ConfigError: FASTLOCK_CORE" in last
    assert "auto, cython, python" in last
