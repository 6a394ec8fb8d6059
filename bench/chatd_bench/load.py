"""What loads with connections of their own, in Python, are made of: who they are, and how they sign in.

A ``Load`` belongs to one generator process and does nothing by itself: ``generator.run_generator`` calls its steps one
after another, as the run's parent says.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import jwt
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from chatd_bench.connection import Connection, Loop

TOKEN_SECONDS = 24 * 3600
DRAIN_SECONDS = 30.0


@dataclass(frozen=True)
class Plan:
    """Everything that one generator is told when it starts."""

    scenario: str
    host: str
    port: int
    private_key: bytes
    issuer: str
    audience: str
    run_id: str
    """Begins the name of every user, so that a run on a server with data meets nobody it knows."""
    generator: int
    generators: int
    parameters: dict[str, int] = field(default_factory=dict)


class Load:
    """One generator's share of a scenario. Each step raises RunFailed."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.loop = Loop()
        self._key = load_pem_private_key(plan.private_key, None)

    def turn(self, seconds: float) -> None:
        """Between commands."""
        self.loop.turn(seconds)

    def close(self) -> None:
        """Close every connection."""
        self.loop.close()

    def token(self, name: str) -> str:
        """A token for a user, who exists from its first use on."""
        now = int(time.time())
        payload = {"iss": self.plan.issuer, "aud": self.plan.audience, "sub": name, "exp": now + TOKEN_SECONDS}
        return jwt.encode(payload, self._key, algorithm="EdDSA")  # type: ignore[arg-type]

    def connect(self, connection: Connection, number: int) -> None:
        """Begin to open the ``number``-th connection of the run."""
        connection.connect(self.loop, self.plan.host, self.plan.port, number, self.token(connection.name))
