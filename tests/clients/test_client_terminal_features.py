"""What one does with messages on the screen, through a real pseudo-terminal: change, answer, find, choose, complete."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from chatd_protocol.messages import (
    Delete,
    Edit,
    Error,
    Find,
    Mute,
    Pin,
    Presence,
    React,
    Receipt,
    Send,
    Typing,
    TypingNotice,
    Watch,
)

from tests.clients.real_screen import CTRL_UP, DOWN, END, ESC, PAGE_UP, UP, leave, terminal
from tests.clients.scripted_server import sent

if TYPE_CHECKING:
    from pathlib import Path


async def test_the_list_counts_and_shows_who_is_there(server: Any, tmp_path: Path) -> None:
    """Unread and mentions beside the names, dots for presence, and the typing line; all of it moves as it happens."""
    server.append("dm-carol", "carol", "for @alice", mentions=["alice"])
    server.append("dm-carol", "carol", "more")
    server.append("dm-bob", "bob", "hello")
    server.append("dm-bob", "bob", "again")
    server.append("dm-bob", "bob", "open this one")
    server.presence = {"carol": Presence(user="carol", status="away", last_seen=1_700_000_000_000)}
    async with terminal(server, tmp_path) as screen:
        await screen.shows("▸bob", "carol             @ (2) ◐")
        await server.tell_all(Presence(user="bob", status="online"))
        await screen.shows(" bob · online")
        await server.until(lambda: {"bob", "carol"} <= set(sent(server, Watch)[-1].users))
        await server.tell_all(TypingNotice(conv="dm-bob", user="bob", on=True))
        await screen.shows("bob is typing…")
        await server.say("dm-bob", "bob", "there")
        await screen.hides("bob is typing…")
        await server.say("dm-carol", "carol", "third")
        await screen.shows("@ (3) ◐")
        screen.type("\x0e")
        await screen.shows("▸carol", "carol · away, last seen 2023-11-14 22:13")
        await screen.hides("(3)")
        await leave(screen)


async def test_marks_go_from_stored_to_read(server: Any, tmp_path: Path) -> None:
    """✓ with the ack, ✓✓ when the other has it, ◉ when the other has read it."""
    server.members["dm-bob"] = [
        {"user": "alice", "role": "member"},
        {"user": "bob", "role": "member", "delivered": 0, "read": 0},
    ]
    server.append("dm-bob", "bob", "hello")
    async with terminal(server, tmp_path) as screen:
        await screen.shows("bob: hello", "live")
        screen.type("answer\r")
        await screen.shows("answer ✓")
        await server.tell_all(Receipt(conv="dm-bob", user="bob", delivered=2, read=1))
        await screen.shows("answer ✓✓")
        await server.tell_all(Receipt(conv="dm-bob", user="bob", delivered=2, read=2))
        await screen.shows("answer ◉")
        await leave(screen)


async def test_edit_with_the_up_key(server: Any, tmp_path: Path) -> None:
    """↑ on an empty line takes one's own last message, ↑ again the one before; Esc leaves it, Enter edits it."""
    for sender, body in (("alice", "first try"), ("alice", "second try"), ("bob", "not mine")):
        server.append("dm-bob", sender, body)
    async with terminal(server, tmp_path) as screen:
        await screen.shows("not mine", "live")
        screen.type(UP)
        await screen.shows("edit> second try")
        screen.type(UP)
        await screen.shows("edit> first try")
        screen.type(DOWN)
        await screen.shows("edit> second try")
        screen.type(DOWN)
        await screen.hides("edit>")
        screen.type(UP)
        await screen.shows("edit> second try")
        screen.type("\x17success\r")
        await screen.shows("alice: second success (edited) ✓")
        assert [(edit.seq, edit.body) for edit in sent(server, Edit)] == [(2, "second success")]
        await server.change("dm-bob", "bob", "edit", target=3, body="bob's, mended")
        await screen.shows("bob's, mended (edited)")
        await leave(screen)


async def test_a_chosen_message_is_answered_deleted_and_reacted_to(server: Any, tmp_path: Path) -> None:
    """Ctrl-↑ chooses; r quotes, 1 reacts, + asks for an emoji by its name, d asks before it deletes; Esc leads back."""
    server.append("dm-bob", "bob", "a question")
    server.append("dm-bob", "alice", "mine to delete")
    async with terminal(server, tmp_path) as screen:
        await screen.shows("mine to delete", "live")
        screen.type(CTRL_UP + UP)
        await screen.shows("r reply")
        await screen.until(lambda: screen.pen_of("a question").background is not None)
        screen.type("1")
        await screen.shows("a question  👍")
        screen.type("+")
        await screen.shows("react to bob>")
        screen.type("hea\t")
        await screen.shows("react to bob> heart")
        screen.type("\r")
        await screen.shows("a question  👍  💗")
        assert [(one.seq, one.emoji, one.remove) for one in sent(server, React)] == [(1, "👍", False), (1, "💗", False)]
        screen.type(CTRL_UP + UP + "1")
        await server.until(lambda: len(sent(server, React)) == 3)
        assert sent(server, React)[-1].remove
        await screen.hides("👍 ")
        screen.type("r")
        await screen.shows("reply to bob>")
        screen.type("an answer\r")
        await screen.shows("┌ bob: a question", "alice: an answer ✓")
        assert sent(server, Send)[-1].reply_to == 1
        screen.type(CTRL_UP + UP + "d")
        await screen.shows("Delete your message 'mine to delete'", "y/N")
        screen.type("n")
        await screen.hides("y/N")
        screen.type("d")
        await screen.shows("y/N")
        screen.type("y")
        await screen.shows("alice: (deleted)")
        assert [one.seq for one in sent(server, Delete)] == [2]
        await leave(screen)


async def test_a_delete_by_another_takes_the_text_off_the_screen(server: Any, tmp_path: Path) -> None:
    """And out of the quotes of it; while away too."""
    server.append("dm-bob", "bob", "the secret")
    server.append("dm-bob", "alice", "what?", reply_to=1)
    async with terminal(server, tmp_path) as screen:
        await screen.shows("bob: the secret", "┌ bob: the secret")
        await server.cut()
        server.append("dm-bob", "bob", kind="delete", target=1)
        await screen.shows("bob: (deleted)", "┌ bob: (deleted)")
        await screen.hides("secret")
        await leave(screen)


async def test_a_thread_alone(server: Any, tmp_path: Path) -> None:
    """/thread shows the root and its replies, also those far above; what is said there replies to the root."""
    server.append("dm-bob", "bob", "the root")
    for number in range(2, 200):
        server.append("dm-bob", "bob", f"noise {number}", **({"reply_to": 1} if number == 50 else {}))
    server.append("dm-bob", "bob", "the newest reply", reply_to=50)
    async with terminal(server, tmp_path) as screen:
        await screen.shows("the newest reply", "┌ bob: noise 50")
        screen.type("/thread\r")
        await screen.shows("thread · Esc", "the newest reply", "noise 50")
        await screen.hides("noise 199")
        screen.type(CTRL_UP + UP + "t")
        await screen.shows("the root")
        screen.type("in the thread\r")
        await screen.shows("in the thread ✓")
        assert sent(server, Send)[-1].reply_to == 1
        screen.type(ESC)
        await screen.shows("noise 199", "in the thread ✓")
        await leave(screen)


async def test_search_leads_to_the_place(server: Any, tmp_path: Path) -> None:
    """A page of hits with the words marked; Enter jumps to one far above, in its surroundings; End leads back."""
    server.replays = 40
    for number in range(1, 900):
        server.append("dm-bob", "bob", f"the needle {number}" if number in {100, 500} else f"hay {number}")
    server.append("dm-carol", "carol", "another needle")
    async with terminal(server, tmp_path) as screen:
        await screen.shows("live")
        screen.type("/search needle\r")
        await screen.shows("3 found", "another needle", "the needle 500", "the needle 100")
        assert screen.pen_of("needle 500").bold
        screen.type(DOWN + DOWN)
        await screen.until(lambda: screen.pen_of("the needle 100").background is not None)
        screen.type("\r")
        await screen.shows("▸bob", "hay 99", "the needle 100", "hay 101", "older messages", "r reply")
        screen.type(ESC)
        await screen.hides("r reply")
        screen.type(END)
        await screen.shows("hay 899")
        await screen.hides("older messages")
        screen.type("/search nothing-of-it\r")
        await screen.shows("nothing found")
        await leave(screen)


async def test_pins_and_mute_need_the_server_and_say_so(server: Any, tmp_path: Path) -> None:
    """Done while it is there, refused with words while it is not: nothing remembers them."""
    server.append("dm-bob", "bob", "remember this")
    async with terminal(server, tmp_path) as screen:
        await screen.shows("remember this", "live")
        screen.type("/pin\r")
        await server.until(lambda: sent(server, Pin))
        screen.type("/pins\r")
        await screen.shows("1 pinned")
        screen.type(ESC)
        await screen.hides("1 pinned")
        screen.type("/mute 8h\r")
        await screen.shows("~│", "bob  muted")
        assert sent(server, Mute)[0].until > 1_700_000_000_000
        server.swallow = lambda message: True
        await server.cut()
        await screen.shows("offline, next try")
        screen.type("/unmute\r")
        await screen.shows("that needs the server", "/unmute")
        await leave(screen)


async def test_tab_completes_and_switches_only_on_an_empty_line(server: Any, tmp_path: Path) -> None:
    """Commands, names (the server's, too), @mentions of members; a choice is shown and gone through."""
    server.append("dm-carol", "carol", "hello")
    server.append("dm-bob", "bob", "hello")
    server.append("dm-bob", "bob", "hello")
    async with terminal(server, tmp_path) as screen:
        await screen.shows("▸bob", "live")
        screen.type("/sea\t")
        await screen.shows("> /search")
        screen.type("\x15/dm be\t")
        await screen.shows("> /dm bea")
        assert Find(id=sent(server, Find)[-1].id, text="be") in server.arrived
        screen.type("\x15/dm bo\t")
        await screen.shows("> /dm bob", "bob  bobby")
        screen.type("\t")
        await screen.shows("> /dm bobby")
        screen.type("\x15hi @b\t")
        await screen.shows("> hi @bob")
        screen.type("you\r")
        await screen.shows("hi @bob you ✓")
        assert sent(server, Send)[-1].mentions == ["bob"]
        screen.type("not sent\t")
        await screen.shows("▸bob", "> not sent")
        screen.type("\x15\t")
        await screen.shows("▸carol")
        await leave(screen)


async def test_what_is_half_typed_waits_in_its_conversation(server: Any, tmp_path: Path) -> None:
    """Ctrl-N leads away from it, with a mark in the list, and Ctrl-P back to it."""
    server.append("dm-carol", "carol", "hello")
    server.append("dm-bob", "bob", "hello")
    server.append("dm-bob", "bob", "hello")
    async with terminal(server, tmp_path) as screen:
        await screen.shows("▸bob", "live")
        screen.type("for bob only")
        await server.until(lambda: Typing(conv="dm-bob", on=True) in server.typings)
        screen.type("\x0e")
        await screen.shows("▸carol", "bob                       ✎"[-4:])
        await screen.hides("for bob only")
        await server.until(lambda: Typing(conv="dm-bob", on=False) in server.typings)
        screen.type("for carol\r")
        await screen.shows("for carol ✓")
        screen.type("\x10")
        await screen.shows("▸bob", "> for bob only")
        await leave(screen)
    assert server.bodies("dm-carol") == ["hello", "for carol"]


async def test_pasted_lines_stay_together(server: Any, tmp_path: Path) -> None:
    """A paste with newlines is one message, and is sent by Enter alone; so is what Alt-Enter breaks."""
    server.append("dm-bob", "bob", "hello")
    async with terminal(server, tmp_path) as screen:
        await screen.shows("bob: hello", "live")
        screen.type("\x1b[200~one\ntwo\x1b[201~")
        await screen.shows("> one", "two")
        screen.type("\x1b\rthree\r")
        await screen.shows("three ✓")
    assert server.bodies("dm-bob") == ["hello", "one\ntwo\nthree"]


async def test_the_mouse(server: Any, tmp_path: Path) -> None:
    """A click opens a conversation and chooses a message, the wheel scrolls; the keyboard stays with the input."""
    for number in range(80):
        server.append("dm-bob", "bob", f"line {number}.")
    server.append("dm-carol", "carol", "hello")
    async with terminal(server, tmp_path) as screen:
        await screen.shows("line 79.", "live")
        for _ in range(8):
            screen.click(60, 10, 64)
        await screen.shows("line 44.")
        screen.click(3, screen.row_of(" carol"))
        await screen.shows("▸carol", "carol: hello")
        screen.type("typed after a click\r")
        await screen.shows("typed after a click ✓")
        screen.click(40, screen.row_of("carol: hello"))
        await screen.shows("r reply")
        screen.type("r")
        await screen.shows("reply to carol>")
        await leave(screen)


async def test_wide_characters_and_links(server: Any, tmp_path: Path) -> None:
    """Joined emoji, selectors and marks leave every column where it belongs; links are underlined, in mono as well."""
    body = "漢字 e\u0301 👩\u200d👩\u200d👧 ❤\ufe0f 👍\U0001f3fd see https://example.org/a?b=c. Done"
    server.append("dm-bob", "bob", body)
    async with terminal(server, tmp_path, NO_COLOR="1") as screen:
        await screen.shows("bob: 漢字 e\u0301 👩👩👧 ❤ 👍 see https://example.org/a?b=c. Done")
        assert screen.pen_of("https://").underline
        assert screen.pen_of("https://").foreground is None
        assert not screen.pen_of(". Done").underline
        column = {row.index("│") for row in screen.text().split("\n")[1:10]}
        assert column == {26}


async def test_a_theme_from_the_file(server: Any, tmp_path: Path) -> None:
    """The file's theme is drawn; a setting that there is not is a message and not a screen."""
    (tmp_path / "config/chatd").mkdir(parents=True)
    config = tmp_path / "config/chatd/chat.toml"
    config.write_text('theme = "light"\nmouse = false\n')
    server.append("dm-bob", "bob", "hello")
    async with terminal(server, tmp_path) as screen:
        await screen.shows("bob: hello")
        assert screen.pen_of("bob: hello").foreground == 4
        await leave(screen)
    config.write_text('colour = "pink"\n')
    async with terminal(server, tmp_path) as screen:
        assert await screen.ends() == 1
        assert b"colour is no setting" in screen.raw


async def test_a_refused_message_is_taken_back_and_mended(server: Any, tmp_path: Path) -> None:
    """It stays on the screen with the reason, until it is taken back; a refused edit is told and undone."""
    server.refuse["bad"] = Error(code="forbidden", message="not here")
    server.refuse["worse"] = Error(code="too_late", message="24 hours are over")
    server.append("dm-bob", "alice", "hello")
    async with terminal(server, tmp_path) as screen:
        await screen.shows("alice: hello", "live")
        screen.type("bad\r")
        await screen.shows("bad  not sent (forbidden: not here) ✗")
        screen.type(CTRL_UP + "e")
        await screen.shows("> bad")
        await screen.hides("✗")
        screen.type("\x15good\r")
        await screen.shows("good ✓")
        screen.type(UP + UP + "\x01\x0bworse\r")
        await screen.shows("not done: 24 hours are over (too_late)", "alice: hello ✓")
        await leave(screen)


async def test_a_waiting_message_is_taken_back(server: Any, tmp_path: Path) -> None:
    """What was not sent yet can be mended and forgotten; what was sent cannot, and says so."""
    server.append("dm-bob", "bob", "hello")
    async with terminal(server, tmp_path) as screen:
        await screen.shows("bob: hello", "live")
        server.swallow = lambda message: True
        screen.type("sent\r")
        await screen.shows("sent …")
        await server.until(lambda: sent(server, Send))
        screen.type(CTRL_UP + "d")
        await screen.shows("it was sent already", "sent …")
        screen.type(ESC)
        await screen.hides("it was sent")
        await server.cut()
        await screen.shows("offline, next try")
        screen.type("forget this\rmend that\r")
        await screen.shows("forget this …", "mend that …")
        screen.type(CTRL_UP + UP)
        await screen.shows("e take it back")
        screen.type("d")
        await screen.hides("forget this", "e take it back")
        screen.type(CTRL_UP + "e")
        await screen.shows("> mend that")
        await screen.hides("mend that …")
        screen.type("\x15mended\r")
        server.swallow = lambda message: False
        await server.cut()
        await screen.shows("sent ✓", "mended ✓")
        await leave(screen)
    assert server.bodies("dm-bob") == ["hello", "sent", "mended"]


async def test_a_bad_line_freezes_nothing(server: Any, tmp_path: Path) -> None:
    """The server hears everything and answers nothing: one goes on typing, editing and switching, the state is on the
    screen, and afterwards all of it is done, once. An answer that comes when one has gone on pushes nothing away.
    """
    server.append("dm-carol", "carol", "hello")
    server.append("dm-bob", "alice", "old text")
    server.append("dm-bob", "bob", "hello")
    async with terminal(server, tmp_path) as screen:
        await screen.shows("▸bob", "live")
        server.swallow = lambda message: True
        screen.type("while deaf\r")
        await screen.shows("while deaf …", "1 queued")
        screen.type("/search something\r/devices\r")
        screen.type(CTRL_UP + UP + UP + "e\x01\x0bnew text\r")
        await screen.shows("alice: new text …", "2 queued")
        screen.type("\x0e")
        await screen.shows("▸carol")
        screen.type(PAGE_UP + "and here\r")
        await screen.shows("and here …", "3 queued")
        await server.cut()
        await screen.shows("connecting")
        server.swallow = lambda message: False
        await server.cut()
        await screen.shows("live", "and here ✓")
        await screen.hides("queued")
        await screen.shows("an answer came late")
        screen.type("\x0e")
        await screen.shows("alice: new text (edited) ✓", "while deaf ✓")
        await leave(screen)
    assert server.bodies("dm-bob").count("while deaf") == 1
    assert server.bodies("dm-carol") == ["hello", "and here"]
