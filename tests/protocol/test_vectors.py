"""The golden vectors: whole, cut, extended, against the CDDL; and what has to be refused."""

from __future__ import annotations

import json
from typing import get_args

import pytest
from chatd_protocol.codec import Encoding, Malformed, decode_client, decode_server, encode
from chatd_protocol.messages import ClientMessage, ServerMessage

from tests import cddl_check

from .conftest import ALL_VECTORS, VECTORS

DECODE = {"client": decode_client, "server": decode_server}
ENCODINGS = {"cbor": Encoding.CBOR, "json": Encoding.JSON}


def test_every_message_has_a_vector():
    """No message type of either direction is without a golden vector, and no vector without a type."""
    union = {"client": ClientMessage, "server": ServerMessage}
    types = {(side, kind.__struct_config__.tag) for side in union for kind in get_args(union[side])}
    assert {(vector.direction, vector.t) for vector in ALL_VECTORS} == types


def test_every_file_is_read():
    """Each file of the directory is one of those that the tests know."""
    files = {f"{vector.direction}-{vector.t}.json" for vector in ALL_VECTORS} | {"refused.json"}
    assert {path.name for path in VECTORS.iterdir()} == files


def test_whole(vector):
    """Both encodings of a vector are the same message, and the codec writes exactly these bytes for it."""
    decode = DECODE[vector.direction]
    message = decode(Encoding.CBOR, vector.cbor)
    assert decode(Encoding.JSON, vector.json) == message
    assert message.__struct_config__.tag == vector.t
    assert encode(Encoding.CBOR, message) == vector.cbor
    assert encode(Encoding.JSON, message) == vector.json


def test_cut_anywhere(vector):
    """A message that lost its end, at whatever byte, is never taken for a message."""
    for encoding, data in ((Encoding.CBOR, vector.cbor), (Encoding.JSON, vector.json)):
        for size in range(len(data)):
            with pytest.raises(Malformed):
                DECODE[vector.direction](encoding, data[:size])


def test_extended(vector):
    """A byte after a message refuses it; in JSON white space is no byte too many (RFC 8259, section 2)."""
    for byte in range(256):
        with pytest.raises(Malformed):
            DECODE[vector.direction](Encoding.CBOR, vector.cbor + bytes((byte,)))
        if bytes((byte,)) not in b" \t\r\n":
            with pytest.raises(Malformed):
                DECODE[vector.direction](Encoding.JSON, vector.json + bytes((byte,)))


def test_unknown_keys_are_ignored(vector):
    """Keys of a later version, whatever is under them, change nothing (but for what the encoding forbids)."""
    value = {"future": [None, True, 1.5, -7, {"body": {"b64": "?"}}], "body_": {"b64": 1}}
    extended = json.loads(vector.json) | value
    decode = DECODE[vector.direction]
    assert decode(Encoding.JSON, json.dumps(extended).encode()) == decode(Encoding.JSON, vector.json)


def test_refused(refusal):
    """What is no message is refused with the code that the vector names, and with id or cseq where they could be read."""
    with pytest.raises(Malformed) as caught:
        DECODE[refusal.direction](ENCODINGS[refusal.encoding], refusal.data)
    fault = caught.value
    assert (fault.code, fault.id, fault.cseq) == (refusal.code, refusal.id, refusal.cseq)
    assert 0 < len(fault.message) < 400


@pytest.mark.skipif(not cddl_check.AVAILABLE, reason="pycddl has no wheel for this machine")
def test_cddl(vector):
    """Every vector is in the CDDL of its direction, and not in the other's, but for what both may send."""
    cddl_check.validate(vector.direction, vector.cbor)
    other = "server" if vector.direction == "client" else "client"
    if vector.name != "heartbeat" or vector.direction == "server":
        with pytest.raises(AssertionError):
            cddl_check.validate(other, vector.cbor)


@pytest.mark.skipif(not cddl_check.AVAILABLE, reason="pycddl has no wheel for this machine")
@pytest.mark.parametrize(
    "message",
    [
        {"t": "ack", "cseq": 1, "conv": "c", "seq": 1},
        {"t": "ack", "cseq": 1, "conv": "c", "seq": 1, "at": 1, "more": 1},
        {"t": "event", "conv": "c", "seq": 1, "at": 1, "from": "bob", "kind": "joined", "title": "x"},
        {"t": "event", "conv": "c", "seq": 0, "at": 1, "from": "bob", "kind": "joined", "user": "bob"},
        {"t": "event", "conv": "c", "seq": 1, "at": 1, "from": "Bob", "kind": "joined", "user": "bob"},
        {"t": "ok", "id": 1, "conv": "c", "events": [{"t": "event"}], "last": 1, "more": False},
        {"t": "error", "code": "made_up", "message": "x"},
        {"t": "bye", "code": 1000, "reason": "x"},
    ],
)
def test_cddl_is_closed(message):
    """The schema would notice a server that sends a key too many, too few, or another value."""
    import cbor2

    with pytest.raises(AssertionError):
        cddl_check.validate("server", cbor2.dumps(message))
