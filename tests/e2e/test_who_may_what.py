"""The table of SPEC.md, section "Who may what": every operation is tried by everybody, end to end."""

from __future__ import annotations

import os
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from tests.e2e.cluster import Closed, Cluster, Peer

PROTOCOL = Path(__file__).parents[2] / "protocol"
SPEC = (PROTOCOL / "SPEC.md").read_text(encoding="utf-8")
CLIENT_MESSAGES = set(
    re.findall(r'= \{ t: "(\w+)"', (PROTOCOL / "chatd.cddl").read_text(encoding="utf-8").partition("; --- server to client")[0])
)


def _table() -> tuple[list[str], dict[str, list[str]]]:
    section = re.split(r"^## ", SPEC.partition(". Who may what\n")[2], maxsplit=1, flags=re.MULTILINE)[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line.startswith("|")]
    return rows[0][1:], {row[0]: [cell.strip("`") for cell in row[1:]] for row in rows[2:]}


COLUMNS, ROWS = _table()
ROWS_OF_ONE_CAST = 8
"""For so long the same users serve; more would run into their rate limits."""
GROUP_COLUMNS = ("member", "former member", "admin", "owner", "stranger")


class Stage:
    """Users of one row's own, and for each cell a new conversation, in which ``own`` and ``others`` are messages.

    ``other`` is the other one of the 1:1 conversation, or a plain member of the group.
    """

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.suffix = os.urandom(4).hex()
        self.peers: dict[str, Peer] = {}
        self.conv = self.other = self.user = ""
        self.own = self.others = 0

    def name(self, part: str) -> str:
        return f"{part.replace(' ', '.')}.{self.suffix}"

    async def peer(self, part: str) -> Peer:
        if part not in self.peers:
            self.peers[part] = await Peer.open(self.cluster, len(self.peers), self.name(part))
        return self.peers[part]

    async def set_up(self, column: str) -> Peer:
        """Who tries the operation, in a conversation as the column says."""
        me = await self.peer(column)
        self.user = self.name(column)
        if column == "blocked":
            blocker = await self.peer("blocker")
            self.other = self.name("blocker")
            self.conv = (await blocker.say(f"@{self.user}", "hello"))["conv"]
            await blocker.ask("block", user=self.user, on=False)
            self.others = (await blocker.say(self.conv, "theirs"))["seq"]
            self.own = (await me.say(self.conv, "mine"))["seq"]
            assert (await blocker.ask("block", user=self.user, on=True))["t"] == "ok"
            return me
        await self._group(me, column)
        return me

    async def _group(self, me: Peer, column: str) -> None:
        parts = [*GROUP_COLUMNS, "other", "another admin", "new"]
        for part in parts:
            await self.peer(part)
        owner = self.peers["owner"]
        inside = [self.name(part) for part in parts if part not in ("stranger", "new", "owner")]
        self.conv = (await owner.ask("create", title="g", members=inside))["conv"]
        for part in ("admin", "another admin"):
            assert (await owner.ask("role", conv=self.conv, user=self.name(part), role="admin"))["t"] == "ok"
        self.other = self.name("other")
        self.others = (await self.peers["other"].say(self.conv, "theirs"))["seq"]
        self.own = self.others
        if column != "stranger":
            self.own = (await me.say(self.conv, "mine"))["seq"]
        assert (await owner.ask("remove", conv=self.conv, users=[self.name("former member")]))["t"] == "ok"


def asked(t: str, **fields: Any) -> Callable[[Stage, Peer, str], Awaitable[str]]:
    """A request; what is a function is called with the stage."""

    async def run(stage: Stage, me: Peer, expected: str) -> str:
        filled = {key: value(stage) if callable(value) else value for key, value in fields.items()}
        return outcome(await me.ask(t, **filled))

    return run


def changed(t: str, **fields: Any) -> Callable[[Stage, Peer, str], Awaitable[str]]:
    """A ``send``, or a change of a message."""

    async def run(stage: Stage, me: Peer, expected: str) -> str:
        filled = {key: value(stage) if callable(value) else value for key, value in fields.items()}
        return outcome(await me.change(t, **filled))

    return run


def outcome(answer: dict[str, Any]) -> str:
    return "yes" if answer["t"] in ("ok", "ack") else str(answer["code"])


def conv(stage: Stage) -> str:
    return stage.conv


def own(stage: Stage) -> int:
    return stage.own


def others(stage: Stage) -> int:
    return stage.others


def people(part: str) -> Callable[[Stage], list[str]]:
    return lambda stage: [stage.name(part) if part in stage.peers else stage.other]


def one(part: str) -> Callable[[Stage], str]:
    return lambda stage: people(part)(stage)[0]


def marked(t: str) -> Callable[[Stage, Peer, str], Awaitable[str]]:
    """Whether a mark moved is seen in what a device is replayed: a new one, and (``delivered``) the same one again."""

    async def run(stage: Stage, me: Peer, expected: str) -> str:
        probe = await Peer.open(stage.cluster, 0, stage.user, f"{t}.{stage.conv[:8]}")
        before = probe.stream(stage.conv)
        await probe.send({"t": t, "conv": stage.conv, "seq": 1000})
        await probe.ask("conversations")
        await probe.close()
        again = await Peer.open(stage.cluster, 1, stage.user, f"{t if t == 'delivered' else 'new'}.{stage.conv[:8]}")
        after = again.stream(stage.conv)
        await again.close()
        return "yes" if before and not after else "no effect" if before == after else f"{before} {after}"

    return run


async def typed(stage: Stage, me: Peer, expected: str) -> str:
    """What the other one sees; where that is nothing, the same is typed by somebody else, behind it, and seen."""
    watcher = stage.peers["blocker" if stage.user == stage.name("blocked") else "other"]
    await me.send({"t": "typing", "conv": stage.conv, "on": True})
    if expected != "yes":
        control = await stage.peer("control")
        side = (await control.say(f"@{stage.other}", "look"))["conv"]
        await watcher.event(side, 1)
        await me.ask("conversations")
        await control.send({"t": "typing", "conv": side, "on": True})
    else:
        side = stage.conv
    await watcher.until(lambda m: m["t"] == "typing" and m["on"] and m["conv"] == side)
    told = [m for m in watcher.seen if m["t"] == "typing" and m["conv"] == stage.conv and m["user"] == stage.user]
    return "yes" if told else "no effect"


async def watched(stage: Stage, me: Peer, expected: str) -> str:
    """Of a user whom one shares only this conversation with; where nothing comes, of another one, too, and that comes."""
    users = [stage.other]
    if expected != "yes":
        control = await stage.peer("control")
        side = (await control.say(f"@{stage.user}", "look"))["conv"]
        await me.event(side, 1)
        users.append(stage.name("control"))
    await me.send({"t": "watch", "users": users})
    await me.until(lambda m: m["t"] == "presence" and m["user"] == users[-1])
    await me.ask("conversations")
    return "yes" if [m for m in me.seen if m["t"] == "presence" and m["user"] == stage.other] else "no effect"


async def beaten(stage: Stage, me: Peer, expected: str) -> str:
    await me.send({"t": "heartbeat"})
    return "yes" if await me.until(lambda m: m["t"] == "heartbeat") else ""


async def signed_out(stage: Stage, me: Peer, expected: str) -> str:
    await Peer.open(stage.cluster, 1, stage.user, "old")
    return outcome(await me.ask("sign_out", device="old"))


SEEN_ELSEWHERE = ("`delivered`", "`read`", "`typing`", "`watch`", "`sign_out`")
"""What is tried in other sessions, or seen there; who is signed out sends the bare message."""
OPERATIONS: dict[str, Callable[[Stage, Peer, str], Awaitable[str]]] = {
    "`send` to the conversation": changed("send", to=conv, body="x"),
    "`send` to `@name`": changed("send", to=lambda stage: f"@{stage.other}", body="x"),
    "`edit` one's own": changed("edit", conv=conv, seq=own, body="x"),
    "`edit` another's": changed("edit", conv=conv, seq=others, body="x"),
    "`delete` one's own": changed("delete", conv=conv, seq=own),
    "`delete` another's": changed("delete", conv=conv, seq=others),
    "`react`": changed("react", conv=conv, seq=others, emoji="+"),
    "`pin`": asked("pin", conv=conv, seq=others, on=True),
    "`pins`": asked("pins", conv=conv),
    "`mute`": asked("mute", conv=conv, until=0),
    "`history`": asked("history", conv=conv),
    "`history` with `thread`": asked("history", conv=conv, thread=others),
    "`members`": asked("members", conv=conv),
    "`add`": asked("add", conv=conv, users=people("new")),
    "`remove` a member": asked("remove", conv=conv, users=lambda stage: [stage.other]),
    "`remove` an admin": asked("remove", conv=conv, users=people("another admin")),
    "`leave`": asked("leave", conv=conv),
    "`role`": asked("role", conv=conv, user=lambda stage: stage.other, role="admin"),
    "`rename`": asked("rename", conv=conv, title="x"),
    "`search` with `conv`": asked("search", query="theirs", conv=conv),
    "`find` with `conv`": asked("find", text="o", conv=conv),
    "`delivered`": marked("delivered"),
    "`read`": marked("read"),
    "`typing`": typed,
    "`watch`": watched,
    "`create`": asked("create", title="x", members=lambda stage: [stage.other]),
    "`conversations`": asked("conversations"),
    "`block`": asked("block", user=lambda stage: stage.other, on=False),
    "`blocked`": asked("blocked"),
    "`search`": asked("search", query="theirs"),
    "`find`": asked("find", text="o"),
    "`devices`": asked("devices"),
    "`sign_out`": signed_out,
    "`privacy`": asked("privacy"),
    "`rate_limit`": asked("rate_limit"),
    "`heartbeat`": beaten,
}


async def test_the_table_is_whole() -> None:
    """Every operation of the wire has its row, and every row is tried; ``hello`` alone is before all that."""
    words = {word for row in ROWS for word in re.findall(r"`(\w+)`", row.split(" with ")[0])}
    assert list(OPERATIONS) == list(ROWS)
    assert not words ^ CLIENT_MESSAGES ^ {"hello"}
    assert [*GROUP_COLUMNS, "blocked", "signed out"] == COLUMNS


async def test_what_is_allowed_is_what_the_table_says(cluster: Cluster) -> None:
    """I8: every operation, tried by everybody who has an own session."""
    wrong = {}
    for number, (row, cells) in enumerate(ROWS.items()):
        if number % ROWS_OF_ONE_CAST == 0 or row == "`watch`":  # who watches shares nothing else with the watched
            stage = Stage(cluster)
        for column, expected in zip(COLUMNS[:-1], cells[:-1], strict=True):
            me = await stage.set_up(column)
            if (got := await OPERATIONS[row](stage, me, expected)) != expected:
                wrong[row, column] = (got, expected)
    assert wrong == {}


async def test_who_is_signed_out_does_nothing(cluster: Cluster) -> None:
    """The session has had its goodbye: nothing more is answered, and the token opens no other one."""
    stage = Stage(cluster)
    me = await stage.set_up("member")
    for row, cells in ROWS.items():
        token = cluster.token(stage.user)
        gone = await Peer.bare(cluster.server(1))
        await gone.send({"t": "hello", "token": token, "device": "gone"})
        await gone.until(lambda m: m["t"] == "live")
        assert (await me.ask("sign_out", device="gone"))["t"] == "ok"
        assert (await gone.until(lambda m: m["t"] == "bye"))["reason"] == "signed_out"
        said = len(gone.seen)
        try:
            if row in SEEN_ELSEWHERE:
                fields = {"conv": stage.conv, "seq": 1, "on": True, "users": [], "device": "d1"}
                await gone.send({"t": row.strip("`"), "id": 1, **fields})
            else:
                await OPERATIONS[row](stage, gone, "ended")
        except Closed:
            pass
        assert await gone.closed() == 4206
        assert gone.seen[said:] == [], row
        assert cells[-1] == "ended"
        again = await Peer.bare(cluster.server(0))
        await again.send({"t": "hello", "token": token, "device": "gone"})
        assert await again.closed() == 4200
