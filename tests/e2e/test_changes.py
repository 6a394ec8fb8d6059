"""Messages that are changed later, over real sockets: edits, deletes, reactions, pins, threads, mentions, mute."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.cluster import Cluster, Peer

FOREVER = 2**53 - 1


def events(peer: Peer, conv: str) -> list[dict[str, Any]]:
    """The events of one conversation as this session got them."""
    return [message for message in peer.seen if message["t"] == "event" and message["conv"] == conv]


async def item_of(peer: Peer, conv: str) -> dict[str, Any]:
    items: list[dict[str, Any]] = (await peer.ask("conversations"))["items"]
    return next(item for item in items if item["conv"] == conv)


def name(stem: str) -> str:
    """A user of this test's own, on a cluster that others use, too."""
    return f"{stem}.{os.urandom(4).hex()}"


@pytest.mark.parametrize("encoding", ["cbor", "json"])
async def test_a_message_is_edited_reacted_to_and_deleted(cluster: Cluster, encoding: str) -> None:
    """Each is acked in its place, and an event for everybody else; text and bytes; in both encodings."""
    ann, ben = name("ann"), name("ben")
    a, b = await Peer.open(cluster, 0, ann, encoding=encoding), await Peer.open(cluster, 1, ben)
    conv = (await a.say(f"@{ben}", "helo"))["conv"]
    answers = [
        await a.change("edit", conv=conv, seq=1, body="hello"), await b.change("react", conv=conv, seq=1, emoji="👍"),
        await b.change("react", conv=conv, seq=1, emoji="👍", remove=True),
        await a.change("edit", conv=conv, seq=1, body=b"\x00\xff"), await a.change("delete", conv=conv, seq=1),
    ]  # fmt: skip
    assert [(answer["t"], answer["seq"]) for answer in answers] == [("ack", seq) for seq in range(2, 7)]
    await b.event(conv, 6)
    await a.event(conv, 6)
    assert a.stream(conv) == b.stream(conv) == [1, 2, 3, 4, 5, 6]
    at = {answer["seq"]: answer["at"] for answer in answers}
    head = {"t": "event", "conv": conv}
    assert events(b, conv)[1:] == [
        head | {"seq": 2, "at": at[2], "from": ann, "kind": "edit", "body": "hello", "target": 1},
        head | {"seq": 5, "at": at[5], "from": ann, "kind": "edit", "body": b"\x00\xff", "target": 1},
        head | {"seq": 6, "at": at[6], "from": ann, "kind": "delete", "target": 1},
    ]
    assert events(a, conv) == [
        head | {"seq": 3, "at": at[3], "from": ben, "kind": "reaction", "target": 1, "emoji": "👍"},
        head | {"seq": 4, "at": at[4], "from": ben, "kind": "reaction", "target": 1, "emoji": "👍", "removed": True},
    ]
    shown = (await b.ask("history", conv=conv))["events"]
    assert [(e["kind"], e.get("type"), e.get("body")) for e in shown] == [
        ("message", "deleted", ""), ("edit", None, ""), ("reaction", None, None), ("reaction", None, None),
        ("edit", None, ""), ("delete", None, None),
    ]  # fmt: skip


async def test_one_row_of_numbers(cluster: Cluster) -> None:
    """I3, I5: pipelined sends and changes are stored in order; repeats on another node get the first acks."""
    cas, dot = name("cas"), name("dot")
    await Peer.open(cluster, 1, dot)
    peer = await Peer.open(cluster, 0, cas)
    conv = (await peer.say(f"@{dot}", "one"))["conv"]
    row: list[dict[str, Any]] = [
        {"t": "edit", "cseq": 2, "conv": conv, "seq": 1, "body": "won"}, {"t": "send", "cseq": 3, "to": conv, "body": "two"},
        {"t": "react", "cseq": 4, "conv": conv, "seq": 1, "emoji": "x"}, {"t": "delete", "cseq": 5, "conv": conv, "seq": 3},
    ]  # fmt: skip
    for message in row:
        await peer.send(message)
    acks = [await peer.until(lambda m, n=n: m["t"] == "ack" and m["cseq"] == n) for n in (2, 3, 4, 5)]
    assert [ack["seq"] for ack in acks] == [2, 3, 4, 5]
    await peer.close()
    again = await Peer.open(cluster, 1, cas)
    assert again.cseq == 5
    for message, ack in zip(row, acks, strict=True):
        await again.send(message)
        cseq = message["cseq"]
        repeat = await again.until(lambda m, cseq=cseq: m["t"] == "ack" and m["cseq"] == cseq and m.get("repeat"))
        assert {key: repeat[key] for key in ack} == ack
    await again.send({"t": "edit", "cseq": 2, "conv": conv, "seq": 1, "body": "other"})
    assert (await again.until(lambda m: m["t"] == "error"))["code"] == "cseq_reused"
    await again.send({"t": "react", "cseq": 9, "conv": conv, "seq": 1, "emoji": "x"})
    gap = await again.until(lambda m: m["t"] == "error")
    assert (gap["code"], gap["cseq"], gap["expected"]) == ("cseq_gap", 9, 6)
    assert len((await again.ask("history", conv=conv))["events"]) == 5


async def test_nobody_sends_what_is_left_of_a_deleted_message(cluster: Cluster) -> None:
    """The type ``deleted`` is the server's."""
    peer = await Peer.open(cluster, 0, name("eve"))
    refused = await peer.say(f"@{name('x')}", "", type="deleted")
    assert (refused["code"], refused["cseq"]) == ("bad_message", 1)


async def test_threads_and_pins_show_messages_as_they_are_now(cluster: Cluster) -> None:
    """``history`` with ``thread``, and ``pins``: the latest body, ``edited``, pages; deleted ones are left as a place or go."""
    fay, gus = name("fay"), name("gus")
    a, b = await Peer.open(cluster, 0, fay), await Peer.open(cluster, 1, gus)
    conv = (await a.ask("create", title="g", members=[gus]))["conv"]
    for body, reply_to in [("root", 1), ("first", 2), ("aside", 1), ("nested", 3), ("second", 2)]:
        await (a if body != "nested" else b).say(conv, body, **({"reply_to": reply_to} if reply_to > 1 else {}))
    assert (await a.change("edit", conv=conv, seq=2, body="roots"))["seq"] == 7
    whole = await b.ask("history", conv=conv, thread=2)
    assert [(e["seq"], e["body"], e.get("reply_to"), e.get("edited")) for e in whole["events"]] == [
        (2, "roots", None, 7), (3, "first", 2, None), (5, "nested", 3, None), (6, "second", 2, None)
    ]  # fmt: skip
    assert (whole["last"], whole["more"]) == (7, False)
    page = await b.ask("history", conv=conv, thread=2, after=2, limit=2)
    assert ([e["seq"] for e in page["events"]], page["more"]) == ([3, 5], True)
    assert (await b.ask("history", conv=conv, thread=1))["code"] == "not_found"
    for seq in (2, 4):
        assert (await a.ask("pin", conv=conv, seq=seq, on=True))["t"] == "ok"
    pinned = await b.event(conv, 9)
    assert (pinned["kind"], pinned["target"], pinned["from"]) == ("pinned", 4, fay)
    pins = await b.ask("pins", conv=conv)
    assert ([(e["seq"], e["body"], e.get("edited")) for e in pins["events"]], pins["more"]) == (
        [(2, "roots", 7), (4, "aside", None)], False
    )  # fmt: skip
    assert [e["seq"] for e in (await b.ask("pins", conv=conv, after=2))["events"]] == [4]
    await a.change("delete", conv=conv, seq=2)
    assert [e["seq"] for e in (await b.ask("pins", conv=conv))["events"]] == [4]
    left = (await b.ask("history", conv=conv, thread=2, limit=1, after=0))["events"]
    assert [(e["type"], e["body"]) for e in left] == [("deleted", "")]
    assert (await a.ask("pin", conv=conv, seq=4, on=False))["t"] == "ok"
    assert (await b.event(conv, 11))["removed"] is True
    assert (await b.ask("pins", conv=conv))["events"] == []


async def test_fifty_large_pins_come_in_pages(cluster: Cluster) -> None:
    """A server's message is at most 1 MiB, whatever is pinned; the pages together leave nothing out."""
    hob = name("hob")
    peer = await Peer.open(cluster, 0, hob, encoding="json")
    conv = (await peer.ask("create", title="g", members=[]))["conv"]
    for seq in range(2, 42, 2):
        await peer.say(conv, "y" * 60_000)
        assert (await peer.ask("pin", conv=conv, seq=seq, on=True))["t"] == "ok"
    found, pages, more = [0], 0, True
    while more:
        page = await peer.ask("pins", conv=conv, after=found[-1])
        found += [event["seq"] for event in page["events"]]
        pages, more = pages + 1, page["more"]
    assert found[1:] == list(range(2, 42, 2))
    assert pages > 1


async def test_mentions_and_mute_stand_in_the_list(cluster: Cluster) -> None:
    """How many of the unread name oneself; until when it is muted, on all devices; what is over is not shown."""
    ivo, jan = name("ivo"), name("jan")
    a, b = await Peer.open(cluster, 0, ivo), await Peer.open(cluster, 1, jan)
    conv = (await a.ask("create", title="g", members=[jan]))["conv"]
    await a.say(conv, "all", mentions=[ivo, jan])
    await a.say(conv, "some")
    await a.say(conv, "you", mentions=[jan])
    assert {key: (await item_of(b, conv)).get(key) for key in ("unread", "mentions", "muted")} == {
        "unread": 3, "mentions": 2, "muted": None
    }  # fmt: skip
    assert "mentions" not in await item_of(a, conv)
    await a.change("delete", conv=conv, seq=4)
    assert (await item_of(b, conv))["mentions"] == 1
    await b.send({"t": "read", "conv": conv, "seq": 2})
    item = await item_of(b, conv)
    assert item["unread"] == 1
    assert "mentions" not in item
    assert (await b.ask("mute", conv=conv, until=FOREVER))["t"] == "ok"
    other = await Peer.open(cluster, 0, jan, "other")
    assert (await item_of(other, conv))["muted"] == FOREVER
    for until in (1, 0):
        assert (await b.ask("mute", conv=conv, until=until))["t"] == "ok"
        assert "muted" not in await item_of(other, conv)


@pytest.fixture
def hasty_cluster(tmp_path: Path) -> Iterator[Cluster]:
    made = Cluster(tmp_path, 1, "[limits]\nedit_hours = 0.0\n")
    yield made
    made.stop()


async def test_the_window_is_the_operators_choice(hasty_cluster: Cluster) -> None:
    """With none everything is too late, but for a group's owner and admins."""
    kit, lou = name("kit"), name("lou")
    a, b = await Peer.open(hasty_cluster, 0, kit), await Peer.open(hasty_cluster, 0, lou)
    conv = (await a.ask("create", title="g", members=[lou]))["conv"]
    await b.say(conv, "mine")
    assert (await b.change("edit", conv=conv, seq=2, body="x"))["code"] == "too_late"
    assert (await b.change("delete", conv=conv, seq=2))["code"] == "too_late"
    assert (await a.change("delete", conv=conv, seq=2))["t"] == "ack"


async def test_two_devices_one_of_them_away(cluster: Cluster) -> None:
    """A day's worth of edits, deletes, reactions, reads and changes of members; then both show the same: event by event
    what they keep, as clients keep it, and number by number what the list says."""
    me, pal, ned, new = name("me"), name("pal"), name("ned"), name("new")
    here, away = await Peer.open(cluster, 0, me, "here"), await Peer.open(cluster, 1, me, "away")
    friend, third = await Peer.open(cluster, 1, pal), await Peer.open(cluster, 0, ned)
    await Peer.open(cluster, 0, new)
    club = (await friend.ask("create", title="club", members=[me, ned]))["conv"]
    dm = (await friend.say(f"@{me}", "before"))["conv"]
    await friend.say(club, "to be deleted while away")
    await friend.change("edit", conv=club, seq=2, body="to be deleted all the same")
    for peer in (here, away):
        await peer.event(club, 3)
        await peer.event(dm, 1)
        for conv, seq in ((club, 3), (dm, 1)):
            await peer.send({"t": "delivered", "conv": conv, "seq": seq})
        await peer.ask("conversations")
    kept = dict(away.seen_events())
    await away.vanish()
    brief = (await third.ask("create", title="brief", members=[me]))["conv"]
    for number in range(12):
        await friend.say(club, f"number {number}", mentions=[me] if number % 3 == 0 else [])
        await here.say(dm, f"mine {number}")
        await friend.change("react", conv=dm, seq=number + 1, emoji="+")
    await friend.change("edit", conv=club, seq=5, body="another")
    await friend.change("delete", conv=club, seq=2)
    await third.ask("leave", conv=club)
    await friend.change("delete", conv=club, seq=7)
    await here.event(club, 19)
    await here.send({"t": "read", "conv": club, "seq": 9})
    await here.change("edit", conv=dm, seq=2, body="edited by me")
    await here.change("delete", conv=dm, seq=4)
    await here.change("react", conv=club, seq=6, emoji="!")
    await friend.ask("add", conv=club, users=[new])
    await friend.ask("role", conv=club, user=me, role="admin")
    await friend.ask("pin", conv=club, seq=6, on=True)
    await here.ask("mute", conv=dm, until=FOREVER)
    await third.say(brief, "said before")
    await third.ask("remove", conv=brief, users=[me])
    await third.say(brief, "never seen")
    heads = {item["conv"]: item["last"] for item in (await friend.ask("conversations"))["items"]} | {brief: 3}
    for conv in (club, dm, brief):
        await here.event(conv, heads[conv])
    back = await Peer.open(cluster, 0, me, "away")
    assert {conv: back.stream(conv) for conv in (club, dm, brief)} == {
        club: list(range(4, heads[club] + 1)), dm: list(range(2, heads[dm] + 1)), brief: [1, 2, 3]
    }  # fmt: skip
    mine = dict(here.seen_events())
    differing = {mine[key]["target"] if event["kind"] == "edit" else key[1]
                 for key, event in back.seen_events() if key in mine and mine[key] != event}  # fmt: skip
    assert differing == {7}  # all else is the same, key by key; here it was seen before it was deleted
    both = [shown(dict(here.seen_events()), here, back), shown(kept | dict(back.seen_events()), back, back)]
    assert both[0] == both[1]
    assert any(message["state"] == "deleted" for message in both[0].values())
    assert not [e for e in back.seen if "deleted all the same" in str(e.get("body")) or "never seen" in str(e.get("body"))]
    lists = [(await peer.ask("conversations"))["items"] for peer in (here, back)]
    assert lists[0] == lists[1]
    numbers = {item["conv"]: (item["unread"], item.get("mentions"), item["read"]) for item in lists[0]}
    assert set(numbers) == {club, dm}
    assert numbers[club] == (6, 2, 9)
    for request, conv in (("members", club), ("pins", club), ("members", dm)):
        answers = [await peer.ask(request, conv=conv) for peer in (here, back)]
        assert {**answers[0], "id": 0} == {**answers[1], "id": 0}


def shown(events: dict[tuple[str, int], dict[str, Any]], peer: Peer, other: Peer) -> dict[tuple[str, int], dict[str, Any]]:
    """What a client that keeps ``events`` shows of the messages: body, state and reactions. What one's own device sent, it
    has only acks of: the other device's events stand in for what such a client kept of its own."""
    whole = {key: event for key, event in dict(other.seen_events()).items() if event["from"] == other.welcome["user"]} | events
    messages: dict[tuple[str, int], dict[str, Any]] = {}
    for (conv, seq), event in sorted(whole.items()):
        if event["kind"] == "message":
            state = "deleted" if event["type"] == "deleted" else "sent"
            messages[conv, seq] = {"body": event["body"], "state": state, "reactions": set()}
            continue
        target = messages.get((conv, event.get("target", 0)))
        if target is None:
            continue
        if event["kind"] == "edit" and target["state"] != "deleted":
            target |= {"body": event["body"], "state": "edited"}
        elif event["kind"] == "delete":
            target |= {"body": "", "state": "deleted"}
        elif event["kind"] == "reaction":
            change = set.discard if event.get("removed") else set.add
            change(target["reactions"], (event["from"], event["emoji"]))
    return messages
