"""Two people and a group, over real sockets, by a client that knows only the contract (I1, I2, I4, I6, I8, I10)."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from tests.e2e.cluster import Cluster, Peer, bodies, metric


@pytest.mark.parametrize("encoding", ["cbor", "json"])
async def test_a_first_conversation(cluster: Cluster, encoding: str) -> None:
    """hello, send by name, ack, event, answer; text and bytes; both encodings side by side."""
    anna = await Peer.open(cluster, 0, f"anna.{encoding}", encoding=encoding)
    ben = await Peer.open(cluster, 1, f"ben.{encoding}")
    ack = await anna.say(f"@ben.{encoding}", "hello ben")
    assert (ack["t"], ack["seq"], ack["cseq"]) == ("ack", 1, 1)
    event = await ben.event(ack["conv"], 1)
    assert (event["from"], event["kind"], event["body"], event["type"]) == (f"anna.{encoding}", "message", "hello ben", "text")
    assert event["at"] == ack["at"]
    answer = await ben.say(ack["conv"], b"\x00\xff", type="file", reply_to=1)
    got = await anna.event(ack["conv"], 2)
    assert (answer["seq"], got["body"], got["type"], got["reply_to"]) == (2, b"\x00\xff", "file", 1)
    for peer in (anna, ben):
        await peer.close()


async def test_return_to_the_other_node(cluster: Cluster) -> None:
    """I7: what came while a device was away is there, once, in order, before ``live``; on any node."""
    cora = await Peer.open(cluster, 0, "cora")
    dan = await Peer.open(cluster, 1, "dan")
    conv = (await cora.say("@dan", "one"))["conv"]
    await dan.event(conv, 1)
    await dan.send({"t": "delivered", "conv": conv, "seq": 1})
    await dan.ask("conversations")
    await dan.close()
    for word in ("two", "three", "four"):
        await cora.say(conv, word)
    back = await Peer.open(cluster, 2, "dan")
    assert bodies(back.seen, conv) == ["two", "three", "four"]
    assert back.seen[-1]["t"] == "live"
    await cora.say(conv, "five")
    await back.event(conv, 5)
    assert back.stream(conv) == [2, 3, 4, 5]


async def test_positions_override_the_cursor(cluster: Cluster) -> None:
    """I7: the client's own positions decide what is replayed."""
    eva = await Peer.open(cluster, 0, "eva")
    conv = ""
    await Peer.open(cluster, 1, "finn")
    for word in "abcde":
        conv = (await eva.say("@finn", word))["conv"]
    finn = await Peer.open(cluster, 1, "finn", "other", positions={conv: 3})
    assert bodies(finn.seen, conv) == ["d", "e"]


async def test_positions_beyond_the_log_hide_no_ack(cluster: Cluster) -> None:
    """A position that the log has not reached is taken for its head; what the session itself then sends is acked."""
    far = await Peer.open(cluster, 0, "far")
    conv = (await far.ask("create", title="g", members=[]))["conv"]
    for _ in range(10):
        back = await Peer.open(cluster, 1, "far", positions={conv: 2**53 - 1}, live=False)
        answer = await back.say(conv, "before live")
        assert answer["t"] == "ack"
        assert not answer.get("repeat")


async def test_a_new_device_starts_at_the_read_mark(cluster: Cluster) -> None:
    """I7: a device seen for the first time gets what its user has not read."""
    gina = await Peer.open(cluster, 0, "gina")
    hal = await Peer.open(cluster, 1, "hal")
    conv = ""
    for word in "abcd":
        conv = (await gina.say("@hal", word))["conv"]
    await hal.event(conv, 4)
    await hal.send({"t": "read", "conv": conv, "seq": 2})
    await hal.ask("conversations")
    tablet = await Peer.open(cluster, 0, "hal", "tablet")
    assert bodies(tablet.seen, conv) == ["c", "d"]


async def test_own_devices_see_events_the_sender_its_acks(cluster: Cluster) -> None:
    """The sending session gets the ack in the event's place; the user's other devices get the event."""
    await Peer.open(cluster, 0, "jon")
    phone = await Peer.open(cluster, 0, "ida", "phone")
    desk = await Peer.open(cluster, 1, "ida", "desk")
    conv = (await phone.say("@jon", "x"))["conv"]
    await phone.say(conv, "y")
    await desk.event(conv, 2)
    await phone.ask("conversations")  # what came beside the acks has come by now
    assert bodies(desk.seen, conv) == ["x", "y"]
    assert phone.stream(conv) == desk.stream(conv) == [1, 2]
    assert bodies(phone.seen, conv) == []


async def test_a_repeat_is_answered_and_not_stored(cluster: Cluster) -> None:
    """I3: the same cseq gets the first ack again, on any node; other content is an error, a gap names the next."""
    await Peer.open(cluster, 0, "lea")
    kim = await Peer.open(cluster, 0, "kim")
    first = await kim.say("@lea", "only once")
    await kim.close()
    again = await Peer.open(cluster, 1, "kim")
    assert again.welcome["cseq"] == 1
    await again.send({"t": "send", "cseq": 1, "to": "@lea", "body": "only once"})
    repeat = await again.until(lambda m: m["t"] == "ack" and m.get("repeat"))
    assert {k: repeat[k] for k in ("conv", "seq", "at", "cseq")} == {k: first[k] for k in ("conv", "seq", "at", "cseq")}
    await again.send({"t": "send", "cseq": 1, "to": "@lea", "body": "something else"})
    assert (await again.until(lambda m: m["t"] == "error"))["code"] == "cseq_reused"
    await again.send({"t": "send", "cseq": 9, "to": "@lea", "body": "too far"})
    gap = await again.until(lambda m: m["t"] == "error")
    assert (gap["code"], gap["expected"], gap["cseq"]) == ("cseq_gap", 2, 9)
    page = await again.ask("history", conv=first["conv"])
    assert len(page["events"]) == 1


async def test_a_group_from_beginning_to_end(cluster: Cluster) -> None:
    """create, send, add, role, rename, remove, leave: each an event, in one order for all (I4)."""
    mia = await Peer.open(cluster, 0, "mia")
    noa = await Peer.open(cluster, 1, "noa")
    olaf = await Peer.open(cluster, 1, "olaf")
    conv = (await mia.ask("create", title="Trip", members=["noa"]))["conv"]
    created = await noa.event(conv, 1)
    assert (created["kind"], created["title"], sorted(created["members"])) == ("created", "Trip", ["mia", "noa"])
    assert (await noa.say(conv, "hi"))["seq"] == 2
    assert (await mia.ask("add", conv=conv, users=["olaf"]))["t"] == "ok"
    joined = await olaf.event(conv, 3)
    assert (joined["kind"], joined["user"], joined["from"]) == ("joined", "olaf", "mia")
    assert olaf.stream(conv) == [3]
    assert (await mia.ask("role", conv=conv, user="noa", role="admin"))["t"] == "ok"
    assert (await noa.ask("rename", conv=conv, title="Journey"))["t"] == "ok"
    listed = await noa.ask("members", conv=conv)
    assert {m["user"]: m["role"] for m in listed["members"]} == {"mia": "owner", "noa": "admin", "olaf": "member"}
    assert (await noa.ask("remove", conv=conv, users=["olaf"]))["t"] == "ok"
    left = await olaf.event(conv, 6)
    assert (left["kind"], left["user"]) == ("left", "olaf")
    await noa.say(conv, "olaf is gone")
    assert (await mia.ask("leave", conv=conv))["t"] == "ok"
    await noa.event(conv, 8)
    # Noa is on olaf's node and has what came after him; an answer comes after whatever he was sent with it.
    assert (await olaf.ask("conversations"))["items"] == []
    assert olaf.stream(conv) == [3, 4, 5, 6]
    assert noa.stream(conv) == sorted(set(noa.stream(conv)))
    assert noa.stream(conv)[:7] == [1, 2, 3, 4, 5, 6, 7]


async def test_members_only(cluster: Cluster) -> None:
    """I8: to a stranger a conversation that is there and one that is not look the same, for every operation; none is
    carried out, and nothing of the conversation comes."""
    pia = await Peer.open(cluster, 0, "pia")
    quin = await Peer.open(cluster, 1, "quin")
    rex = await Peer.open(cluster, 1, "rex")
    conv = (await pia.ask("create", title="private", members=["quin"]))["conv"]
    for t, fields in [
        ("history", {}), ("members", {}), ("add", {"users": ["rex"]}), ("remove", {"users": ["pia"]}), ("leave", {}),
        ("role", {"user": "rex", "role": "owner"}), ("rename", {"title": "mine"}),
    ]:  # fmt: skip
        there = await rex.ask(t, conv=conv, **fields)
        absent = await rex.ask(t, conv="nosuchconversation", **fields)
        assert (there["t"], there["code"], there["message"]) == (absent["t"], absent["code"], absent["message"]), t
        assert there["code"] == "not_found", t
    there, absent = await rex.say(conv, "let me in"), await rex.say("nosuchconversation", "let me in")
    assert (there["code"], there["message"]) == (absent["code"], absent["message"]) == ("not_found", there["message"])
    assert (await pia.say(conv, "not for rex"))["seq"] == 2
    await quin.event(conv, 2)
    assert (await rex.ask("conversations"))["items"] == []
    assert {m["t"] for m in rex.seen} == {"welcome", "live", "error", "ok"}
    members = (await pia.ask("members", conv=conv))["members"]
    assert {m["user"]: m["role"] for m in members} == {"pia": "owner", "quin": "member"}
    assert (await quin.ask("conversations"))["items"][0]["title"] == "private"


async def test_after_removal_nothing_later_is_readable(cluster: Cluster) -> None:
    """I8: a former member gets up to ``left``, offline too, and nothing after it by any way."""
    sam = await Peer.open(cluster, 0, "sam")
    tea = await Peer.open(cluster, 1, "tea")
    conv = (await sam.ask("create", title="t", members=["tea"]))["conv"]
    await tea.event(conv, 1)
    await tea.send({"t": "delivered", "conv": conv, "seq": 1})
    await tea.ask("conversations")
    await tea.close()
    await sam.say(conv, "before")
    await sam.ask("remove", conv=conv, users=["tea"])
    await sam.say(conv, "secret")
    back = await Peer.open(cluster, 0, "tea")
    assert back.stream(conv) == [2, 3]
    assert back.seen[-2]["kind"] == "left"
    assert "secret" not in bodies(back.seen, conv)
    assert (await back.ask("history", conv=conv))["code"] == "not_found"
    assert (await back.say(conv, "still here?"))["code"] == "not_found"
    witness = await Peer.open(cluster, 0, "sam", "witness")
    await sam.say(conv, "secret too")
    await witness.event(conv, 5)
    assert (await back.ask("conversations"))["items"] == []
    assert back.stream(conv) == [2, 3]
    again = await Peer.open(cluster, 1, "tea", "again", positions={conv: 0})
    assert again.stream(conv) == [1, 2, 3]


@pytest.mark.parametrize(("history", "expected"), [("since_join", []), ("all", ["early"])])
async def test_what_a_new_member_sees(cluster: Cluster, history: str, expected: list[str]) -> None:
    """I8: from their ``joined`` on, or all of it where the group was made so."""
    uma = await Peer.open(cluster, 0, f"uma.{history}")
    vic = await Peer.open(cluster, 1, f"vic.{history}")
    conv = (await uma.ask("create", title="g", members=[], history=history))["conv"]
    await uma.say(conv, "early")
    await uma.ask("add", conv=conv, users=[f"vic.{history}"])
    await vic.event(conv, 3)
    page = await vic.ask("history", conv=conv)
    assert [e["body"] for e in page["events"] if e["kind"] == "message"] == expected
    assert page["events"][-1]["kind"] == "joined"


async def test_unread_is_the_same_everywhere(cluster: Cluster) -> None:
    """I10: messages of others after the read mark; own ones and other events do not count."""
    wim = await Peer.open(cluster, 0, "wim")
    xia = await Peer.open(cluster, 1, "xia")
    conv = (await wim.ask("create", title="g", members=["xia"]))["conv"]
    for word in "abc":
        await wim.say(conv, word)
    await wim.ask("rename", conv=conv, title="h")
    await xia.say(conv, "mine")
    item = (await xia.ask("conversations"))["items"][0]
    assert (item["unread"], item["last"], item["title"], item["kind"]) == (3, 6, "h", "group")
    await xia.send({"t": "read", "conv": conv, "seq": 3})
    again = await Peer.open(cluster, 0, "xia", "second")
    counts = [(await peer.ask("conversations"))["items"][0]["unread"] for peer in (xia, again)]
    assert counts == [1, 1]


async def test_unread_shows_a_mark_that_is_on_its_way_to_the_store(tmp_path: Path) -> None:
    """I10, where the flush of the marks falls anywhere between ``read`` and ``conversations``: here every millisecond."""
    cluster = Cluster(tmp_path, 1, "[delivery]\nmarks_ms = 1\n")
    try:
        writer, reader = await Peer.open(cluster, 0, "wyn"), await Peer.open(cluster, 0, "xan")
        for word in range(1, 101):
            conv = (await writer.say("@xan", str(word)))["conv"]
        for seq in range(1, 101):
            await reader.send({"t": "read", "conv": conv, "seq": seq})
            assert (await reader.ask("conversations"))["items"][0]["unread"] == 100 - seq
    finally:
        cluster.stop()


async def test_history_pages_both_ways(cluster: Cluster) -> None:
    """``history``: ascending pages, the newest by default, ``before`` and ``after``, with ``last`` and ``more``."""
    yan = await Peer.open(cluster, 0, "yan")
    await Peer.open(cluster, 1, "zoe")
    conv = ""
    for number in range(1, 8):
        conv = (await yan.say("@zoe", str(number)))["conv"]
    newest = await yan.ask("history", conv=conv, limit=3)
    assert ([e["seq"] for e in newest["events"]], newest["last"], newest["more"]) == ([5, 6, 7], 7, True)
    older = await yan.ask("history", conv=conv, before=5, limit=3)
    assert [e["seq"] for e in older["events"]] == [2, 3, 4]
    forward = await yan.ask("history", conv=conv, after=5)
    assert ([e["seq"] for e in forward["events"]], forward["more"]) == ([6, 7], False)


async def test_conversations_pages_with_a_cursor(cluster: Cluster) -> None:
    """``conversations``: latest first, page by page, each once."""
    abe = await Peer.open(cluster, 0, "abe")
    made = [(await abe.ask("create", title=f"g{n}", members=[]))["conv"] for n in range(5)]
    first = await abe.ask("conversations", limit=2)
    second = await abe.ask("conversations", limit=2, cursor=first["cursor"])
    third = await abe.ask("conversations", limit=2, cursor=second["cursor"])
    listed = [item["conv"] for page in (first, second, third) for item in page["items"]]
    assert listed == made[::-1]
    assert "cursor" not in third
    assert (await abe.ask("conversations", cursor="nonsense"))["code"] == "bad_message"


async def test_block_refuses_without_saying_why(cluster: Cluster) -> None:
    """A blocked user's 1:1 sends are ``forbidden``; unblocked, they arrive again."""
    bea = await Peer.open(cluster, 0, "bea")
    cem = await Peer.open(cluster, 1, "cem")
    assert (await bea.ask("block", user="cem", on=True))["t"] == "ok"
    assert (await bea.ask("blocked"))["users"] == ["cem"]
    refused = await cem.say("@bea", "hey")
    assert refused["code"] == "forbidden"
    assert "block" not in refused["message"]
    await bea.ask("block", user="cem", on=False)
    assert (await cem.say("@bea", "hey"))["t"] == "ack"


async def test_one_session_per_device(cluster: Cluster) -> None:
    """The newer session of a device takes over; the older gets a final ``bye``, on whatever node."""
    old = await Peer.open(cluster, 0, "dov", "same")
    new = await Peer.open(cluster, 1, "dov", "same")
    assert await old.closed() == 4203
    assert old.seen[-1]["reason"] == "replaced"
    assert (await new.ask("conversations"))["t"] == "ok"


async def test_a_thousand_members(cluster: Cluster) -> None:
    """A group of 1000 is allowed, one more is not; a send reaches those who are here."""
    owner = await Peer.open(cluster, 0, "owner")
    names = [f"m{n}" for n in range(999)]
    for number in (0, 500, 998):
        (await Peer.open(cluster, number, names[number])).seen.clear()
    missing = await owner.ask("create", title="big", members=["owner", "nobody.here"])
    assert missing["code"] == "not_found"
    async with trio.open_nursery() as nursery:
        for start in range(0, 999, 111):
            nursery.start_soon(_make_users, cluster, names[start : start + 111])
    conv = (await owner.ask("create", title="big", members=names))["conv"]
    peer = await Peer.open(cluster, 1, names[500])
    await owner.say(conv, "to all")
    assert (await peer.event(conv, 2))["body"] == "to all"
    await Peer.open(cluster, 0, "one.more")
    refused = await owner.ask("add", conv=conv, users=["one.more"])
    assert refused["code"] == "too_many_members"
    assert "1000" in refused["message"]


async def _make_users(cluster: Cluster, names: list[str]) -> None:
    for number, name in enumerate(names):
        await (await Peer.open(cluster, number, name)).vanish()


async def test_what_is_asked_is_counted(own_cluster: Cluster) -> None:
    """Requests and typing end the poller's naps, as messages do: a hello and a page are two, heartbeats and marks none."""
    server = own_cluster.server(0)
    before = metric(server, "chatd_requests_total")
    ann = await Peer.open(own_cluster, 0, "ann")
    await ann.send({"t": "heartbeat"})
    await ann.until(lambda m: m["t"] == "heartbeat")
    await ann.ask("conversations")
    assert metric(server, "chatd_requests_total") == before + 2
    await ann.close()
