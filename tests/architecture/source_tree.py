"""Who imports whom, read from the sources without running them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = {
    "chatd": ROOT / "chatd",
    "chatd_protocol": ROOT / "protocol/chatd_protocol",
    "chatd_client": ROOT / "clients/chatd_client",
    "chatd_terminal": ROOT / "clients/chatd_terminal",
    "chatd_bench": ROOT / "bench/chatd_bench",
    "chatd_proof": ROOT / "tests/chatd_proof",
}


@dataclass(frozen=True)
class Import:
    """``importer`` imports ``imported``, a module or a name in one; ``lazy``: not while it is imported itself."""

    importer: str
    imported: str
    line: int
    lazy: bool = False

    def __str__(self) -> str:
        return f"{self.importer}:{self.line} imports {self.imported}"


def all_imports() -> list[Import]:
    """Every import of every module of ours."""
    return [
        found
        for package, directory in PACKAGES.items()
        for file in sorted(directory.rglob("*.py"))
        for found in imports_of(_module_name(package, directory, file), file.read_text(), file.name == "__init__.py")
    ]


def imports_of(module: str, source: str, is_package: bool = False) -> Iterator[Import]:
    """The imports in ``source``, relative ones made absolute."""
    tree = ast.parse(source)
    inside = {id(node) for later in ast.walk(tree) if _runs_later(later) for node in ast.walk(later)}
    for node in ast.walk(tree):
        lazy = id(node) in inside
        if isinstance(node, ast.Import):
            yield from (Import(module, name.name, node.lineno, lazy) for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(module, node, is_package)
            yield from (Import(module, f"{base}.{name.name}", node.lineno, lazy) for name in node.names)


def within(name: str, *packages: str) -> bool:
    """Whether ``name`` is one of ``packages`` or something in one of them."""
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def cycles(edges: dict[str, set[str]]) -> list[list[str]]:
    """The groups of modules each of which imports every other, directly or not (Tarjan's algorithm)."""
    order: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(module: str) -> None:
        order[module] = low[module] = len(order)
        stack.append(module)
        for other in sorted(edges.get(module, ())):
            if other not in order:
                visit(other)
                low[module] = min(low[module], low[other])
            elif other in stack:
                low[module] = min(low[module], order[other])
        if low[module] == order[module]:
            at = stack.index(module)
            if len(stack) - at > 1:
                found.append(sorted(stack[at:]))
            del stack[at:]

    for module in sorted(edges):
        if module not in order:
            visit(module)
    return found


def _runs_later(node: ast.AST) -> bool:
    """A function's body, and what only the type checker reads."""
    return isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or (
        isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    )


def _absolute(module: str, node: ast.ImportFrom, is_package: bool) -> str:
    if not node.level:
        return node.module or ""
    parts = module.split(".")
    base = parts[: len(parts) - node.level + is_package]
    return ".".join([*base, node.module] if node.module else base)


def _module_name(package: str, directory: Path, file: Path) -> str:
    parts = [package, *file.relative_to(directory).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
