"""Progress, tables, live tables: with ``rich`` (extra ``cli``) where that is, else in plain text.

Law: both forms say the same. Progress goes to stderr, and only to a terminal.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from typing import Any, NamedTuple

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


class Shown(NamedTuple):
    """One state of a live table. Its first two columns are text, the others numbers."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    foot: str  #: "" if there is nothing to say


@contextlib.contextmanager
def live_table(plain: bool) -> Iterator[Callable[[Shown], None]]:
    """What shows one state in place of the last; ``plain``: below it."""
    if plain or not _has_rich():
        yield _print_shown
        return
    from rich.console import Console, Group
    from rich.live import Live
    from rich.text import Text

    console = Console(highlight=False)
    try:
        with Live(console=console, auto_refresh=False, vertical_overflow="crop") as live:

            def show(shown: Shown) -> None:
                parts: list[Any] = [Text(shown.title), Text()]
                parts += [_rich_table(shown.head, shown.rows, 2)]
                parts += [Text(shown.foot)] if shown.foot else []
                live.update(Group(*parts), refresh=True)

            yield show
    finally:  # a signal may come when the cursor is hidden and the block has not begun
        console.show_cursor(True)


def _print_shown(shown: Shown) -> None:
    print(shown.title)
    print_table(shown.head, shown.rows, 2)
    if shown.foot:
        print(shown.foot)
    sys.stdout.flush()


def _rich_table(head: Sequence[str], rows: Sequence[Sequence[str]], texts: int) -> Any:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(
        box=box.SIMPLE, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold"
    )
    for number, title in enumerate(head):
        text = number < texts  # which may take several lines; a number never does
        justify: Any = "left" if text else "right"
        table.add_column(
            title, justify=justify, no_wrap=not text, overflow="fold", vertical="bottom"
        )
    for row in rows:
        table.add_row(*(Text(_writable(cell)) for cell in row))  # a cell is no markup
    return table


def _writable(cell: str) -> str:
    """As stdout will write it: its width is that of what its encoding spells out."""
    encoding = sys.stdout.encoding or "utf-8"
    return cell.encode(encoding, "backslashreplace").decode(encoding)


def print_table(head: Sequence[str], rows: Sequence[Sequence[str]], texts: int = 1) -> None:
    """To stdout; a line break in a heading makes it two lines.

    The first ``texts`` columns stand left; the others are numbers, and stand right.
    """
    if _has_rich():
        from rich.console import Console

        # Who reads a pipe wants whole words; a terminal has its own width.
        width = None if sys.stdout.isatty() else 10_000
        print()
        Console(highlight=False, width=width).print(_rich_table(head, rows, texts))
        print()
        return
    rows = [[_writable(cell) for cell in row] for row in rows]
    titles = [title.split("\n") for title in head]
    height = max(map(len, titles))
    above = [[""] * (height - len(title)) + title for title in titles]
    lines = [[title[line] for title in above] for line in range(height)]
    widths = [max(map(len, column)) for column in zip(*lines, *rows, strict=True)]
    print()
    for cells in [*lines, ["-" * width for width in widths], *rows]:
        placed = list(zip(cells, widths, strict=True))
        left = [f"{cell:<{width}}" for cell, width in placed[:texts]]
        right = [f"{cell:>{width}}" for cell, width in placed[texts:]]
        print("  ".join([*left, *right]).rstrip())
    print()
