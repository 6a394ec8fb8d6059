"""The quick reading of a send: never another value than the strict reading gives, and taken where it is meant to be."""

from __future__ import annotations

import cbor2
import pytest
from chatd_protocol import codec
from chatd_protocol import messages as m
from chatd_protocol.codec import Encoding, Malformed, decode_client, encode
from chatd_protocol.plain_send import read_plain_send
from hypothesis import given, settings
from hypothesis import strategies as st

PLAIN = st.builds(
    m.Send,
    cseq=st.one_of(st.integers(1, 300), st.integers(1, 2**32 - 1)),
    to=st.text(min_size=1, max_size=16),
    body=st.one_of(st.text(max_size=40), st.integers(0, 70_000).map(lambda size: "x" * size)),
)


def strictly(data: bytes) -> m.ClientMessage | None:
    """What the strict reading makes of it; None where it refuses."""
    try:
        message: m.ClientMessage = codec._decode(Encoding.CBOR, data, codec._CLIENT, codec.MAX_CLIENT_BYTES)
    except Malformed:
        return None
    return message


@given(PLAIN)
def test_plain_sends_are_read_quickly(send: m.Send) -> None:
    """A send as clients write it is read without the strict reading, whatever the widths of its number and texts."""
    data = encode(Encoding.CBOR, send)
    if len(data) <= codec.MAX_CLIENT_BYTES:
        assert read_plain_send(data) == send == strictly(data)
    else:
        with pytest.raises(Malformed):
            decode_client(Encoding.CBOR, data)


@settings(max_examples=2000)
@given(PLAIN.filter(lambda send: len(str(send.body)) < 300), st.data())
def test_damaged_sends_are_never_read_otherwise(send: m.Send, data: st.DataObject) -> None:
    """One byte changed, taken out or put in anywhere, or the end cut off: what the quick reading takes is what the strict
    one gives."""
    whole = bytearray(encode(Encoding.CBOR, send))
    place = data.draw(st.integers(0, len(whole) - 1))
    match data.draw(st.sampled_from(["change", "remove", "insert", "cut"])):
        case "change":
            whole[place] = data.draw(st.integers(0, 255))
        case "remove":
            del whole[place]
        case "insert":
            whole.insert(place, data.draw(st.integers(0, 255)))
        case "cut":
            del whole[place:]
    quick = read_plain_send(bytes(whole))
    assert quick is None or quick == strictly(bytes(whole))


@pytest.mark.parametrize("cseq", [1, 200, 65536])
def test_every_change_of_one_byte_is_read_as_strictly(cseq: int) -> None:
    """All of them, and all cuts. Compiled, a slice that begins behind the end is an error, where Python's is empty."""
    whole = encode(Encoding.CBOR, m.Send(cseq=cseq, to="c", body=""))
    changed = [whole[:at] + bytes([byte]) + whole[at + 1 :] for at in range(len(whole)) for byte in range(256)]
    for data in [*changed, *(whole[:at] for at in range(len(whole)))]:
        quick = read_plain_send(data)
        assert quick is None or quick == strictly(data)


@pytest.mark.parametrize(
    "fields",
    [
        {"t": "send", "cseq": 0, "to": "c", "body": "b"},
        {"t": "send", "cseq": 2**53, "to": "c", "body": "b"},
        {"t": "send", "cseq": -1, "to": "c", "body": "b"},
        {"t": "send", "cseq": 1, "to": "", "body": "b"},
        {"t": "send", "cseq": 1, "to": "c" * 65, "body": "b"},
        {"t": "send", "cseq": 1, "to": "c", "body": b"b"},
        {"t": "send", "cseq": 1, "to": "c", "body": None},
        {"t": "send", "to": "c", "cseq": 1, "body": "b"},
        {"t": "send", "cseq": 1, "to": "c", "body": "b", "type": "text"},
    ],
)
def test_what_is_left_to_the_strict_reading(fields: dict[str, object]) -> None:
    """Other orders, other keys, and all that is out of bounds."""
    assert read_plain_send(cbor2.dumps(fields)) is None


def test_what_is_not_utf_8_is_refused() -> None:
    """In either text: neither reading takes it."""
    for good, bad in ((b"\x62to\x62ab", b"\x62to\x62\xed\xa0"), (b"\x64body\x62ab", b"\x64body\x62\xc3\x28")):
        data = encode(Encoding.CBOR, m.Send(cseq=1, to="ab", body="ab")).replace(good, bad)
        assert read_plain_send(data) is None
        with pytest.raises(Malformed):
            decode_client(Encoding.CBOR, data)
