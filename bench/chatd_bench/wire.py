"""Any message of a chatd client's, as a frame. Pure."""

from __future__ import annotations

from typing import Any

import cbor2

from chatd_bench.websocket import client_frame


def message_frame(fields: dict[str, Any], key: bytes) -> bytes:
    """Encoded, framed and masked with ``key``."""
    return client_frame(cbor2.dumps(fields), key)
