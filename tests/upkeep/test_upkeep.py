"""Backup, restore and verify: beside servers that write, judged by the checker; and what is broken is found."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import apsw
import cbor2
import pytest
import trio
from chatd_protocol.codec import change_digest, content_digest

from chatd.adapters.sqlite import database
from chatd.adapters.sqlite.store import open_store
from chatd.adapters.sqlite.verification import PROMISES
from tests.e2e.cluster import Cluster, Peer
from tests.faults.load import Load, held
from tests.store.conformance import do, message, people
from tests.upkeep.directory import change, chatd, found_in, of_version, seal

BROKEN = {
    "every log is 1, 2, 3, ... to its head": "DELETE FROM events WHERE seq = 2",
    "every event is of a conversation": "UPDATE events SET conv = 99 WHERE seq = 4",
    "every number of a device is stored once": "UPDATE devices SET cseq = 7 WHERE no = 1",
    "what a device said is in its order": "UPDATE events SET cseq = 10 - seq WHERE seq < 4",
    "time does not go back in a log": "UPDATE events SET at = 1 WHERE seq = 3",
    "every cursor is within its log": "INSERT INTO cursors VALUES (1, 1, 5)",
    "every mark is within its log": "UPDATE members SET read = 5",
    "every membership begins and ends in the log": "UPDATE members SET left = 2 WHERE no = 1",
    "what is filed of an event has the event": "INSERT INTO mentions VALUES (1, 1, 9)",
    "what refers to a row finds it": "UPDATE devices SET user = 77 WHERE no = 2",
    "what every event says can be read": "UPDATE events SET payload = x'ff00' WHERE seq = 2",
    "everything in the file is chatd's": "CREATE TRIGGER t AFTER INSERT ON events BEGIN DELETE FROM users; END",
}


def test_what_is_sound_is_found_so(data: Path) -> None:
    assert found_in(data / "chatd.db") == {promise.name: [] for promise in PROMISES}
    said = chatd("verify", "--data", str(data))
    assert said.returncode == 0, said.stderr
    assert "2 users, 2 devices, 1 conversations, 4 events; sound" in said.stdout


@pytest.mark.parametrize("promise", BROKEN)
def test_what_is_broken_is_found(data: Path, promise: str) -> None:
    change(data / "chatd.db", BROKEN[promise])
    assert found_in(data / "chatd.db")[promise]
    said = chatd("verify", "--data", str(data))
    assert said.returncode == 1
    assert f"{promise:<48} BROKEN" in said.stdout


def test_a_payload_that_is_not_its_digests(data: Path) -> None:
    """Rows of changes have a digest, and messages of earlier versions: also of those whose conversation went by a name."""
    path = data / "chatd.db"
    rows = apsw.Connection(str(path)).execute("SELECT id, payload FROM conversations, events WHERE seq = 1").fetchall()
    ((conv, payload),) = rows
    reaction = cbor2.dumps({"target": 1, "emoji": "+"})
    digests = content_digest("@ben", payload), content_digest(conv, payload), change_digest("react", conv, reaction)
    change(path, f"UPDATE events SET kind = 'reaction', payload = x'{reaction.hex()}' WHERE seq = 3")
    change(path, *(f"UPDATE events SET digest = x'{digest.hex()}' WHERE seq = {seq}" for seq, digest in enumerate(digests, 1)))
    assert not any(found_in(path).values())
    for seq, said in enumerate([{"type": "text", "body": "y"}, {"type": "text", "body": "y"}, {"target": 2, "emoji": "+"}], 1):
        change(path, f"UPDATE events SET payload = x'{cbor2.dumps(said).hex()}' WHERE seq = {seq}")
    found = found_in(path)["what every event says can be read"]
    assert [text.partition(" ")[0] for text in found] == ["1:1:", "1:2:", "1:3:"]
    assert all("is not what was stored" in text for text in found)


def test_a_page_of_rubbish_is_found(data: Path) -> None:
    """And every promise has its planted fault."""
    assert {promise.name for promise in PROMISES} == {"the file is whole", *BROKEN}
    path = data / "chatd.db"
    root = apsw.Connection(str(path)).execute("SELECT rootpage FROM sqlite_schema WHERE name = 'events_log'").fetchall()[0][0]
    with path.open("r+b") as file:
        file.seek(root * 4096 - 60)  # where its rows are
        file.write(b"rubbish " * 7)
    said = chatd("verify", "--data", str(data))
    assert said.returncode == 1
    assert "BROKEN" in said.stdout or "CorruptError" in said.stderr


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["verify"], "no chatd data here"), (["backup", "TARGET"], "no chatd data here"),
        (["restore", "TARGET"], "not a backup of chatd"),
    ],
)  # fmt: skip
def test_refusals_are_one_line(tmp_path: Path, words: list[str], told: str) -> None:
    said = chatd(*[str(tmp_path / word) if word == "TARGET" else word for word in words], "--data", str(tmp_path / "none"))
    assert said.returncode == 1
    assert told in said.stderr
    assert said.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_backup_appears_whole_or_not_at_all(data: Path, tmp_path: Path) -> None:
    """Only its owner may read it; it is never written over, and where it cannot be made nothing is left of it."""
    target = tmp_path / "backup"
    assert chatd("backup", str(target), "--data", str(data)).returncode == 0
    assert sorted(path.name for path in target.iterdir()) == ["backup.json", "chatd.db"]
    assert (target / "chatd.db").stat().st_mode & 0o077 == 0
    assert target.stat().st_mode & 0o077 == 0
    again = chatd("backup", str(target), "--data", str(data))
    assert (again.returncode, "is there already" in again.stderr) == (1, True)
    (data / "chatd.db").write_bytes(b"no database" * 1000)
    failed = chatd("backup", str(tmp_path / "none"), "--data", str(data))
    assert (failed.returncode, failed.stderr.count("\n")) == (1, 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["backup", "data"]


def test_the_key_goes_along_where_it_is_asked_for(data: Path, tmp_path: Path) -> None:
    """And is restored where there is none, but never in the place of another one."""
    (data / "signing.key").write_text("the key")
    assert chatd("backup", str(tmp_path / "backup"), "--data", str(data), "--with-key").returncode == 0
    assert (tmp_path / "backup/signing.key").stat().st_mode & 0o077 == 0
    assert chatd("restore", str(tmp_path / "backup"), "--data", str(tmp_path / "new")).returncode == 0
    assert (tmp_path / "new/signing.key").read_text() == "the key"
    (tmp_path / "new/signing.key").write_text("another one")
    assert chatd("restore", str(tmp_path / "backup"), "--data", str(tmp_path / "new"), "--replace").returncode == 0
    assert (tmp_path / "new/signing.key").read_text() == "another one"


def test_a_restore_takes_only_what_is_sound(data: Path, tmp_path: Path) -> None:
    """To a new directory; beside what is there only when asked; never something broken."""
    target, other = tmp_path / "backup", tmp_path / "other"
    chatd("backup", str(target), "--data", str(data))
    assert chatd("restore", str(target), "--data", str(other)).returncode == 0
    assert not any(found_in(other / "chatd.db").values())
    refused = chatd("restore", str(target), "--data", str(other))
    assert (refused.returncode, "--replace" in refused.stderr) == (1, True)
    assert chatd("restore", str(target), "--data", str(other), "--replace").returncode == 0
    assert chatd("restore", str(target), "--data", str(other), "--replace").returncode == 0
    assert sorted(path.name for path in other.glob("*before*")) == ["chatd.db.before-restore", "chatd.db.before-restore-2"]
    change(target / "chatd.db", "DELETE FROM events WHERE seq = 2")
    seal(target)
    broken = chatd("restore", str(target), "--data", str(other), "--replace")
    assert (broken.returncode, "not sound" in broken.stderr) == (1, True)
    assert not any(found_in(other / "chatd.db").values())
    assert not list(other.glob(".*"))


def test_a_backup_of_what_is_broken_says_so(data: Path, tmp_path: Path) -> None:
    """It is verified when it is made, and not when it is needed; it is kept, for there may be no better one."""
    change(data / "chatd.db", "DELETE FROM events WHERE seq = 2")
    said = chatd("backup", str(tmp_path / "backup"), "--data", str(data))
    assert said.returncode == 1
    assert f"{'every log is 1, 2, 3, ... to its head':<48} BROKEN" in said.stdout
    assert "kept, but not sound" in said.stderr
    assert json.loads((tmp_path / "backup/backup.json").read_text())["sound"] is False


async def test_no_restore_beside_a_server(data: Path, tmp_path: Path) -> None:
    """What a server has open stays in its place, and the server goes on."""
    target = tmp_path / "backup"
    chatd("backup", str(target), "--data", str(data))
    async with open_store(data / "chatd.db") as store:
        (ann,) = await people(store, "ann")
        refused = await trio.to_thread.run_sync(chatd, "restore", str(target), "--data", str(data), "--replace")
        assert (refused.returncode, "a server has it open" in refused.stderr) == (1, True)
        await do(store, message(ann, 4, "@ben"))
    assert not list(data.glob("*before-restore"))
    assert not any(found_in(data / "chatd.db").values())


def test_a_backup_of_an_earlier_version(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is brought to this version's schema; one of a later version is refused."""
    target = tmp_path / "backup"
    chatd("backup", str(target), "--data", str(data))
    steps = database._steps()
    (target / "chatd.db").unlink()
    of_version(len(steps) - 1, target / "chatd.db", monkeypatch)
    nothing = dict.fromkeys(("users", "devices", "conversations", "events"), 0)
    seal(target, **nothing)
    assert chatd("restore", str(target), "--data", str(tmp_path / "older")).returncode == 0
    change(target / "chatd.db", f"PRAGMA user_version = {len(steps) + 1}")
    seal(target)
    refused = chatd("restore", str(target), "--data", str(tmp_path / "newer"))
    assert (refused.returncode, "use the newer chatd" in refused.stderr) == (1, True)


async def test_backup_and_restore_under_load(tmp_path: Path) -> None:
    """Of two nodes that write all the time: each backup is of one moment, and what it holds is what was acknowledged; then the
    last one is restored, and people go on from there. No restore beside a server."""
    cluster = Cluster(tmp_path, 2, "[limits]\nmessages_per_second = 1000\nmessages_burst = 5000\n")
    try:
        load = Load(cluster, tmp_path, users=8, groups=3, pause=0.05)
        await load.prepare()
        made: list[Any] = []

        async def run(*words: str) -> subprocess.CompletedProcess[str]:
            return await trio.to_thread.run_sync(chatd, *words, "--data", str(cluster.data))

        async def disturb(load: Load) -> None:
            made.extend([await run("backup", str(tmp_path / f"b{number}")) for number in range(3)])

        held(await load.run(disturb, 3))
        assert [(one.returncode, one.stderr) for one in made] == [(0, "")] * 3
        beside = await run("restore", str(tmp_path / "b2"), "--replace")
        assert (beside.returncode, "a server has it open" in beside.stderr) == (1, True)
        for server in cluster.servers:
            assert await trio.to_thread.run_sync(server.terminate) == 0
        restored = await run("restore", str(tmp_path / "b2"), "--replace")
        assert restored.returncode == 0, restored.stderr
        await trio.to_thread.run_sync(cluster.start)
        ann = await Peer.open(cluster, 0, load.names[0], "later")
        assert (await ann.say(next(iter(load.convs)), "and on"))["t"] == "ack"
    finally:
        cluster.stop()


