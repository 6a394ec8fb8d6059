"""What loads with connections of their own, in Python, are made of: who they are, and how they sign in.

A ``Load`` belongs to one generator process and does nothing by itself: ``generator.run_generator`` calls its steps one
after another, as the run's parent says.
"""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass, field

import jwt
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from chatd_bench.connection import Connection, Loop
from chatd_bench.server import Target

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
    ports: tuple[int, ...] = ()
    """Of all nodes, where there is more than one."""


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
        """Begin to open the ``number``-th connection of the run; where there are several nodes, they take turns."""
        port = self.plan.ports[number % len(self.plan.ports)] if self.plan.ports else self.plan.port
        connection.connect(self.loop, self.plan.host, port, number, self.token(connection.name))


def plans_of(
    scenario: str, target: Target, parameters: dict[str, int], generators: int, ports: tuple[int, ...] = ()
) -> list[Plan]:
    """One for each generator; ``ports``: of all nodes, where there is more than one."""
    run_id = f"b{secrets.token_hex(4)}"
    return [
        Plan(
            scenario=scenario, host=target.host, port=target.port, private_key=target.private_key, issuer=target.issuer,
            audience=target.audience, run_id=run_id, generator=number, generators=generators, parameters=parameters,
            ports=ports,
        )
        for number in range(generators)
    ]  # fmt: skip
