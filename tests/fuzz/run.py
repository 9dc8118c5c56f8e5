"""Fuzz one target with libFuzzer: ``python tests/fuzz/run.py codec -max_total_time=60 CORPUS``.

Law: needs the environment that tools/make-sanitized makes for it, in which the compiled core
reports to libFuzzer what of it runs; ``make fuzz`` calls it so. Arguments are libFuzzer's.
"""

from __future__ import annotations

import sys
from pathlib import Path

import atheris

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE)]
IN_PYTHON = [f"fastlock.{name}" for name in ("_pypack", "_pycodec", "_pymux", "_pycore")]
with atheris.instrument_imports(include=IN_PYTHON):
    import _targets

name = sys.argv.pop(1)
assert len(_targets.CORES) == 2, "the compiled core is missing"
# To merge, libFuzzer has a shell run the first of these, and some arguments behind it.
command = f"'{sys.executable}' '{__file__}' {name}"
arguments = (
    sys.argv[1:] if "-merge=1" in sys.argv else [*sys.argv[1:], f"-dict={HERE / 'resp.dict'}"]
)
atheris.Setup([command, *arguments], _targets.TARGETS[name])
atheris.Fuzz()
