"""Events whose rows a disk or a hand has changed: they keep their place, readers are told, and nobody is shut out for it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import apsw
import cbor2
import pytest
from chatd_protocol import codec
from structlog.testing import capture_logs

from chatd.adapters.sqlite import payloads
from chatd.adapters.sqlite.payloads import fields_of
from chatd.adapters.sqlite.store import SqliteStore, open_store
from chatd.conversations.operations import Appended, Author
from chatd.store.port import SearchTerms
from chatd.store.query import parse
from tests.e2e.cluster import Cluster, Peer
from tests.store.conformance import do, message, people
from tests.store.conformance_changes import delete, edit, react

BIG = 10**6
READERS = """
import sys, threading
import msgspec
from chatd.adapters.sqlite import payloads
sys.setswitchinterval(1e-6)
together, fields = threading.Barrier(8), payloads._HEAD | {"target": 3, "body": "x"}
def read():
    together.wait()
    for _ in range(50):
        msgspec.convert(fields, payloads.messages.Event)
threads = [threading.Thread(target=read) for _ in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
"""

NOT_PAYLOADS = [
    b"", b"\xff\x00", b"\xa1", b"\xa0", cbor2.dumps([1]), cbor2.dumps({"type": "text"}), cbor2.dumps({"type": 7, "body": "x"}),
    cbor2.dumps({"type": "text", "body": 5}), cbor2.dumps({"type": "text", "body": "x"}) + b"\x00",
    cbor2.dumps({"type": "text", "body": "x", "reply_to": "y"}), cbor2.dumps({"type": "text", "body": "x", "seq": 9}),
    cbor2.dumps({"type": "text", "body": "x", "t": "event"}), b"\xa2\x64type\x64text\x64body\x62\xff\xff",
]  # fmt: skip


@pytest.mark.parametrize("payload", NOT_PAYLOADS, ids=bytes.hex)
def test_what_is_no_payload(payload: bytes) -> None:
    """Among them what would make the event on the wire one that no client takes."""
    assert fields_of("message", payload) is None
    with capture_logs() as said:
        payloads._tell.cache_clear()
        given = [payloads.readable("c", 1, "message", payload) for _ in range(3)]
    assert given == [("message", cbor2.dumps({"type": "damaged", "body": ""}))] * 3
    assert [entry["event"] for entry in said] == ["store.event_damaged"]
    kind, left = payloads.readable("c", 2, "joined", payload)
    for encoding in codec.Encoding:
        event = codec.decode_server(encoding, codec.encode_event(encoding, "c", 2, 1, "ann", kind, left))
        assert event.kind == "damaged"  # type: ignore[union-attr]


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    """A conversation of ann's and ben's: a message, an edit of it, a reaction, another message."""
    async with open_store(tmp_path / "chatd.db") as opened:
        (ann, _) = await people(opened, "ann", "ben")
        (first,) = await do(opened, message(ann, 1, "@ben", "word"))
        conv = first.conv
        await do(opened, edit(ann, 2, conv, 1, "word"), react(ann, 3, conv, 1), message(ann, 4, "@ben", "word too"))
        yield opened


async def _ann(store: SqliteStore) -> tuple[Author, str]:
    (ann,) = await people(store, "ann")
    ((item,), _) = await store.conversations(ann.user_no, ann.device_no, None, 5)
    return ann, item.conv


def spoil(path: Path, which: str) -> None:
    connection = apsw.Connection(str(path))
    connection.execute(f"UPDATE events SET payload = x'ff00' WHERE {which}")
    connection.close()


def test_threads_may_read_at_once(tmp_path: Path) -> None:
    """The first events of a process, by eight threads, as the store's readers are: half of such runs ended by a segmentation
    fault."""
    (tmp_path / "readers.py").write_text(READERS)
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    for _ in range(12):
        assert subprocess.run([sys.executable, str(tmp_path / "readers.py")], env=environ, check=False).returncode == 0


async def test_all_that_is_read_goes_on(store: SqliteStore, tmp_path: Path) -> None:
    """Pages, the log, the list, threads, search and its index."""
    spoil(tmp_path / "chatd.db", "1")
    ann, conv = await _ann(store)
    page = await store.page(ann.user_no, conv, after=0, before=None, limit=9, max_bytes=BIG)
    assert page is not None
    assert [(event.seq, event.kind) for event in page.events] == [(1, "message"), (2, "damaged"), (3, "damaged"), (4, "message")]
    assert [event.kind for event in await store.log(conv, 0, 9)] == [event.kind for event in page.events]
    ((item,), _) = await store.conversations(ann.user_no, ann.device_no, None, 9)
    assert item.event is not None
    assert cbor2.loads(item.event.payload) == {"type": "damaged", "body": ""}
    thread = await store.thread(ann.user_no, conv, 1, after=None, before=None, limit=9, max_bytes=BIG)
    assert thread is not None
    assert [cbor2.loads(event.payload)["type"] for event in thread.events] == ["damaged"]
    while await store.index():
        pass
    wanted = SearchTerms(terms=parse("word"))
    found = await store.search(ann.user_no, wanted, cursor=None, limit=9, max_bytes=BIG)
    assert found == ([], None)


async def test_it_can_be_deleted_and_changed(store: SqliteStore, tmp_path: Path) -> None:
    """By its author, like any other: then it is whole again."""
    spoil(tmp_path / "chatd.db", "seq IN (1, 4)")
    ann, conv = await _ann(store)
    outcomes = await do(store, edit(ann, 5, conv, 4, "whole"), delete(ann, 6, conv, 1))
    assert [type(outcome) for outcome in outcomes] == [Appended] * 2
    first = (await store.log(conv, 0, 1))[0]
    assert cbor2.loads(first.payload) == {"type": "deleted", "body": ""}


@pytest.mark.parametrize("encoding", ["cbor", "json"])
async def test_nobody_is_shut_out(tmp_path: Path, encoding: str) -> None:
    """A new device is replayed the conversation, damaged rows and all, is live, and gets what comes then."""
    cluster = Cluster(tmp_path, 1)
    try:
        ann = await Peer.open(cluster, 0, "ann")
        await Peer.open(cluster, 0, "ben")
        conv = (await ann.say("@ben", "one"))["conv"]
        assert (await ann.change("edit", conv=conv, seq=1, body="two"))["seq"] == 2
        spoil(cluster.data / "chatd.db", "1")
        ben = await Peer.open(cluster, 0, "ben", "new", encoding=encoding, positions={conv: 0})
        assert [event["kind"] for event in ben.seen if event["t"] == "event"] == ["message", "damaged"]
        await ann.say("@ben", "three")
        assert (await ben.event(conv, 3))["body"] == "three"
        events = (await ben.ask("history", conv=conv))["events"]
        assert [(event["kind"], event.get("type")) for event in events] == [
            ("message", "damaged"), ("damaged", None), ("message", "text"),
        ]  # fmt: skip
    finally:
        cluster.stop()
