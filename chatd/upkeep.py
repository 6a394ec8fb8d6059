"""What the operator does to a whole data directory: back it up while servers run, restore it, verify it. A composition root.

A backup is a directory: ``chatd.db``, ``backup.json`` (what it is of, for people and for ``restore``) and, only where it was
asked for, ``signing.key``. The search index is not in it: it is made anew. Valkey has nothing that would have to be.

``backup.json`` has the digest of ``chatd.db`` and how many rows there are: what was changed on the way is not restored. One of
format 1 has no digest, and is taken all the same. A backup is of the schema that the data has: so one can be made before an
upgrade, and is brought to this version when it is restored.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any

import structlog

from chatd import __version__
from chatd.accounts.signing_key import FILE_NAME as KEY
from chatd.adapters.sqlite import verification
from chatd.adapters.sqlite.copying import copy_file, fold_log_exclusively, sync
from chatd.adapters.sqlite.database import FILE_NAME as STORE
from chatd.adapters.sqlite.database import Unreadable, check_file, migrate
from chatd.adapters.sqlite.search_index import index_path
from chatd.adapters.sqlite.verification import Report
from chatd.config import Config, ConfigError, data_dir_of
from chatd.store.port import StoreError

FORMAT = 2
FORMATS = (1, FORMAT)
ABOUT = "backup.json"
BUSY_MS = 5000
BLOCK = 1024 * 1024
JOURNALS = ("-wal", "-journal")
"""What SQLite keeps beside a file, and would apply to whatever is in that file's place."""
UNCHANGED = "the file is the one that was backed up"

Tell = Callable[[str, list[str]], None]
Progress = Callable[[int, int], None]

log = structlog.get_logger()


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
    such a one already. A write-ahead log without its store is kept so, too. The backup's signing key is taken only where the
    directory has none. Raises UpkeepFailed; then the store is as it was. Whenever this is interrupted, the store in its place is
    the old one or the new one, and whole.
    """
    with _one_line():
        data = data_dir_of(config)
        about = _about(backup)
        store = data / STORE
        check_file(store)
        if store.exists() and not replace:
            raise UpkeepFailed(f"{data}: has a store already; with --replace it is put aside as {STORE}.before-restore")
        data.mkdir(mode=0o700, parents=True, exist_ok=True)
        draft = data / f".{STORE}.restoring"
        _remove(draft)
        try:
            report = _prepare(backup, about, draft, tell)
            if (backup / KEY).exists() and not (data / KEY).exists():
                _copy(backup / KEY, draft.with_name(f"{draft.name}-key"))
                draft.with_name(f"{draft.name}-key").rename(data / KEY)
            _put_aside(store)
            _remove(index_path(store))  # it is of what was there before, and is made anew
            sync(data)  # nothing of the old one may come back beside the new one
            draft.replace(store)
            sync(data)
        finally:
            _remove(draft)
        return report


def _prepare(backup: Path, about: dict[str, Any], draft: Path, tell: Tell) -> Report:
    """The backup's store beside its place, of this version's schema, one file, and sound; asked before anything is made of it,
    and again of what a migration has made."""
    digest = _copy(backup / STORE, draft)
    if about["format"] == 1:
        log.warning("backup.without_digest", file=str(backup / ABOUT), why="of format 1, of an earlier chatd")
    elif digest != about.get("sha256"):
        tell(UNCHANGED, [f"{STORE} has another digest than {ABOUT} says"])
        raise UpkeepFailed(f"{backup}: was changed since it was made; nothing was restored")
    else:
        tell(UNCHANGED, [])
    report = _sound(backup, draft, tell)
    if any(about.get(name) != counted for name, counted in report.counts.items()):
        raise UpkeepFailed(f"{backup}: {STORE} does not have as many rows as {ABOUT} says; nothing was restored")
    if migrate(draft, busy_ms=BUSY_MS):
        report = _sound(backup, draft, tell)
    fold_log_exclusively(draft)
    return report


def _sound(backup: Path, draft: Path, tell: Tell) -> Report:
    report = verification.verify(draft, tell)
    if report.broken:
        raise UpkeepFailed(f"{backup}: the backup is not sound; nothing was restored")
    return report


def _put_aside(store: Path) -> None:
    """Nothing is left beside the store that would be taken for the new one's. The store itself gets a second name, so that there
    is one at every moment; what an earlier restore has kept is not written over."""
    journals = [store.with_name(STORE + suffix) for suffix in JOURNALS]
    if store.exists():
        with suppress(Unreadable):  # then it is kept with its journals, as it is: that is what the backup is for
            fold_log_exclusively(store)
    elif not any(journal.exists() for journal in journals):
        return
    aside = _free(store.with_name(f"{STORE}.before-restore"))
    if store.exists():
        os.link(store, aside)
    for journal in journals:
        if journal.exists():
            journal.rename(aside.with_name(journal.name.replace(STORE, aside.name)))
    store.with_name(f"{STORE}-shm").unlink(missing_ok=True)


def _free(wanted: Path) -> Path:
    """That name, or with the next number, which nothing has, and no journal of it."""
    names = (wanted.with_name(f"{wanted.name}-{number}") if number > 1 else wanted for number in count(1))
    return next(name for name in names if not any(name.with_name(name.name + end).exists() for end in ("", *JOURNALS)))


def _remove(path: Path) -> None:
    """A database that nobody has open, with all that SQLite has put beside it."""
    for one in path.parent.glob(f"{path.name}*"):
        one.unlink()


def _store_in(data: Path) -> Path:
    store = data / STORE
    if not store.exists():
        raise UpkeepFailed(f"{data}: no chatd data here; --data or store.data names the directory of the server")
    check_file(store)
    return store


def _describe(backup: Path, report: Report) -> None:
    made = datetime.now(UTC).isoformat(timespec="seconds")
    with (backup / STORE).open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    about = {
        "format": FORMAT, "chatd": __version__, "made": made, "sound": not report.broken, **report.counts, "sha256": digest,
    }  # fmt: skip
    (backup / ABOUT).write_text(json.dumps(about, indent=2) + "\n")
    sync(backup / ABOUT)


def _about(backup: Path) -> dict[str, Any]:
    try:
        about = json.loads((backup / ABOUT).read_text())
    except (OSError, ValueError) as fault:
        raise UpkeepFailed(f"{backup}: not a backup of chatd: {ABOUT} cannot be read") from fault
    if not isinstance(about, dict) or about.get("format") not in FORMATS:
        raise UpkeepFailed(f"{backup / ABOUT}: format is none of {FORMATS}: made by a newer chatd, perhaps")
    return about


def _copy(source: Path, target: Path) -> str:
    """Synced; and the digest of it. Raises OSError, and Unavailable for what is no file."""
    check_file(source)
    digest = hashlib.sha256()
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    with source.open("rb") as reading, os.fdopen(descriptor, "wb") as writing:
        while block := reading.read(BLOCK):
            digest.update(block)
            writing.write(block)
        writing.flush()
        os.fsync(writing.fileno())
    return digest.hexdigest()


@contextmanager
def _one_line() -> Iterator[None]:
    try:
        yield
    except (ConfigError, StoreError) as fault:
        raise UpkeepFailed(str(fault)) from fault
    except BrokenPipeError:
        raise  # of standard output, by those who are told: not of a file
    except OSError as fault:
        raise UpkeepFailed(f"{fault.filename}: {fault.strerror}") from fault
