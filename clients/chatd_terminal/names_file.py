"""The names of conversations on this machine, so that the list has them where there is no server at the start."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, get_args

if TYPE_CHECKING:
    from pathlib import Path

    from chatd_terminal.view_model import Model

MAX_NAMES = 1000
MAX_BYTES = 4 * 1024 * 1024

Name = tuple[str, str, str, str]
"""Of a conversation: its id, its kind, its title, and whom a 1:1 is with."""


def read_names(directory: Path) -> list[Name]:
    """The names, latest first; none where the file is missing or damaged: the server knows them."""
    try:
        with (directory / "names").open("rb") as file:
            found = json.loads(file.read(MAX_BYTES))
    except (OSError, ValueError):
        return []
    rows = found if isinstance(found, list) else []
    return [(row[0], row[1], row[2], row[3]) for row in rows if _is_name(row)]


def _is_name(row: object) -> bool:
    return isinstance(row, list) and len(row) == len(get_args(Name)) and all(isinstance(one, str) for one in row)


def write_names(directory: Path, model: Model) -> None:
    """Replace the file, for its owner alone. Raises OSError."""
    rows = [
        (chat.conv, chat.kind, chat.title, next(iter(chat.others()), model.me) if chat.kind == "dm" else "")
        for chat in model.ordered()
        if not chat.conv.startswith("@") and chat.is_known()
    ]
    temporary = directory / f"names.{os.getpid()}.new"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "w", encoding="utf-8") as file:
        json.dump(rows[:MAX_NAMES], file)
    temporary.replace(directory / "names")
