"""What ``mkdocs`` is told beyond mkdocs.yml: the pages and pictures that live outside docs/.

Law: a page reads the same in the repository and on the site. There, its links lead to the
repository's files; here, those to other pages lead to these, and what is no page is named
without a link.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[1]
#: File of the repository -> its page.
PAGES = {
    "ARCHITECTURE.md": "architecture.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "README.md": "index.md",
    "bench/README.md": "measuring.md",
    "model/README.md": "model-checked.md",
}
PICTURES = "bench/results/"
#: Page -> what the nav calls it; filled in by on_config.
NAMES: dict[str, str] = {}
_HOME = {page: file for file, page in PAGES.items() if page != "index.md"}
_FENCED = re.compile(r"(^```.*?^```$)", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"`[^`\n]+`")
_LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")


def on_config(config: Any) -> None:
    """Learn what pages are called."""
    _learn(config.nav)


def _learn(entries: list[Any]) -> None:
    for entry in entries:
        if isinstance(entry, dict):
            for label, page in entry.items():
                if isinstance(page, list):
                    _learn(page)
                else:
                    NAMES[page] = label


def on_files(files: Any, config: Any) -> Any:
    """Add what lies elsewhere."""
    for file, page in PAGES.items():
        if page in _HOME:
            text = (ROOT / file).read_text(encoding="utf-8")
            files.append(File.generated(config, page, content=text))
    for picture in sorted((ROOT / PICTURES).glob("*.svg")):
        files.append(File.generated(config, f"assets/{picture.name}", abs_src_path=str(picture)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Let the links of a page lead to pages."""
    source = page.file.src_uri
    home = _HOME.get(source, f"docs/{source}")
    parts = _FENCED.split(markdown)
    parts[::2] = [_LINK.sub(lambda link: _led(link, home, source), part) for part in parts[::2]]
    parts[::2] = [_CODE.sub(_unescaped, part) for part in parts[::2]]
    return "".join(parts)


def _unescaped(code: re.Match[str]) -> str:
    """In a table CommonMark wants a pipe escaped, also within code; mkdocs does not."""
    return code[0].replace(r"\|", "|")


def _led(link: re.Match[str], home: str, source: str) -> str:
    picture, text, target = link.groups()
    path, hash_, anchor = target.partition("#")
    if not path or re.match(r"[a-z]+:", target):
        return link[0]
    file = posixpath.normpath(posixpath.join(posixpath.dirname(home), path))
    if file in PAGES:
        page = PAGES[file]
    elif file.startswith("docs/"):
        page = file.removeprefix("docs/")
    elif file.startswith(PICTURES) and file.endswith(".svg"):
        page = f"assets/{posixpath.basename(file)}"
    elif (ROOT / file).exists():
        return text if text.startswith("`") else f"`{file}`" if text in path else text
    else:
        return link[0]  # mkdocs says that it leads nowhere
    if text.endswith(".md") and path.endswith(text):  # a reader of the site sees no files
        text = NAMES.get(page, text)
    page = posixpath.relpath(page, posixpath.dirname(source) or ".")
    return f"{picture}[{text}]({page}{hash_}{anchor})"
