"""A data directory, from outside: by the command line, and by a hand in its file."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import IO

import apsw
import pytest

from chatd.adapters.sqlite import database
from chatd.adapters.sqlite.verification import verify


def chatd(*words: str, stdout: IO[str] | int = subprocess.PIPE) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "chatd", *words]
    return subprocess.run(command, stdout=stdout, stderr=subprocess.PIPE, text=True, timeout=60)


def change(path: Path, *statements: str) -> None:
    connection = apsw.Connection(str(path))
    for statement in statements:
        connection.execute(statement)
    connection.close()


def found_in(path: Path) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    verify(path, found.__setitem__)
    return found


def of_version(version: int, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new, empty store as an earlier chatd made it."""
    steps = database._steps()
    with monkeypatch.context() as patch:
        patch.setattr(database, "_steps", lambda: steps[:version])
        database.migrate(path, busy_ms=100)


def refused(said: subprocess.CompletedProcess[str], told: str) -> bool:
    """In one line."""
    return said.returncode == 1 and told in said.stderr and said.stderr.count("\n") == 1
