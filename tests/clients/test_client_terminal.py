"""The terminal client as a program: a real subprocess on a real pseudo-terminal, against the scripted server."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any

import trio
from chatd_protocol import codes
from chatd_protocol.messages import Conversations, Read, Send

from tests.clients.real_screen import END, PAGE_DOWN, PAGE_UP, PROGRAM, terminal

if TYPE_CHECKING:
    from pathlib import Path


async def test_a_conversation_from_start_to_quit(server: Any, tmp_path: Path) -> None:
    """Type to a new 1:1, see it stored, see the answer, which is then read; leave with status 0."""
    async with terminal(server, tmp_path) as screen:
        await screen.shows("live")
        screen.type("/dm bob\r")
        screen.type("hello from the keyboard\r")
        await screen.shows("hello from the keyboard ✓")
        await server.say("dm-bob", "bob", "and back 漢字")
        await screen.shows("bob: and back 漢字")
        await server.until(lambda: Read(conv="dm-bob", seq=2) in server.marks)
        screen.type("/quit\r")
        assert await screen.ends() == 0
    assert server.bodies("dm-bob") == ["hello from the keyboard", "and back 漢字"]


async def test_what_is_typed_offline_is_sent_on_return(server: Any, tmp_path: Path) -> None:
    """While the server is away the screen says so and takes messages; on return they are sent."""
    async with terminal(server, tmp_path) as screen:
        await screen.shows("live")
        screen.type("/dm bob\r")
        server.swallow = lambda message: True
        await server.cut()
        await screen.shows("connecting")
        screen.type("typed offline\r")
        await screen.shows("typed offline …")
        server.swallow = lambda message: False
        await server.cut()
        await screen.shows("typed offline ✓")
        screen.type("/quit\r")
        assert await screen.ends() == 0
    assert server.bodies("dm-bob") == ["typed offline"]


async def test_escape_sequences_are_not_obeyed(server: Any, tmp_path: Path) -> None:
    """A hostile body and a hostile title reach the screen as visible marks, never as commands to the terminal."""
    server.append("dm-bob", "bob", "\x1b]0;owned\x07\x1b[2Jshown\u202e\x9b31m")
    async with terminal(server, tmp_path) as screen:
        await screen.shows("\ufffd]0;owned\ufffd\ufffd[2Jshown\ufffd\ufffd31m")
        assert b"]0;owned\x07" not in screen.raw


async def test_history_is_loaded_when_scrolling_up(server: Any, tmp_path: Path) -> None:
    """PgUp beyond the first page fetches older ones, down to the first message; End leads back."""
    for number in range(1, 251):
        server.append("dm-bob", "bob", f"number <{number}>")
    async with terminal(server, tmp_path) as screen:
        await screen.shows("number <250>")
        for _ in range(20):
            screen.type(PAGE_UP)
            await screen.draws()
        while "number <1>" not in screen.text():
            screen.type(PAGE_UP)
            await screen.draws()
        screen.type(END)
        await screen.shows("number <250>")
        screen.type("/quit\r")
        assert await screen.ends() == 0


async def test_a_group_and_a_resize(server: Any, tmp_path: Path) -> None:
    """``/group`` opens the new group; a narrow terminal hides the list, and shows it again when it is wide."""
    async with terminal(server, tmp_path) as screen:
        await screen.shows("live")
        screen.type('/group "Tea time" bob carol\r')
        await screen.shows("Tea time")
        assert server.groups["g1"].members == ["bob", "carol"]
        screen.resize(40, 12)
        screen.process.send_signal(signal.SIGWINCH)
        screen.type("narrow now\r")
        await screen.shows("narrow now ✓")
        screen.resize(100, 30)
        screen.process.send_signal(signal.SIGWINCH)
        await screen.shows("▸Tea time")
        screen.type("/nonsense\r")
        await screen.shows("no command /nonsense")
        screen.type("\x15/quit\r")  # Ctrl-U: what was refused is given back to be mended
        assert await screen.ends() == 0


async def test_what_is_typed_behind_group_goes_to_the_group(server: Any, tmp_path: Path) -> None:
    """Not to the conversation that is open until the group is made: the line waits in the input."""
    server.append("dm-bob", "bob", "open this one")
    async with terminal(server, tmp_path) as screen:
        await screen.shows("▸bob")
        screen.type("/group Tea bob\rfor tea only\r")
        await screen.shows("▸Tea")
        screen.type("\r")
        await screen.shows("for tea only ✓")
        sent = [message.to for message in server.arrived if isinstance(message, Send)]
        assert sent == ["g1"]


async def test_help_is_a_page_of_its_own(server: Any, tmp_path: Path) -> None:
    """On a small screen the help is scrolled to its end and left with Esc, and the conversation is there again."""
    server.append("dm-bob", "bob", "said before")
    async with terminal(server, tmp_path, size=(40, 8)) as screen:
        await screen.shows("said before")
        screen.type("/help\r")
        await screen.shows("/dm NAME")
        screen.type(PAGE_DOWN * 30)
        await screen.shows("tries to connect")
        screen.type("\x1b")
        await screen.shows("said before")
        screen.type("/quit\r")
        assert await screen.ends() == 0


async def test_tiny_terminals_and_long_lines_are_survived(server: Any, tmp_path: Path) -> None:
    """Down to one column and row nothing breaks; a line longer than the screen leaves the messages in sight."""
    server.append("dm-bob", "bob", "漢字" * 300 + " seen")
    async with terminal(server, tmp_path, size=(50, 12)) as screen:
        await screen.shows("seen")
        screen.type("typed " * 300)
        for size in ((5, 2), (1, 1), (2, 1), (50, 12)):
            screen.resize(*size)
            screen.process.send_signal(signal.SIGWINCH)
            await screen.draws()
        screen.type("\x15\x0c")
        await screen.shows("seen")
        screen.type("/quit\r")
        assert await screen.ends() == 0


async def test_a_conversation_begun_by_another_gets_its_name(server: Any, tmp_path: Path) -> None:
    """A 1:1 whose first message comes while the screen is up is called by the other's name, and counted."""
    server.append("dm-bob", "bob", "open this one")
    async with terminal(server, tmp_path) as screen:
        await screen.shows("▸bob")
        await server.say("dm-carol", "carol", "first")
        await screen.shows("carol")
        await server.until(lambda: sum(isinstance(message, Conversations) for message in server.arrived) == 2)
        screen.resize(50, 12)
        screen.process.send_signal(signal.SIGWINCH)
        await screen.shows("alice · 1 unread · live")


async def test_a_server_away_at_start(server: Any, tmp_path: Path) -> None:
    """The screen comes up, says why there is no connection and what to do, and connects when the server is there."""
    with trio.socket.socket() as bound:
        await bound.bind(("127.0.0.1", 0))
        server.port = bound.getsockname()[1]
        await begin_without_a_server(server, bound, tmp_path)


async def begin_without_a_server(server: Any, bound: trio.socket.SocketType, state: Path) -> None:
    async with terminal(server, state) as screen, trio.open_nursery() as nursery:
        await screen.shows("No conversation is open")
        await screen.shows("attempts to connect")
        screen.type("/dm bob\rtyped offline\r")
        await screen.shows("typed offline …")
        bound.listen()
        nursery.start_soon(trio.serve_listeners, server.serve, [trio.SocketListener(bound)])
        await screen.shows("typed offline ✓")
        screen.type("/quit\r")
        assert await screen.ends() == 0
        nursery.cancel_scope.cancel()
    assert server.bodies("dm-bob") == ["typed offline"]


async def test_a_new_account_is_offered(server: Any, tmp_path: Path) -> None:
    """An unknown name is asked for a password on the terminal, and may become an account; the password is typed twice. The
    name of the device is kept for its owner alone.
    """
    server.passwords.clear()
    async with terminal(server, tmp_path, password=None) as screen:
        await screen.prompts("Password of alice")
        screen.type("fresh\r")
        await screen.prompts("Create a new account alice? [y/N]")
        screen.type("y\r")
        await screen.prompts("once more: ")
        assert server.passwords == {}
        screen.type("frehs\r")
        await screen.until(lambda: screen.raw.count(b"once more: ") == 2)
        assert b"not the same" in screen.raw
        screen.type("fresh\r")
        await screen.shows("live")
        screen.type("/quit\r")
        assert await screen.ends() == 0
    assert server.passwords == {"alice": "fresh"}
    assert (tmp_path / "device").stat().st_mode & 0o777 == 0o600


async def test_a_name_that_no_account_can_have(server: Any, tmp_path: Path) -> None:
    """Is told before any password is asked for."""
    async with terminal(server, tmp_path, password=None, program=PROGRAM.replace('"alice"', '"Alice!"')) as screen:
        await screen.prompts("'Alice!' is no name: 1 to 32")
        assert await screen.ends() == 1
    assert b"Password" not in screen.raw


async def test_an_answer_of_no_makes_nothing(server: Any, tmp_path: Path) -> None:
    """Without a yes no account is made, and the program ends with status 1; nor with one, where the name is taken."""
    async with terminal(server, tmp_path, password="wrong") as screen:
        await screen.prompts("[y/N]")
        screen.type("\r")
        assert await screen.ends() == 1
    async with terminal(server, tmp_path, password="wrong") as screen:
        await screen.prompts("[y/N]")
        screen.type("y\r")
        await screen.prompts("alice exists: the password was wrong")
        assert await screen.ends() == 1
    assert server.passwords == {"alice": "secret"}


async def test_a_takeover_leaves_the_terminal_in_order(server: Any, tmp_path: Path) -> None:
    """When the server ends the session the screen is restored, and the reason printed."""
    async with terminal(server, tmp_path) as screen:
        await screen.shows("live")
        await server.end(codes.REPLACED)
        assert await screen.ends() == 1
    assert b"the server ended the session: replaced" in screen.raw


async def test_a_message_left_queued_is_sent_by_the_next_start(server: Any, tmp_path: Path) -> None:
    """Killed while offline: the next terminal shows the message as queued and sends it."""
    server.swallow = lambda message: isinstance(message, Send)
    async with terminal(server, tmp_path) as screen:
        await screen.shows("live")
        screen.type("/dm bob\r")
        screen.type("not lost\r")
        await screen.shows("not lost …")
    server.swallow = lambda message: False
    async with terminal(server, tmp_path) as screen:
        await screen.shows("not lost ✓")
    assert server.bodies("dm-bob") == ["not lost"]
