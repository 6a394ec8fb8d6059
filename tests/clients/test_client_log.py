"""The pure model of a conversation: edits, deletes, reactions, pins and threads, in whatever order they come."""

from __future__ import annotations

import random
from typing import Any

from chatd_client import ConversationLog, MessageNow, Reaction, change
from chatd_client.changes import Deleted, Departed, Edited, Pinned, Posted, Reacted
from chatd_client.runs import Runs
from chatd_protocol.messages import Event
from hypothesis import given, settings
from hypothesis import strategies as st

NAMES = ["alice", "bob", "carol"]


def event(seq: int, kind: str = "message", sender: str = "bob", **more: Any) -> Event:
    keys = {"type": "text", "body": f"body {seq}"} if kind == "message" else {}
    return Event(conv="g", seq=seq, at=1000 + seq, sender=sender, kind=kind, **{**keys, **more})


@st.composite
def logs(draw: st.DrawFn) -> list[Event]:
    """A whole log, as a server gives it that takes the bodies of what is deleted out."""
    log: list[Event] = []
    kinds = ["message", "message", "message", "edit", "delete", "reaction", "reaction", "pinned", "joined", "future"]
    for seq in range(1, draw(st.integers(1, 30)) + 1):
        kind = draw(st.sampled_from(kinds))
        messages = [known.seq for known in log if known.kind == "message"]
        more: dict[str, Any] = {}
        if kind in {"edit", "delete", "reaction", "pinned"}:
            if not messages:
                continue
            more["target"] = draw(st.sampled_from(messages))
        if kind == "edit":
            more["body"] = f"edited {seq}"
        if kind == "reaction":
            more["emoji"] = draw(st.sampled_from(["+1", "heart"]))
        if kind in {"reaction", "pinned"} and draw(st.booleans()):
            more["removed"] = True
        if kind == "joined":
            more["user"] = "carol"
        if kind == "message" and messages and draw(st.booleans()):
            more["reply_to"] = draw(st.sampled_from(messages))
        log.append(event(len(log) + 1, kind, draw(st.sampled_from(NAMES)), **more))
    return log


def emptied(log: list[Event]) -> list[Event]:
    """What history gives once the deletes are done."""
    gone = {one.target for one in log if one.kind == "delete"}
    return [
        event(one.seq, one.kind, one.sender, type="deleted", body="", reply_to=one.reply_to)
        if one.kind == "message" and one.seq in gone
        else event(one.seq, one.kind, one.sender, target=one.target, body="")
        if one.kind == "edit" and one.target in gone
        else one
        for one in log
    ]


def plainly(log: list[Event], seq: int) -> tuple[Any, ...] | None:
    """The plain model: one pass over the whole log, in order, for one message."""
    of = next((one for one in log if one.seq == seq and one.kind == "message"), None)
    if of is None:
        return None
    body: Any = of.body
    edited, pinned, deleted = None, False, False
    reactions: dict[str, dict[str, int]] = {}
    for one in log:
        if one.target != seq:
            continue
        if one.kind == "edit":
            body, edited = one.body, one.seq
        elif one.kind == "delete":
            deleted = True
        elif one.kind == "pinned":
            pinned = one.removed is not True
        elif one.kind == "reaction":
            users = reactions.setdefault(str(one.emoji), {})
            users.pop(one.sender, None)
            if one.removed is not True:
                users[one.sender] = one.seq
    if deleted:
        return "", None, True, False, set()
    return body, edited, False, pinned, {(emoji, frozenset(users)) for emoji, users in reactions.items() if users}


def shown(log: ConversationLog, seq: int) -> tuple[Any, ...] | None:
    message = log.message(seq)
    if message is None:
        return None
    reactions = {(one.emoji, frozenset(one.users)) for one in message.reactions}
    return message.body, message.edited, message.deleted, message.pinned, reactions


@settings(max_examples=300)
@given(logs(), st.randoms(use_true_random=False), st.booleans())
def test_order_and_repeats_do_not_matter(log: list[Event], rng: random.Random, late: bool) -> None:
    """Live, replayed and paged in any order and number, before or after the bodies were taken out: each message is what
    the whole log, read once from its beginning, makes of it.
    """
    known = ConversationLog("g")
    came = log + emptied(log) + (emptied(log) if late else log)
    for one in rng.sample(came, len(came)):
        known.apply(one)
    assert [shown(known, seq) for seq in range(len(log) + 2)] == [plainly(log, seq) for seq in range(len(log) + 2)]
    assert known.end() == (range(1, len(log) + 1) if log else None)


@given(logs(), st.integers(1, 30), st.randoms(use_true_random=False))
def test_what_was_forgotten_comes_again_by_paging(log: list[Event], cut: int, rng: random.Random) -> None:
    """Dropping old events and paging them in again loses nothing that was done to them, earlier or later."""
    known = ConversationLog("g")
    for one in log:
        known.apply(one)
    known.drop_below(cut)
    assert set(known.events) == set(range(cut, len(log) + 1))
    for one in rng.sample(log, len(log)):
        known.apply(one)
    assert [shown(known, one.seq) for one in log] == [plainly(log, one.seq) for one in log]


@given(logs(), st.randoms(use_true_random=False))
def test_what_a_search_shows_agrees_with_the_log(log: list[Event], rng: random.Random) -> None:
    """A message as it is now, in between its events, before or after them, never shows an older text."""
    known = ConversationLog("g")
    whole = ConversationLog("g")
    for one in log:
        whole.apply(one)
    found = [whole.message(one.seq) for one in log]
    hits = [
        MessageNow(event(one.seq, "message", one.sender, body=one.body, type=one.type), one.edited)
        for one in found
        if one is not None and not one.deleted
    ]
    for one in rng.sample([*hits, *log], len(hits) + len(log)):
        if isinstance(one, MessageNow):
            known.apply_now(one)
            now = known.message(one.event.seq)
            assert now is None or now.deleted or now.body == one.event.body
        else:
            known.apply(one)
    assert [shown(known, one.seq) for one in log] == [plainly(log, one.seq) for one in log]


@given(logs(), st.integers(0, 31))
def test_unread_and_threads_are_functions_of_the_log(log: list[Event], mark: int) -> None:
    """I10 over the whole log; a thread is its root and all that replies to it, at whatever depth."""
    known = ConversationLog("g")
    for one in reversed(log):
        known.apply(one)
    gone = {one.target for one in log if one.kind == "delete"}
    assert known.unread("alice", mark) == [
        one.seq
        for one in log
        if one.kind == "message" and one.sender != "alice" and one.seq > mark and one.seq not in gone
    ]
    for root in [one.seq for one in log if one.kind == "message"]:
        within = {root}
        for one in log:
            if one.kind == "message" and one.reply_to in within:
                within.add(one.seq)
        assert known.thread(root) == sorted(within)


@given(st.lists(st.integers(1, 40), max_size=60), st.integers(1, 41))
def test_runs_are_the_gap_free_stretches(numbers: list[int], cut: int) -> None:
    """Against a plain set, before and after dropping."""
    runs, plain = Runs(), set(numbers)
    for number in numbers:
        runs.add(number)
    for _ in range(2):
        for number in range(42):
            expected = None
            if number in plain:
                low = high = number
                while low - 1 in plain:
                    low -= 1
                while high + 1 in plain:
                    high += 1
                expected = range(low, high + 1)
            assert runs.around(number) == expected
        runs.drop_below(cut)
        plain = {number for number in plain if number >= cut}


def test_a_deleted_body_is_not_kept() -> None:
    """Whichever way round it comes, nothing of the text stays in memory."""
    for order in ([1, 2, 3], [3, 2, 1], [2, 3, 1], [1, 3, 2]):
        log = {1: event(1, body="secret"), 2: event(2, "edit", target=1, body="secret too"), 3: event(3, "delete", target=1)}
        known = ConversationLog("g")
        for seq in order:
            known.apply(log[seq])
        assert "secret" not in repr(known.events) + repr(known._edits)
        message = known.message(1)
        assert message is not None
        assert (message.deleted, message.body, message.type) == (True, "", "deleted")


def test_reactions_are_in_the_order_in_which_they_were_given() -> None:
    """Grouped by emoji, the first given first; taken back, it is gone."""
    known = ConversationLog("g")
    known.apply(event(1))
    for seq, sender, emoji in ((2, "bob", "x"), (3, "alice", "y"), (4, "alice", "x")):
        known.apply(event(seq, "reaction", sender, target=1, emoji=emoji))
    message = known.message(1)
    assert message is not None
    assert message.reactions == (Reaction("x", ("bob", "alice")), Reaction("y", ("alice",)))
    known.apply(event(5, "reaction", "alice", target=1, emoji="y", removed=True))
    assert known.message(1).reactions == (Reaction("x", ("bob", "alice")),)  # type: ignore[union-attr]


def test_events_are_typed_changes() -> None:
    """One class for each kind, with its own keys; what is unknown or lacks its keys is none."""
    assert isinstance(change(event(1, reply_to=7, mentions=["bob"])), Posted)
    assert change(event(2, "edit", target=1, body="x")) == Edited("g", 2, 1002, "bob", 1, "x")
    assert change(event(3, "delete", target=1)) == Deleted("g", 3, 1003, "bob", 1)
    assert change(event(4, "reaction", target=1, emoji="+")) == Reacted("g", 4, 1004, "bob", 1, "+", False)
    assert change(event(5, "pinned", target=1, removed=True)) == Pinned("g", 5, 1005, "bob", 1, True)
    assert change(event(6, "left", user="carol")) == Departed("g", 6, 1006, "bob", "carol")
    for odd in (event(7, "edit", body="x"), event(8, "reaction", target=1), event(9, "joined"), event(9, "future")):
        assert change(odd) is None
