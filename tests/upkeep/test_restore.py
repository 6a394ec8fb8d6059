"""What a restore finds in its way, and what was done to a backup: what is there afterwards is the old store or the new, whole."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import apsw
import pytest
from structlog.testing import capture_logs

from chatd import upkeep
from chatd.config import load
from tests.upkeep.directory import asked, change, chatd, found_in, of_version, seal

COUNTS = {"users": 2, "devices": 2, "conversations": 1, "events": 4}


@pytest.fixture
def backup(data: Path, tmp_path: Path) -> Path:
    """Of ``data``."""
    assert asked("backup", data, tmp_path / "backup").fault == ""
    return tmp_path / "backup"


def killed(data: Path) -> None:
    """As kill -9 leaves a server's directory: with a write-ahead log that has renamed everybody."""
    other = data.with_name("other")
    shutil.copytree(data, other)
    connection = apsw.Connection(str(other / "chatd.db"))
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("UPDATE users SET name = 'x' || name; UPDATE events SET payload = x'00'")
    for suffix in ("", "-wal", "-shm"):
        shutil.copy(other / f"chatd.db{suffix}", data / f"chatd.db{suffix}")
    connection.close()


@pytest.mark.parametrize("store", ["there", "removed"])
def test_a_log_that_a_killed_server_left_is_not_applied(data: Path, backup: Path, store: str) -> None:
    """It is the old store's: folded into it where that is there, and kept beside where it is not."""
    killed(data)
    if store == "removed":
        (data / "chatd.db").unlink()
    assert asked("restore", data, backup).counts == COUNTS
    assert not any(found_in(data / "chatd.db").values())
    kept = ["chatd.db.before-restore"] if store == "there" else ["chatd.db.before-restore-wal"]
    assert sorted(path.name for path in data.glob("*before*")) == kept
    if store == "there":
        old = apsw.Connection(str(data / kept[0]))
        assert old.execute("SELECT name FROM users").fetchall() == [("xann",), ("xben",)]


def test_what_an_interrupted_restore_left_is_not_taken(data: Path, backup: Path) -> None:
    """A draft's write-ahead log, too, would be applied to the next draft."""
    killed(data)
    (data / "chatd.db-wal").rename(data / ".chatd.db.restoring-wal")
    said = asked("restore", data, backup)
    assert said.counts == COUNTS, said.fault
    assert not list(data.glob(".*"))


def test_interrupted_anywhere(data: Path, backup: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before each step that changes the directory: what is in the store's place is whole, the old one or the new one."""
    killed(data)
    steps = 0
    while not _interrupted(data.with_name(f"try{steps}"), data, backup, steps, monkeypatch):
        steps += 1
    assert steps >= 3


def _interrupted(place: Path, data: Path, backup: Path, after: int, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether it was done before ``after`` steps were. A process that dies cleans up nothing."""
    shutil.copytree(data, place)
    left = after

    class Died(BaseException):
        pass

    def counted(name: str) -> object:
        do = getattr(os, name)

        def step(*words: object, **more: object) -> object:
            nonlocal left
            if left <= 0:
                raise Died
            left -= 1
            return do(*words, **more)

        return step

    with monkeypatch.context() as patch:
        for name in ("link", "rename", "replace", "unlink"):
            patch.setattr(os, name, counted(name))
        try:
            upkeep.restore(load(None, {}, {"store.data": str(place)}), backup, lambda *_: None, replace=True)
            done = True
        except Died:
            done = False
    assert place.joinpath("chatd.db").exists()
    names = apsw.Connection(str(place / "chatd.db")).execute("SELECT name FROM users").fetchall()
    assert names in ([("ann",), ("ben",)], [("xann",), ("xben",)])
    assert done == (names[0] == ("ann",)) or not list(place.glob("*-wal"))
    return done


DAMAGE = {
    "emptied": lambda path: path.write_bytes(b""),
    "of the last byte": lambda path: os.truncate(path, path.stat().st_size - 1),
    "one byte flipped": lambda path: path.write_bytes(path.read_bytes().replace(b"bodyax", b"bodyay", 1)),
    "of another": lambda path: change(path, "UPDATE users SET password_hash = 'mine'"),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_backup_that_was_changed_is_not_restored(data: Path, backup: Path, damage: str) -> None:
    """Over real data, in particular; whatever is left of it, it has another digest."""
    DAMAGE[damage](backup / "chatd.db")
    said = asked("restore", data, backup)
    assert "was changed since it was made" in said.fault
    assert sorted(path.name for path in data.iterdir() if "before" in path.name) == []
    assert not any(found_in(data / "chatd.db").values())


def test_a_backup_of_format_1_is_taken_with_a_word(data: Path, backup: Path) -> None:
    """But its counts are compared, which it has."""
    about = json.loads((backup / "backup.json").read_text())
    del about["sha256"]
    (backup / "backup.json").write_text(json.dumps(about | {"format": 1}))
    with capture_logs() as logs:
        said = asked("restore", data, backup)
    assert said.counts == COUNTS
    assert [entry["event"] for entry in logs] == ["backup.without_digest"]
    (backup / "backup.json").write_text(json.dumps(about | {"format": 1, "events": 5}))
    said = asked("restore", data, backup)
    assert "does not have as many rows" in said.fault


@pytest.mark.parametrize("about", ["[]", "{}", '{"format": 3}', '{"format": 2}', "\xff", '{"format": 2, "sha256": 7}', ""])
def test_a_description_that_says_nothing_is_refused(data: Path, backup: Path, about: str) -> None:
    """In one line."""
    (backup / "backup.json").write_text(about)
    assert asked("restore", data, backup).fault
    assert not list(data.glob("*before*"))


def test_a_planted_trigger_is_never_restored(data: Path, backup: Path) -> None:
    """Also where somebody has mended the digest: nothing of the kind is chatd's."""
    change(backup / "chatd.db", "CREATE TRIGGER t AFTER UPDATE ON users BEGIN DELETE FROM events; END")
    seal(backup)
    said = asked("restore", data, backup)
    assert "not sound" in said.fault
    assert said.broken == ["the trigger t is not chatd's"]


@pytest.mark.parametrize("command", ["verify", "backup", "restore", "restore from"])
@pytest.mark.parametrize("thing", ["fifo", "directory"])
def test_what_is_no_file_is_refused(data: Path, backup: Path, tmp_path: Path, command: str, thing: str) -> None:
    """At once: nobody waits for who writes into a pipe."""
    place = (backup if command == "restore from" else data) / "chatd.db"
    place.unlink()
    os.mkfifo(place) if thing == "fifo" else place.mkdir()
    other = tmp_path / "b" if command == "backup" else backup
    assert "not a regular file" in asked(command.partition(" ")[0], data, other).fault


STORES = {
    "cut": lambda path: os.truncate(path, path.stat().st_size // 2 // 4096 * 4096),
    "none": lambda path: path.write_bytes(b"no database" * 1000),
    "empty": lambda path: path.write_bytes(b""),
    "another program's": lambda path: (path.unlink(), change(path, "CREATE TABLE t (x)")),
    "a name that is no text": lambda path: change(path, "UPDATE users SET name = CAST(x'ff' AS TEXT), no = 9 WHERE no = 1"),
}  # fmt: skip


@pytest.mark.parametrize("store", STORES)
def test_what_is_no_store_is_told_in_a_line_and_can_be_replaced(data: Path, backup: Path, tmp_path: Path, store: str) -> None:
    """It is for this that one has backups."""
    STORES[store](data / "chatd.db")
    for command in ("verify", "backup"):
        said = asked(command, data, tmp_path / "b")
        assert said.fault or said.broken
    said = asked("restore", data, backup)
    assert said.counts == COUNTS, said.fault
    assert (data / "chatd.db.before-restore").exists()


@pytest.mark.parametrize("version", [1, 3, 8])
def test_a_backup_before_an_upgrade(tmp_path: Path, version: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Data of an earlier version is verified and copied as it is; a restore brings it to this one."""
    data, target = tmp_path / "data", tmp_path / "backup"
    data.mkdir()
    of_version(version, data / "chatd.db", monkeypatch)
    change(data / "chatd.db", "INSERT INTO users (name, password_hash) VALUES ('ann', '')")
    for command in ("verify", "backup"):
        assert asked(command, data, target)[:2] == ("", [])
    for path in (data, target):
        assert apsw.Connection(str(path / "chatd.db")).pragma("user_version") == version
    assert asked("restore", data, target).fault == ""
    assert not any(found_in(data / "chatd.db").values())


@pytest.mark.parametrize("words", [["verify"], ["backup", "TARGET"]])
def test_a_pipe_that_nobody_reads(data: Path, tmp_path: Path, words: list[str]) -> None:
    """Ends as SIGPIPE does, and not as if the data were broken; without a word, and with nothing left behind."""
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as closed:
        said = chatd(*[str(tmp_path / "b") if word == "TARGET" else word for word in words], "--data", str(data), stdout=closed)
    assert (said.returncode, said.stderr) == (141, "")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data"]
