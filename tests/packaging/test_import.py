"""What `import fastlock` does to a process, and what FASTLOCK_CORE does to it.

Law: every case in an interpreter of its own, with a wheel whose core is known.
"""

from __future__ import annotations

import pytest
from _builds import Built

CORE = "import fastlock; print(fastlock.core)"


def test_importing_is_light(compiled: Built) -> None:
    heavy = ("redis", "asyncio", "hiredis", "ssl", "uvloop", "rich")
    run = compiled.python(f"import sys, fastlock; print([m for m in {heavy} if m in sys.modules])")
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
