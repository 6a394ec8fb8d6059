"""The pure parts beside the outbox: backoff, positions, endpoints, the terminal's text and commands."""

from __future__ import annotations

import random
import unicodedata

import pytest
from chatd_client import endpoint
from chatd_client.backoff import Backoff
from chatd_client.stream import Admission, Positions
from chatd_terminal.commands import Command, Say, parse
from chatd_terminal.plain_text import plain
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
