"""Progress and table, with ``rich`` (extra ``cli``) where it is installed, else in plain text.

Law: both forms say the same. Progress goes to stderr, and only to a terminal.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec

#: Told what is going on and the share of all work that is over, 0.0 to 1.0.
Progress = Callable[[str, float], None]


def _has_rich() -> bool:
    return find_spec("rich") is not None


@contextlib.contextmanager
def progress_bar() -> Iterator[Progress]:
    """A bar, gone when it is done. What it gives is called by the main thread."""
    if not sys.stderr.isatty():
        yield lambda _name, _share: None
    elif _has_rich():
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        columns = TextColumn("{task.description:<24}"), BarColumn(), TimeRemainingColumn()
        with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task("", total=1.0)
            yield lambda name, share: bar.update(task, description=name, completed=share)
    else:
        try:
            yield _plain_bar
        finally:
            print(f"\r{'':60}\r", end="", file=sys.stderr, flush=True)


def _plain_bar(name: str, share: float) -> None:
    full = "#" * round(30 * share)
    print(f"\r{name:<24}[{full:.<30}]", end="", file=sys.stderr, flush=True)


def print_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """To stdout; a line break in a heading makes it two lines. Numbers stand right."""
    if _has_rich():
        from rich import box
        from rich.console import Console
        from rich.table import Table

        table = Table(
            box=box.SIMPLE,
            show_edge=False,
            pad_edge=False,
            padding=(0, 1, 0, 0),
            header_style="bold",
        )
        for number, title in enumerate(head):
            table.add_column(
                title, justify="right" if number else "left", no_wrap=True, vertical="bottom"
            )
        for row in rows:
            table.add_row(*row)
        print()
        Console(highlight=False).print(table)
        print()
        return
    titles = [title.split("\n") for title in head]
    height = max(map(len, titles))
    above = [[""] * (height - len(title)) + title for title in titles]
    lines = [[title[line] for title in above] for line in range(height)]
    widths = [max(map(len, column)) for column in zip(*lines, *rows, strict=True)]
    print()
    for cells in [*lines, ["-" * width for width in widths], *rows]:
        first, *others = zip(cells, widths, strict=True)
        right = [f"{cell:>{width}}" for cell, width in others]
        print("  ".join([f"{first[0]:<{first[1]}}", *right]).rstrip())
    print()
