"""The two encodings of the wire. A module of its own: ``codec`` can be compiled, an Enum cannot."""

from __future__ import annotations

from enum import Enum


class Encoding(Enum):
    """How messages stand in WebSocket frames; chosen by the subprotocol."""

    __hash__ = object.__hash__  # members are single, and Enum's own hash is a Python function

    CBOR = "chatd.v1.cbor"
    JSON = "chatd.v1.json"

    def __init__(self, subprotocol: str) -> None:
        self.subprotocol = subprotocol
        self.binary = subprotocol.endswith("cbor")

    @classmethod
    def from_subprotocol(cls, name: str) -> Encoding | None:
        """The encoding of a subprotocol, None for one that is not chatd's."""
        return next((encoding for encoding in cls if encoding.subprotocol == name), None)
