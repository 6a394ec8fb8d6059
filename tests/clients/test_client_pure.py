"""The pure parts beside the outbox: backoff, positions, endpoints, the terminal's text and commands."""

from __future__ import annotations

import random
import unicodedata
from typing import TYPE_CHECKING

import pytest
from chatd_client import endpoint
from chatd_client.backoff import Backoff
from chatd_client.passing import MAX_KEPT, MAX_MARKS_A_TICK, Passing
from chatd_client.stream import Admission, Positions
from chatd_protocol.messages import Delivered, Heartbeat, Read, Typing, Watch
from chatd_terminal.commands import Command, Query, Say, duration_s, mentions, names, parse, query
from chatd_terminal.completion import Cycle, own_candidates, wanted
from chatd_terminal.emoji import EMOJI, QUICK, emoji
from chatd_terminal.markup import Style
from chatd_terminal.plain_text import plain, steady
from chatd_terminal.settings import Settings, read_settings
from chatd_terminal.themes import THEMES, palette
from chatd_terminal.typing_lease import TypingLease
from hypothesis import given
from hypothesis import strategies as st

if TYPE_CHECKING:
    from pathlib import Path


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
    assert parse("/rename Bob's day") == Command("rename", ("Bob's day",))
    for wrong in ("/dm", "/dm a b", "/what", "/"):
        with pytest.raises(ValueError, match="/"):
            parse(wrong)


def said(passing: Passing, now: float) -> list[object]:
    passing.tick(now)
    return list(passing.take(now)[0])


def test_marks_are_coalesced_and_said_again_when_they_may_be_lost() -> None:
    """The highest of each conversation, once; again after a lost connection or a refusal within ten seconds."""
    passing = Passing()
    for seq in (3, 9, 5):
        passing.mark(Read, "g", seq)
    assert said(passing, 0) == [Read(conv="g", seq=9)]
    assert said(passing, 1) == []
    passing.disconnected()
    passing.welcomed()
    assert said(passing, 2) == [Read(conv="g", seq=9)]
    passing.refused(3, 5)
    assert said(passing, 7) == []
    assert passing.take(7) == ([], 8)
    assert said(passing, 8) == [Read(conv="g", seq=9)]
    assert said(passing, 30) == []
    passing.disconnected()
    assert said(passing, 31) == []


def test_what_is_said_in_passing_is_bounded() -> None:
    """So many marks in a tick, so many kept; typing of the last moment only; what is watched in every session."""
    passing = Passing()
    for number in range(MAX_KEPT + 500):
        passing.mark(Delivered, f"g{number}", 1)
    assert len(said(passing, 0)) == MAX_MARKS_A_TICK
    assert sum(len(said(passing, 1)) for _ in range(100)) == MAX_KEPT - MAX_MARKS_A_TICK
    passing.watch(["bob"])
    passing.typing("g", True)
    passing.typing("g", False)
    assert said(passing, 100) == [Watch(users=["bob"]), Typing(conv="g", on=False)]
    passing.typing("g", True)
    passing.disconnected()
    passing.welcomed()
    assert said(passing, 101) == [Watch(users=["bob"])]


def test_heartbeats_go_on_while_a_refusal_is_waited_out() -> None:
    """Or the server would take the pause for silence; they say when nobody is at the screen."""
    passing = Passing()
    passing.refused(0, 60)
    passing.mark(Read, "g", 1)
    passing.active = False
    passing.beat()
    assert said(passing, 1) == [Heartbeat(active=False)]


def test_typing_is_told_renewed_and_ended() -> None:
    """At the first key, every four seconds, and at the end: sent, pause, another conversation."""
    lease = TypingLease()
    assert lease.typed(0, "g", True) == [("g", True)]
    assert lease.typed(1, "g", True) == []
    assert lease.typed(5, "g", True) == [("g", True)]
    assert lease.typed(6, "g", False) == [("g", False)]
    assert lease.typed(7, "g", True) == [("g", True)]
    assert lease.lapsed(11, "g") == []
    assert lease.lapsed(12, "g") == [("g", False)]
    assert lease.lapsed(13, "g") == []
    assert lease.typed(14, "g", True) == [("g", True)]
    assert lease.typed(15, "h", True) == [("g", False), ("h", True)]
    assert lease.lapsed(16, None) == [("h", False)]


def test_searches_are_parsed() -> None:
    """Words and phrases as they stand, filters taken out, mistakes with words for the user."""
    assert query('lunch "the usual" pre* from:@Bob in:here by:rank') == Query(
        'lunch "the usual" pre*', "here", "bob", order="ranked"
    )
    dated = query("x after:2026-01-31 before:2026-02-01")
    assert (dated.before or 0) - (dated.after or 0) == 86_400_000
    assert query("re:plan").words == "re:plan"
    for wrong in ("from:bob", "x before:yesterday", "x from:Not!Name", "x by:chance"):
        with pytest.raises(ValueError, match=r"."):
            query(wrong)


def test_mentions_are_members_each_once() -> None:
    """The full stop of a sentence is none of a name; an address is no mention; without a list all names are taken."""
    members = ("alice", "bob", "carol.")
    assert mentions("@bob, see @carol. and @Bob and mail@bob.example and @nobody", members) == ["bob", "carol."]
    assert mentions("ask @bob. Or @dave-", ()) == ["bob", "dave"]
    assert mentions("@" + "x" * 33, ()) == []
    assert names(("@Bob", "carol")) == ["bob", "carol"]
    with pytest.raises(ValueError, match="no name"):
        names(("two words",))


def test_durations_and_emoji_are_read() -> None:
    """8h and thumbs; what is neither is told."""
    assert [duration_s(text) for text in ("30m", "8h", "2d")] == [1800, 28_800, 172_800]
    for wrong in ("", "h", "8", "-1h", "0h", "1w", "9999999h"):
        with pytest.raises(ValueError, match="no time"):
            duration_s(wrong)
    assert (emoji("thumbs"), emoji(":heart:"), emoji("🦉")) == ("👍", EMOJI["heart"], "🦉")
    with pytest.raises(ValueError, match="no emoji"):
        emoji("owl")
    assert all(len(sign) == 1 for sign in [*EMOJI.values(), *QUICK])  # one code point: every terminal agrees on its width


@pytest.mark.parametrize(
    ("line", "kind", "text"),
    [
        ("/se", "command", "se"),
        ("/dm al", "name", "al"),
        ("/group Tea bo", "name", "bo"),
        ("/group Te", None, ""),
        ("/react th", "emoji", "th"),
        ("/search x from:b", "name", "b"),
        ("/search in:L", "conversation", "l"),
        ("hello @b", "mention", "b"),
        ("//dm @b", "mention", "b"),
        ("hello b", None, ""),
    ],
)
def test_what_stands_at_the_cursor_is_known(line: str, kind: str | None, text: str) -> None:
    """Commands, names, mentions, emoji and conversations; elsewhere Tab completes nothing."""
    found = wanted(line, len(line))
    assert (found.kind if found else None, found.text if found else "") == (kind, text)


@given(st.text("/@dm bo:", max_size=12), st.integers(0, 12), st.lists(st.text("bo", min_size=1, max_size=4), max_size=5))
def test_completion_changes_nothing_but_the_word(line: str, cursor: int, known: list[str]) -> None:
    """Before and behind the word all stays, but one space; what was typed is a beginning of what comes; and round again."""
    asked = wanted(line, min(cursor, len(line)))
    if asked is None:
        return
    cycle = Cycle(asked, own_candidates(asked, known, known))
    for text, at in (cycle.first(), *(cycle.following() for _ in range(len(cycle.candidates) + 1))):
        assert text[: asked.start] == line[: asked.start]
        assert text[at:].lstrip(" ") == line[asked.end :].lstrip(" ")
        put = text[asked.start : at].strip(" ")
        assert put.removeprefix(asked.before).lower().startswith(asked.text) or put == line[asked.start : asked.end]


def test_text_is_made_steady() -> None:
    """What terminals disagree about is taken apart; letters keep their joiners and marks."""
    assert steady("👩\u200d👩\u200d👧 ❤\ufe0f 👍\U0001f3fd") == "👩👩👧 ❤ 👍"
    assert steady("👩\U0001f3fd\u200d🚀 ❤\ufe0f\u200d🔥") == "👩🚀 ❤🔥"
    for text in ("नमस्ते क्\u200dष", "e\u0301", "漢字", "שלום"):
        assert steady(text) == text
    assert Style(clusters=True).text("❤\ufe0f") == "❤\ufe0f"


def test_settings_are_checked(tmp_path: Path) -> None:
    """File, NO_COLOR and command line, in this order of weight from the least; every theme names the same attributes."""
    environment = {"XDG_CONFIG_HOME": str(tmp_path)}
    assert read_settings(None, environment) == Settings("dark", True)
    assert read_settings(None, environment | {"NO_COLOR": "1"}).theme == "mono"
    (tmp_path / "chatd").mkdir()
    (tmp_path / "chatd/chat.toml").write_text('theme = "light"\nmouse = false\n')
    assert read_settings(None, environment | {"NO_COLOR": "1"}) == Settings("light", False)
    assert read_settings("dark", environment) == Settings("dark", False)
    for wrong in ('theme = "pink"', "mouse = 1", "sound = true", "theme ="):
        (tmp_path / "chatd/chat.toml").write_text(wrong)
        with pytest.raises(ValueError, match=r"chat\.toml"):
            read_settings(None, environment)
    assert len({tuple(entry[0] for entry in palette(theme)) for theme in THEMES}) == 1
