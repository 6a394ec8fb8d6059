"""The outbox's numbering against a model of the server, and its file against crashes."""

from __future__ import annotations

import errno
import os
import stat
from collections import deque
from typing import TYPE_CHECKING, Any

import pytest
from chatd_client.errors import StateInUse
from chatd_client.outbox import MAX_ITEMS, Outbox
from chatd_client.outbox_file import COMPACT_BYTES, OutboxFile
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

if TYPE_CHECKING:
    from pathlib import Path


class OutboxAgainstServer(RuleBasedStateMachine):
    """One device, a strict server (I3: +1 only), a wire that loses, a program that dies, in every order."""

    def __init__(self) -> None:
        super().__init__()
        self.outbox = Outbox()
        self.records: list[dict[str, Any]] = []
        self.stored: list[str] = []
        self.typed: list[str] = []
        self.keys = 0
        self.refusing: set[str] = set()
        self.wire: deque[tuple[int, str]] = deque()
        self.answers: deque[tuple[str, int, int]] = deque()
        self.connected = False

    @rule(refusals=st.lists(st.booleans(), min_size=1, max_size=4))
    def type_some(self, refusals: list[bool]) -> None:
        for refused in refusals:
            self.type_one(refused)

    def type_one(self, refused: bool) -> None:
        self.keys += 1
        key = f"m{self.keys}"
        self.typed.append(key)
        if refused:
            self.refusing.add(key)
        self.records += self.outbox.queue(key, {"t": "send", "body": key}, 0, 1)[1]

    @rule()
    def connect(self) -> None:
        self.lose()
        self.connected = True
        self.records += self.outbox.welcome("alice", len(self.stored))

    @rule()
    def lose(self) -> None:
        self.wire.clear()
        self.answers.clear()
        self.connected = False
        self.outbox.disconnected()

    @rule()
    def die_and_restart(self) -> None:
        """The program is killed: what it wrote is all that is left."""
        self.lose()
        before = self.outbox
        self.outbox = Outbox.replay(self.records)
        assert self.outbox.snapshot() == before.snapshot()
        self.records = self.outbox.snapshot()

    @rule(chosen=st.integers(0, 5))
    def take_back(self, chosen: int) -> None:
        """What is taken back is not stored, and never will be."""
        items = self.outbox.items()
        if chosen < len(items):
            key = items[chosen].key
            records = self.outbox.withdraw(key)
            if records is not None:
                self.records += records
                assert key not in self.stored and key not in {sent for _, sent in self.wire}
                self.typed.remove(key)

    @rule(window=st.integers(1, 5))
    def write(self, window: int) -> None:
        batch, records = self.outbox.next_batch(window)
        self.records += records
        assert self.connected or not batch
        self.wire.extend((item.cseq, item.key) for item in batch)

    @rule(count=st.integers(1, 4), busy=st.booleans())
    def serve_some(self, count: int, busy: bool) -> None:
        for _ in range(count):
            self.serve_one(busy)

    def serve_one(self, busy: bool) -> None:
        """The server checks what it is given before the number, as a hostile order for the client."""
        if not self.wire:
            return
        cseq, key = self.wire.popleft()
        if cseq <= len(self.stored):
            self.answers.append(("ack" if self.stored[cseq - 1] == key else "reused", cseq, 0))
        elif key in self.refusing:
            self.answers.append(("refused", cseq, 0))
        elif busy:
            self.answers.append(("busy", cseq, 0))
        elif cseq != len(self.stored) + 1:
            self.answers.append(("gap", cseq, len(self.stored) + 1))
        else:
            self.stored.append(key)
            self.answers.append(("ack", cseq, 0))

    @rule(count=st.integers(1, 4))
    def read_some(self, count: int) -> None:
        for _ in range(count):
            self.read_answer()

    def read_answer(self) -> None:
        if not self.answers:
            return
        kind, cseq, expected = self.answers.popleft()
        assert kind != "reused"
        match kind:
            case "ack":
                item, records = self.outbox.acked(cseq)
                assert item is not None and item.key == self.stored[cseq - 1]
            case "refused":
                item, records = self.outbox.refused(cseq)
                assert item is not None and item.key in self.refusing
            case _:
                records = self.outbox.put_off(cseq, expected or None)
        self.records += records

    @invariant()
    def what_is_stored_was_typed_in_this_order(self) -> None:
        """I3 and I5: once each, and never out of order."""
        assert self.stored == [key for key in self.typed if key in self.stored]
        assert len(set(self.stored)) == len(self.stored)

    def teardown(self) -> None:
        """When the faults end, everything that may be stored is."""
        self.connect()
        for _ in range(4 * len(self.typed) + 4):
            self.write(3)
            while self.wire:
                self.serve_one(False)
            while self.answers:
                self.read_answer()
        assert self.stored == [key for key in self.typed if key not in self.refusing]
        assert self.outbox.items() == []
        assert self.outbox.snapshot()[0]["stored"] == len(self.stored)


OutboxAgainstServer.TestCase.settings = settings(max_examples=120, stateful_step_count=40, deadline=None)
TestOutboxAgainstServer = OutboxAgainstServer.TestCase


def test_numbering_anew_while_answers_are_out_would_lose_messages() -> None:
    """The guard: after a refusal nothing is given out until the late answers to old numbers are in."""
    outbox = Outbox()
    outbox.welcome("alice", 0)
    for key in ("a", "b", "c"):
        outbox.queue(key, {}, 0, 1)
    outbox.next_batch(64)
    outbox.refused(1)
    outbox.queue("d", {}, 0, 1)
    assert outbox.next_batch(64)[0] == []
    outbox.refused(2)  # an answer to the old 2, which is b: c must not fall for it
    outbox.put_off(3, expected=1)
    assert [(item.cseq, item.key) for item in outbox.next_batch(64)[0]] == [(1, "c"), (2, "d")]


def test_a_reused_number_is_never_given_again() -> None:
    """After ``cseq_reused`` later messages do not move down to the taken number."""
    outbox = Outbox()
    outbox.welcome("alice", 0)
    for key in ("a", "b"):
        outbox.queue(key, {}, 0, 1)
    outbox.next_batch(64)
    outbox.refused(1, taken=True)
    outbox.put_off(2)
    assert [(item.cseq, item.key) for item in outbox.next_batch(64)[0]] == [(2, "b")]


def test_only_what_is_certain_not_to_be_stored_is_taken_back() -> None:
    """Not while it is on the wire, nor after its connection was lost; again when the server's word is there."""
    outbox = Outbox()
    outbox.welcome("alice", 0)
    for key in ("sent", "behind"):
        outbox.queue(key, {}, 0, 1)
    outbox.next_batch(1)
    assert outbox.withdraw("sent") is None
    assert outbox.withdraw("behind") is not None
    assert outbox.withdraw("behind") is None
    outbox.disconnected()
    again = Outbox.replay(outbox.snapshot())
    for state in (outbox, again):
        assert state.withdraw("sent") is None
    again.welcome("alice", 1)
    assert again.withdraw("sent") is None
    outbox.welcome("alice", 0)
    assert outbox.withdraw("sent") is not None


def test_the_outbox_is_bounded() -> None:
    """Items and bytes both have a limit."""
    outbox = Outbox()
    for number in range(MAX_ITEMS):
        outbox.queue(str(number), {}, 0, 1)
    assert outbox.is_full(1)
    assert Outbox().is_full(9 * 1024 * 1024)


def test_a_torn_last_line_is_ignored(tmp_path: Path) -> None:
    """A crash in the middle of an append costs that append only."""
    file = OutboxFile(tmp_path, "d")
    file.append(file.outbox.queue("a", {"body": b"\x00\xff", "t": "send"}, 1, 2)[1])
    file.close()
    path = next(tmp_path.glob("*.outbox"))
    with path.open("ab") as torn:
        torn.write(b'{"r":"queue","key":"b","cse')
    again = OutboxFile(tmp_path, "d")
    assert [(item.key, item.fields["body"]) for item in again.outbox.items()] == [("a", b"\x00\xff")]
    again.close()


def test_the_files_are_private_and_locked(tmp_path: Path) -> None:
    """Mode 0600 throughout, and one holder of a device at a time, whatever its name holds."""
    name = "../../etc/passwd \N{SNOWMAN}" * 3
    file = OutboxFile(tmp_path / "new", name)
    file.close()
    assert {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "new").iterdir()} == {0o600}
    first = OutboxFile(tmp_path / "new", name)
    with pytest.raises(StateInUse):
        OutboxFile(tmp_path / "new", name)
    first.close()


def test_the_file_is_compacted(tmp_path: Path) -> None:
    """History does not grow without bound: what is acknowledged goes at the next compaction."""
    file = OutboxFile(tmp_path, "d")
    file.append(file.outbox.welcome("alice", 0))
    for number in range(1, 60):
        file.append(file.outbox.queue(str(number), {"t": "send", "body": "x" * 20_000}, 1, 2)[1])
        file.outbox.next_batch(64)
        file.append(file.outbox.acked(number)[1])
    path = next(tmp_path.glob("*.outbox"))
    assert path.stat().st_size > COMPACT_BYTES
    file.compact()
    file.append(file.outbox.queue("last", {"t": "send"}, 1, 2)[1])
    file.close()
    assert path.stat().st_size < 1000
    again = OutboxFile(tmp_path, "d")
    assert (again.outbox.stored, [item.key for item in again.outbox.items()]) == (59, ["last"])
    again.close()


def test_a_failed_sync_leaves_the_file_dirty_until_it_is_written_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """fsync fails once: nothing counts as synced, also not after a second fsync, which Linux would call a success."""
    file = OutboxFile(tmp_path, "d")
    file.append(file.outbox.queue("a", {"t": "send"}, 1, 2)[1])

    def fail(fd: int) -> None:
        raise OSError(errno.EIO, "the disk is gone")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(OSError, match="the disk is gone"):
            file.sync()
        assert file.dirty
        with pytest.raises(OSError, match="the disk is gone"):
            file.compact()
        assert file.dirty
    path = next(tmp_path.glob("*.outbox"))
    before = path.stat().st_ino
    file.compact()
    assert not file.dirty
    assert path.stat().st_ino != before
    file.close()
    again = OutboxFile(tmp_path, "d")
    assert [item.key for item in again.outbox.items()] == ["a"]
    again.close()


def test_what_could_not_be_appended_is_written_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk at the moment of a refusal or a number: the file misses it, and is whole before the next sync."""
    file = OutboxFile(tmp_path, "d")
    file.append(file.outbox.welcome("alice", 0))
    file.append(file.outbox.queue("a", {"t": "send"}, 1, 2)[1])
    file.outbox.next_batch(64)

    def full(fd: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "no space left")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        file.keep(file.outbox.refused(1)[1])
    assert file.dirty
    file.compact()
    file.close()
    again = OutboxFile(tmp_path, "d")
    assert again.outbox.items() == []
    again.close()
