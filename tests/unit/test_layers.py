"""Who may import whom: ARCHITECTURE.md's table against the sources.

Law: the table is the rule and the sources are read, not run. Imports under TYPE_CHECKING
do not count; imports inside functions do, and so do module names in strings.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ROOT / "src" / "fastlock"
CORES = {"_core", "_pycore"}
CYTHON_IMPORT = re.compile(r"^\s*from\s+(?:fastlock)?\.(\w+)\s+c?import\b", re.MULTILINE)


# ------------------------------------------------------------------ what the table says


def table() -> list[tuple[list[str], set[str]]]:
    """Its rows, uppermost first: the modules of each, and what they may import beyond."""
    lines = (ROOT / "ARCHITECTURE.md").read_text().splitlines()
    start = lines.index("| floor | modules | may also import |") + 2
    rows = []
    for line in lines[start:]:
        if not line.startswith("|"):
            break
        _, modules, also = (cell.strip() for cell in line.strip("|").split("|"))
        rows.append((_names(modules), set(_names(also))))
    return rows


def _names(cell: str) -> list[str]:
    return [name.strip(" `") for name in cell.split(",") if name.strip(" `")]


def allowed() -> dict[str, set[str]]:
    """For each module, what it may import: its own row, those below, and its exceptions."""
    rows = table()
    may = {}
    for place, (modules, also) in enumerate(rows):
        below = {name for names, _ in rows[place:] for name in names} - CORES
        for module in modules:
            may[module] = below | also
    return may


# ------------------------------------------------------------------ what the sources do


def modules() -> dict[str, list[Path]]:
    """Module or package name -> its source files; a core's two forms are one file each."""
    found: dict[str, list[Path]] = {}
    for path in sorted([*SOURCES.rglob("*.py"), *SOURCES.rglob("*.pyx")]):
        name = path.relative_to(SOURCES).parts[0].partition(".")[0]
        if name != "__init__":
            found.setdefault(name, []).append(path)
    return found


def imports(path: Path) -> set[str]:
    """Modules of this package that the file imports."""
    text = path.read_text()
    if path.suffix == ".pyx":
        return set(CYTHON_IMPORT.findall(text)) - {"_hiredis", "_beats", path.stem}
    depth = len(path.relative_to(SOURCES).parts)
    found = set()
    for node in _at_run_time(ast.parse(text)):
        if isinstance(node, ast.ImportFrom):
            if node.level == depth or (not node.level and (node.module or "") == "fastlock"):
                above = node.module if node.level else None
                found |= {above.split(".")[0]} if above else {alias.name for alias in node.names}
            elif not node.level and (node.module or "").startswith("fastlock."):
                found.add((node.module or "").split(".")[1])
        elif isinstance(node, ast.Import):
            found |= {
                alias.name.split(".")[1] for alias in node.names if alias.name[:9] == "fastlock."
            }
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found |= set(re.findall(r"^fastlock\.(\w+)$", node.value))
    known = set(modules())
    return (found & known) - {path.relative_to(SOURCES).parts[0].partition(".")[0]}


def _at_run_time(tree: ast.AST) -> list[ast.AST]:
    nodes: list[ast.AST] = []
    for child in ast.iter_child_nodes(tree):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        nodes += [child, *_at_run_time(child)]
    return nodes


# ------------------------------------------------------------------ tests


def test_every_module_stands_in_the_table_once() -> None:
    named = [module for names, _ in table() for module in names]
    assert sorted(named) == sorted(modules())


@pytest.mark.parametrize("module", sorted(modules()))
def test_imports_go_down(module: str) -> None:
    found = set().union(*map(imports, modules()[module]))
    assert found <= allowed()[module], f"{module} imports what stands above it"


def test_errors_imports_nothing() -> None:
    tree = ast.parse((SOURCES / "errors.py").read_text())
    found = [node for node in _at_run_time(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    assert [ast.unparse(node) for node in found] == ["from __future__ import annotations"]


def test_config_imports_only_its_own_parts_and_errors() -> None:
    parts = {name for name in modules() if name.startswith("_config_")}
    for module in {"config", *parts}:
        assert imports(SOURCES / f"{module}.py") <= {"errors", *parts}


def test_nobody_but_impl_imports_a_core() -> None:
    users = {
        module
        for module, paths in modules().items()
        if any(imports(path) & CORES for path in paths)
    }
    # Those beside _impl are of a core themselves.
    assert users == {"_impl", "_straight", "_heartbeat"}


def test_the_compiled_core_takes_only_what_is_below_it() -> None:
    assert imports(SOURCES / "_core.pyx") == {
        "_codec", "_divide", "_leases", "_mux", "_pack", "errors",
    }  # fmt: skip
    assert imports(SOURCES / "_mux.pyx") == {"_codec", "_resp"}
    assert imports(SOURCES / "_heartbeat.pyx") == {"_codec", "_core", "_scheduler"}
    assert imports(SOURCES / "_scheduler.pyx") == {"_codec", "_mux"}
    assert imports(SOURCES / "_leases.pyx") == {"_doubt"}
    assert imports(SOURCES / "_divide.pyx") == {"_slots", "errors"}
    assert imports(SOURCES / "_meter.pyx") == {"_metrics"}
    assert imports(SOURCES / "_pack.pyx") == {"_args", "_resp"}
    assert imports(SOURCES / "_codec.pyx") == {"_resp", "errors"}


def test_operations_know_neither_time_nor_sockets_nor_threads() -> None:
    forbidden = {"time", "random", "secrets", "socket", "threading", "asyncio", "select"}
    for module in ("_ops", "_ops_many", "_ops_each", "_ops_extend", "_commands"):
        for node in _at_run_time(ast.parse((SOURCES / f"{module}.py").read_text())):
            if isinstance(node, ast.Import):
                assert not {alias.name.split(".")[0] for alias in node.names} & forbidden
            elif isinstance(node, ast.ImportFrom) and not node.level:
                assert (node.module or "").split(".")[0] not in forbidden
