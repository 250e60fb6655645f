"""The import graph of the package: no circles, annotations' imports counted."""

from __future__ import annotations

import ast
from pathlib import Path

import owl2_jax

PACKAGE = Path(owl2_jax.__file__).parent


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path, modules: set[str]) -> set[str]:
    """Modules of ours that a file names in its imports, outside of functions."""
    found = set()
    pending = list(ast.parse(path.read_text(encoding="utf-8")).body)
    while pending:
        node = pending.pop()
        if isinstance(node, ast.If | ast.Try):
            pending += ast.iter_child_nodes(node)
        elif isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            inner = {f"{node.module}.{name.name}" for name in node.names}
            found |= inner & modules if inner <= modules else {node.module} | inner
    return found & modules - {module_name(path)}


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Groups of modules that reach each other."""

    def reached(start: str) -> set[str]:
        seen: set[str] = set()
        pending = list(graph[start])
        while pending:
            node = pending.pop()
            if node not in seen:
                seen.add(node)
                pending += graph[node]
        return seen

    reach = {module: reached(module) for module in graph}
    groups = {frozenset({m, *(n for n in reach[m] if m in reach[n])}) for m in graph if m in reach[m]}
    return sorted(sorted(group) for group in groups)


def test_no_modules_import_each_other_in_a_circle():
    files = sorted(PACKAGE.rglob("*.py"))
    modules = {module_name(path) for path in files}
    graph = {module_name(path): imports(path, modules) for path in files}
    assert circles(graph) == []


def test_every_room_says_what_it_is_for():
    rooms = [path for path in PACKAGE.rglob("__init__.py") if "page" not in path.parts]
    texts = {module_name(path): ast.parse(path.read_text(encoding="utf-8")) for path in rooms}
    assert [name for name, tree in texts.items() if not ast.get_docstring(tree)] == []
