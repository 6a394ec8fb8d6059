"""What the operator does to a whole data directory: back it up while servers run, restore it, verify it. A composition root.

A backup is a directory: ``chatd.db``, ``backup.json`` (what it is of, for people and for ``restore``) and, only where it was
asked for, ``signing.key``. The search index is not in it: it is made anew. Valkey has nothing that would have to be.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from chatd import __version__
from chatd.accounts.signing_key import FILE_NAME
from chatd.adapters.sqlite.copying import copy_file, sync, take_for_oneself
from chatd.adapters.sqlite.database import migrate
from chatd.adapters.sqlite.verification import verify
from chatd.config import Config, ConfigError, data_dir_of
from chatd.store.port import StoreError

FORMAT = 1
STORE = "chatd.db"
ABOUT = "backup.json"
BUSY_MS = 5000

Tell = Callable[[str, list[str]], None]
Progress = Callable[[int, int], None]


class UpkeepFailed(Exception):
    """Not done; the text is one line for the operator."""


def verify_data(config: Config, tell: Tell) -> dict[str, int]:
    """See ``verification.verify``: of the configured data directory, also while servers run. Raises UpkeepFailed."""
    with _one_line():
        return verify(_store_in(data_dir_of(config)), tell)


def back_up(config: Config, target: Path, tell: Tell, progress: Progress, *, with_key: bool) -> dict[str, int]:
    """Make the backup ``target``, which may not be there yet, and verify it: it appears when it is whole. ``with_key``: with
    the key that signs tokens, too. Raises UpkeepFailed; then nothing is left behind."""
    with _one_line():
        data = data_dir_of(config)
        source = _store_in(data)
        if target.exists():
            raise UpkeepFailed(f"{target}: is there already")
        draft = target.with_name(f".{target.name}.part")
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(mode=0o700, parents=True)
        try:
            copy_file(source, draft / STORE, progress)
            counts = verify(draft / STORE, tell)
            _describe(draft, counts)
            if with_key:
                _copy(data / FILE_NAME, draft / FILE_NAME)
            sync(draft)
            draft.rename(target)
            sync(target.parent)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
        return counts


def restore(config: Config, backup: Path, tell: Tell, *, replace: bool) -> dict[str, int]:
    """Put a backup in the place of the data directory's store, once it is verified. No server may run on it. One of an earlier
    version is brought to this one's schema.

    ``replace``: also where there is a store; it is kept beside, as ``chatd.db.before-restore``. Raises UpkeepFailed; then the
    store is as it was.
    """
    with _one_line():
        data = data_dir_of(config)
        _check_format(backup)
        store = data / STORE
        if store.exists() and not replace:
            raise UpkeepFailed(f"{data}: has a store already; with --replace it is put aside as {STORE}.before-restore")
        data.mkdir(mode=0o700, parents=True, exist_ok=True)
        draft = data / f".{STORE}.restoring"
        try:
            counts = _prepare(backup, draft, tell)
            if store.exists():
                take_for_oneself(store)
                store.rename(data / f"{STORE}.before-restore")
            for old in data.glob("chatd-search.db*"):
                old.unlink()  # it is of what was there before, and is made anew
            draft.rename(store)
        finally:
            draft.unlink(missing_ok=True)
        if (backup / FILE_NAME).exists() and not (data / FILE_NAME).exists():
            _copy(backup / FILE_NAME, data / FILE_NAME)
        sync(data)
        return counts


def _prepare(backup: Path, draft: Path, tell: Tell) -> dict[str, int]:
    """The backup's store beside its place, of this version's schema, one file, and sound."""
    faults: list[str] = []

    def heard(promise: str, found: list[str]) -> None:
        faults.extend(found)
        tell(promise, found)

    _copy(backup / STORE, draft)
    migrate(draft, busy_ms=BUSY_MS)
    counts = verify(draft, heard)
    if faults:
        raise UpkeepFailed(f"{backup}: the backup is not sound; nothing was restored")
    take_for_oneself(draft)
    return counts


def _store_in(data: Path) -> Path:
    if not (data / STORE).exists():
        raise UpkeepFailed(f"{data}: no chatd data here; --data or store.data names the directory of the server")
    return data / STORE


def _describe(backup: Path, counts: dict[str, int]) -> None:
    about = {"format": FORMAT, "chatd": __version__, "made": datetime.now(UTC).isoformat(timespec="seconds"), **counts}
    (backup / ABOUT).write_text(json.dumps(about, indent=2) + "\n")
    sync(backup / ABOUT)


def _check_format(backup: Path) -> None:
    try:
        about = json.loads((backup / ABOUT).read_text())
    except (OSError, ValueError) as fault:
        raise UpkeepFailed(f"{backup}: not a backup of chatd: {ABOUT} cannot be read") from fault
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        raise UpkeepFailed(f"{backup / ABOUT}: format is not {FORMAT}: made by a newer chatd, perhaps")


def _copy(source: Path, target: Path) -> None:
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    with source.open("rb") as reading, os.fdopen(descriptor, "wb") as writing:
        shutil.copyfileobj(reading, writing, 1024 * 1024)
        writing.flush()
        os.fsync(writing.fileno())


@contextmanager
def _one_line() -> Iterator[None]:
    try:
        yield
    except (ConfigError, StoreError) as fault:
        raise UpkeepFailed(str(fault)) from fault
    except OSError as fault:
        raise UpkeepFailed(f"{fault.filename}: {fault.strerror}") from fault
