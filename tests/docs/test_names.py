"""Calls that pages name within their text: there are such names, with such arguments."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from _pages import DOCS, PAGES, inline, name

import fastlock
import fastlock.aio
from fastlock._metrics import MEANINGS, TIMES

#: Whom a page means by it: any of these must have the name, and take the arguments.
MEANT: dict[str, list[Any]] = {
    "client": [fastlock.Client, fastlock.aio.Client],
    "config": [fastlock.Config],
    "fastlock": [fastlock],
    "lease": [fastlock.Lease, fastlock.aio.Lease],
    "lock": [fastlock.Lock, fastlock.aio.Lock],
    "Client": [fastlock.Client],
    "Config": [fastlock.Config],
    "Lease": [fastlock.Lease],
}


def telemetry() -> set[str]:
    """The names that OpenTelemetry gets, which begin as those of the package do."""
    names = {"client", "acquire", "hold", "release"}  # an attribute and the spans; tests/contrib
    for figure in MEANINGS:
        kinds = ("count", "sum", "bucket") if figure in TIMES else ()
        names |= {f"{figure}.{kind}" for kind in kinds} or {figure}
    return {f"fastlock.{name}" for name in names}


def said(page: Path) -> Iterator[tuple[int, str, ast.expr]]:
    """(line, text, expression) of whatever in code is one that begins with one of these."""
    for line, token in inline(page, "code_inline"):
        text = re.sub(r"^(async with|with|await|@) ?", "", token.content).partition(" as ")[0]
        if page == DOCS / "metrics.md" and text in telemetry():
            continue
        if re.match(rf"({'|'.join(MEANT)})\.\w", text):
            try:
                yield line, token.content, ast.parse(text, mode="eval").body
            except SyntaxError:
                continue


def wrong(expression: ast.expr) -> str | None:
    """What is wrong with its names and arguments."""
    for node in ast.walk(expression):
        call = node if isinstance(node, ast.Call) else None
        named = call.func if call else node
        if not isinstance(named, ast.Attribute) or not isinstance(named.value, ast.Name):
            continue
        found = [_member(one, named.attr) for one in MEANT.get(named.value.id, [])]
        if found and found == [None] * len(found):
            return f"there is no {named.attr}"
        if call and (call.args or call.keywords) and not _open_ended(call):
            return _refused(call, found)
    return None


def _member(of: Any, named: str) -> Any:
    """Also a module that nobody has imported yet."""
    if inspect.ismodule(of) and find_spec(f"{of.__name__}.{named}"):
        return import_module(f"{of.__name__}.{named}")
    return getattr(of, named, None)


def _open_ended(call: ast.Call) -> bool:
    return any(isinstance(one, ast.Constant) and one.value is ... for one in call.args)


def _refused(call: ast.Call, found: list[Any]) -> str | None:
    """None if any of these takes the arguments."""
    told = None
    for function in filter(callable, found):
        itself = not inspect.isclass(function) and not inspect.ismethod(function)
        method = [None] if itself and inspect.isfunction(function) else []
        try:
            given = {one.arg: None for one in call.keywords if one.arg}
            inspect.signature(function).bind(*method, *call.args, **given)
        except TypeError as error:
            told = str(error)
        else:
            return None
    return told


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_what_it_names_is_there(page: Path) -> None:
    faults = [
        f"{name(page)}:{line}: {text}: {problem}"
        for line, text, expression in said(page)
        if expression and (problem := wrong(expression))
    ]
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("client.lock(key, ttl=30, fair=True)", None),
        ("client.lock(key, cancel_on_lost=True)", None),  # asyncio's has it
        ("client.lock(key, faire=True)", "unexpected keyword argument 'faire'"),
        ("client.try_lock", "there is no try_lock"),
        ("lease.release(wait=False)", None),
        ("lease.extend(1, 2, 3)", "too many positional"),
        ("fastlock.QuorumClient([a, b, c])", None),
        ("fastlock.Quorum", "there is no Quorum"),
    ],
)
def test_wrong_names_would_be_found(text: str, problem: str | None) -> None:
    told = wrong(ast.parse(text, mode="eval").body)
    assert told == problem if problem is None else problem in str(told)
