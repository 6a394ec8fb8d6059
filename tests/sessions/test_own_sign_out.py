"""A session that signs out its own device, with more on its way: on a real store, and a link that notes what is said."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from random import Random
from typing import Any

import cbor2
import trio
from chatd_protocol import messages
from chatd_protocol.codec import Encoding
from trio.testing import wait_all_tasks_blocked

from chatd.adapters.redis.bus import RedisBus
from chatd.adapters.sqlite.store import open_store
from chatd.conversations.operations import DeviceOpened, OpenDevice, Send
from chatd.delivery.envelope import Sealer
from chatd.delivery.hub import Hub
from chatd.ops.metrics import Metrics
from chatd.options import Limits
from chatd.sessions.node import Node
from chatd.sessions.requests import answer
from chatd.sessions.session import Session
from chatd.store.port import Store
from chatd.store.writer import Writer

NOTHING: Any = None


class Link:
    """``said``: the messages that were written, by their names, until the link was finished."""

    waiting_bytes = 0

    def __init__(self) -> None:
        self.said: list[str] = []
        self._finished = False

    def write(self, frame: bytes) -> None:
        if not self._finished:
            self.said.append(cbor2.loads(frame[frame.index(b"\x61t") - 1 :])["t"])

    def finish(self, farewell: bytes) -> None:
        self.write(farewell[: farewell.index(b"signed_out") + len(b"signed_out")])
        self._finished = True


def node_of(store: Store) -> Node:
    metrics = Metrics()
    hub = Hub(Sealer(b"k", b"12345678"), metrics, held_events=10, held_bytes=1000)
    hub.connect(RedisBus("unix:///nowhere", hub.bus_message, lambda: None))
    writer = Writer(store, hub.committed, metrics, nullcontext(), max_items=100, max_bytes=1 << 20, batch=50)
    return Node(
        store=store, writer=writer, hub=hub, metrics=metrics, limits=Limits(), verify=NOTHING, cork=nullcontext(), roll=NOTHING,
        signals=NOTHING, presence=NOTHING, limiter=NOTHING, heartbeat_ms=30_000, hello_seconds=10, marks_seconds=0.1,
        advertised={}, random=Random(1),
    )  # fmt: skip


async def test_the_answer_comes_before_the_goodbye(tmp_path: Path) -> None:
    """What was sent behind is refused in the same commit, and a refusal ends the session, too; but the ``ok`` was first."""
    async with open_store(tmp_path / "chatd.db") as store, trio.open_nursery() as nursery:
        (opened,) = await store.commit([OpenDevice(user="ann", device="phone", create_user=True)], 1)
        node = node_of(store)
        session = Session(node, Encoding.CBOR, "address", "session")
        session.link = link = Link()  # type: ignore[assignment]
        assert isinstance(opened, DeviceOpened)
        session.opened(opened.author, "phone", 0)
        await node.hub.enter(session)
        nursery.start_soon(answer, session, node, messages.SignOut(id=1, device="phone"))
        await wait_all_tasks_blocked()
        late = Send(author=opened.author, cseq=1, to="@ann", payload=b"\xa0")
        session._in_flight += 1
        assert node.writer.submit(late, session._send_settled)
        nursery.start_soon(node.writer.run)
        await node.writer.settled()
        await wait_all_tasks_blocked()
        assert link.said == ["ok", "bye"]
        assert session.ended is not None
        assert session.ended.reason == "signed_out"
        nursery.cancel_scope.cancel()
