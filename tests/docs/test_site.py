"""The site: built strictly, with every page in its nav, and readable without a network."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml
from _pages import DOCS, ROOT

import fastlock
import fastlock.aio


def nav() -> list[str]:
    """The pages that mkdocs.yml lists."""
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")

    def pages(entry: Any) -> Iterator[str]:
        if isinstance(entry, str):
            yield entry
        else:
            for one in entry.values() if isinstance(entry, dict) else entry:
                yield from pages(one)

    return list(pages(yaml.safe_load(text)["nav"]))


def test_every_page_is_in_the_nav() -> None:
    listed = nav()
    missing = {page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md")} - set(listed)
    assert not missing, f"add them to nav: in mkdocs.yml: {', '.join(sorted(missing))}"
    assert len(set(listed)) == len(listed)


class Read(HTMLParser):
    """What a browser would fetch to show a page (not what its links lead to), and its anchors."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.ids: set[str] = set()
        self.cells = ""  # the text of all tables
        self._depth = 0  # of tables
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self._depth += tag == "table"
        self.ids.add(given.get("id") or "")
        if tag != "a" and given.get("rel") not in ("canonical", "prev", "next"):
            self.fetched += [url for key in ("src", "href") if (url := given.get(key))]

    def handle_endtag(self, tag: str) -> None:
        self._depth -= tag == "table"

    def handle_data(self, data: str) -> None:
        self.cells += data if self._depth else ""


def built(folder: Path) -> None:
    """As by ``make docs``."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    variables = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}  # of a version that is not here yet
    ran = subprocess.run(
        command, cwd=ROOT, env=variables, capture_output=True, text=True, timeout=110
    )
    assert ran.returncode == 0, ran.stderr
    assert "WARNING" not in ran.stderr


def reference() -> set[str]:
    """What is public, by the names that its headings have on the site."""
    classes = {getattr(fastlock, one) for one in fastlock.__all__}
    classes = {one for one in classes if isinstance(one, type)} | {fastlock.aio.Client}
    wanted = {f"{one.__module__}.{one.__qualname__}" for one in classes}
    for client in (fastlock.Client, fastlock.aio.Client):
        public = [one for one in vars(client) if not one.startswith("_") and one != "forked"]
        wanted |= {f"{client.__module__}.Client.{one}" for one in public}
    return wanted


def written(page: str) -> str:
    """The file that it becomes."""
    return re.sub(r"(^|/)README$", r"\1index", page.removesuffix(".md")) + ".html"


@pytest.mark.slow
def test_it_is_built_strictly_and_whole(tmp_path: Path) -> None:
    if find_spec("mkdocs") is None:
        pytest.skip("mkdocs is not installed")
    built(tmp_path)
    read = {page: Read(tmp_path / written(page)) for page in nav()}
    elsewhere = {
        page: [url for url in one.fetched if re.match(r"(https?:)?//", url)]
        for page, one in read.items()
    }
    assert not any(elsewhere.values()), elsewhere
    assert not [page for page, one in read.items() if r"\|" in one.cells]
    missing = reference() - {name for one in read.values() for name in one.ids}
    assert not missing, missing
