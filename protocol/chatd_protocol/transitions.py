"""The session's state machine, as a table; the same for the server and for clients.

1. A message moves the session to the state that TABLE names for (state, who sends it, its name).
2. What TABLE does not name is out of place, and moves nothing.

The end of the connection stands in the table as a message called ``close``, of either side. Sans-IO; ends in CLOSED.
"""

from __future__ import annotations

from enum import Enum
from typing import Literal, get_args

from chatd_protocol.messages import ClientMessage, ServerMessage

Direction = Literal["client", "server"]
CLOSE = "close"


class State(Enum):
    __hash__ = object.__hash__  # members are single, and Enum's own hash is a Python function

    CONNECTED = "connected"  # nothing was said
    GREETING = "greeting"  # hello, and no welcome yet
    REPLAYING = "replaying"  # welcomed: what was missed comes, and the client may send
    LIVE = "live"
    ENDING = "ending"  # bye: the client's messages cross it on their way, and are not answered
    CLOSED = "closed"


class OutOfPlace(Exception):
    """The message ``t`` may not be sent in ``state``."""

    def __init__(self, state: State, t: str) -> None:
        super().__init__(f"{t}: not in the state {state.value}")
        self.state = state
        self.t = t


def _names(union: object) -> frozenset[str]:
    return frozenset(str(kind.__struct_config__.tag) for kind in get_args(union))


CLIENT_NAMES = _names(ClientMessage)
SERVER_NAMES = _names(ServerMessage)

MOVES: tuple[tuple[State, Direction, str, State], ...] = (
    (State.CONNECTED, "client", "hello", State.GREETING),
    (State.GREETING, "server", "welcome", State.REPLAYING),
    (State.REPLAYING, "server", "live", State.LIVE),
    (State.CONNECTED, "server", "bye", State.ENDING),
    (State.GREETING, "server", "bye", State.ENDING),
    (State.REPLAYING, "server", "bye", State.ENDING),
    (State.LIVE, "server", "bye", State.ENDING),
)
"""All that changes the state, but for ``close``, which ends it from anywhere."""

STAYS: tuple[tuple[tuple[State, ...], Direction, frozenset[str]], ...] = (
    ((State.REPLAYING, State.LIVE), "client", CLIENT_NAMES - {"hello"}),
    ((State.REPLAYING, State.LIVE), "server", SERVER_NAMES - {"welcome", "live", "bye"}),
    ((State.CONNECTED, State.GREETING), "server", frozenset({"error"})),
    ((State.ENDING,), "client", CLIENT_NAMES),
)


def _table() -> dict[tuple[State, str, str], State]:
    table: dict[tuple[State, str, str], State] = {}
    for state, direction, name, following in MOVES:
        table[state, direction, name] = following
    for states, direction, names in STAYS:
        table |= {(state, direction, name): state for state in states for name in names}
    for state in State:
        table |= {(state, side, CLOSE): State.CLOSED for side in get_args(Direction)}
    return table


TABLE = _table()


class Session:
    """Where one session stands."""

    __slots__ = ("state",)

    def __init__(self) -> None:
        self.state = State.CONNECTED

    def advance(self, direction: Direction, t: str) -> None:
        """Take one message from ``client`` or ``server``. Raises OutOfPlace, and then stands where it stood."""
        following = TABLE.get((self.state, direction, t))
        if following is None:
            raise OutOfPlace(self.state, t)
        self.state = following


def diagram() -> str:
    """The table as a Mermaid state diagram, as SPEC.md shows it."""
    lines = ["stateDiagram-v2", f"    [*] --> {State.CONNECTED.value}"]
    lines += [f"    {state.value} --> {to.value}: {side} {name}" for state, side, name, to in MOVES]
    lines += [f"    {state.value} --> {State.CLOSED.value}: {CLOSE}" for state in State if state is not State.CLOSED]
    return "\n".join([*lines, f"    {State.CLOSED.value} --> [*]"])
