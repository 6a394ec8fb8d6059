"""RFC 6455 on the server's own frame path, by section; whole, cut at each byte, and with stray bytes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatd.wire import frames
from chatd.wire.frames import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, Frame, FrameError, FrameParser
from tests.client_frames import KEY, frame

LIMIT = 64 * 1024
OVERSIZE = b"\x82\xff" + (LIMIT + 1).to_bytes(8, "big") + KEY
"""The head of a frame of one byte above the limit."""


def parse(data: bytes, limit: int = LIMIT) -> list[Frame]:
    return FrameParser(limit).feed(data)


def refused(data: bytes, limit: int = LIMIT) -> int:
    with pytest.raises(FrameError) as caught:
        parse(data, limit)
    return caught.value.code


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 128, 65535, 65536])
def test_messages_of_every_length_form(size: int) -> None:
    """Sections 1 and 5.2: 7-bit, 16-bit and 64-bit lengths, binary and text."""
    assert parse(frame(BINARY, b"\xfe" * size)) == [(BINARY, b"\xfe" * size)]
    assert parse(frame(TEXT, b"*" * size)) == [(TEXT, b"*" * size)]


@given(st.lists(st.tuples(st.sampled_from([BINARY, PING, PONG]), st.binary(max_size=125)), max_size=5), st.data())
def test_any_cut_gives_the_same_frames(messages: list[tuple[int, bytes]], data: st.DataObject) -> None:
    """A stream split anywhere is the same stream."""
    stream = b"".join(frame(opcode, payload) for opcode, payload in messages)
    parser, got, at = FrameParser(LIMIT), [], 0
    while at < len(stream):
        step = data.draw(st.integers(1, len(stream) - at))
        got += parser.feed(stream[at : at + step])
        at += step
    assert got == [(opcode, payload) for opcode, payload in messages]
    assert not parser.partial


def test_byte_by_byte() -> None:
    """The hardest cut: one byte at a time, a fragmented message with a ping inside it."""
    stream = frame(TEXT, "hé".encode()[:2], fin=False) + frame(PING, b"x")
    stream += frame(CONTINUATION, "hé".encode()[2:])
    parser = FrameParser(LIMIT)
    got = [one for byte in stream for one in parser.feed(bytes([byte]))]
    assert got == [(PING, b"x"), (TEXT, "hé".encode())]


@pytest.mark.parametrize(
    ("data", "code"),
    [
        pytest.param(frame(BINARY, b"x", rsv=4), 1002, id="3.1 rsv1, as of a compressed frame"),
        pytest.param(frame(BINARY, b"x", rsv=2), 1002, id="3.2 rsv2"),
        pytest.param(frame(PING, b"x", rsv=1), 1002, id="3.3 rsv3 on a control frame"),
        *[pytest.param(frame(op), 1002, id=f"4 opcode {op}") for op in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)],
        pytest.param(b"\x82\x01x", 1002, id="5.1 unmasked"),
        pytest.param(frame(PING, b"x" * 126), 1002, id="2.5 ping of 126 bytes"),
        pytest.param(frame(PING, b"x", fin=False), 1002, id="5.1 fragmented ping"),
        pytest.param(frame(CONTINUATION, b"x"), 1002, id="5.9 continuation of nothing"),
        pytest.param(frame(TEXT, b"a", fin=False) + frame(TEXT, b"b"), 1002, id="5.18 message in a message"),
        pytest.param(frame(TEXT, b"\xc0\xaf"), 1007, id="6.10 overlong UTF-8"),
        pytest.param(frame(TEXT, b"\xed\xa0\x80"), 1007, id="6.20 a surrogate"),
        pytest.param(frame(TEXT, b"\xf4\x90\x80\x80"), 1007, id="6.21 above U+10FFFF"),
        pytest.param(frame(TEXT, b"\xe2\x82"), 1007, id="6.6 an unfinished character"),
        pytest.param(frame(TEXT, b"ok\xff", fin=False), 1007, id="6.4 fails before the last fragment"),
        pytest.param(b"\x82\xfe\x00\x7d" + KEY, 1002, id="a length of 125 in 16 bits"),
        pytest.param(b"\x82\xff" + (65535).to_bytes(8, "big") + KEY, 1002, id="a length of 65535 in 64 bits"),
        pytest.param(b"\x82\xff" + (2**63).to_bytes(8, "big") + KEY, 1002, id="the highest bit of the length"),
        pytest.param(b"\x82\xff" + (2**62).to_bytes(8, "big") + KEY, 1009, id="9 2**62 bytes, refused by the head alone"),
        pytest.param(OVERSIZE, 1009, id="9 one byte above the limit"),
    ],
)  # fmt: skip
def test_broken_frames_are_refused(data: bytes, code: int) -> None:
    """Sections 2-7 and 9: each with the close code that RFC 6455, 7.4.1 gives it."""
    assert refused(data) == code


def test_an_oversize_frame_is_refused_before_its_payload() -> None:
    """I9: the declared length is judged before a byte of it is waited for."""
    assert refused(OVERSIZE) == 1009


def test_fragments_together_meet_the_limit() -> None:
    """I9: many small fragments may not add up to more than one message may hold."""
    half = frame(BINARY, b"x" * (LIMIT // 2 + 1), fin=False)
    rest = frame(CONTINUATION, b"x" * (LIMIT // 2 + 1))
    assert refused(half + rest) == 1009


def test_empty_fragments_are_counted() -> None:
    """reliability.md 0.2: endless empty fragments never reach a size, so their number is bounded."""
    flood = frame(BINARY, b"", fin=False) + frame(CONTINUATION, b"", fin=False) * frames.MAX_FRAGMENTS
    assert refused(flood) == 1008


@pytest.mark.parametrize("code", [0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535])
def test_close_codes_that_may_not_be_sent(code: int) -> None:
    """Section 7.9 of the catalogue: a peer that sends a reserved code broke the protocol."""
    with pytest.raises(FrameError):
        frames.parse_close(code.to_bytes(2, "big"))


@pytest.mark.parametrize("code", [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999])
def test_close_codes_that_may_be_sent(code: int) -> None:
    """Section 7.7 of the catalogue."""
    assert frames.parse_close(code.to_bytes(2, "big") + b"bye") == (code, "bye")


@pytest.mark.parametrize("payload", [b"\x03", b"\x03\xe8\xff"])
def test_malformed_close_payloads(payload: bytes) -> None:
    """Sections 7.3.2 and 7.5.1: half a code, and a reason that is not UTF-8."""
    with pytest.raises(FrameError):
        frames.parse_close(payload)


def test_close_reason_is_cut_at_a_character() -> None:
    """A reason longer than a control frame holds is shortened and stays UTF-8."""
    said = frames.encode_close(1000, "é" * 100)
    assert said[0] == 0x80 | CLOSE
    assert said[1] <= frames.MAX_CONTROL_PAYLOAD
    said[4:].decode()


@given(st.binary(max_size=300), st.binary(min_size=4, max_size=4))
def test_unmask_is_its_own_inverse(payload: bytes, key: bytes) -> None:
    """Section 5.3, against the definition."""
    assert frames.unmask(payload, key) == bytes(b ^ key[i % 4] for i, b in enumerate(payload))
    assert frames.unmask(frames.unmask(payload, key), key) == payload


@given(st.binary(max_size=400))
def test_noise_is_refused_and_never_crashes(noise: bytes) -> None:
    """Whatever comes: frames, a FrameError, or waiting for more; held bytes stay bounded."""
    parser = FrameParser(1024)
    try:
        for at in range(0, len(noise), 7):
            parser.feed(noise[at : at + 7])
    except FrameError as fault:
        assert fault.code in (1002, 1007, 1008, 1009)
