"""What mypyc would compile into something else than Python does."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MODULES = re.findall(r'^    "(chatd[\w.]*)",$', (ROOT / ".ci" / "compile.py").read_text(encoding="utf-8"), re.MULTILINE)


def _source(module: str) -> Path:
    path = Path(*module.split(".")).with_suffix(".py")
    return ROOT / "protocol" / path if module.startswith("chatd_protocol") else ROOT / path


def names_of_two_types(source: str) -> list[str]:
    """Functions that catch two kinds of exceptions under one name: compiled, the name has the first one's type, and where that is
    a compiled class, catching the second raises a TypeError."""
    found = []
    for function in ast.walk(ast.parse(source)):
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            caught: dict[str, set[str]] = {}
            for clause in ast.walk(function):
                if isinstance(clause, ast.ExceptHandler) and clause.name and clause.type is not None:
                    caught.setdefault(clause.name, set()).add(ast.unparse(clause.type))
            found += [f"{function.name}: {name}" for name, types in caught.items() if len(types) > 1]
    return found


def test_the_modules_are_found() -> None:
    assert len(MODULES) > 15
    assert all(_source(module).is_file() for module in MODULES)


@pytest.mark.parametrize("module", MODULES)
def test_a_caught_exception_has_a_name_of_its_own(module: str) -> None:
    assert names_of_two_types(_source(module).read_text(encoding="utf-8")) == []


def test_two_under_one_name_are_found() -> None:
    """The proof can fail."""
    source = "def f():\n try: g()\n except A as fault: pass\n except B as fault: pass\n"
    assert names_of_two_types(source) == ["f: fault"]
