"""A load on real servers, recorded: clients of the proof that write to groups and to each other, and the verdict over it all."""

from __future__ import annotations

import base64
import os
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import Random, SystemRandom
from typing import Any

import trio
from chatd_proof.checker import check
from chatd_proof.client import GONE, Client, Plan, settle
from chatd_proof.history import Recorder, Settled, read_history, stored
from chatd_proof.logs import read_logs
from chatd_proof.verdict import Verdict, percentile, readable

from tests.e2e.cluster import Cluster, Peer

SETTLE_SECONDS = 120.0
QUIET_SECONDS = 4.0
HEAD_BYTES = 16384
MARK_SECONDS = 5.0
STRANGERS = 0.02
"""How often somebody writes to a group that they are not in."""

Disturb = Callable[["Load"], Awaitable[None]]


async def upgraded(port: int, encoding: str = "cbor") -> tuple[trio.SocketStream, bytes]:
    """A WebSocket to that port, and what came behind the answer to its handshake. Raises OSError where it is refused."""
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    try:
        key = base64.b64encode(os.urandom(16)).decode()
        await stream.send_all(
            f"GET /ws HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n"
            f"Sec-WebSocket-Protocol: chatd.v1.{encoding}\r\n\r\n".encode()
        )
        answer = b""
        while b"\r\n\r\n" not in answer and len(answer) < HEAD_BYTES:
            part = await stream.receive_some(HEAD_BYTES)
            if not part:
                break
            answer += part
        head, _, rest = answer.partition(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 101"):
            raise ConnectionRefusedError(head[:100].decode(errors="replace"))
    except BaseException:
        await trio.aclose_forcefully(stream)
        raise
    return stream, rest


@dataclass
class Load:
    """``users`` of whom some have two devices, in ``groups`` of five; each device says something every ``pause`` seconds.

    ``ports``: where clients go; the running nodes' own, where nothing else is given. ``stays``: seconds of a session, on
    average. ``moving``: whether members come and go. ``padding``: bytes more in each body.
    ``lifetime``: of tokens, in seconds.
    """

    cluster: Cluster
    directory: Path
    users: int = 20
    groups: int = 8
    pause: float = 0.1
    stays: float = 20.0
    seed: int = field(default_factory=lambda: SystemRandom().randrange(2**32))
    ports: Callable[[], Sequence[int]] | None = None
    moving: bool = True
    padding: int = 0
    lifetime: int = 3600
    clients: list[Client] = field(default_factory=list)
    convs: dict[str, str] = field(default_factory=dict)
    inside: dict[str, set[str]] = field(default_factory=dict)
    """Who is in each group, as far as is known: changes of members may be refused, or under way."""
    said: int = 0

    def __post_init__(self) -> None:
        self.random = Random(self.seed)
        self.path = self.directory / f"history-{self.seed}.jsonl"
        self.recorder = Recorder(self.path, f"seed {self.seed}")
        self.settling = trio.Event()
        self.names = [f"u{number}" for number in range(self.users)]

    def port(self) -> int:
        """Of any node that runs. Raises ConnectionRefusedError."""
        found = [server.port for server in self.cluster.running] if self.ports is None else self.ports()
        if not found:
            raise ConnectionRefusedError("no node is running just now")
        return self.random.choice(found)

    async def connect(self) -> tuple[trio.abc.Stream, bytes] | None:
        """As a load balancer would: to any of them."""
        with trio.move_on_after(10):
            return await upgraded(self.port())
        return None

    async def prepare(self) -> None:
        """Users and groups, over the wire."""
        for name in self.names:
            await (await Peer.open(self.cluster, 0, name, "maker")).close()
        maker = await Peer.open(self.cluster, 0, self.names[0], "maker")
        for number in range(self.groups):
            history = self.random.choice(("all", "since_join"))
            others = self.random.sample(self.names[1:], min(4, self.users - 1))
            made = await maker.ask("create", title=str(number), members=others, history=history)
            self.convs[made["conv"]] = history
            self.inside[made["conv"]] = {self.names[0], *others}
        await maker.close()
        for user in self.names:
            for number in range(1 + (self.random.random() < 0.3)):
                self.clients.append(self._client(user, number))

    def _client(self, user: str, number: int) -> Client:
        plan = Plan(deque(), by_positions=self.random.random() < 0.6, pause=self.pause, stays=self.stays)
        return Client(
            user, f"d{number}", plan, self.random, self.connect, partial(self.cluster.token, user, self.lifetime),
            self.recorder.note, self.settling,
        )  # fmt: skip

    def _something(self, client: Client) -> dict[str, Any]:
        self.said += 1
        body, what = f"{client.user}.{client.device}.{self.said}{'.' * self.padding}", self.random.random()
        if what < 0.6:
            return {"t": "send", "to": self._group(client.user), "body": body}
        if what < 0.85:
            return {"t": "send", "to": f"@{self.random.choice(self.names)}", "body": body}
        return {"t": "edit", "body": body} if what < 0.95 else {"t": "delete"}

    def _group(self, user: str) -> str:
        """Mostly one that they are in: whoever is refused has to begin anew."""
        own = [conv for conv, members in self.inside.items() if user in members]
        if self.moving and self.random.random() < STRANGERS:
            own = list(self.convs)
        return self.random.choice(own or [f"@{name}" for name in self.names])

    async def _feed(self) -> None:
        """Whoever has nothing left to say is given something; so nobody says more than they can."""
        while True:
            for client in self.clients:
                if len(client.plan.say) < 5:
                    client.plan.say.append(self._something(client))
            await trio.sleep(self.pause)

    async def _mark(self, client: Client) -> None:
        """As clients do, or each return would bring all that there ever was."""
        while True:
            await trio.sleep(self.random.expovariate(1 / MARK_SECONDS))
            if client.live:
                for conv in self.random.sample(list(client.have), len(client.have) // 2):
                    with suppress(*GONE):
                        await client.mark(conv)

    async def _move_members(self) -> None:
        while True:
            await trio.sleep(self.random.expovariate(2.0))
            conv, user = self.random.choice(list(self.convs)), self.random.choice(self.names[1:])
            what = self.random.choice(("add", "remove"))
            if await self.clients[0].ask(what, conv, [user]):
                (self.inside[conv].add if what == "add" else self.inside[conv].discard)(user)

    async def run(self, disturb: Disturb, seconds: float) -> Verdict:
        """Everybody talks for ``seconds``, and until ``disturb`` is over; then all comes to rest, and is judged. The history
        stays in ``path``. Fails where somebody does not come to rest."""
        async with trio.open_nursery() as everybody:
            for client in self.clients:
                everybody.start_soon(client.run)
            async with trio.open_nursery() as talking:
                talking.start_soon(self._feed)
                for client in self.clients:
                    talking.start_soon(self._mark, client)
                if self.moving:
                    talking.start_soon(self._move_members)
                began = trio.current_time()
                await disturb(self)
                await trio.sleep_until(began + seconds)
                talking.cancel_scope.cancel()
            self.settling.set()
            complaints = await settle(self.clients, SETTLE_SECONDS, QUIET_SECONDS)
            self.recorder.note(Settled(trio.current_time()))
            everybody.cancel_scope.cancel()
        await self._read()
        self.recorder.close()
        complaints += [fault for client in self.clients for fault in client.faults]
        verdict = check(read_history(self.path))
        assert not complaints, [*complaints[:10], readable(verdict)]
        return verdict

    async def _read(self) -> None:
        """The logs, from the file and from every node."""
        async for record in read_logs(self.cluster.data / "chatd.db", self.convs):
            self.recorder.note(record)
        running = self.cluster.running
        for number, _ in enumerate(running):
            peer = await Peer.open(self.cluster, number, self.names[0], "maker", positions=dict.fromkeys(self.convs, 10**9))
            for conv in self.convs:
                await self._read_from(peer, conv, f"node {number}")
            await peer.close()

    async def _read_from(self, peer: Peer, conv: str, reader: str) -> None:
        after, more = 0, True
        while more:
            page = await peer.ask("history", conv=conv, after=after, limit=200)
            for event in page["events"]:
                place, everything = (conv, event["seq"]), self.convs[conv] == "all"
                self.recorder.note(stored(place, event["from"], event, everything=everything, reader=reader))
                after = event["seq"]
            more = page["more"]


async def calm(_: Load) -> None:
    """No disturbance beyond what clients do of themselves."""
    await trio.lowlevel.checkpoint()


def held(verdict: Verdict) -> None:
    """Fail with the whole verdict where it does not hold."""
    assert verdict.proven, readable(verdict)
    print(readable(verdict))


def summary(verdict: Verdict) -> str:
    """The figures of a run in one line: how much there was, for how long devices were away, and how late deliveries were to those
    who were there."""
    figures, away = verdict.figures, Counter[float](verdict.away_seconds)
    return (
        f"{figures['acknowledged']:,} acknowledged, {figures['refused']:,} refusals, "
        f"{verdict.looked_at['unstored']:,} deliveries; "
        f"away p50 {percentile(away, 0.5):.1f}, p99 {percentile(away, 0.99):.1f} s; "
        f"behind p99 {percentile(verdict.behind_ms, 0.99):,.0f} ms, at most {max(verdict.behind_ms, default=0):,.0f} ms"
    )
