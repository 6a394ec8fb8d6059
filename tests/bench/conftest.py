"""Plans and loads that are connected to nothing, and the bytes a server would send them."""

from __future__ import annotations

from typing import Any

import cbor2
import pytest
from chatd_bench.load import Plan
from chatd_bench.websocket import server_frame_head
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

BODY_BYTES = 40


def server_frame(fields: dict[str, Any]) -> bytes:
    """One message of a server's, framed."""
    payload = cbor2.dumps(fields)
    return server_frame_head(len(payload)) + payload


@pytest.fixture
def plan():
    """Makes a plan for a scenario; nobody listens at its address unless a port is given."""
    key = Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )

    def make(scenario: str, port: int = 1, **parameters: int) -> Plan:
        return Plan(
            scenario=scenario, host="127.0.0.1", port=port, private_key=key, issuer="i", audience="a", run_id="r",
            generator=0, generators=1, parameters={"body_bytes": BODY_BYTES, "window": 2, **parameters},
        )  # fmt: skip

    return make


@pytest.fixture
def framed():
    """``server_frame``, for tests that import nothing from here."""
    return server_frame


@pytest.fixture
def body():
    """Makes the body that a sender stamps; its clock says that the message has just been sent."""
    return lambda cseq, sent=5: "x" * (BODY_BYTES - 26) + f"{cseq:010d}{sent:016d}"
