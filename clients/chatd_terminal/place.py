"""Where a user's client keeps things on this machine: its directory, its device's name; and the password's file."""

from __future__ import annotations

import hashlib
import os
import secrets
from pathlib import Path

MAX_TERMINALS = 16
"""Terminals of one user on one machine at the same time, each a device of its own."""
MAX_PASSWORD_BYTES = 4096


def default_directory(websocket_url: str, user: str) -> Path:
    """The state of this user at this server."""
    base = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(base) / "chatd" / hashlib.sha256(f"{websocket_url} {user}".encode()).hexdigest()[:16]


def own_devices(directory: Path, kind: str = "terminal") -> list[str]:
    """This machine's device names for this user: a random one, made once, and numbers for further ones at the same time.

    ``kind`` keeps screens and scripts apart: each has its own place in the log. Raises OSError.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    kept = directory / ("device" if kind == "terminal" else f"device-{kind}")
    try:
        fd = os.open(kept, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        kept.chmod(0o600)
    else:
        with os.fdopen(fd, "w", encoding="utf-8") as file:
            file.write(f"{kind}-{secrets.token_hex(6)}")
    base = kept.read_text(encoding="utf-8").strip()[:50] or kind
    return [base, *(f"{base}-{number}" for number in range(2, MAX_TERMINALS + 1))]


def read_password_file(path: str | Path) -> str:
    """The first line of the file. Raises ValueError where there is none, OSError where it cannot be read."""
    with Path(path).open("rb") as file:
        line = file.read(MAX_PASSWORD_BYTES).split(b"\n", 1)[0].removesuffix(b"\r")
    try:
        password = line.decode()
    except UnicodeDecodeError:
        raise ValueError(f"{path}: the password is not UTF-8") from None
    if not password:
        raise ValueError(f"{path}: there is no password on its first line")
    return password
