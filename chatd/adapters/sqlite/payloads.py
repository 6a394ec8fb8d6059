"""What the payload of an event must be, and what readers are given in the place of one that is not.

A disk or a hand may have changed what is stored. Such an event keeps its place in the log, so that nobody is shut out by it for
ever: a client that is sent bytes that it cannot read ends its connection, comes back, and is sent them again. A message is given
with the type ``damaged`` and an empty body; of other kinds what they were about cannot be told, so the kind is ``damaged``,
which clients do not know and count. The row stays as it is: ``verify`` finds it, and a backup of before may have it whole.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final

import cbor2
import msgspec
import structlog
from chatd_protocol import cbor, messages

DAMAGED: Final = "damaged"
_PLACEHOLDER: Final = cbor2.dumps({"type": DAMAGED, "body": ""})
_NOTHING: Final = cbor2.dumps({})

_NEEDED: Final = {
    "message": {"type", "body"}, "edit": {"body", "target"}, "delete": {"target"}, "reaction": {"target", "emoji"},
    "created": {"title", "members"}, "joined": {"user"}, "left": {"user"}, "role": {"user", "role"}, "renamed": {"title"},
    "pinned": {"target"},
}  # fmt: skip
_HEAD: Final[dict[str, Any]] = {"t": "event", "conv": "c", "seq": 1, "at": 1, "from": "a", "kind": ""}
"""What an event has beside its payload, which may not say it a second time."""

_BODIES: Final = frozenset({str, bytes})

# msgspec works out how to read a type when it first reads one, and of two threads that do so at once one finds it half done: the
# process ends with a segmentation fault (msgspec 0.22). The store's readers are such threads, so it is done here, by one.
msgspec.convert(_HEAD, messages.Event)

log = structlog.get_logger()


def fields_of(kind: str, payload: bytes) -> dict[str, Any] | None:
    """An event's own keys; None where it is damaged: no map, or not what a client takes for an event of that kind."""
    try:
        fields = cbor.load_map(payload)
        if kind == "message" and len(fields) == 2 and type(fields.get("type")) is str and type(fields.get("body")) in _BODIES:
            return fields  # nearly all that there is, in half of the time
        msgspec.convert(fields | _HEAD, messages.Event)
    except (ValueError, msgspec.ValidationError):
        return None
    return fields if fields.keys() >= _NEEDED.get(kind, set()) and _HEAD.keys().isdisjoint(fields) else None


def readable(conv: str, seq: int, kind: str, payload: bytes) -> tuple[str, bytes]:
    """Kind and payload as they are given to a reader."""
    if fields_of(kind, payload) is not None:
        return kind, payload
    _tell(conv, seq, kind)
    return (kind, _PLACEHOLDER) if kind == "message" else (DAMAGED, _NOTHING)


@lru_cache(maxsize=1024)
def _tell(conv: str, seq: int, kind: str) -> None:
    """Once for each event."""
    log.error("store.event_damaged", conv=conv, seq=seq, kind=kind)
