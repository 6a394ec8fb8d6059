"""A data directory, from outside: by the command line, and by a hand in its file."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import IO, NamedTuple

import apsw
import pytest

from chatd import upkeep
from chatd.adapters.sqlite import database
from chatd.adapters.sqlite.verification import verify
from chatd.config import load


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


def seal(backup: Path, **counts: int) -> None:
    """The digest, and the counts that are given, of what the backup's file is now: as who has changed both files would."""
    about = json.loads((backup / "backup.json").read_text())
    digest = hashlib.sha256((backup / "chatd.db").read_bytes()).hexdigest()
    (backup / "backup.json").write_text(json.dumps(about | counts | {"sha256": digest}))


class Said(NamedTuple):
    """``fault``: the one line for the operator, "" where there was none."""

    fault: str
    broken: list[str]
    counts: dict[str, int]


def asked(command: str, data: Path, other: Path | None = None) -> Said:
    """``verify``, ``backup`` or ``restore --replace`` of a data directory, in this process, which is quicker."""
    config, broken = load(None, {}, {"store.data": str(data)}), list[str]()
    try:
        match command, other:
            case "backup", Path() as target:
                report = upkeep.back_up(config, target, lambda _, found: broken.extend(found), lambda *_: None, with_key=False)
            case "restore", Path() as source:
                report = upkeep.restore(config, source, lambda _, found: broken.extend(found), replace=True)
            case _:
                report = upkeep.verify(config, lambda _, found: broken.extend(found))
    except upkeep.UpkeepFailed as fault:
        assert "\n" not in str(fault)
        return Said(str(fault), broken, {})
    return Said("", broken, report.counts)
