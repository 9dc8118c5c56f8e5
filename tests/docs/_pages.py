"""The pages: their code blocks, links and anchors, as CommonMark sees them.

Law: reads files, runs nothing. Also imported by ``_run_page.py``, in a process of its own.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
#: Whose code blocks are tried.
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
#: Whose links are followed, besides.
OTHERS = [
    *sorted(set(ROOT.glob("*.md")) - {ROOT / "README.md"}),
    ROOT / "bench" / "README.md",
    ROOT / "model" / "README.md",
]
_markdown = MarkdownIt("commonmark").enable("table")


@dataclass(frozen=True)
class Block:
    """A fenced block of code; ``line`` is that of its first line, counted from 1."""

    page: Path
    line: int
    language: str
    text: str

    @property
    def where(self) -> str:
        return f"{name(self.page)}:{self.line}"

    @property
    def commands(self) -> list[str]:
        """Of a shell: one a line, those that go on on the next joined, without comments.

        Of a session only what is said after "$ ".
        """
        joined = re.sub(r"\\\n\s*", "", self.text)
        if self.language == "console":
            return [line[2:] for line in joined.splitlines() if line.startswith("$ ")]
        lines = [re.sub(r"(^|\s+)#\s.*$", "", line).strip() for line in joined.splitlines()]
        return [line for line in lines if line]


def name(page: Path) -> str:
    """As it is written from the root of the repository."""
    return page.relative_to(ROOT).as_posix()


def tokens(page: Path) -> list[Token]:
    return _markdown.parse(page.read_text(encoding="utf-8"))


def blocks(page: Path) -> list[Block]:
    """In order; also those in lists."""
    found = []
    for token in tokens(page):
        if token.type == "fence":
            assert token.map is not None
            language = token.info.split()[0] if token.info.strip() else ""
            found.append(Block(page, token.map[0] + 2, language, token.content))
        assert token.type != "code_block", f"{name(page)}:{token.map}: fence it, with a language"
    return found


def inline(page: Path, kind: str) -> Iterator[tuple[int, Token]]:
    """(line, token) of all of that kind within text."""
    line = 0
    for token in tokens(page):
        line = token.map[0] + 1 if token.map else line
        for child in token.children or ():
            if child.type == kind:
                yield line, child


def links(page: Path) -> list[tuple[int, str]]:
    """(line, target) of all links and pictures."""
    leading = [(line, str(one.attrs["href"])) for line, one in inline(page, "link_open")]
    return leading + [(line, str(one.attrs["src"])) for line, one in inline(page, "image")]


def anchors(page: Path) -> set[str]:
    """Of its headings, in the manner of GitHub."""
    found: Counter[str] = Counter()
    made = set()
    listed = tokens(page)
    for opening, token in pairwise(listed):
        if opening.type == "heading_open":
            text = "".join(child.content for child in token.children or ())
            slug = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
            made.add(f"{slug}-{found[slug]}" if found[slug] else slug)
            found[slug] += 1
    return made
