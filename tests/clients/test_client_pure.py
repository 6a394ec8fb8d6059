"""The pure parts beside the outbox: backoff, positions, endpoints, the terminal's text, commands and view."""

from __future__ import annotations

import random
import unicodedata

import pytest
from chatd_client import ConversationItem, Hole, Page, Stored, endpoint
from chatd_client.backoff import Backoff
from chatd_client.outbox import Queued
from chatd_client.stream import Admission, Positions
from chatd_protocol.messages import Ack, Event, Receipt
from chatd_terminal.commands import Command, Say, parse
from chatd_terminal.plain_text import plain
from chatd_terminal.view_model import Model
from hypothesis import given
from hypothesis import strategies as st


@given(st.integers(0, 2**32), st.integers(1, 60))
def test_backoff_stays_in_its_bounds(seed: int, failures: int) -> None:
    """Each delay lies below a bound that doubles from 1 s to 60 s, and success starts anew."""
    backoff = Backoff(random.Random(seed))
    delays = [backoff.next_delay() for _ in range(failures)]
    assert all(0 <= delay <= min(60, 2**number) for number, delay in enumerate(delays))
    backoff.reset()
    assert backoff.next_delay() <= 1


class Widest(random.Random):
    """Chance that says where it could have fallen."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[float, float]] = []

    def uniform(self, a: float, b: float) -> float:
        self.asked.append((a, b))
        return b


def test_backoff_has_full_jitter() -> None:
    """Even over [0, bound] with the bounds of the specification; a server's wish is a floor below jitter."""
    rng = Widest()
    backoff = Backoff(rng)
    for _ in range(8):
        backoff.next_delay()
    assert rng.asked == [(0, bound) for bound in (1, 2, 4, 8, 16, 32, 60, 60)]
    assert backoff.next_delay(90_000) == 180
    backoff.reset()
    assert backoff.next_delay(300) == 0.3 + 1


@given(st.integers(0, 2**32), st.integers(1, 10**9), st.integers(0, 20))
def test_the_server_sets_the_least_wait(seed: int, wait_ms: int, failures: int) -> None:
    """Never before ``retry_after_ms`` (an hour at most), with jitter on top."""
    backoff = Backoff(random.Random(seed))
    for _ in range(failures):
        backoff.next_delay()
    least = min(wait_ms / 1000, 3600)
    assert least <= backoff.next_delay(wait_ms) <= least + max(least, 60)


def test_positions_tell_repeats_and_holes() -> None:
    """Next, repeat, hole; one's own beginning is no hole."""
    positions = Positions({"g": 5})
    assert positions.judge("g", 6, begins=False) is Admission.NEXT
    assert positions.judge("g", 5, begins=False) is Admission.REPEAT
    assert positions.judge("g", 8, begins=False) is Admission.AFTER_HOLE
    assert positions.judge("g", 8, begins=True) is Admission.NEXT
    assert positions.judge("new", 40, begins=False) is Admission.NEXT


@pytest.mark.parametrize(
    ("url", "socket"),
    [
        ("http://127.0.0.1:8080", "ws://127.0.0.1:8080/ws"),
        ("ws://h:1/ws", "ws://h:1/ws"),
        ("h:8080", "ws://h:8080/ws"),
        ("https://chat.example/", "wss://chat.example/ws"),
        ("https://h/chat/ws", "wss://h/chat/ws"),
        ("http://[::1]:9", "ws://[::1]:9/ws"),
    ],
)
def test_any_url_of_a_server_names_its_socket(url: str, socket: str) -> None:
    """http, ws, with and without the path."""
    assert endpoint(url).websocket_url == socket


@given(st.text(st.characters(), max_size=80))
def test_no_text_commands_the_terminal(text: str) -> None:
    """Whatever was received, no control, format or surrogate character is left, but joiners that emoji need."""
    assert not [
        character
        for character in plain(text)
        if unicodedata.category(character) in {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"} and character not in "\u200d\u200c"
    ]


def test_ordinary_text_passes_unchanged() -> None:
    """Other scripts, wide characters and emoji are no attack; marks piled up are cut."""
    for text in ("grüße", "漢字かな", "नमस्ते", "שלום", "👩\u200d👩\u200d👧 🎉"):
        assert plain(text) == text
    assert plain("a\nb\tc", lines=True) == "a\nb    c"
    assert len(plain("e" + "\u0301" * 500)) == 5


def test_lines_are_parsed() -> None:
    """Messages, commands, quotes, and mistakes with words for the user."""
    assert parse("hello /dm") == Say("hello /dm")
    assert parse("//dm") == Say("/dm")
    assert parse('/group "Tea time" bob @carol') == Command("group", ("Tea time", "bob", "@carol"))
    assert parse("/rename Bob's day") == Command("rename", ("Bob's", "day"))
    for wrong in ("/dm", "/dm a b", "/what", "/"):
        with pytest.raises(ValueError, match="/help"):
            parse(wrong)


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
    assert whole.conversations["g"].unread("alice") == expected(log, deleted)

    head = [event for event in log if event.seq <= listed]
    part = Model("alice")
    gone: set[object] = {event.target for event in head if event.kind == "delete"}
    counted = expected(head, gone)
    part.listed([ConversationItem("g", "group", "G", (), len(head), head[-1] if head else None, read, 0, counted)])
    late_deletes = False
    for event in log[len(head) :]:
        late_deletes = late_deletes or (event.kind == "delete" and (event.target or 0) <= len(head))
        part.apply(event)
    if not late_deletes:
        assert part.conversations["g"].unread("alice") == expected(log, deleted)
    part.paged(Page("g", tuple(log), len(log), more=False))
    assert part.conversations["g"].unread("alice") == expected(log, deleted)


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
    assert model.conversations["g"].unread("alice") == 2
    model.apply(Receipt(conv="g", user="alice", delivered=2, read=2))
    assert model.conversations["g"].unread("alice") == 0


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
    assert model.conversations["g"].oldest() is None
    model.paged(Page("g", (message(1), message(2, "alice")), 2, more=False))
    assert [line.seq for line in model.conversations["g"].lines()] == [1, 2]
