"""What comes over the bus is believed only where a node of this server has sealed it, and for this very channel."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatd.conversations.operations import Event
from chatd.delivery.envelope import Envelope, Forged, Sealer, TypingSignal, group_channel, user_channel
from chatd.delivery.hub import Hub
from chatd.ops.metrics import Metrics
from tests.delivery.test_hub import Listener

KEY, HERE, THERE = b"k" * 32, b"11111111", b"22222222"
CHANNEL = group_channel("c")
WHOLE = Envelope(
    [Event("c", 1, 5, "ann", "message", b"\xa0", 3, 1, 4)], [("ann", "c")], ("ann", "phone", 2), [("ann", 3, 2)],
    [TypingSignal("c", "ann", True)],
)  # fmt: skip


def sealed(key: bytes = KEY, channel: bytes = CHANNEL) -> bytes:
    return Sealer(key, THERE).seal(WHOLE, channel)


def test_what_another_node_has_sealed_is_opened() -> None:
    """All of it; and one's own, come back, is known by its beginning."""
    here = Sealer(KEY, HERE)
    assert here.open(CHANNEL, sealed()) == WHOLE
    assert not here.is_own(sealed())
    assert here.is_own(here.seal(WHOLE, CHANNEL))


def test_what_is_not_as_it_was_sealed_is_a_forgery() -> None:
    """Every changed byte, of the node's name, the code and the content; every cut; whatever follows."""
    payload, here = sealed(), Sealer(KEY, HERE)
    changed = [payload[:at] + bytes([payload[at] ^ bit]) + payload[at + 1 :] for at in range(len(payload)) for bit in (1, 128)]
    for forged in [*changed, *[payload[:end] for end in range(len(payload))], payload + b"\0"]:
        with pytest.raises(Forged):
            here.open(CHANNEL, forged)


@pytest.mark.parametrize("key", [b"", b"k" * 31, b"K" * 32, b"k" * 33])
def test_who_has_not_the_key_seals_nothing(key: bytes) -> None:
    """Whoever can publish to Redis does not have it: it never goes there."""
    with pytest.raises(Forged):
        Sealer(KEY, HERE).open(CHANNEL, sealed(key))


@pytest.mark.parametrize("channel", [group_channel("d"), user_channel("c"), CHANNEL + b"x", CHANNEL[:-1], b""])
def test_what_was_sealed_for_one_channel_is_a_forgery_on_another(channel: bytes) -> None:
    """Somebody who can read Redis cannot play what was said there to people elsewhere."""
    with pytest.raises(Forged):
        Sealer(KEY, HERE).open(channel, sealed())


@given(st.binary(max_size=200))
def test_any_bytes_are_a_forgery(payload: bytes) -> None:
    """Nothing else is raised."""
    with pytest.raises(Forged):
        Sealer(KEY, HERE).open(CHANNEL, payload)


async def _nothing(_: Any) -> None: ...


async def test_the_hub_drops_and_counts_forgeries() -> None:
    """No session ends, is replaced or is told anything by them; the same word of a node that has the key is heard."""
    metrics = Metrics()
    hub = Hub(Sealer(KEY, HERE), metrics, held_events=10, held_bytes=1000)
    bus: Any = SimpleNamespace(publish=lambda messages: None, subscribe=_nothing)
    hub.connect(bus)
    bob = Listener("bob", "phone", 7, 1)
    await hub.enter(bob)
    channel = user_channel("bob")
    said = Envelope([], [("bob", "c")], ("bob", "phone", 2), [("bob", 7, 2)])
    hub.bus_message(channel, Sealer(b"guessed", THERE).seal(said, channel))
    hub.bus_message(channel, Sealer(KEY, THERE).seal(said, user_channel("ann")))
    assert (bob.began, bob.replaced, bob.signed_out, metrics.bus_forged) == ([], False, False, 2)
    hub.bus_message(channel, Sealer(KEY, THERE).seal(said, channel))
    assert (bob.began, bob.replaced, bob.signed_out, metrics.bus_forged) == (["c"], True, True, 2)
