"""Whatever keys are pressed, in whatever order and on whatever size of screen: nothing breaks, and nothing is sent that
the server would not read.
"""

from __future__ import annotations

import random
from typing import Any

import pytest
import trio
from chatd_client import open_client
from chatd_terminal.account import Account
from chatd_terminal.app import Terminal
from chatd_terminal.settings import Settings

KEYS = [
    "up", "down", "left", "right", "home", "end", "page up", "page down", "tab", "shift tab", "enter", "esc", "backspace",
    "delete", "f1", "f2", "ctrl up", "ctrl down", "meta up", "ctrl n", "ctrl p", "ctrl a", "ctrl e", "ctrl k", "ctrl u",
    "ctrl w", "ctrl left", "ctrl right", "meta b", "meta f", "meta enter", "begin paste", "end paste", "focus in",
    "focus out", "insert", "f12", "window resize", *"redtpo+123456/@ xyn漢\u0301👩",
]  # fmt: skip
LINES = ["/help", "/members", "/search one", "/pins", "/thread", "/dm bob", "/dm nobody", "/edit mended", "/react heart",
         "/password", "/delete", "/reply so", "/devices", "/mute 1h", "/privacy", "/limits", "/blocked", "//",
         "/", "hello @bob"]  # fmt: skip


@pytest.mark.parametrize("seed", range(4))
async def test_no_key_breaks_the_screen(server: Any, seed: int) -> None:
    """Random keys, clicks, lines and sizes against a conversation with everything in it."""
    chance = random.Random(seed)
    fill(server)
    with trio.fail_after(60):
        async with open_client(server.url, token="t", device="laptop") as client, trio.open_nursery() as nursery:
            terminal = Terminal(client, "alice", Settings(), Account(server.url, "alice", "secret"))
            nursery.start_soon(terminal._follow)
            nursery.start_soon(terminal._errands.run)
            nursery.start_soon(terminal._errands.run_completions)
            await client.wait_for("live")
            screen = terminal._screen
            for _ in range(600):
                size = chance.choice([(80, 24), (80, 24), (80, 24), (50, 12), (20, 6), (3, 3), (1, 1)])
                press(screen, size, chance)
                screen.redraw(0.0)
                screen.render(size, True)
                terminal._look_around()
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
    assert len(server.hellos) == 1  # nothing was sent that ends a session


def press(screen: Any, size: tuple[int, int], chance: random.Random) -> None:
    match chance.randrange(10):
        case 0:
            column, row = chance.randrange(size[0]), chance.randrange(size[1])
            screen.mouse_event(size, "mouse press", chance.choice([1, 4, 5]), column, row, True)
        case 1:
            screen.keypress(size, "ctrl u")
            for character in chance.choice(LINES):
                screen.keypress(size, character)
            screen.keypress(size, "enter")
        case _:
            screen.keypress(size, chance.choice(KEYS))


def fill(server: Any) -> None:
    for number in range(1, 60):
        reply = {"reply_to": number - 3} if number % 7 == 0 else {}
        server.append("dm-bob", chr(97 + number % 2) + ("lice" if number % 2 == 0 else "ob"), f"one {number} 漢字", **reply)
    server.append("dm-bob", "bob", kind="reaction", target=58, emoji="👍")
    server.append("dm-bob", "alice", kind="edit", target=56, body="two\nlines")
    server.append("dm-bob", "alice", kind="delete", target=54)
    server.append("dm-carol", "carol", "hello @alice", mentions=["alice"])
