"""What the scenarios share: whose load it is, what is counted, and the timed run itself.

A ``Load`` belongs to one generator process and does nothing by itself: ``generator.run_generator`` calls its steps one
after another, as the run's parent says.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import jwt
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from chatd_bench.connection import Connection, Loop
from chatd_bench.histogram import Histogram

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


class Tally:
    """What happened in the measured window; latencies in microseconds."""

    def __init__(self) -> None:
        self.measuring = False
        self.sent_total = 0
        self.acked_total = 0
        self.delivered_total = 0
        self.acked = 0
        self.delivered = 0
        self.ack_latency = Histogram()
        self.delivery_latency = Histogram()


class Load:
    """One generator's share of a scenario. Each step raises RunFailed."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.loop = Loop()
        self.tally = Tally()
        self.sending = False
        self._key = load_pem_private_key(plan.private_key, None)

    def token(self, name: str) -> str:
        """A token for a user, who exists from its first use on."""
        now = int(time.time())
        payload = {"iss": self.plan.issuer, "aud": self.plan.audience, "sub": name, "exp": now + TOKEN_SECONDS}
        return jwt.encode(payload, self._key, algorithm="EdDSA")  # type: ignore[arg-type]

    def connect(self, connection: Connection, number: int) -> None:
        """Begin to open the ``number``-th connection of the run; where there are several nodes, they take turns."""
        port = self.plan.ports[number % len(self.plan.ports)] if self.plan.ports else self.plan.port
        connection.connect(self.loop, self.plan.host, port, number, self.token(connection.name))

    def begin(self) -> None:
        """Send the first messages; each ack then sends the next one, while ``sending``."""

    def settled(self) -> bool:
        """Whether everything that was sent has been acknowledged."""
        return self.tally.acked_total == self.tally.sent_total

    def timed(self, start: float, warmup: float, seconds: float) -> dict[str, Any]:
        """Warm up from the monotonic time ``start`` on, measure, stop sending, and wait for the acks."""
        tally = self.tally
        self._turn_to(start)
        self.sending = True
        self.begin()
        self._turn_to(start + warmup)
        cpu, opened = time.process_time(), time.monotonic()
        tally.measuring = True
        self._turn_to(start + warmup + seconds)
        tally.measuring = False
        elapsed, cpu = time.monotonic() - opened, time.process_time() - cpu
        self.sending = False
        self.loop.turn_until(self.settled, DRAIN_SECONDS, "acks of what was sent")
        return {
            "seconds": elapsed, "cpu_s": cpu, "acked": tally.acked, "delivered": tally.delivered,
            "sent_total": tally.sent_total, "acked_total": tally.acked_total, "other_messages": self.loop.others,
            "ack_latency": tally.ack_latency.pairs(), "delivery_latency": tally.delivery_latency.pairs(),
        }  # fmt: skip

    def _turn_to(self, moment: float) -> None:
        turn = self.loop.turn
        while (left := moment - time.monotonic()) > 0:
            turn(left)
