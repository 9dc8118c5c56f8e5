"""A program: the Python blocks of one page, in order, in one namespace.

    python _run_page.py PAGE [OLD->NEW]... [@LINE]...

Law: whatever warns or raises ends it, and names the page's line. ``OLD->NEW`` puts a real
server's address in place of one that the page names, in the text of the blocks; the block that
begins at ``@LINE`` is left out. ``await`` may stand outside of functions, as in
``python -m asyncio``; all such blocks share one loop.
Where a line prints something and a comment follows, that is what must be printed, up to a
colon if there is one; ``...`` in it stands for anything.
"""

from __future__ import annotations

import ast
import asyncio
import builtins
import fnmatch
import inspect
import io
import re
import sys
from pathlib import Path
from typing import Any

from _pages import blocks

PROMISED = re.compile(r"^\s*print\(.*\)\s+# (.+)$")


def main(page: Path, *words: str) -> None:
    """Run them."""
    replaced = dict(word.split("->") for word in words if not word.startswith("@"))
    left_out = {int(word[1:]) for word in words if word.startswith("@")}
    loop = asyncio.new_event_loop()
    try:
        run(page, replaced, left_out, loop)
    finally:
        loop.close()


def run(
    page: Path, replaced: dict[str, str], left_out: set[int], loop: asyncio.AbstractEventLoop
) -> None:
    """Run them, what is awaited in that loop."""
    lines: list[str] = []
    checked: set[int] = set()

    def told(*values: Any, **options: Any) -> None:
        text = io.StringIO()
        builtins.print(*values, **{**options, "file": text})
        number = sys._getframe(1).f_lineno
        promise = PROMISED.match(lines[number - 1])
        if promise is not None:
            wanted = promise[1].replace("[", "[[]").replace("...", "*")
            forms = (wanted, wanted.partition(": ")[0])
            assert any(fnmatch.fnmatchcase(text.getvalue().strip(), form) for form in forms), (
                f"{page.name}:{number} says {promise[1]!r}; printed was {text.getvalue()!r}"
            )
            checked.add(number)

    namespace: dict[str, Any] = {"__name__": "__main__", "print": told}
    for block in blocks(page):
        if block.language != "python" or block.line in left_out:
            continue
        text = block.text
        for old, new in replaced.items():
            text = text.replace(old, new)
        text = "\n" * (block.line - 1) + text  # so that errors name the page's lines
        lines[:] = text.splitlines()
        flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
        code = compile(text, str(page), "exec", flags, dont_inherit=True)
        if code.co_flags & inspect.CO_COROUTINE:
            loop.run_until_complete(eval(code, namespace))
        else:
            exec(code, namespace)
        promised = {n for n, line in enumerate(lines, 1) if PROMISED.match(line)}
        assert promised <= checked, f"{page.name}: never printed: lines {promised - checked}"
    for value in list(namespace.values()):  # what the page has left open
        if type(value).__name__ in ("Client", "QuorumClient"):
            ended = value.close()
            if inspect.isawaitable(ended):
                loop.run_until_complete(ended)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
