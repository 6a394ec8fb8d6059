"""A load that is connected to nothing, and the bytes a server would send it; and an engine with sockets for servers."""

from __future__ import annotations

from typing import Any

import cbor2
import pytest
from chatd_bench.load import Plan
from chatd_bench.websocket import server_frame_head
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey


def server_frame(fields: dict[str, Any]) -> bytes:
    """One message of a server's, framed."""
    payload = cbor2.dumps(fields)
    return server_frame_head(len(payload)) + payload


@pytest.fixture
def private_key() -> bytes:
    """Of an issuer, as PEM."""
    return Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


@pytest.fixture
def plan(private_key):
    """Makes a plan for a load in Python; nobody listens at its address unless a port is given."""

    def make(scenario: str, port: int = 1, **parameters: int) -> Plan:
        return Plan(
            scenario=scenario, host="127.0.0.1", port=port, private_key=private_key, issuer="i", audience="a",
            run_id="r", generator=0, generators=1, parameters=parameters,
        )  # fmt: skip

    return make


@pytest.fixture
def framed():
    """``server_frame``, for tests that import nothing from here."""
    return server_frame
