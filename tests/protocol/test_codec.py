"""The codec: round trips, hostile bytes, spliced events."""

from __future__ import annotations

import contextlib
import json
import random

import cbor2
import pytest
from chatd_protocol import cbor, json_form
from chatd_protocol import messages as m
from chatd_protocol.codec import (
    MAX_CLIENT_BYTES,
    MAX_SERVER_BYTES,
    Encoding,
    Malformed,
    change_digest,
    change_payload,
    content_digest,
    decode_client,
    decode_server,
    encode,
    encode_event,
    encode_payload,
    event_map,
)
from chatd_protocol.codes import ErrorCode
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import cddl_check

from .conftest import ALL_VECTORS
from .strategies import client_messages, heads, kind_keys, server_messages

DECODE = {"client": decode_client, "server": decode_server}
BOTH = tuple(Encoding)


def test_subprotocols():
    """An encoding is found by its subprotocol, and nothing else is."""
    assert [(e.subprotocol, e.binary) for e in Encoding] == [("chatd.v1.cbor", True), ("chatd.v1.json", False)]
    assert [Encoding.from_subprotocol(e.subprotocol) for e in Encoding] == list(Encoding)
    assert Encoding.from_subprotocol("chatd.v2.cbor") is None


@settings(max_examples=400)
@given(client_messages)
def test_client_messages_survive(message):
    """What a client encodes the server decodes to the same value, in both encodings, and it is in the CDDL."""
    for encoding in BOTH:
        assert decode_client(encoding, encode(encoding, message)) == message
    cddl_check.validate("client", encode(Encoding.CBOR, message))


@settings(max_examples=400)
@given(server_messages)
def test_server_messages_survive(message):
    """What the server encodes a client decodes to the same value, in both encodings, and it is in the CDDL."""
    for encoding in BOTH:
        assert decode_server(encoding, encode(encoding, message)) == message
    cddl_check.validate("server", encode(Encoding.CBOR, message))


@settings(max_examples=200)
@given(st.one_of(client_messages, server_messages))
def test_t_comes_first_and_heads_are_short(message):
    """A message is one definite map in the shortest form, with ``t`` as its first key, however it is put together."""
    data = encode(Encoding.CBOR, message)
    fields = cbor2.loads(data)
    assert next(iter(fields)) == "t"
    assert cbor2.dumps(fields) == data
    assert encode(Encoding.JSON, message).startswith(b'{"t":"')


def _own(keys: dict) -> dict:
    # in the order of the message's fields, as encode_payload asks for it
    return {key: keys[key] for key in m.Event.__struct_fields__ if key in keys and key != "kind"}


@settings(max_examples=300)
@given(heads, kind_keys)
def test_spliced_event(head, keys):
    """An event spliced from its stored payload has the bytes of the same event encoded, in both encodings."""
    own = _own(keys)
    event = m.Event(**head, **keys)
    for encoding in BOTH:
        spliced = encode_event(encoding, **head, kind=keys["kind"], payload=encode_payload(own))
        assert spliced == encode(encoding, event)


@settings(max_examples=100)
@given(heads, kind_keys)
def test_event_in_a_page(head, keys):
    """An event in a page has the keys of the event message but for ``t``, and bytes survive there in JSON."""
    own = _own(keys)
    entry = event_map(**head, kind=keys["kind"], payload=encode_payload(own))
    assert {"t": "event"} | entry == cbor2.loads(encode(Encoding.CBOR, m.Event(**head, **keys)))
    page = m.Ok(id=1, events=[entry], items=[{"conv": "c", "event": entry}])
    for encoding in BOTH:
        assert decode_server(encoding, encode(encoding, page)) == page


@pytest.mark.parametrize("entries", [0, 1, 17, 18, 23, 24, 249, 250, 255, 256, 300])
def test_spliced_map_heads(entries):
    """The head of the map grows with its entries: 1, 2 and 3 bytes, on either side of the splice."""
    own = {f"k{number:03}": number for number in range(entries)}
    head = {"conv": "c", "seq": 300, "at": 1 << 40, "from": "bob", "kind": "later"}
    spliced = encode_event(Encoding.CBOR, "c", 300, 1 << 40, "bob", "later", encode_payload(own))
    assert spliced == cbor2.dumps({"t": "event"} | head | own)


@pytest.mark.parametrize("payload", [b"", b"\x80", b"\xb8", b"\xb9\x01", b"\xba\x00\x00\x00\x00", b"\xbf\xff"])
def test_spliced_payload_is_a_map(payload):
    """A payload that is no map of ours is refused, not sent."""
    with pytest.raises(ValueError, match="map"):
        encode_event(Encoding.CBOR, "c", 1, 1, "bob", "message", payload)


def test_encoding_leaves_the_message_alone():
    """The bytes of a page that is encoded for a JSON reader are still bytes for the next one."""
    page = m.Ok(id=1, events=[{"conv": "c", "body": b"\xff"}])
    before = encode(Encoding.CBOR, page)
    encode(Encoding.JSON, page)
    assert encode(Encoding.CBOR, page) == before


# --- hostile bytes ------------------------------------------------------------------------------


def _only_malformed(data: bytes) -> None:
    for decode in DECODE.values():
        for encoding in BOTH:
            try:
                decode(encoding, data)
            except Malformed as fault:
                assert len(fault.message) < 400
                assert fault.code in {ErrorCode.BAD_MESSAGE, ErrorCode.UNKNOWN_TYPE}


@settings(max_examples=500)
@given(st.binary(max_size=200))
def test_random_bytes(data):
    """Whatever the bytes, nothing but Malformed is raised."""
    _only_malformed(data)


@settings(max_examples=200)
@given(st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text() | st.integers(), inner, max_size=4),
    max_leaves=20,
))  # fmt: skip
def test_any_cbor(value):
    """Well-formed CBOR of any shape, bignums and floats included, is a message or Malformed."""
    for key in ("t", "body", "events", "items", "positions"):
        _only_malformed(cbor2.dumps({"t": "send", "cseq": 1, "to": "c", "body": "", key: value}))


@pytest.mark.parametrize("seed", range(8))
def test_mutated_vectors(seed):
    """Flipped, lost, doubled and exchanged bytes of real messages give a message or Malformed."""
    rng = random.Random(seed)
    for vector in ALL_VECTORS:
        for whole in (vector.cbor, vector.json):
            data = bytearray(whole)
            for _ in range(rng.randint(1, 4)):
                place = rng.randrange(len(data))
                data[place : place + rng.randrange(3)] = rng.randbytes(rng.randrange(3))
                if not data:
                    break
            _only_malformed(bytes(data))


def _tag_head(tag: int) -> bytes:
    return cbor.head(0xC0, tag)


def test_every_tag_is_refused():
    """No tag comes through, of those that cbor2 decodes by itself or any other, whatever it holds."""
    tags = [*range(65536), *(1 << shift for shift in range(16, 64)), (1 << 64) - 1]
    for tag in tags:
        for content in (b"\x01", b"\x41a", b"\x61a", b"\x82\x01\x02", b"\xa0"):
            with pytest.raises(ValueError, match="tags are not allowed"):
                cbor.load_map(b"\xa1\x61x" + _tag_head(tag) + content)


@pytest.mark.parametrize("nest", [lambda n: b"\x81" * n + b"\x00", lambda n: b"\xa1\x61a" * n + b"\x00"])
def test_depth_in_cbor(nest):
    """Eight levels, the message counted, are taken; nine are not."""
    message = b"\xa2\x61t\x64live\x61x"
    assert decode_server(Encoding.CBOR, message + nest(cbor.MAX_DEPTH - 1)) == m.Live()
    with pytest.raises(Malformed, match="depth"):
        decode_server(Encoding.CBOR, message + nest(cbor.MAX_DEPTH))


@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}")])
def test_depth_in_json(opening, closing):
    """Eight levels, the message counted, are taken; nine are not, nor are thousands."""

    def nested(levels: int) -> bytes:
        return ('{"t":"live","x":' + opening * levels + "0" + closing * levels + "}").encode()

    assert decode_server(Encoding.JSON, nested(cbor.MAX_DEPTH - 1)) == m.Live()
    for levels in (cbor.MAX_DEPTH, 100, 5000):
        with pytest.raises(Malformed, match="nested"):
            decode_server(Encoding.JSON, nested(levels))


def _dumped(encoding, value):
    return cbor2.dumps(value) if encoding is Encoding.CBOR else json.dumps(value).encode()


@pytest.mark.parametrize("encoding", BOTH)
@pytest.mark.parametrize("costly", [[[]] * 127, [{}] * 127, {str(n): [] for n in range(127)}, [0] * 4096,
                                    ["a", 256] * 2048, {str(n): n for n in range(2048)}], ids=range(6))  # fmt: skip
def test_what_takes_long_to_read_is_refused(encoding, costly):
    """Too many maps and arrays, or too many items, also under a key that nobody knows; and with some fewer it is taken."""
    with pytest.raises(Malformed, match="at most 4096 items, 128 maps and arrays"):
        decode_client(encoding, _dumped(encoding, {"t": "heartbeat", "x": costly}))
    fewer = dict(list(costly.items())[:-5]) if isinstance(costly, dict) else costly[:-10]
    assert decode_client(encoding, _dumped(encoding, {"t": "heartbeat", "x": fewer})) == m.Heartbeat()


@pytest.mark.parametrize("encoding", BOTH)
def test_the_heaviest_messages_are_taken(encoding):
    """All positions in a hello, all members in a group; and whatever a text consists of, for it is one item."""
    positions = {f"c{number:024d}": number for number in range(m.MAX_POSITIONS)}
    hello = m.Hello(token="x", device="phone", positions=positions, agent="a")
    create = m.Create(id=1, title="all", members=[f"user{number}" for number in range(m.MAX_NAMES_IN_REQUEST)])
    texts = [m.Send(cseq=1, to="g", body=text, mentions=["ann"]) for text in ("[{" * 9000, ',:"\\' * 6000, "\x80\xa0\x81" * 9000)]
    for message in (hello, create, *texts):
        assert decode_client(encoding, encode(encoding, message)) == message


@settings(max_examples=300)
@given(
    st.recursive(
        st.integers(0, 2**60) | st.text(max_size=300) | st.binary(max_size=300) | st.booleans(),
        lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.text(max_size=5), inner, max_size=6),
    )
)
def test_items_are_counted(value):
    """By their heads alone, as many as there are: of each container itself, its keys and its values."""

    def items(of):
        parts = [*of, *of.values()] if isinstance(of, dict) else of if isinstance(of, list) else ()
        return 1 + sum(map(items, parts))

    assert cbor.count_items(cbor2.dumps(value)) == items(value)


def test_brackets_in_text_are_no_depth():
    """A body full of brackets is a text like any other."""
    message = m.Send(cseq=1, to="c", body='[{"' * 1000)
    assert decode_client(Encoding.JSON, encode(Encoding.JSON, message)) == message


@pytest.mark.parametrize(("side", "bound"), [("client", MAX_CLIENT_BYTES), ("server", MAX_SERVER_BYTES)])
def test_size_bounds(side, bound):
    """A message of just the bound is taken, one byte more is refused, in both encodings."""
    shape = m.Send if side == "client" else m.Event
    fields = {"cseq": 1, "to": "c"} if side == "client" else {"conv": "c", "seq": 1, "at": 1, "sender": "b", "kind": "message"}
    for encoding in BOTH:
        frame = len(encode(encoding, shape(**fields, body="x" * (bound // 2)))) - bound // 2
        largest = encode(encoding, shape(**fields, body="x" * (bound - frame)))
        assert len(largest) in {bound, bound + 2}
        body = "x" * (bound - frame - (len(largest) - bound))
        assert DECODE[side](encoding, encode(encoding, shape(**fields, body=body))).body == body
        with pytest.raises(Malformed, match=f"at most {bound} bytes"):
            DECODE[side](encoding, encode(encoding, shape(**fields, body=body + "x")))


def test_malformed_names_field_and_limit():
    """The text of a refusal says which field it is about, and what may stand there."""
    for fields, words in (
        ({"cseq": 0, "to": "c", "body": ""}, ("cseq", ">= 1")),
        ({"cseq": 1, "to": "c" * 65, "body": ""}, ("to", "<= 64")),
        ({"cseq": 1, "to": "c", "body": 5}, ("body", "text or bytes")),
        ({"cseq": 1, "to": "c"}, ("body", "required")),
    ):
        with pytest.raises(Malformed) as caught:
            decode_client(Encoding.CBOR, cbor2.dumps({"t": "send"} | fields))
        assert all(word in caught.value.message for word in words), caught.value.message


def test_malformed_does_not_repeat_a_long_value():
    """A refusal stays short however long the value that it is about."""
    role = {"t": "role", "id": 1, "conv": "c", "user": "bob", "role": "x" * 60_000}
    with pytest.raises(Malformed) as caught:
        decode_client(Encoding.CBOR, cbor2.dumps(role))
    assert len(caught.value.message) < 400
    assert caught.value.id == 1


def test_digest():
    """The digest tells apart what was sent to whom, and where the one ends and the other begins."""
    payload = encode_payload({"type": "text", "body": "x"})
    assert len(content_digest("c", payload)) == 16
    assert content_digest("c", payload) == content_digest("c", payload)
    others = {content_digest("d", payload), content_digest("c", payload + b"x"), content_digest("cx", payload)}
    assert len(others | {content_digest("c", payload)}) == 4
    changes = {change_digest("edit", "c", payload), change_digest("react", "c", payload), change_digest("edit", "d", payload)}
    assert len(others | changes) == 6


@pytest.mark.parametrize(
    ("change", "kind", "keys"),
    [
        (m.Edit(cseq=1, conv="c", seq=7, body="x"), "edit", {"body": "x", "target": 7}),
        (m.Edit(cseq=1, conv="c", seq=7, body=b"x"), "edit", {"body": b"x", "target": 7}),
        (m.Delete(cseq=1, conv="c", seq=7), "delete", {"target": 7}),
        (m.React(cseq=1, conv="c", seq=7, emoji="+"), "reaction", {"target": 7, "emoji": "+"}),
        (m.React(cseq=1, conv="c", seq=7, emoji="+", remove=True), "reaction", {"target": 7, "emoji": "+", "removed": True}),
    ],
)
def test_change_payload(change, kind, keys):
    """What is stored of a change is its event, byte for byte."""
    event = m.Event(conv="c", seq=8, at=1, sender="bob", kind=kind, **keys)
    assert encode_event(Encoding.CBOR, "c", 8, 1, "bob", kind, change_payload(change)) == encode(Encoding.CBOR, event)


@settings(max_examples=200)
@given(st.integers(0, (1 << 64) - 1), st.text(max_size=300))
def test_single_items(number, text):
    """Numbers and texts written by hand have the bytes that cbor2 gives them."""
    assert cbor.number(number) == cbor2.dumps(number)
    assert cbor.text(text) == cbor2.dumps(text)


@given(st.binary(max_size=50))
def test_base64_has_one_form(data):
    """Bytes in a JSON body are base64url without padding, and come back as they were."""
    encoded = json_form.dump_object({"body": data})
    assert not set(b"=+/") & set(encoded)
    assert json_form.load_object(encoded) == {"body": data}


@pytest.mark.parametrize("text", ["AB", "AA==", "AA=", "A", "A A", "AA\n", "-+", "//", "\u00e9"])
def test_base64_in_another_form_is_no_bytes(text):
    """Bits that mean nothing, padding, white space, the other alphabet: what is written in two ways is judged in two ways."""
    assert json_form.load_object(json.dumps({"body": {"b64": text}}).encode()) == {"body": {"b64": text}}


SEALED = b"\x50end of a message"


@pytest.mark.parametrize("cut", range(len(SEALED) + 1))
@pytest.mark.parametrize("lead", [b"", b"\x40", b"\x58\x10", b"\x59\x00\x10", b"\x5b\x00\x00\x00\x00\x00\x00\x00\x10"])
def test_who_knows_the_seal_smuggles_nothing_behind_a_message(lead, cut):
    """The reader's own mark for the end, whole, cut, or under a longer length, is a byte too many like any other."""
    message = encode(Encoding.CBOR, m.Send(cseq=1, to="c", body="x"))
    for tail in (lead + SEALED[cut:], lead + SEALED[:cut], lead + SEALED[1:], lead + SEALED[cut:] + b"\xf6"):
        if tail:
            with pytest.raises(Malformed, match="bytes after the message"):
                decode_client(Encoding.CBOR, message + tail)


def test_a_body_may_hold_the_seal():
    """It is nobody's reserved word."""
    for body in (SEALED, "end of a message"):
        message = m.Send(cseq=1, to="c", body=body)
        assert decode_client(Encoding.CBOR, encode(Encoding.CBOR, message)) == message


@pytest.mark.parametrize(
    "fault",
    ["\0", "a\nb", " \u3000", "\u200b", "\u2060 \ufeff", "\u00ad\u200d", "\x7f", "\x85", "\u202eevil", "a\u2066", "\x1b[2J"],
)
@pytest.mark.parametrize(
    ("field", "message"),
    [
        ("device", {"t": "hello", "token": "x"}), ("agent", {"t": "hello", "token": "x", "device": "d"}),
        ("title", {"t": "create", "id": 1, "members": []}), ("title", {"t": "rename", "id": 1, "conv": "c"}),
        ("emoji", {"t": "react", "cseq": 1, "conv": "c", "seq": 1}),
    ],
)  # fmt: skip
def test_what_is_shown_has_no_control_characters(field, message, fault):
    """Nothing that moves a cursor, turns the text around, or cannot be seen; the answer names the field."""
    with pytest.raises(Malformed, match=rf"without control characters.*`\$\.{field}`"):
        decode_client(Encoding.CBOR, cbor2.dumps(message | {field: fault}))
    for good in ("a b", "👩‍👩‍👧", "عربي", "é", " x"):
        decode_client(Encoding.CBOR, cbor2.dumps(message | {field: good}))


@pytest.mark.parametrize(
    ("message", "allowed"),
    [
        ({"t": "role", "id": 1, "conv": "c", "user": "u", "role": "king"}, "`owner`, `admin`, `member` - at `$.role`"),
        ({"t": "create", "id": 1, "title": "t", "members": [], "history": "x"}, "`since_join`, `all` - at `$.history`"),
        ({"t": "search", "id": 1, "query": "q", "order": "a' - at `$.conv`"}, "`newest`, `ranked` - at `$.order`"),
    ],
)
def test_a_choice_names_what_there_is(message, allowed):
    """One of a few words: the answer says which."""
    with pytest.raises(Malformed) as fault:
        decode_client(Encoding.CBOR, cbor2.dumps(message))
    assert fault.value.message == f"{message['t']}: Expected one of {allowed}"


def test_half_of_a_surrogate_pair_is_called_so():
    """The bytes are UTF-8; what they escape is no character."""
    with pytest.raises(Malformed, match="half of a surrogate pair"):
        decode_client(Encoding.JSON, b'{"t": "send", "cseq": 1, "to": "g", "body": "\\ud800"}')
    with pytest.raises(Malformed, match="not UTF-8"):
        decode_client(Encoding.JSON, b'{"t": "send", "cseq": 1, "to": "g", "body": "\xff"}')


_repeated = st.builds(lambda part, times: part * times, st.binary(min_size=1, max_size=4), st.integers(0, 9000))


@given(st.binary(max_size=600) | _repeated)
def test_counting_maps_and_arrays_ends_whatever_the_bytes(data):
    """It refuses or leaves it to the reading."""
    for encoding in (Encoding.CBOR, Encoding.JSON):
        with contextlib.suppress(Malformed):
            decode_client(encoding, data)
