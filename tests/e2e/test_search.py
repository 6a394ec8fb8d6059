"""Searching and completing over real sockets, the writer on one node and the searcher on another."""

from __future__ import annotations

import os
from typing import Any

import pytest
import trio

from tests.e2e.cluster import ANSWER_SECONDS, Cluster, Peer


def name(stem: str) -> str:
    """A user of this test's own, on a cluster that others use, too."""
    return f"{stem}.{os.urandom(4).hex()}"


async def search(peer: Peer, query: str, **narrow: Any) -> list[Any]:
    answer = await peer.ask("search", query=query, **narrow)
    assert answer["t"] == "ok", answer
    return [event["body"] for event in answer["events"]]


async def search_until(peer: Peer, expected: list[Any], query: str, **narrow: Any) -> None:
    """The index may be a moment behind: ask until the answer is right."""
    got: list[Any] = []
    with trio.move_on_after(ANSWER_SECONDS):
        while (got := await search(peer, query, **narrow)) != expected:
            await trio.sleep(0.1)
    assert got == expected


@pytest.mark.parametrize("encoding", ["cbor", "json"])
async def test_what_was_said_is_found(cluster: Cluster, encoding: str) -> None:
    """By words, phrases and prefixes, newest first, as the events that they are; not by strangers."""
    ann, ben = name("ann"), name("ben")
    a, b = await Peer.open(cluster, 0, ann), await Peer.open(cluster, 1, ben, encoding=encoding)
    c = await Peer.open(cluster, 1, name("cleo"))
    acks = [await a.say(f"@{ben}", body) for body in ("Lunch at one?", "no lunch, thanks", b"lunch", "Luncheon")]
    await search_until(b, ["Luncheon", "no lunch, thanks", "Lunch at one?"], "lunch*")
    assert await search(b, '"at one" LUNCH') == ["Lunch at one?"]
    assert await search(c, "lunch*") == []
    (found,) = (await b.ask("search", query="thanks"))["events"]
    assert found == {
        "conv": acks[1]["conv"], "seq": 2, "at": acks[1]["at"], "from": ann, "kind": "message", "type": "text",
        "body": "no lunch, thanks",
    }  # fmt: skip


async def test_narrowed_and_paged(cluster: Cluster) -> None:
    """By conversation, sender and time; pages by cursor leave nothing out; ranked has the best first."""
    ann, ben = name("ann"), name("ben")
    a, b = await Peer.open(cluster, 0, ann), await Peer.open(cluster, 1, ben)
    club = (await a.ask("create", title="club", members=[ben]))["conv"]
    word = "w" + os.urandom(4).hex()
    first = await a.say(f"@{ben}", f"{word} 0")
    await b.say(club, f"{word} 1")
    last = await a.say(club, f"{word} {word} 2")
    every = [f"{word} {word} 2", f"{word} 1", f"{word} 0"]
    await search_until(b, every, word)
    assert await search(b, word, conv=club) == every[:2]
    assert await search(b, word, **{"from": ben}) == every[1:2]
    assert await search(b, word, after=first["at"] - 1, before=last["at"] + 1) == every
    assert await search(b, word, before=first["at"]) == await search(b, word, after=last["at"]) == []
    for order in ("newest", "ranked"):
        paged, more = [], {}
        for _ in range(3):
            answer = await b.ask("search", query=word, order=order, limit=1, **more)
            paged += [event["body"] for event in answer["events"]]
            more = {"cursor": answer["cursor"]} if "cursor" in answer else {}
        assert sorted(paged, reverse=True) == sorted(every, reverse=True)
        assert paged[0] == every[0]
        assert more == {}


async def test_what_is_gone_is_not_found(cluster: Cluster) -> None:
    """Deleted or edited away on one node: not by the first search after the ack on the other; nor by who was removed."""
    ann, ben = name("ann"), name("ben")
    a, b = await Peer.open(cluster, 0, ann), await Peer.open(cluster, 1, ben)
    conv = (await a.ask("create", title="club", members=[ben]))["conv"]
    for body in ("secret one", "secret two", "secret three"):
        await a.say(conv, body)
    await search_until(b, ["secret three", "secret two", "secret one"], "secret", conv=conv)
    await a.change("delete", conv=conv, seq=2)
    assert await search(b, "secret", conv=conv) == ["secret three", "secret two"]
    ack = await a.change("edit", conv=conv, seq=3, body="harmless")
    assert await search(b, "secret", conv=conv) == ["secret three"]
    await search_until(b, ["harmless"], "harmless", conv=conv)
    (found,) = (await b.ask("search", query="harmless", conv=conv))["events"]
    assert (found["seq"], found["edited"]) == (3, ack["seq"])
    await a.ask("remove", conv=conv, users=[ben])
    assert await search(b, "secret") == []
    assert (await b.ask("search", query="secret", conv=conv))["code"] == "not_found"


async def test_names_and_titles_are_completed(cluster: Cluster) -> None:
    """Users by name, one's own conversations by title or partner, members for a mention."""
    stem = "z" + os.urandom(4).hex()
    me = await Peer.open(cluster, 0, f"{stem}.me")
    for other in ("bob", "bill"):
        await (await Peer.open(cluster, 1, f"{stem}.{other}")).close()
    dm = (await me.say(f"@{stem}.bob", "hello"))["conv"]
    club = (await me.ask("create", title=f"The {stem.upper()} Club", members=[f"{stem}.bill"]))["conv"]
    answer = await me.ask("find", text=stem)
    assert answer["users"] == [f"{stem}.bill", f"{stem}.bob", f"{stem}.me"]
    assert answer["items"] == [
        {"conv": club, "kind": "group", "title": f"The {stem.upper()} Club"},
        {"conv": dm, "kind": "dm", "title": "", "members": [f"{stem}.bob", f"{stem}.me"]},
    ]
    answer = await me.ask("find", text=f"{stem}.b", limit=1)
    assert (answer["users"], [item["conv"] for item in answer["items"]]) == ([f"{stem}.bill"], [dm])
    answer = await me.ask("find", text=f"{stem}.b", conv=club)
    assert (answer["users"], answer["items"]) == ([f"{stem}.bill"], [])
    for conv in (club, "absent"):
        stranger = await Peer.open(cluster, 1, name("x"))
        assert (await stranger.ask("find", text="b", conv=conv))["code"] == "not_found"


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"query": "!?"}, "query: at least one word"), ({"query": "a*"}, "query: a prefix has at least 2 characters"),
        ({"query": "aa* bb* cc* dd*"}, "query: at most 3 prefixes"),
        ({"query": " ".join(map(str, range(17)))}, "query: at most 16 words and phrases"),
        ({"query": "x" * 201}, "200"), ({"query": "x", "limit": 201}, "200"), ({"query": "x", "order": "best"}, "order"),
        ({"query": "x", "cursor": "mine"}, "cursor: not one that this server gave out"), ({"query": "x", "from": "A B"}, "from"),
    ],
)  # fmt: skip
async def test_refusals_name_the_field_and_the_limit(cluster: Cluster, fields: dict[str, Any], says: str) -> None:
    """Each is ``bad_message``, and the session goes on."""
    peer = await Peer.open(cluster, 0, name("ann"))
    answer = await peer.ask("search", **fields)
    assert (answer["t"], answer["code"]) == ("error", "bad_message")
    assert says in answer["message"]
    assert await search(peer, "still here") == []
