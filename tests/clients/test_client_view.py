"""What the terminal shows of what it was told: lines, counts, marks, drafts of changes. Pure."""

from __future__ import annotations

import random

from chatd_client import ConnectionChanged, ConversationItem, Hole, Member, Page, SendRefused, Stored
from chatd_client.outbox import Queued
from chatd_protocol.messages import Ack, Event, Presence, Receipt, TypingNotice
from chatd_terminal.headings import title_text
from chatd_terminal.markup import Style
from chatd_terminal.view_model import Model
from hypothesis import given, settings
from hypothesis import strategies as st


def message(seq: int, sender: str = "bob", body: str = "x", **more: object) -> Event:
    keys: dict[str, object] = {"kind": "message", "type": "text", "body": body, **more}
    return Event(conv="g", seq=seq, at=1000 + seq, sender=sender, **keys)  # type: ignore[arg-type]


@st.composite
def logs(draw: st.DrawFn) -> list[Event]:
    """A conversation's whole log, 1, 2, 3, ..."""
    log: list[Event] = []
    for seq in range(1, draw(st.integers(1, 25)) + 1):
        sender = draw(st.sampled_from(["alice", "bob"]))
        kind = (
            draw(st.sampled_from(["message", "message", "edit", "delete", "reaction", "joined"])) if log else "message"
        )
        target = draw(st.integers(1, seq - 1)) if seq > 1 else 1
        more: dict[str, object] = {"kind": kind}
        if kind in {"edit", "delete", "reaction"}:
            more["target"] = target
        if kind == "reaction":
            more["emoji"] = "+"
        if kind == "joined":
            more["user"] = "carol"
        log.append(message(seq, sender, f"body {seq}", **more))
    return log


@given(logs(), st.randoms(use_true_random=False))
def test_order_and_repeats_of_arrival_do_not_matter(log: list[Event], rng: random.Random) -> None:
    """The same events give the same lines, however often and in whatever order they came."""
    straight, shuffled = Model("alice"), Model("alice")
    for event in log:
        straight.apply(event)
    for event in rng.sample(log + log, 2 * len(log)):
        shuffled.apply(event)
    assert straight.conversations["g"].lines() == shuffled.conversations["g"].lines()


@settings(max_examples=500)
@given(logs(), st.integers(0, 30), st.integers(0, 25))
def test_unread_is_the_function_of_the_invariants(log: list[Event], read: int, listed: int) -> None:
    """I10, with the whole log, and with the server's list for the part before what came live."""
    deleted = {event.target for event in log if event.kind == "delete"}

    def expected(known: list[Event], gone: set[object]) -> int:
        return sum(
            event.kind == "message" and event.sender != "alice" and event.seq > read and event.seq not in gone
            for event in known
        )

    whole = Model("alice")
    whole.read("g", read)
    for event in log:
        whole.apply(event)
    assert whole.conversations["g"].unread() == expected(log, deleted)

    head = [event for event in log if event.seq <= listed]
    part = Model("alice")
    gone: set[object] = {event.target for event in head if event.kind == "delete"}
    counted = expected(head, gone)
    part.listed([ConversationItem("g", "group", "G", (), len(head), head[-1] if head else None, read, 0, counted)])
    for event in log[len(head) :]:
        part.apply(event)
    if part.conversations["g"].doubtful:  # then the list is asked for again
        again = expected(log, deleted)
        part.listed([ConversationItem("g", "group", "G", (), len(log), log[-1], read, 0, again)])
    assert part.conversations["g"].unread() == expected(log, deleted)
    part.paged(Page("g", tuple(log), len(log), more=False))
    assert part.conversations["g"].unread() == expected(log, deleted)


def test_only_the_gap_free_end_is_shown() -> None:
    """After a hole the lines before it wait until the pages between have come."""
    model = Model("alice")
    for seq in (1, 2, 5, 6):
        model.apply(message(seq))
    assert [line.seq for line in model.conversations["g"].lines()] == [5, 6]
    model.paged(Page("g", (message(3), message(4)), 6, more=True))
    assert [line.seq for line in model.conversations["g"].lines()] == [1, 2, 3, 4, 5, 6]


def test_a_first_message_to_a_name_finds_its_conversation() -> None:
    """``@bob`` becomes the 1:1's id once stored; the open conversation and the waiting lines move along."""
    model = Model("alice")
    model.open = model.dm("bob").conv
    first, second = (Queued(key, 0, {"t": "send", "to": "@bob", "body": key}, 5, 1) for key in ("one", "two"))
    model.queued(first)
    model.queued(second)
    model.apply(Stored(first, Ack(cseq=1, conv="c7", seq=1, at=9)))
    assert model.open == "c7"
    assert [(line.text, line.state) for line in model.conversations["c7"].lines()] == [
        ("one", "stored"),
        ("two", "queued"),
    ]
    assert model.dm("bob").conv == "c7"
    assert [chat.conv for chat in model.ordered()] == ["c7"]


def test_a_read_on_another_device_clears_the_count() -> None:
    """One's own receipt moves the mark; somebody else's does not."""
    model = Model("alice")
    for seq in (1, 2):
        model.apply(message(seq))
    model.apply(Receipt(conv="g", user="bob", delivered=2, read=2))
    assert model.conversations["g"].unread() == 2
    model.apply(Receipt(conv="g", user="alice", delivered=2, read=2))
    assert model.conversations["g"].unread() == 0


def test_what_the_server_has_is_not_shown_as_waiting_too() -> None:
    """After a lost ack the message comes by replay: its waiting line goes with the welcome, other lines stay."""
    model = Model("alice")
    lost, waiting = (
        Queued(key, cseq, {"t": "send", "to": "g", "body": key}, 5, 1) for key, cseq in (("a", 3), ("b", 4))
    )
    model.queued(lost)
    model.queued(waiting)
    model.reconcile([lost, waiting], 3)
    model.apply(message(1, "alice", "a"))
    assert [(line.text, line.state) for line in model.conversations["g"].lines()] == [("a", "stored"), ("b", "queued")]
    model.apply(Stored(lost, Ack(cseq=3, conv="g", seq=1, at=9, repeat=True)))
    assert [line.text for line in model.conversations["g"].lines()] == ["a", "b"]


def test_a_hole_at_the_end_asks_for_the_newest_page() -> None:
    """What is only known to be there moves the head, so that the pane fetches what it does not hold."""
    model = Model("alice")
    model.apply(message(1))
    model.apply(Hole("g", 1, 3))
    assert model.conversations["g"].shown() is None
    model.paged(Page("g", (message(1), message(2, "alice")), 2, more=False))
    assert [line.seq for line in model.conversations["g"].lines()] == [1, 2]


def test_a_mark_that_moves_halfway_makes_the_number_doubtful() -> None:
    """Read on another device up to the middle of what only the server has counted: its list is asked for again."""
    model = Model("alice")
    model.listed([ConversationItem("g", "group", "G", (), 9, message(9), 0, 0, 9)])
    chat = model.conversations["g"]
    model.apply(Receipt(conv="g", user="alice", delivered=5, read=5))
    assert chat.doubtful
    model.listed([ConversationItem("g", "group", "G", (), 9, message(9), 5, 5, 4)])
    assert (chat.unread(), chat.doubtful) == (4, False)


def waiting(key: str, **fields: object) -> Queued:
    return Queued(key, 0, {"conv": "g", **fields}, 5000, 1)


def lines(model: Model) -> list[tuple[str, str]]:
    return [(line.text, line.state) for line in model.conversations["g"].lines()]


def test_changes_that_wait_are_shown_and_settle() -> None:
    """An edit, a reaction and a delete are on the message at once, as waiting; stored they stay, refused they go."""
    model = Model("alice")
    model.apply(message(1, "alice", "first"))
    edit = waiting("e", t="edit", seq=1, body="second")
    react = waiting("r", t="react", seq=1, emoji="x")
    model.queued(edit)
    model.queued(react)
    (line,) = model.conversations["g"].lines()
    assert (line.text, line.state, line.reactions) == ("second", "queued", ("+x…",))
    assert model.waiting() == 2
    model.apply(Stored(edit, Ack(cseq=1, conv="g", seq=2, at=9)))
    model.apply(SendRefused(react, "too_many_reactions", "50 kinds"))
    (line,) = model.conversations["g"].lines()
    assert (line.text, line.state, line.reactions, line.edited) == ("second", "stored", (), True)
    delete = waiting("d", t="delete", seq=1)
    model.queued(delete)
    assert lines(model) == [("(deleted)", "queued")]
    model.apply(Stored(delete, Ack(cseq=3, conv="g", seq=3, at=9)))
    assert lines(model) == [("(deleted)", "stored")]


def test_marks_stay_as_they_are_while_a_change_waits() -> None:
    """A waiting reaction says so itself; a waiting edit waits, and claims no reader of what nobody has yet."""
    model = Model("alice")
    model.listed([ConversationItem("g", "dm", "", ("alice", "bob"), 0, None, 0, 0, 0)])
    model.apply(message(1, "alice"))
    model.apply(Receipt(conv="g", user="bob", delivered=1, read=1))
    model.queued(waiting("r", t="react", seq=1, emoji="x"))
    (line,) = model.conversations["g"].lines()
    assert (line.state, line.reactions) == ("read", ("+x…",))
    model.queued(waiting("e", t="edit", seq=1, body="second"))
    (line,) = model.conversations["g"].lines()
    assert (line.state, line.seen) == ("queued", ())


def test_who_has_left_is_not_counted_among_those_who_are_there() -> None:
    """The title counts members, and oneself only while one is one of them."""
    model = Model("alice")
    model.apply(ConnectionChanged("live"))
    model.listed([ConversationItem("g", "group", "G", ("alice", "bob"), 0, None, 0, 0, 0)])
    model.apply(Presence(user="bob", status="online"))
    chat = model.conversations["g"]
    assert "(2 members, 2 online)" in title_text(model, chat, Style())
    model.apply(message(1, "alice", kind="left", user="alice"))
    assert "(1 members, 1 online)" in title_text(model, chat, Style())


def test_marks_of_the_others_are_shown() -> None:
    """Stored, delivered and read once all others have it; who has read how far stands at the newest such message."""
    model = Model("alice")
    for seq in (1, 2, 3):
        model.apply(message(seq, "alice"))
    model.joined_by("g", [Member("alice", "owner"), Member("bob", "member", 1, 1, 0), Member("carol", "member", 1, 0, 0)])
    states = [line.state for line in model.conversations["g"].lines()]
    assert states == ["stored", "stored", "stored"]
    model.apply(Receipt(conv="g", user="bob", delivered=3, read=2))
    model.apply(Receipt(conv="g", user="carol", delivered=2, read=1))
    shown = [(line.state, line.seen) for line in model.conversations["g"].lines()]
    assert shown == [("read", ("carol",)), ("delivered", ("bob",)), ("stored", ())]
    model.apply(Receipt(conv="g", user="carol", delivered=1, read=0))
    assert [line.state for line in model.conversations["g"].lines()] == ["read", "delivered", "stored"]


def test_large_groups_have_counts() -> None:
    """A receipt with ``seq`` is about one message of one's own."""
    model = Model("alice")
    model.apply(message(1, "alice"))
    model.apply(Receipt(conv="g", user="alice", delivered=200, read=7, seq=1))
    assert [line.note for line in model.conversations["g"].lines()] == ["200 have it, 7 read it"]
    assert model.conversations["g"].read == 0


def test_replies_quote_and_make_a_thread() -> None:
    """With the text as it is now; what is not known yet is named as missing, and found by paging."""
    model = Model("alice")
    model.apply(message(5, body="an answer", reply_to=2))
    chat = model.conversations["g"]
    assert ([line.quote for line in chat.lines()], chat.quoted_unknown()) == (["(an earlier message)"], [2])
    model.paged(Page("g", (message(2, body="a question"), message(3), message(4, body="more", reply_to=5)), 5, more=True))
    model.apply(message(6, kind="edit", target=2, body="a better question", type="text"))
    assert [line.quote for line in chat.lines() if line.seq == 5] == ["bob: a better question"]
    assert [line.seq for line in chat.lines(thread=2)] == [2, 4, 5]


def test_an_older_place_is_shown_until_it_meets_the_end() -> None:
    """Around an anchor only what is known there is shown; when paging closes the gap the end is shown again."""
    model = Model("alice")
    for seq in (20, 21):
        model.apply(message(seq))
    chat = model.conversations["g"]
    chat.anchor = 10
    model.paged(Page("g", tuple(message(seq) for seq in range(8, 13)), 21, more=True))
    assert [line.seq for line in chat.lines()] == [8, 9, 10, 11, 12]
    assert not chat.complete
    model.paged(Page("g", tuple(message(seq) for seq in range(13, 20)), 21, more=True), back=False)
    assert (chat.anchor, [line.seq for line in chat.lines()]) == (None, list(range(8, 22)))


def test_presence_and_typing_end_with_the_connection() -> None:
    """What was true before a loss is not claimed after it; a message ends its writer's typing."""
    model = Model("alice")
    model.apply(Presence(user="bob", status="online"))
    for user in ("bob", "carol"):
        model.apply(TypingNotice(conv="g", user=user, on=True))
    model.apply(message(1, "bob"))
    assert (model.status("bob"), model.typists("g")) == ("online", ["carol"])
    model.apply(TypingNotice(conv="g", user="carol", on=False))
    assert model.typists("g") == []
    model.apply(TypingNotice(conv="g", user="carol", on=True))
    model.apply(ConnectionChanged("offline"))
    assert (model.status("bob"), model.typists("g")) == ("", [])


def test_the_open_conversation_and_the_list_are_watched() -> None:
    """Members of what is open first, then the 1:1s, never oneself, never more than the protocol's bound."""
    model = Model("alice")
    for name in ("bob", "carol"):
        model.listed([ConversationItem(f"dm-{name}", "dm", "", ("alice", name), 1, message(1), 0, 0, 0)])
    members = tuple(f"user{number}" for number in range(600))
    model.listed([ConversationItem("g", "group", "G", (*members, "alice"), 1, message(1), 0, 0, 0)])
    assert set(model.watched()) == {"bob", "carol"}
    model.show("g")
    assert (len(model.watched()), model.watched()[0], "alice" in model.watched()) == (500, "user0", False)
