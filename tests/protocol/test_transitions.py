"""The state machine of a session: every state with every message of either side."""

from __future__ import annotations

import pytest
from chatd_protocol.transitions import (
    CLIENT_NAMES,
    CLOSE,
    SERVER_NAMES,
    TABLE,
    OutOfPlace,
    Session,
    State,
)

OPEN = {State.REPLAYING, State.LIVE}


def expected(state: State, direction: str, t: str) -> State | None:
    """The rules of SPEC.md, "States", said once more and in another way."""
    if t == CLOSE:
        return State.CLOSED
    if direction == "client":
        if state is State.CONNECTED:
            return State.GREETING if t == "hello" else None
        return state if state is State.ENDING or (state in OPEN and t != "hello") else None
    if state in {State.ENDING, State.CLOSED}:
        return None
    if t == "bye":
        return State.ENDING
    if t == "error":
        return state
    if t == "welcome":
        return State.REPLAYING if state is State.GREETING else None
    if t == "live":
        return State.LIVE if state is State.REPLAYING else None
    return state if state in OPEN else None


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize(
    ("direction", "t"),
    [(side, t) for side, names in (("client", CLIENT_NAMES), ("server", SERVER_NAMES)) for t in sorted(names | {CLOSE})],
)
def test_every_state_and_message(state, direction, t):
    """A message moves the session where the rules say, or is out of place and moves nothing."""
    session = Session()
    session.state = state
    to = expected(state, direction, t)
    if to is None:
        with pytest.raises(OutOfPlace, match=f"{t}: .*{state.value}") as caught:
            session.advance(direction, t)
        assert (caught.value.state, caught.value.t) == (state, t)
    else:
        session.advance(direction, t)
    assert session.state is (to or state)


def test_nothing_but_the_protocol_is_in_the_table():
    """The table has no message that is not in the protocol."""
    assert {t for _, side, t in TABLE if side == "client"} == CLIENT_NAMES | {CLOSE}
    assert {t for _, side, t in TABLE if side == "server"} == SERVER_NAMES | {CLOSE}


def test_a_session_from_beginning_to_end():
    """The usual way through, with a client that sends while it is still caught up."""
    session = Session()
    assert session.state is State.CONNECTED
    for direction, t, state in (
        ("client", "hello", State.GREETING),
        ("server", "welcome", State.REPLAYING),
        ("client", "send", State.REPLAYING),
        ("server", "event", State.REPLAYING),
        ("server", "live", State.LIVE),
        ("server", "ack", State.LIVE),
        ("server", "bye", State.ENDING),
        ("client", "send", State.ENDING),
        ("server", "close", State.CLOSED),
    ):
        session.advance(direction, t)
        assert session.state is state


def test_unknown_names_are_out_of_place():
    """A name or a side that nobody knows is out of place in every state."""
    for state in State:
        session = Session()
        session.state = state
        for direction, t in (("client", "dance"), ("server", "send"), ("nobody", "hello")):
            with pytest.raises(OutOfPlace):
                session.advance(direction, t)
