"""Every link of README, of the pages, and of what else people read leads somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from _pages import OTHERS, PAGES, anchors, links, name


@pytest.mark.parametrize("page", [*PAGES, *OTHERS], ids=name)
def test_its_links_lead_somewhere(page: Path) -> None:
    wrong = []
    for line, target in links(page):
        if re.match(r"(https|mailto):", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists():
            wrong.append(f"{name(page)}:{line}: there is no {target}")
        elif anchor and anchor not in anchors(file):
            wrong.append(f"{name(page)}:{line}: {name(file)} has no heading #{anchor}")
    assert not wrong, "\n".join(wrong)


def test_a_broken_link_would_be_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# What is it?\n\n[a](#what-is-it) [b](#gone)\n\n| t |\n|-|\n| ![c](c.svg) |\n")
    assert links(page) == [(3, "#what-is-it"), (3, "#gone"), (7, "c.svg")]
    assert anchors(page) == {"what-is-it"}
