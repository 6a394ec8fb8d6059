"""The history of a run: what its clients did and saw, a record each, in one file of JSON lines.

``docs/histories.md`` describes it for whoever records a history of their own.

Whoever records needs one clock for all records (``at``, seconds, from any beginning). Nothing that anybody wrote is in it: a
message is known by the digest of its content (``content_of``), which a workload makes different for each. At the end of a run
the log is read (``Stored``), from every node if there are several, and the kinds of conversations that have no ``created``
event are told (``Described``); ``Settled`` stands where everybody who is live must have everything.

What was asked and never answered is unknown: it may be stored or not, at most once. So is what was refused as
``unavailable``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from hashlib import blake2b
from pathlib import Path
from typing import IO, Annotated, Any

import cbor2
import msgspec
from msgspec import Meta, Struct

FORMAT = 1
LIMIT = 2**53
"""Numbers on the wire stay below it."""
At = Annotated[float, Meta(gt=-1e12, lt=1e12)]
"""Seconds, from any beginning."""
ENVELOPE = frozenset({"t", "conv", "seq", "at", "from", "kind", "cseq", "to", "id"})
"""Keys that say where a content goes, not what it is."""
UNKNOWN_CODES = frozenset({"unavailable"})
"""Refusals after which the change may be stored all the same."""


class BadHistory(Exception):
    """A file that is no history; the text names the line."""


class Began(Struct, frozen=True, tag="began", tag_field="t"):
    """The first record. ``source``: what made the history, for people (a command line, a seed)."""

    format: int
    source: str = ""


class Opened(Struct, frozen=True, tag="opened", tag_field="t", omit_defaults=True):
    """A session was welcomed. ``session``: any name that no other connection of the run has. ``cseq``: the last that the server
    has of the device. ``positions``: what the hello said that the device has, by conversation."""

    at: At
    session: str
    user: str
    device: str
    cseq: int = 0
    positions: dict[str, int] = {}
    node: str = ""


class WentLive(Struct, frozen=True, tag="live", tag_field="t"):
    """The session's replay was over."""

    at: At
    session: str


class Closed(Struct, frozen=True, tag="closed", tag_field="t", omit_defaults=True):
    """The session was over, whoever ended it."""

    at: At
    session: str
    code: int = 0


class Sent(Struct, frozen=True, tag="sent", tag_field="t", omit_defaults=True):
    """A change was asked for: a send, an edit, a delete, a reaction. A repeat is another record."""

    at: At
    session: str
    cseq: int
    to: str
    content: str
    kind: str = "message"


class Acked(Struct, frozen=True, tag="acked", tag_field="t", omit_defaults=True):
    """It was acknowledged. ``repeat``: beside the stream."""

    at: At
    session: str
    cseq: int
    conv: str
    seq: int
    repeat: bool = False


class Refused(Struct, frozen=True, tag="refused", tag_field="t"):
    """It was answered with an error."""

    at: At
    session: str
    cseq: int
    code: str


class Delivered(Struct, frozen=True, tag="delivered", tag_field="t", omit_defaults=True):
    """The session received an event. ``content``: empty where it was taken out by a delete."""

    at: At
    session: str
    conv: str
    seq: int
    content: str = ""


class Asked(Struct, frozen=True, tag="asked", tag_field="t", omit_defaults=True):
    """A change of a group's members was asked for: ``add``, ``remove`` or ``leave``, of these users."""

    at: At
    session: str
    id: int
    what: str
    conv: str
    users: list[str] = []


class Answered(Struct, frozen=True, tag="answered", tag_field="t", omit_defaults=True):
    """The answer to it: ``code`` is empty where it was done."""

    at: At
    session: str
    id: int
    code: str = ""


class Stored(Struct, frozen=True, tag="stored", tag_field="t", omit_defaults=True):
    """One event as it stands in the log at the end. ``users``: who are in from here on (``created``, ``joined``), or no more
    (``left``). ``content``: empty where it was taken out by a delete. ``everything``: a group whose new members see all.
    ``reader``: who read it, where several did. ``target``: what an edit, a delete or a reaction is of."""

    conv: str
    seq: int
    kind: str
    sender: str
    content: str = ""
    users: list[str] = []
    everything: bool = False
    reader: str = ""
    target: int = 0


class Described(Struct, frozen=True, tag="described", tag_field="t"):
    """A conversation whose members are always the same."""

    conv: str
    members: list[str]


class Settled(Struct, frozen=True, tag="settled", tag_field="t"):
    """Nobody asks for anything any more, and the time for everything to arrive was given."""

    at: At


Record = (
    Began | Opened | WentLive | Closed | Sent | Acked | Refused | Delivered | Asked | Answered | Stored | Described | Settled
)

Happened = Opened | WentLive | Closed | Sent | Acked | Refused | Delivered | Asked | Answered | Settled
"""What has a moment."""

_encoder = msgspec.json.Encoder()
_decoder: msgspec.json.Decoder[Record] = msgspec.json.Decoder(Record)


def content_of(fields: Mapping[str, Any]) -> str:
    """What identifies what was said: of a message's or an event's own keys, wherever it stands."""
    own = {key: value for key, value in fields.items() if key not in ENVELOPE and value not in (None, [])}
    if "body" in own and "target" not in own:
        own.setdefault("type", "text")
    return blake2b(cbor2.dumps(own, canonical=True), digest_size=8).hexdigest()


def digest_of_message(message: Mapping[str, Any]) -> str:
    """``content_of`` an event, or of what is said; empty where a delete has taken it out."""
    if message.get("kind") in ("message", "edit") and not message.get("body"):
        return ""
    return content_of({key: value for key, value in message.items() if key not in ("deleted", "edited")})


def stored(place: tuple[str, int], sender: str, fields: Mapping[str, Any], *, everything: bool, reader: str = "") -> Stored:
    """The record of an event, by its own fields, ``kind`` among them. ``everything``: its group shows all to new members."""
    kind = fields["kind"]
    users = [fields["user"]] if kind in ("joined", "left") else []
    if kind == "created":
        users = sorted({sender, *fields["members"]})
    shows_all, target = everything and kind == "created", fields.get("target", 0)
    return Stored(*place, kind, sender, digest_of_message(fields), users, shows_all, reader, target)


def encoded(record: Record) -> bytes:
    """A record as its line."""
    return _encoder.encode(record) + b"\n"


class Recorder:
    """Writes a history to a file, in the order of the calls; ``close`` it. Raises OSError."""

    def __init__(self, path: Path, source: str) -> None:
        self._file: IO[bytes] = path.open("wb")
        self.records = 0
        self.note(Began(FORMAT, source))

    def note(self, record: Record) -> None:
        """Append one record."""
        self._file.write(encoded(record))
        self.records += 1

    def close(self) -> None:
        self._file.close()


def read_history(path: Path) -> Iterator[Record]:
    """The records of a file, one after another. Raises BadHistory, OSError."""
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                record = _decoder.decode(line)
            except msgspec.MsgspecError as fault:
                raise BadHistory(f"{path}, line {number}: {fault}") from fault
            if number == 1 and not (isinstance(record, Began) and record.format == FORMAT):
                raise BadHistory(f"{path}, line 1: not the beginning of a history of format {FORMAT}")
            yield record


def write_history(path: Path, records: Iterable[Record], source: str = "") -> None:
    """A file of what was kept in memory. Raises OSError."""
    recorder = Recorder(path, source)
    try:
        for record in records:
            recorder.note(record)
    finally:
        recorder.close()
