"""The inputs worth keeping, one file for each target: ``corpus/codec.txt`` and its like.

Law: a line is one input, as a literal of Python's bytes; comments begin with #. Short ones
first, each once, so that a change shows what it adds.

    python tests/fuzz/_corpus.py unpack codec DIR    a file for each, as libFuzzer wants them
    python tests/fuzz/_corpus.py pack codec DIR      the other way round
    python tests/fuzz/_corpus.py replay              all of them, each once
"""

from __future__ import annotations

import ast
import hashlib
import sys
from pathlib import Path

HERE = Path(__file__).parent
#: Longer ones say nothing that a short one does not, and make the file unreadable.
MOST_BYTES = 512


def inputs(target: str) -> list[bytes]:
    """What is kept for this target."""
    lines = (HERE / "corpus" / f"{target}.txt").read_text().splitlines()
    return [ast.literal_eval(line) for line in lines if line and not line.startswith("#")]


def unpack(target: str, folder: Path) -> None:
    """A file for each input."""
    folder.mkdir(parents=True, exist_ok=True)
    for data in inputs(target):
        (folder / hashlib.sha1(data, usedforsecurity=False).hexdigest()).write_bytes(data)


def pack(target: str, folder: Path) -> None:
    """The short ones among a folder's files become what is kept."""
    found = {path.read_bytes() for path in folder.iterdir()}
    kept = sorted((data for data in found if len(data) <= MOST_BYTES), key=lambda d: (len(d), d))
    lines = [f"# Inputs of the target {target!r}; see _corpus.py.", *map(repr, kept)]
    (HERE / "corpus" / f"{target}.txt").write_text("\n".join(lines) + "\n")
    print(f"{target}: {len(kept)} inputs kept")


def replay() -> None:
    """Each input once."""
    sys.path[:0] = [str(HERE.parent), str(HERE)]
    from _targets import CORES, TARGETS

    for name, target in TARGETS.items():
        for data in inputs(name):
            target(data)
        print(f"{name}: {len(inputs(name))} inputs on {len(CORES)} cores")


if __name__ == "__main__":
    if sys.argv[1:] == ["replay"]:
        replay()
    else:
        {"pack": pack, "unpack": unpack}[sys.argv[1]](sys.argv[2], Path(sys.argv[3]))
