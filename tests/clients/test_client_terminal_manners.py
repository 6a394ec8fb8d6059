"""How the screen answers to slips of its user, through a real pseudo-terminal: keys typed too early or twice, questions,
orders about oneself, and what cannot be done now.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, cast
from unittest.mock import MagicMock

import pytest
import trio
from chatd_protocol.messages import Block, Create, Delete, Edit, Leave, Send
from chatd_terminal.commands import parse, unquoted
from chatd_terminal.markup import links
from chatd_terminal.screen import Chat
from chatd_terminal.view_model import Model
from chatd_terminal.words import readable

from tests.clients.real_screen import DOWN, ESC, UP, leave, terminal
from tests.clients.scripted_server import sent

if TYPE_CHECKING:
    from pathlib import Path

F2 = "\x1bOQ"


async def test_esc_and_the_next_key_in_one_piece_while_composing(server: Any, tmp_path: Path) -> None:
    """The edit is left and the character typed; Esc and F2 select. Alt-B still moves by words."""
    server.append("dm-bob", "alice", "mine")
    async with terminal(server, tmp_path) as screen:
        await screen.shows("alice: mine", "live")
        screen.type(UP)
        await screen.shows("edit> mine")
        screen.type(ESC + "new\r")
        await screen.shows("alice: new ✓")
        screen.type(UP)
        await screen.shows("edit> new")
        screen.type(ESC + F2)
        await screen.shows("r reply")
        screen.type(ESC)
        await screen.hides("r reply")
        screen.type(UP)
        await screen.shows("edit> new")
        screen.type(ESC + "bbrand \r")
        await screen.shows("brand new (edited) ✓")
        await leave(screen)
    assert server.bodies("dm-bob") == ["mine", "new"]
    assert [edit.body for edit in sent(server, Edit)] == ["brand new"]


async def test_what_is_typed_before_a_question_is_no_answer(server: Any, tmp_path: Path) -> None:
    """Nor a message; on the question only y, n, Enter and Esc count."""
    server.append("dm-bob", "alice", "mine")
    async with terminal(server, tmp_path) as screen:
        await screen.shows("alice: mine", "live")
        screen.type("/delete\ryes, hello\r")
        await screen.shows("Delete your message", "y/N")
        screen.type("xq?")
        screen.type("\r")
        await screen.hides("y/N")
        screen.type("/delete\r")
        await screen.shows("y/N")
        screen.type("y")
        await screen.shows("alice: (deleted)")
        await leave(screen)
    assert not sent(server, Send)
    assert len(sent(server, Delete)) == 1


async def test_leaving_a_group_is_asked_and_counted(server: Any, tmp_path: Path) -> None:
    """No keeps one in; after yes the title does not count oneself among those who are there."""
    server.groups["g1"] = Create(id=1, title="Team", members=["bob"])
    server.append("g1", "bob", kind="created", title="Team", members=["alice", "bob", "carol"])
    async with terminal(server, tmp_path) as screen:
        await screen.shows("▸Team", "live")
        screen.type("/leave\r")
        await screen.shows("Leave 'Team'?", "y/N")
        screen.type("n")
        await screen.hides("y/N")
        assert not sent(server, Leave)
        screen.type("/leave\r")
        await screen.shows("y/N")
        screen.type("y")
        await server.until(lambda: sent(server, Leave))
        await leave(screen)


async def test_a_conversation_with_oneself(server: Any, tmp_path: Path) -> None:
    """It has one's own name, and cannot be blocked."""
    async with terminal(server, tmp_path) as screen:
        await screen.shows("live")
        screen.type("/dm alice\r")
        await screen.shows("▸alice (you)")
        screen.type("a note\r")
        await screen.shows("a note ✓", "▸alice (you)")
        screen.type("/block alice\r")
        await screen.shows("that is you")
        await leave(screen)
    assert not sent(server, Block)


async def test_keys_of_an_edit(server: Any, tmp_path: Path) -> None:
    """↓ after ↑ goes back; Ctrl-U leaves; an emptied one is not sent, and says what to do."""
    for body in ("first", "second", "third"):
        server.append("dm-bob", "alice", body)
    async with terminal(server, tmp_path) as screen:
        await screen.shows("alice: third", "live")
        screen.type(UP + UP + UP)
        await screen.shows("edit> first")
        screen.type(DOWN)
        await screen.shows("edit> second")
        screen.type("\x17\r")
        await screen.shows("an edit cannot be empty", "edit>")
        screen.type("\x15")
        await screen.hides("edit>")
        await leave(screen)
    assert not sent(server, Edit)


@pytest.mark.parametrize("question", ["/search hello", "/devices", "/privacy", "/limits", "/blocked", "/pins"])
async def test_a_question_without_a_connection_says_so(server: Any, tmp_path: Path, question: str) -> None:
    """At once, and it is given back."""
    server.append("dm-bob", "bob", "hello")
    async with terminal(server, tmp_path) as screen:
        await screen.shows("bob: hello", "live")
        server.swallow = lambda message: True
        await server.cut()
        await screen.shows("offline, next try")
        screen.type(f"{question}\r")
        await screen.shows("that needs the server", f"> {question}")
        await leave(screen)


async def test_names_are_there_without_a_server(server: Any, tmp_path: Path) -> None:
    """The list of the last run, with names; /dm finds the conversation; what the server does not list any more goes."""
    server.append("gone", "bob", "hello")
    server.groups["gone"] = Create(id=1, title="Old club", members=["bob"])
    server.append("dm-bob", "bob", "hello")
    async with terminal(server, tmp_path) as screen:
        await screen.shows(" bob", "Old club", "live")
        await leave(screen)
    assert (tmp_path / "names").stat().st_mode & 0o777 == 0o600
    server.swallow = lambda message: True
    del server.logs["gone"]
    async with terminal(server, tmp_path) as screen:
        await screen.shows(" bob", "Old club", "connecting")
        screen.type("/dm bob\rhello again\r")
        await screen.shows("▸bob", "hello again …")
        assert screen.text().count("bob") == 2  # the list and the title
        server.swallow = lambda message: False
        await server.cut()
        await screen.shows("hello again ✓")
        await screen.hides("Old club")
        await leave(screen)
    assert server.bodies("dm-bob") == ["hello", "hello again"]


async def test_a_link_is_opened_after_a_question(server: Any, tmp_path: Path) -> None:
    """By the desktop's own program, whole, and only after a yes; without a desktop it is shown."""
    opened, program = tmp_path / "opened", tmp_path / "bin" / "xdg-open"
    program.parent.mkdir()
    os.mkfifo(opened)
    program.write_text(f'#!/bin/sh\nprintf %s "$1" > {opened}\n')
    program.chmod(0o755)
    server.append("dm-bob", "bob", "see https://example.org/one, and (https://example.org/b_(c)?d=e).")
    path = f"{program.parent}{os.pathsep}{os.environ['PATH']}"
    async with terminal(server, tmp_path, DISPLAY=":0", PATH=path) as screen:
        await screen.shows("b_(c)?d=e", "live")
        screen.type(F2)
        await screen.shows("l link")
        screen.type("l")
        await screen.shows("Open https://example.org/one in the browser?")
        screen.type("n")
        await screen.shows("Open https://example.org/b_(c)?d=e in the browser? y/N")
        screen.type("y")
        with trio.fail_after(20):
            link = await trio.to_thread.run_sync(opened.read_text, abandon_on_cancel=True)
        assert link == "https://example.org/b_(c)?d=e"
        await leave(screen)
    async with terminal(server, tmp_path, DISPLAY="", WAYLAND_DISPLAY="") as screen:
        await screen.shows("b_(c)?d=e", "live")
        screen.type(F2 + "l")
        await screen.shows(" links ·", "│https://example.org/one\n", "│https://example.org/b_(c)?d=e\n")
        await leave(screen)


def test_where_a_link_ends() -> None:
    """A closing bracket belongs to it when it has an opening one; a sentence's punctuation does not."""
    text = "(https://a.b/c) https://a.b/(c) https://a.b/(c)). https://a.b/c. https:// http://x https://a.b/c[1], ftp://no"
    assert links(text) == ["https://a.b/c", "https://a.b/(c)", "http://x", "https://a.b/c[1]"]


async def test_tab_knows_roles_and_devices(server: Any, tmp_path: Path) -> None:
    """A role in the third place of /role, a device behind /signout; limits are told in words."""
    async with terminal(server, tmp_path) as screen:
        await screen.shows("live")
        screen.type("/role bob a\t")
        await screen.shows("> /role bob admin")
        screen.type("\x15/signout ph\t")
        await screen.shows("> /signout phone")
        screen.type("\x15/limits\r")
        await screen.shows("messages, edits, deletes and reactions: 59 of 60 left")
        await leave(screen)


def test_a_notice_goes_with_the_next_key_or_by_itself() -> None:
    """Not before there was time to read it; a question stays."""
    screen = Chat(Model("alice"), cast("Any", MagicMock()))
    screen.redraw(100.0)
    screen.note("something happened")
    screen.redraw(101.0)
    screen.keypress((80, 24), "x")
    assert screen.notice
    screen.redraw(104.0)
    screen.keypress((80, 24), "y")
    assert not screen.notice
    screen.note("something else")
    screen.redraw(105.0)
    screen.redraw(126.0)
    assert not screen.notice
    screen.ask("Really?", lambda: None)
    screen.redraw(127.0)
    screen.redraw(200.0)
    assert screen.notice == "Really? y/N"


def test_faults_are_told_in_words() -> None:
    """Without the schema."""
    assert readable("create: Expected `str` of length <= 200 - at `$.title`") == "title: at most 200 characters"
    assert readable("bad_message: Expected `array` of length <= 50 - at `$.mentions`").endswith("mentions: at most 50 entries")
    assert readable("x: Expected 1 to 32 of `a-z 0-9 _ . -` - at `$.members[0]`") == "members: 1 to 32 of a-z 0-9 _ . -"
    assert readable("not here") == "not here"


def test_a_command_with_other_arguments_shows_its_own() -> None:
    """Its own line of usage, and not the whole help."""
    for line, words in (
        ("/role bob", "/role NAME owner.admin.member"),
        ("/dm", "/dm NAME"),
        ("/mute 1h 2h", r"/mute \[30m"),
        ("/leave now", "/leave stands alone"),
    ):
        with pytest.raises(ValueError, match=words):
            parse(line)


def test_a_title_keeps_the_quotes_within_it() -> None:
    """Those around all of it go."""
    assert [unquoted(title) for title in ('"Tea time"', 'The "big" one', '"a" and "b"', '"')] == [
        "Tea time", 'The "big" one', '"a" and "b"', '"',
    ]  # fmt: skip
    assert parse('/rename The "big" one').arguments == ('The "big" one',)  # type: ignore[union-attr]
