"""What a careful user finds on the screen, through a real pseudo-terminal: a server that is deaf, another password, what
others send that is no text, keys that come in one piece, and pages on small screens.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import trio
from chatd_protocol.messages import Conversations, Create, Heartbeat, Search, Send
from msgspec.structs import replace

from tests.clients.real_screen import CTRL_UP, ESC, leave, terminal

if TYPE_CHECKING:
    from pathlib import Path


async def test_a_deaf_server_is_told(server: Any, tmp_path: Path) -> None:
    """Connected, and no answer comes: the status says so, and for how long, until the first answer."""
    server.append("dm-bob", "bob", "hello")
    async with terminal(server, tmp_path) as screen:
        await screen.shows("bob: hello", "live")
        server.swallow = lambda message: not isinstance(message, Heartbeat)
        screen.type("do you hear me\r")
        await screen.shows("live, but no answer for", "1 queued")
        assert screen.pen_of("live, but").background == 1
        await server.say("dm-bob", "bob", "now I do")
        await screen.hides("no answer")
        await leave(screen)


async def test_an_offline_status_keeps_what_matters_in_sight(server: Any, tmp_path: Path) -> None:
    """On 60 columns the number of what waits stands before the long reason, and is not cut off."""
    server.append("dm-bob", "bob", "hello")
    async with terminal(server, tmp_path, size=(60, 12)) as screen:
        await screen.shows("bob: hello", "live")
        server.swallow = lambda message: True
        screen.type("waits\r")
        await screen.shows("1 queued")
        await server.cut()
        await screen.shows("offline, next try in", "· 1 queued · ")


async def test_another_password(server: Any, tmp_path: Path) -> None:
    """Typed three times, never seen; the tokens before it are worth nothing any more, and the program goes on."""
    server.append("dm-bob", "bob", "hello")
    async with terminal(server, tmp_path) as screen:
        await screen.shows("bob: hello", "live")
        screen.type("/password\r")
        await screen.shows("password now>")
        screen.type("secret\r")
        await screen.shows("new password>")
        screen.type(" spaced secret \r")
        await screen.shows("once more>")
        screen.type(" spaced")
        await screen.shows("once more> *******")
        screen.type(" secret \r")
        await screen.shows("the password is changed")
        assert server.passwords["alice"] == " spaced secret "
        assert b"spaced" not in screen.raw
        await server.cut()
        await server.until(lambda: server.hellos[-1].token not in server.revoked)
        screen.type("still here\r")
        await screen.shows("still here ✓")
        await leave(screen)
    assert server.bodies("dm-bob") == ["hello", "still here"]


async def test_a_password_that_is_not_changed(server: Any, tmp_path: Path) -> None:
    """A wrong one, two that differ, and a change of mind change nothing, and say so; nothing of it is sent as a message."""
    server.append("dm-bob", "bob", "hello")
    async with terminal(server, tmp_path) as screen:
        await screen.shows("bob: hello", "live")
        screen.type("/password\rwrong\rother\rother\r")
        await screen.shows("wrong name or password")
        screen.type("/password\rsecret\rone\rtwo\r")
        await screen.shows("the two are not the same")
        screen.type("/password\rsecret\r")
        await screen.shows("new password>")
        screen.type("\r")
        await screen.shows("nothing is changed", "\n>")
        screen.type("/password\rhalf\x0e")
        await screen.hides("password now>")
        await leave(screen)
    assert server.passwords == {"alice": "secret"}
    assert not [message for message in server.arrived if isinstance(message, Send)]


async def test_what_is_no_text_says_what_it_is(server: Any, tmp_path: Path) -> None:
    """An image, something encrypted; and a line end of another system is a line end."""
    server.append("dm-bob", "bob", "first\r\nsecond")
    server.logs["dm-bob"].append(replace(server.append("dm-bob", "bob", b"1234"), type="image"))
    del server.logs["dm-bob"][1]
    async with terminal(server, tmp_path) as screen:
        await screen.shows("bob: first\n", "second", "bob: (image) (4 bytes)")
        assert "\ufffd" not in screen.text()
        await leave(screen)


async def test_esc_and_the_next_key_in_one_piece(server: Any, tmp_path: Path) -> None:
    """Over a slow line they come together and look like Alt: they lead back from a page, and are typed."""
    server.append("dm-bob", "bob", "hello")
    async with terminal(server, tmp_path) as screen:
        await screen.shows("bob: hello", "live")
        screen.type("/help\r")
        await screen.shows("Conversations")
        screen.type(ESC + "/devices\r")
        await screen.shows("1 device ·", "phone")
        screen.type(ESC + "back\r")
        await screen.shows("bob: hello", "alice: back ✓")
        screen.type(CTRL_UP)
        await screen.shows("r reply")
        screen.type(ESC + "more\r")
        await screen.shows("more ✓")
        await leave(screen)
    assert server.bodies("dm-bob") == ["hello", "back", "more"]


async def test_the_help_keeps_its_columns(server: Any, tmp_path: Path) -> None:
    """What does not fit goes on under the meaning, not under the key."""
    server.append("dm-bob", "bob", "hello")
    async with terminal(server, tmp_path, size=(80, 24)) as screen:
        await screen.shows("bob: hello", "live")
        screen.type("/help\r")
        await screen.shows("/group TITLE NAME…    a new group;", "│                      title of several words")
        await leave(screen)


async def test_a_search_within_a_title_of_several_words(server: Any, tmp_path: Path) -> None:
    """Tab puts quotes around it; the beginning of a title is enough."""
    async with terminal(server, tmp_path) as screen:
        await screen.shows("live")
        screen.type('/group "Lunch club" bob\r')
        await screen.shows("▸Lunch club")
        screen.type("a needle\r")
        await screen.shows("a needle ✓")
        screen.type("/search in:lu\t")
        await screen.shows('> /search in:"Lunch club"')
        screen.type("needle\r")
        await screen.shows("1 found")
        screen.type("/search needle in:lunch\r")
        await server.until(lambda: [one.conv for one in server.arrived if isinstance(one, Search)] == ["g1", "g1"])
        await leave(screen)


async def test_nothing_opens_by_itself_later(server: Any, tmp_path: Path) -> None:
    """A first conversation that another begins is counted in the list, and not opened under the user's hands."""
    async with terminal(server, tmp_path) as screen:
        await screen.shows("live", "No conversation is open")
        await server.say("dm-bob", "bob", "are you there")
        await screen.shows(" bob                   (1)", "No conversation is open")
        screen.type("\t")
        await screen.shows("▸bob", "bob: are you there")
        await leave(screen)


async def test_back_in_a_group_under_its_new_title(server: Any, tmp_path: Path) -> None:
    """Removed, and added again after it was renamed: the list calls it by the title that it has now."""
    server.append("dm-bob", "bob", "hello")
    server.groups["g1"] = Create(id=1, title="Team", members=["bob"])
    server.append("g1", "bob", kind="created", title="Team", members=["alice", "bob"])
    server.append("dm-bob", "bob", "open this one")
    async with terminal(server, tmp_path) as screen:
        await screen.shows("Team", "live")
        await server.change("g1", "bob", "left", user="alice")
        await screen.until(lambda: " Team" not in screen.text() or "you are no longer" in screen.text())
        server.append("g1", "bob", kind="renamed", title="Crew")
        server.groups["g1"] = Create(id=1, title="Crew", members=["bob"])
        await server.change("g1", "bob", "joined", user="alice")
        await screen.shows("Crew")
        await leave(screen)


async def test_ctrl_c_and_ctrl_s(server: Any, tmp_path: Path) -> None:
    """Ctrl-S stops nothing; Ctrl-C empties the line, and on an empty one leaves in order, without a word."""
    server.append("dm-bob", "bob", "hello")
    async with terminal(server, tmp_path) as screen:
        await screen.shows("bob: hello", "live")
        screen.type("\x13half typed")
        await screen.shows("> half typed")
        screen.type("\x03")
        await screen.hides("half typed")
        screen.type("\x03")
        assert await screen.ends() == 0
        assert b"Traceback" not in screen.raw
        assert screen.raw.rindex(b"\x1b[?1049l") > screen.raw.rindex(b"hello")


async def test_ended_from_outside(server: Any, tmp_path: Path) -> None:
    """SIGTERM restores the terminal, and what is queued is there at the next start."""
    async with terminal(server, tmp_path) as screen:
        await screen.shows("live")
        server.swallow = lambda message: isinstance(message, Send)
        screen.type("/dm bob\rkept\r")
        await screen.shows("kept …")
        screen.process.terminate()
        assert await screen.ends() == 0
        assert b"\x1b[?1049l" in screen.raw
    server.swallow = lambda message: False
    async with terminal(server, tmp_path) as screen:
        await screen.shows("kept ✓")


async def test_what_is_typed_before_the_list_is_there_stays(server: Any, tmp_path: Path) -> None:
    """A message that was begun over the first page is not put into the conversation that opens by itself."""
    server.append("dm-bob", "bob", "hello")
    server.swallow = lambda message: isinstance(message, Conversations)
    async with terminal(server, tmp_path) as screen:
        await screen.shows("live", "No conversation is open")
        screen.type("for whom?")
        await screen.shows("> for whom?")
        server.swallow = lambda message: False
        await server.cut()
        await server.until(lambda: len([one for one in server.arrived if isinstance(one, Conversations)]) == 2)
        await screen.shows("bob                   (1)")
        screen.type("\r")
        await screen.shows("no conversation is open: /dm NAME", "> for whom?")
        screen.type("\x15\t")
        await screen.shows("▸bob", "bob: hello")
        await leave(screen)
    assert server.bodies("dm-bob") == ["hello"]


async def test_joined_emoji_in_the_input(server: Any, tmp_path: Path) -> None:
    """They stand side by side while they are typed, what follows stays in its place, and they are sent as they were."""
    server.append("dm-bob", "bob", "hello")
    async with terminal(server, tmp_path) as screen:
        await screen.shows("bob: hello", "live")
        screen.type("a 👩\u200d👩\u200d👧 ❤\ufe0f b")
        await screen.until(lambda: "> a 👩👩👧 ❤ b" in screen.text().replace("\u034f", ""))
        screen.type("\x1b[D\x1b[Dc\r")
        await screen.shows("a 👩👩👧 ❤c b ✓")
        await leave(screen)
    assert server.bodies("dm-bob") == ["hello", "a 👩\u200d👩\u200d👧 ❤\ufe0fc b"]


async def test_a_large_paste_is_taken_in_one_piece(server: Any, tmp_path: Path) -> None:
    """More than the server takes: it is refused with words, stays to be mended, and freezes nothing."""
    server.append("dm-bob", "bob", "hello")
    async with terminal(server, tmp_path) as screen:
        await screen.shows("bob: hello", "live")
        screen.type("\x1b[200~")
        for _ in range(70):
            await trio.to_thread.run_sync(screen.type, "y" * 1000)
        screen.type("end of it\x1b[201~")
        await screen.shows("yend of it")
        screen.type("\r")
        await screen.shows("at most 65536 bytes", "yend of it")
        screen.type("\x15short\r")
        await screen.shows("short ✓")
        await leave(screen)
    assert server.bodies("dm-bob") == ["hello", "short"]
