"""What the generator writes is what a server reads, and what it expects is what chatd's own codec writes."""

from __future__ import annotations

import cbor2
import pytest
from chatd_bench import websocket, wire
from chatd_bench.histogram import BUCKETS, Histogram, bucket_of
from chatd_protocol.codec import Encoding, decode_client, encode, encode_event, encode_payload
from chatd_protocol.messages import Ack, Send

from chatd.wire.frames import BINARY, FrameParser

KEY = bytes((0x11, 0xF0, 0x5A, 0xC3))


@pytest.mark.parametrize("cseq", [1, 23, 24, 255, 256, 65535, 65536, 2**32 - 1])
@pytest.mark.parametrize("size", [32, 90, 120, 5000])
def test_a_patched_frame_is_the_send_it_stands_for(cseq: int, size: int) -> None:
    """For each width of a cseq and each form of a frame's length, the server's parser and codec read the message."""
    template = wire.SendTemplate("conversation", size, KEY)
    [frame] = FrameParser(65536).feed(template.frame(cseq, 1234567890123456))
    opcode, payload = frame
    assert opcode == BINARY
    message = decode_client(Encoding.CBOR, payload)
    assert isinstance(message, Send)
    assert (message.cseq, message.to, message.type) == (cseq, "conversation", "text")
    assert wire.stamp_of(message.body, size) == (cseq, 1234567890123456)


@pytest.mark.parametrize("seq", [1, 24, 256, 65536])
def test_the_shapes_are_those_of_chatds_codec(seq: int) -> None:
    """The fast comparison matches what chatd writes; if that changes, this tells before the generator gets slow."""
    template = cbor2.loads(wire.text("x" * 14 + f"{7:010d}{99:016d}"))
    payload = encode_payload({"type": "text", "body": template})
    event = encode_event(Encoding.CBOR, "conv", seq, 1795000000000, "bob", "message", payload)
    frame = websocket.server_frame_head(len(event)) + event
    rest = wire.event_rest("bob", 40)
    number = wire.number(seq)
    shape = wire.event_shape("conv", rest, len(number))
    assert frame.startswith(shape.start + number)
    assert frame.startswith(wire.AT, shape.clock)
    assert frame.startswith(rest, shape.rest)
    assert (frame[shape.stamp :], len(frame)) == (b"%010d%016d" % (7, 99), shape.size)
    ack = encode(Encoding.CBOR, Ack(cseq=3, conv="conv", seq=seq, at=1795000000000))
    assert ack.startswith(wire.ACK_START + wire.number(3) + wire.ack_middle("conv") + number + wire.AT)
    assert len(ack) == len(wire.ACK_START + wire.number(3) + wire.ack_middle("conv") + number) + wire.AT_BYTES


def test_mask_keys_have_no_zero_byte() -> None:
    """A zero byte would leave payload bytes as they are, which a server might be quicker with."""
    assert all(0 not in websocket.random_key() for _ in range(1000))


@pytest.mark.parametrize("size", [0, 125, 126, 65535, 65536])
def test_a_servers_frame_is_found_only_when_whole(size: int) -> None:
    """For each form of the length: no answer until the last byte is there, then its payload's place."""
    if size < 126:
        length = bytes((size,))
    else:
        length = b"\x7e" + size.to_bytes(2, "big") if size < 65536 else b"\x7f" + size.to_bytes(8, "big")
    frame = b"\x82" + length + b"p" * size
    assert websocket.find_frame(b"before" + frame, 6) == (6 + len(frame) - size, 6 + len(frame))
    assert websocket.find_frame(frame[:-1], 0) is None
    assert websocket.find_frame(frame[:1], 0) is None


def test_percentiles_are_upper_edges_and_add_up_over_generators() -> None:
    """No percentile is better than what was recorded, and two halves give the same as the whole."""
    one, other, whole = Histogram(), Histogram(), Histogram()
    for us in range(1, 1001):
        (one if us % 2 else other).record(us * 10)
        whole.record(us * 10)
    one.add(other.pairs())
    assert one.pairs() == whole.pairs()
    assert one.percentile_ms(50) == 5.01
    assert one.percentile_ms(100) == 10.01
    assert Histogram().percentile_ms(99) is None
    assert (bucket_of(-5), bucket_of(10**12)) == (0, BUCKETS - 1)
