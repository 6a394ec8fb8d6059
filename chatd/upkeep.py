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
from itertools import count
from pathlib import Path

from chatd import __version__
from chatd.accounts.signing_key import FILE_NAME as KEY
from chatd.adapters.sqlite import verification
from chatd.adapters.sqlite.copying import copy_file, fold_log_exclusively, sync
from chatd.adapters.sqlite.database import FILE_NAME as STORE
from chatd.adapters.sqlite.database import migrate
from chatd.adapters.sqlite.search_index import index_path
from chatd.adapters.sqlite.verification import Report
from chatd.config import Config, ConfigError, data_dir_of
from chatd.store.port import StoreError

FORMAT = 1
ABOUT = "backup.json"
BUSY_MS = 5000

Tell = Callable[[str, list[str]], None]
Progress = Callable[[int, int], None]


class UpkeepFailed(Exception):
    """Not done; the text is one line for the operator."""


def verify(config: Config, tell: Tell) -> Report:
    """See ``verification.verify``: of the configured data directory, also while servers run. Raises UpkeepFailed."""
    with _one_line():
        return verification.verify(_store_in(data_dir_of(config)), tell)


def back_up(config: Config, target: Path, tell: Tell, progress: Progress, *, with_key: bool) -> Report:
    """Make the backup ``target``, which must not exist, and verify it: it appears when it is whole. One of data that is broken is
    made all the same, for there may be no better one; the report and ``backup.json`` say so, and ``restore`` refuses it.
    ``with_key``: with the key that signs tokens, too. Raises UpkeepFailed; then nothing is left behind."""
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
            report = verification.verify(draft / STORE, tell)
            _describe(draft, report)
            if with_key:
                _copy(data / KEY, draft / KEY)
            sync(draft)
            draft.rename(target)
            sync(target.parent)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
        return report


def restore(config: Config, backup: Path, tell: Tell, *, replace: bool) -> Report:
    """Put a backup in the place of the data directory's store, once it is verified. No server may run on it. One of an earlier
    version is brought to this one's schema.

    ``replace``: also where there is a store; it is kept beside, as ``chatd.db.before-restore``, and with a number where there is
    such a one already. The backup's signing key is taken only where the directory has none. Raises UpkeepFailed; then the store
    is as it was.
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
            report = _prepare(backup, draft, tell)
            if store.exists():
                fold_log_exclusively(store)
                _keep_beside(store)
            for old in data.glob(f"{index_path(store).name}*"):
                old.unlink()  # it is of what was there before, and is made anew
            draft.replace(store)
        finally:
            draft.unlink(missing_ok=True)
        if (backup / KEY).exists() and not (data / KEY).exists():
            _copy(backup / KEY, data / KEY)
        sync(data)
        return report


def _prepare(backup: Path, draft: Path, tell: Tell) -> Report:
    """The backup's store beside its place, of this version's schema, one file, and sound."""
    _copy(backup / STORE, draft)
    migrate(draft, busy_ms=BUSY_MS)
    report = verification.verify(draft, tell)
    if report.broken:
        raise UpkeepFailed(f"{backup}: the backup is not sound; nothing was restored")
    fold_log_exclusively(draft)
    return report


def _keep_beside(store: Path) -> None:
    """Under a second name, so that there is a store at every moment; what an earlier restore has kept is not written over."""
    for number in count(1):
        try:
            os.link(store, store.with_name(f"{STORE}.before-restore{f'-{number}' if number > 1 else ''}"))
        except FileExistsError:
            continue
        return


def _store_in(data: Path) -> Path:
    if not (data / STORE).exists():
        raise UpkeepFailed(f"{data}: no chatd data here; --data or store.data names the directory of the server")
    return data / STORE


def _describe(backup: Path, report: Report) -> None:
    made = datetime.now(UTC).isoformat(timespec="seconds")
    about = {"format": FORMAT, "chatd": __version__, "made": made, "sound": not report.broken, **report.counts}
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
