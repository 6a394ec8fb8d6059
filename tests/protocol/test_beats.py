"""Heartbeats known by their bytes are what the strict reading makes of them, and answers what ``encode`` makes."""

from __future__ import annotations

import pytest
from chatd_protocol import codec, messages
from chatd_protocol.codec import Encoding, Malformed, decode_client, encode, encode_beat
from hypothesis import given
from hypothesis import strategies as st


@pytest.mark.parametrize("encoding", list(Encoding))
def test_every_form_means_what_it_says(encoding: Encoding) -> None:
    """Both readings agree, each form is canonical, and in the other encoding it is no message."""
    for form, beat in codec._BEATS[encoding.binary].items():
        assert decode_client(encoding, form) == beat == codec._decode(encoding, form, codec._CLIENT, len(form))
        assert encode(encoding, beat) == form
        (other,) = set(Encoding) - {encoding}
        with pytest.raises(Malformed):
            decode_client(other, form)


@given(st.sampled_from(list(Encoding)), st.integers(0, messages.MAX_INTEGER))
def test_answers_are_as_encoded(encoding: Encoding, time: int) -> None:
    """Byte for byte."""
    assert encode_beat(encoding, time) == encode(encoding, messages.HeartbeatAnswer(time=time))
