"""The node's own key for tokens: 32 random bytes in a file that only its owner may read.

Several processes may start on one data directory at once; exactly one key comes out, and all get it.
"""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path

KEY_BYTES = 32
FILE_NAME = "signing.key"


class BadKeyFile(Exception):
    """The key file cannot be used; the text says which file and why, never what is in it."""


def load_or_make_key(path: Path) -> bytes:
    """The key in ``path``, made on first use with mode 0600. Synchronous, a few ms. Raises BadKeyFile."""
    try:
        if not path.exists():
            _make(path)
        return load_key(path)
    except OSError as fault:
        raise BadKeyFile(f"{path}: {fault.strerror or fault}") from fault


def load_key(path: Path) -> bytes:
    """The key in ``path``. Refuses a file that others may read, a link, and any other length. Raises BadKeyFile."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as fault:
        raise BadKeyFile(f"{path}: {fault.strerror or fault}") from fault
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise BadKeyFile(f"{path}: not a regular file")
        if status.st_mode & 0o077:
            mode = stat.S_IMODE(status.st_mode)
            raise BadKeyFile(f"{path}: not only its owner may use it (mode {mode:04o}): chmod 600")
        key = os.read(descriptor, KEY_BYTES + 1)
    finally:
        os.close(descriptor)
    if len(key) != KEY_BYTES:
        raise BadKeyFile(f"{path}: must hold exactly {KEY_BYTES} bytes")
    return key


def _make(path: Path) -> None:
    """Write the key beside its place and link it in: a link never replaces, so the first process wins and a reader
    never sees a part. (A rename would let the second process replace a key already used.)"""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        try:
            os.write(descriptor, secrets.token_bytes(KEY_BYTES))
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        try:
            os.link(draft, path)
        except FileExistsError:
            return  # another process was first, and its key is the key
    finally:
        draft.unlink()
    _sync_directory(path.parent)


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
