"""The one place that knows the protocol's codec and the WebSocket library's errors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import cbor2
import trio
from chatd_protocol import codec
from chatd_protocol.codec import Encoding, Malformed
from chatd_protocol.codes import ErrorCode
from chatd_protocol.messages import (
    MAX_INTEGER,
    ClientMessage,
    Delete,
    Edit,
    Event,
    React,
    Send,
    ServerMessage,
)
from trio_websocket import ConnectionClosed, HandshakeError
from wsproto.utilities import LocalProtocolError

from chatd_client.api import reason_of
from chatd_client.errors import MessageRejected, Unreachable

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "CONNECTION_ERRORS",
    "Encoding",
    "Malformed",
    "checked_size",
    "close_code",
    "decode",
    "describe",
    "encode",
    "event",
    "numbered",
]

CONNECTION_ERRORS = (
    OSError,
    ConnectionClosed,
    HandshakeError,
    LocalProtocolError,
    trio.TooSlowError,
    trio.BrokenResourceError,
    trio.ClosedResourceError,
    Malformed,
    Unreachable,
)
"""What a lost, refused or unintelligible connection looks like; anything else is a bug and is not caught.

LocalProtocolError: trio-websocket answers a ping although it is closing (its issue 184).
"""

_KINDS: dict[str, type[Send | Edit | Delete | React]] = {
    "send": Send,
    "edit": Edit,
    "delete": Delete,
    "react": React,
}


def numbered(fields: Mapping[str, Any], cseq: int) -> Send | Edit | Delete | React:
    """The message that a queued item's fields make under this number."""
    keys = dict(fields)
    return _KINDS[keys.pop("t")](cseq=cseq, **keys)


def encode(message: ClientMessage, encoding: Encoding) -> bytes | str:
    """A client's message as a WebSocket message: bytes are sent as binary, a str as text."""
    data = codec.encode(encoding, message)
    return data if encoding.binary else data.decode()


def decode(frame: bytes | str, encoding: Encoding) -> ServerMessage | None:
    """A server's message; None for one of a type that only a newer server knows. Raises Malformed."""
    try:
        return codec.decode_server(encoding, frame.encode() if isinstance(frame, str) else frame)
    except Malformed as fault:
        if fault.code is ErrorCode.UNKNOWN_TYPE:
            return None
        raise


def event(keys: Mapping[str, Any]) -> Event:
    """An event as it stands in a page. Raises Malformed.

    Through the codec once more, so that an event in a page is held to the same types as one on the stream.
    """
    decoded = codec.decode_server(Encoding.CBOR, cbor2.dumps({**keys, "t": "event"}))
    if not isinstance(decoded, Event):
        raise Malformed(ErrorCode.BAD_MESSAGE, "an event in a page is not an event")
    return decoded


def checked_size(fields: Mapping[str, Any], encoding: Encoding) -> int:
    """Bytes of a message on the wire. Raises MessageRejected for one that the server would refuse to read.

    Before it is queued, because one that breaks the session would break every session after it as well.
    """
    try:
        data = codec.encode(encoding, numbered(fields, MAX_INTEGER))
        codec.decode_client(encoding, data)
    except (Malformed, TypeError, ValueError) as error:
        raise MessageRejected(str(error)) from None
    return len(data)


def describe(group: BaseExceptionGroup[BaseException]) -> str:
    """One line for a person about why there is no connection."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, ConnectionClosed):
        return f"connection closed ({error.reason.code})" if error.reason else "connection closed"
    return reason_of(error)


def close_code(error: ConnectionClosed) -> int:
    """The close code the server sent, 0 where there was none."""
    return error.reason.code if error.reason else 0
