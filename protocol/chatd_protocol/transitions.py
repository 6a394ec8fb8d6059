"""The session's state machine, as a table; the same for server and clients.

Two rules: a message moves the session to the state that the table names for (state, who sends it, its name); what the
table does not name is out of place, and moves nothing.
"""

from __future__ import annotations

from enum import Enum
from typing import get_args

from chatd_protocol.messages import ClientMessage, ServerMessage


class State(Enum):
    CONNECTED = "connected"
    GREETING = "greeting"
    REPLAYING = "replaying"
    LIVE = "live"
    ENDING = "ending"


class OutOfPlace(Exception):
    """This message may not be sent in this state."""


def _names(union: object) -> set[str]:
    return {str(kind.__struct_config__.tag) for kind in get_args(union)}


def _table() -> dict[tuple[State, str, str], State]:
    table: dict[tuple[State, str, str], State] = {(State.CONNECTED, "client", "hello"): State.GREETING}
    table[State.GREETING, "server", "welcome"] = State.REPLAYING
    table[State.REPLAYING, "server", "live"] = State.LIVE
    for state in (State.REPLAYING, State.LIVE):
        for name in _names(ClientMessage) - {"hello"}:
            table[state, "client", name] = state
        for name in _names(ServerMessage) - {"welcome", "live", "bye"}:
            table[state, "server", name] = state
    for state in (State.CONNECTED, State.GREETING, State.REPLAYING, State.LIVE):
        table[state, "server", "error"] = state
        table[state, "server", "bye"] = State.ENDING
    return table


TABLE = _table()


class Session:
    """Where one session stands."""

    __slots__ = ("state",)

    def __init__(self) -> None:
        self.state = State.CONNECTED

    def advance(self, direction: str, t: str) -> None:
        """Take one message from ``client`` or ``server``. Raises OutOfPlace."""
        following = TABLE.get((self.state, direction, t))
        if following is None:
            raise OutOfPlace(f"{t}: not in the state {self.state.value}")
        self.state = following
