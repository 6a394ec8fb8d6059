"""The outbox and the positions on disk: one device's directory, its lock, and what survives a crash.

Owns ``<stem>.lock`` (flock, held while open: one program per device), ``<stem>.outbox`` (JSON lines, appended) and
``<stem>.positions`` (one JSON object, replaced whole). All mode 0600. Appending hands the bytes to the kernel at
once, so a killed program loses nothing; ``sync`` makes them survive a power cut and must come before a number goes
on the wire. JSON lines and not SQLite: the state is a short queue that is read once, and a torn last line is the
only damage an append can suffer.
"""

from __future__ import annotations

import base64
import fcntl
import hashlib
import json
import os
from typing import TYPE_CHECKING, Any

from chatd_client.errors import StateInUse
from chatd_client.outbox import Outbox, Record

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

COMPACT_BYTES = 1024 * 1024
"""The file is written anew beyond this size, when most of it is history: 30 ms of parsing at the next start."""


class OutboxFile:
    """One device's files. ``open`` takes the lock, ``close`` gives it back; ``directory`` None keeps all in memory."""

    def __init__(self, directory: Path | None, device: str) -> None:
        self.outbox = Outbox()
        self.positions: dict[str, int] = {}
        self._fd = self._lock_fd = -1
        self._dirty = self._damaged = False
        self._size = self._floor = 0
        self._directory = directory
        if directory is not None:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            # A device's name is free text up to 64 characters: neither a safe nor a short enough file name.
            stem = "device-" + hashlib.sha256(device.encode()).hexdigest()[:24]
            self._lock_path = directory / f"{stem}.lock"
            self._path = directory / f"{stem}.outbox"
            self._positions_path = directory / f"{stem}.positions"
            self._open()

    def append(self, records: list[Record]) -> None:
        """Hand records to the kernel, all or none. Raises OSError (disk full)."""
        if self._fd < 0 or not records:
            return
        data = b"".join(_line(record) for record in records)
        start = self._size
        written = os.write(self._fd, data)
        if written != len(data):
            os.ftruncate(self._fd, start)  # a short write would glue the next record to a torn line
            raise OSError(f"outbox: {written} of {len(data)} bytes written")
        self._size += written
        self._dirty = self._dirty or any(record["r"] != "ack" for record in records)

    def keep(self, records: list[Record]) -> None:
        """Append what has happened already and cannot be taken back; where that fails, the file is dirty until
        ``compact`` has written it anew.
        """
        try:
            self.append(records)
        except OSError:
            self._dirty = self._damaged = True

    @property
    def dirty(self) -> bool:
        """Whether something that a later start must know is not on the disk yet. A lost ack only costs a repeat."""
        return self._dirty

    def sync(self) -> None:
        """Wait for the disk (blocking, milliseconds: call in a thread). Raises OSError; then all is still dirty."""
        self._dirty = False  # before, and not after: what is appended meanwhile needs a sync of its own
        try:
            if self._fd >= 0:
                os.fsync(self._fd)
        except OSError:
            self._dirty = self._damaged = True
            raise

    def compact(self) -> None:
        """Write the file anew where it is mostly history, or where a write or sync failed: Linux drops the pages of a
        failed fsync and calls the next one a success. Blocking, and not beside ``append``. Raises OSError.
        """
        if self._fd >= 0 and (self._damaged or self._size > max(COMPACT_BYTES, 2 * self._floor)):
            self._rewrite()

    def save_positions(self) -> None:
        """Replace the positions file; without fsync: an older one only costs repeats. Raises OSError."""
        if self._directory is not None:
            _replace(self._positions_path, json.dumps(self.positions, separators=(",", ":")).encode(), sync=False)

    def close(self) -> None:
        """Save the positions and release the device."""
        try:
            self.save_positions()
        finally:
            for fd in (self._fd, self._lock_fd):
                if fd >= 0:
                    os.close(fd)
            self._fd = self._lock_fd = -1

    def _open(self) -> None:
        self._lock_fd = os.open(self._lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.outbox = Outbox.replay(_read_records(self._path))
            self.positions = _read_positions(self._positions_path)
            self._rewrite()
        except BaseException as error:
            os.close(self._lock_fd)
            self._lock_fd = -1
            if isinstance(error, BlockingIOError):
                raise StateInUse(f"another program uses this device: {self._lock_path}") from None
            raise

    def _rewrite(self) -> None:
        data = b"".join(_line(record) for record in self.outbox.snapshot())
        _replace(self._path, data, sync=True)
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        self._size = self._floor = len(data)
        self._dirty = self._damaged = False


def _line(record: Record) -> bytes:
    return json.dumps(record, separators=(",", ":"), default=_bytes_to_json).encode() + b"\n"


def _bytes_to_json(value: object) -> dict[str, str]:
    if isinstance(value, bytes):
        return {"b64": base64.urlsafe_b64encode(value).decode()}
    raise TypeError(f"an outbox record holds a {type(value).__name__}")


def _bytes_from_json(value: Mapping[str, Any]) -> Any:
    return base64.urlsafe_b64decode(value["b64"]) if value.keys() == {"b64"} else dict(value)


def _read_records(path: Path) -> list[Record]:
    """All whole lines; what follows the last newline is an append that a crash cut off."""
    if not path.exists():
        return []
    *lines, _torn = path.read_bytes().split(b"\n")
    return [json.loads(line, object_hook=_bytes_from_json) for line in lines]


def _read_positions(path: Path) -> dict[str, int]:
    """The positions, or none where the file is missing or damaged: then the server's own cursors serve."""
    try:
        found = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return {}
    return {conv: seq for conv, seq in found.items() if isinstance(seq, int)} if isinstance(found, dict) else {}


def _replace(path: Path, data: bytes, *, sync: bool) -> None:
    temporary = path.with_suffix(path.suffix + ".new")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
        if sync:
            os.fsync(fd)
    finally:
        os.close(fd)
    temporary.replace(path)
    if sync:
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
