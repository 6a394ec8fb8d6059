"""What is written for one event: to the session that sent it its ack, to everybody else the event."""

from __future__ import annotations

from pathlib import Path

import cbor2

from chatd.adapters.sqlite.store import open_store
from chatd.conversations.operations import CreateGroup
from tests.delivery.test_hub import House, Listener, send


class Reader(Listener):
    """Notes what kind of message it is given, too."""

    def __init__(self, user: str, device: str, device_no: int, epoch: int = 1) -> None:
        super().__init__(user, device, device_no, epoch)
        self.said: list[str] = []

    def write(self, frame: bytes) -> None:
        super().write(frame)
        self.said.append(cbor2.loads(frame[frame.index(b"\x61t") - 1 :])["t"])


async def test_the_ack_stands_in_the_place_of_ones_own_event(tmp_path: Path) -> None:
    """Among the others, in their order. Of what another session of the device sent it gets the event, as others do: an older
    one's, and a newer one's, too, under whose number it may have asked for something else."""
    async with open_store(tmp_path / "chatd.db") as store:
        house = House(store)
        owner = await house.author("owner")
        (made,) = await house.do(CreateGroup(author=owner, title="g", members=(), history="all"))
        sender, other = Reader("owner", "d", owner.device_no), Reader("owner", "e", 99)
        later = Reader("owner", "d", owner.device_no, owner.epoch + 1)
        for reader in (sender, other, later):
            await house.live(reader, made.conv, 1)
        await house.do(send(owner, 1, made.conv), send(owner, 2, made.conv))
        again = await house.author("owner")
        await house.do(send(again, 3, made.conv))
        assert (sender.said, other.said) == (["ack", "ack", "event"], ["event", "event", "event"])
        assert later.said == ["event", "event", "ack"]
        assert sender.got == other.got == later.got == [2, 3, 4]
