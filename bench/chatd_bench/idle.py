"""``idle``: connections that do nothing but send heartbeats, while the parent looks at the server's memory."""

from __future__ import annotations

from chatd_bench.connection import Connection, RunFailed
from chatd_bench.load import DRAIN_SECONDS, Load, Plan

OPEN_SECONDS = 600.0


class IdleLoad(Load):
    """This generator's connections; they are opened step by step, and stay."""

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan)
        self.connections: list[Connection] = []

    def grow(self, total: int) -> None:
        """Open this generator's share of ``total`` connections, over all generators."""
        begun = len(self.connections)
        numbers = range(self.plan.generator + begun * self.plan.generators, total, self.plan.generators)
        fresh = {f"{self.plan.run_id}-{number}": number for number in numbers}
        connections = [Connection(name) for name in fresh]
        self.loop.open(connections, lambda connection: self.connect(connection, fresh[connection.name]), OPEN_SECONDS)
        self.connections += connections

    def check(self) -> dict[str, int]:
        """Wait until every heartbeat has its answer."""
        everyone = self.connections
        answered = lambda: all(connection.answers == connection.beats for connection in everyone)  # noqa: E731
        self.loop.turn_until(answered, DRAIN_SECONDS, "answers to heartbeats")
        beats = sum(connection.beats for connection in everyone)
        if not beats:
            raise RunFailed("no heartbeat was due: hold the connections longer")
        return {"connections": len(everyone), "heartbeats_answered": beats}
