"""How the package is built: no circles of imports, rooms that say what they know, no copies."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from functools import cache
from pathlib import Path

import owl2_jax

PACKAGE = Path(owl2_jax.__file__).parent


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path, modules: set[str]) -> set[str]:
    """Modules of ours that a file names in its imports, inside of functions too."""
    found = set()
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
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


def test_every_method_that_is_marked_as_described_by_a_base_is_described_by_one():
    """Ruff asks for no docstring of what `override` marks."""
    classes = defaultdict(list)
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.ClassDef):
                classes[node.name].append(node)

    def is_described(node: ast.ClassDef, name: str) -> bool:
        bases = [base for one in node.bases for base in classes[ast.unparse(one).split(".")[-1]]]
        own = [part for base in bases for part in base.body if getattr(part, "name", "") == name]
        return any(map(ast.get_docstring, own)) or any(is_described(base, name) for base in bases)

    marked = [
        (node, part.name)
        for node in (node for nodes in classes.values() for node in nodes)
        for part in node.body
        if isinstance(part, ast.FunctionDef)
        and "override" in {getattr(one, "id", "") for one in part.decorator_list}
    ]
    assert len(marked) > 100
    assert [(node.name, name) for node, name in marked if not is_described(node, name)] == []


@cache
def names_of(path: Path) -> set[str]:
    """What a module defines or imports at its top."""
    found, pending = set(), list(parsed(path).body)
    while pending:
        node = pending.pop()
        if isinstance(node, ast.If | ast.Try | ast.With):
            pending += ast.iter_child_nodes(node)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            found |= {name.asname or name.name for name in node.names}
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found |= {name.id for each in targets for name in ast.walk(each) if isinstance(name, ast.Name)}
    return found


def test_every_name_that_is_imported_from_us_is_there():
    modules = {module_name(path): path for path in PACKAGE.rglob("*.py")}
    folders = [PACKAGE, *(PACKAGE.parent / name for name in ("tests", "configs", "docs", "launch"))]
    missing = []
    for path in (path for folder in folders for path in sorted(folder.rglob("*.py"))):
        for node in ast.walk(parsed(path)):
            if not isinstance(node, ast.ImportFrom) or not (node.module or "").startswith("owl2_jax"):
                continue
            known = names_of(modules[node.module]) if node.module in modules else set()
            for name in node.names:
                if name.name not in known and f"{node.module}.{name.name}" not in modules:
                    missing.append(f"{path}:{node.lineno}: {node.module}.{name.name}")
    assert missing == []


def test_every_room_says_what_it_is_for_and_what_it_knows():
    rooms = [path for path in PACKAGE.rglob("__init__.py") if "page" not in path.parts]
    texts = {module_name(path): ast.get_docstring(parsed(path)) or "" for path in rooms}
    assert [name for name, text in texts.items() if not re.search(r"\bknows?\b", text, re.IGNORECASE)] == []


def test_nine_functions_of_ten_are_shorter_than_35_lines():
    lengths = sorted(
        node.end_lineno - node.lineno + 1
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    )
    assert lengths[len(lengths) * 9 // 10] < 35


IMPORTS = re.compile(r"^[ \t]*(?:from .* import \([^)]*\)|(?:from .* )?import .*)$", re.MULTILINE)


def lines_of_code(path: Path) -> list[tuple[int, str]]:
    """(number, text) of the lines that are no import, comment or lone bracket."""
    text = IMPORTS.sub(lambda found: "\n" * found[0].count("\n"), path.read_text(encoding="utf-8"))
    lines = ((number, line.strip()) for number, line in enumerate(text.split("\n"), 1))
    return [(number, line) for number, line in lines if re.search(r"\w", line) and line[0] != "#"]


def test_no_ten_lines_stand_twice():
    places = defaultdict(list)
    for folder in ("owl2_jax", "tests", "configs", "docs", "launch"):
        for path in sorted((PACKAGE.parent / folder).rglob("*.py")):
            lines = lines_of_code(path)
            for start in range(len(lines) - 9):
                block = tuple(line for _, line in lines[start : start + 10])
                places[block].append(f"{path.relative_to(PACKAGE.parent)}:{lines[start][0]}")
    assert [where for where in places.values() if len(where) > 1] == []


def test_the_files_that_the_way_of_a_batch_and_of_a_request_leads_through_are_there():
    text = (PACKAGE.parent / "CONTRIBUTING.md").read_text(encoding="utf-8")
    for flow in ("A training batch: ", "A request: "):
        line = re.search(rf"{flow}(.*?)\.\n", text, re.DOTALL)[1]
        files = re.findall(r"`([^`]+)`", line)
        assert len(files) > 7
        assert [name for name in files if not list(PACKAGE.glob(f"{name}.py"))] == []
