"""Plain mode as a program: a real subprocess with pipes, against the scripted server; and its two languages, pure."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
import trio
from chatd_protocol import codes
from chatd_protocol.messages import Delete, Edit, Error, React, Send
from chatd_terminal.plain_lines import MAX_LINE_BYTES, Order, read_line

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

PROGRAM = """
import json, sys
from chatd_terminal.main import run_plain
sys.exit(run_plain(sys.argv[1], "alice", state_dir=sys.argv[2], **json.loads(sys.argv[3])))
"""


class Script:
    """What a script sees of it: two pipes and an exit status."""

    def __init__(self, process: trio.Process) -> None:
        self.process = process
        self.lines: list[dict[str, Any]] = []
        self._rest = b""

    async def write(self, text: str) -> None:
        assert self.process.stdin is not None
        await self.process.stdin.send_all(text.encode())

    async def end_input(self) -> None:
        assert self.process.stdin is not None
        await self.process.stdin.aclose()

    async def line(self, **wanted: Any) -> dict[str, Any]:
        """The next line that has these keys."""
        assert self.process.stdout is not None
        with trio.fail_after(20):
            while True:
                found = [line for line in self.lines if wanted.items() <= line.items()]
                if found:
                    self.lines = self.lines[self.lines.index(found[0]) + 1 :]
                    return found[0]
                self._rest += (data := await self.process.stdout.receive_some())
                assert data, f"it ended without {wanted}: {self.lines}"
                *whole, self._rest = self._rest.split(b"\n")
                self.lines += [json.loads(line) for line in whole]

    async def ends(self) -> int:
        """Read to the end and return the exit status."""
        assert self.process.stdout is not None
        with trio.fail_after(20):
            async for data in self.process.stdout:
                self._rest += data
            self.lines += [json.loads(line) for line in self._rest.split(b"\n") if line]
            return await self.process.wait()


@asynccontextmanager
async def plain(server: Any, state: Path, password: str | None = "secret", **options: Any) -> AsyncIterator[Script]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    environment.pop("CHATD_PASSWORD", None)
    if password is not None:
        environment["CHATD_PASSWORD"] = password
    process = await trio.lowlevel.open_process(
        [sys.executable, "-c", PROGRAM, server.url, str(state), json.dumps(options)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
    )
    try:
        yield Script(process)
    finally:
        if process.returncode is None:
            process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()


async def test_lines_become_messages_and_outcomes(server: Any, tmp_path: Path) -> None:
    """Each line has one outcome, with its number; when all is stored the program ends with 0."""
    async with plain(server, tmp_path, to="@bob") as script:
        await script.write("hello\n\n//slash\n/to dm-bob\n/edit 1 hello there\n/react 2 x\n/reply 1 yes\n/delete 2\n")
        await script.end_input()
        assert await script.ends() == 0
    acks = {line["line"]: (line["conv"], line["seq"]) for line in script.lines if line["t"] == "ack"}
    assert acks == {1: ("dm-bob", 1), 3: ("dm-bob", 2), **{line: ("dm-bob", line - 2) for line in (5, 6, 7, 8)}}
    sent = [message for message in server.arrived if isinstance(message, Send | Edit | React | Delete)]
    assert [type(message) for message in sent] == [Send, Send, Edit, React, Send, Delete]
    assert [message.body for message in sent if isinstance(message, Send)] == ["hello", "/slash", "yes"]
    assert sent[4].reply_to == 1


async def test_what_others_write_is_a_line(server: Any, tmp_path: Path) -> None:
    """In the protocol's own words, bytes and all; ``follow`` goes on when the input is over, until it is interrupted."""
    async with plain(server, tmp_path, follow=True) as script:
        await script.end_input()
        await script.line(t="live")
        await server.say("g", "bob", "漢字 \n two lines")
        await server.tell_all(server.append("g", "bob", b"\x00\x01"))
        first = await script.line(t="event", seq=1)
        assert (first["from"], first["body"], first["kind"]) == ("bob", "漢字 \n two lines", "message")
        assert (await script.line(t="event", seq=2))["body"] == {"b64": "AAE"}
        script.process.send_signal(signal.SIGINT)
        assert await script.ends() == 130


async def test_questions_are_answered_in_lines(server: Any, tmp_path: Path) -> None:
    """History, search, members and the list, each with the number of its line."""
    server.append("dm-bob", "bob", "the first")
    server.append("dm-bob", "bob", "the second")
    async with plain(server, tmp_path, to="dm-bob") as script:
        await script.write("/history\n/history 2\n/search second\n/members\n/conversations\n/quit\n")
        assert [event["seq"] for event in (await script.line(line=1))["events"]] == [1, 2]
        assert [event["seq"] for event in (await script.line(line=2))["events"]] == [1]
        assert [event["body"] for event in (await script.line(line=3))["events"]] == ["the second"]
        assert [one["user"] for one in (await script.line(line=4))["members"]] == ["alice", "bob"]
        assert [one["conv"] for one in (await script.line(line=5))["items"]] == ["dm-bob"]
        assert await script.ends() == 0


async def test_what_is_refused_is_told_and_counted(server: Any, tmp_path: Path) -> None:
    """By the server or already here: a line with the reason, the rest goes on, and the status is 5."""
    server.refuse["bad"] = Error(code="forbidden", message="no")
    async with plain(server, tmp_path) as script:
        await script.write("to nobody\n/to g\nbad\n/nonsense\n/edit x\n" + "y" * 70_000 + "\n" + "z" * MAX_LINE_BYTES)
        await script.write("zzz\ngood\n")
        await script.end_input()
        assert await script.ends() == 5
    codes_of = {line["line"]: line["code"] for line in script.lines if line["t"] == "error"}
    assert codes_of == {1: "bad_line", 3: "forbidden", 4: "bad_line", 5: "bad_line", 6: "bad_message", 7: "too_large"}
    assert server.bodies("g") == ["good"]


async def test_what_is_not_stored_in_time_goes_out_with_the_next_start(server: Any, tmp_path: Path) -> None:
    """The status 6 says so; the next run sends it, once, before anything else."""
    server.swallow = lambda message: isinstance(message, Send)
    async with plain(server, tmp_path, to="g", timeout_s=0.5) as script:
        await script.write("kept\n")
        await script.end_input()
        assert await script.ends() == 6
    assert {"t": "waiting", "messages": 1} in script.lines
    server.swallow = lambda message: False
    async with plain(server, tmp_path, to="g") as script:
        await script.write("later\n")
        await script.end_input()
        assert await script.ends() == 0
    assert server.bodies("g") == ["kept", "later"]


async def test_more_lines_than_wait_at_once(server: Any, tmp_path: Path) -> None:
    """The input is read no faster than messages are stored, and all arrive in their order."""
    async with plain(server, tmp_path, to="g") as script, trio.open_nursery() as nursery:
        nursery.start_soon(script.write, "".join(f"{number}\n" for number in range(1500)))
        await script.line(t="ack", line=1500)
        await script.end_input()
        assert await script.ends() == 0
    assert server.bodies("g") == [str(number) for number in range(1500)]


@pytest.mark.parametrize(("password", "status"), [("wrong", 3), (None, 2)])
async def test_who_is_not_admitted_learns_it(server: Any, tmp_path: Path, password: str | None, status: int) -> None:
    """A wrong password is 3, none at all 2; nothing is asked for, for there is nobody to ask."""
    async with plain(server, tmp_path, password, to="g") as script:
        assert await script.ends() == status


async def test_who_is_not_admitted_may_try_again(server: Any, tmp_path: Path) -> None:
    """What a run queued without being admitted is taken back with a word for each line; what an earlier one queued stays."""
    server.swallow = lambda message: isinstance(message, Send)
    async with plain(server, tmp_path, to="g", timeout_s=0.5) as script:
        await script.write("earlier\n")
        await script.end_input()
        assert await script.ends() == 6
    server.swallow = lambda message: False
    for _ in range(2):
        async with plain(server, tmp_path, "wrong", to="g") as script:
            await script.write("once\n")
            assert await script.ends() == 3
        told = [(line["code"], line["line"]) for line in script.lines if line["t"] == "error"]
        assert told == [("not_admitted", 1)]
        assert {"t": "waiting", "messages": 1} in script.lines
    async with plain(server, tmp_path, to="g") as script:
        await script.write("once\n")
        await script.end_input()
        assert await script.ends() == 0
    assert server.bodies("g") == ["earlier", "once"]


@pytest.mark.parametrize(("closed", "name"), [(0, "input"), (1, "output")])
async def test_a_closed_standard_stream_is_told_before_anything_is_queued(
    server: Any, tmp_path: Path, closed: int, name: str
) -> None:
    """Or the next file that is opened would be read, or written to, in its place."""
    redirection = "<&-" if closed == 0 else ">&-"
    program = [sys.executable, "-c", PROGRAM, server.url, str(tmp_path / "state"), '{"to": "g"}']
    with trio.fail_after(20):
        ended = await trio.run_process(
            ["/bin/sh", "-c", f'"$@" {redirection}', "sh", *program],
            stdin=b"queued?\n",
            capture_stdout=True,
            capture_stderr=True,
            check=False,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "CHATD_PASSWORD": "secret"},
        )
    assert (ended.returncode, ended.stdout) == (2, b"")
    assert ended.stderr == f"chatd chat: standard {name} is closed\n".encode()
    assert not (tmp_path / "state").exists()


async def test_what_is_no_text_and_what_is_nothing(server: Any, tmp_path: Path) -> None:
    """Bytes that are no UTF-8 are refused and not mangled, an empty line is ignored; /quit ends a listener, too."""
    async with plain(server, tmp_path, to="g", follow=True) as script:
        assert script.process.stdin is not None
        await script.process.stdin.send_all(b"caf\xe9\n\ngood\n/quit\n")
        assert await script.ends() == 5
    outcomes = {line["line"]: line.get("code", line["t"]) for line in script.lines if "line" in line}
    assert outcomes == {1: "bad_line", 3: "ack"}
    assert server.bodies("g") == ["good"]


async def test_the_password_comes_from_a_file(server: Any, tmp_path: Path) -> None:
    """Its first line; the file wins over the environment."""
    (tmp_path / "password").write_text("secret\nnot this\n")
    async with plain(server, tmp_path, "wrong", to="g", password_file=str(tmp_path / "password")) as script:
        await script.end_input()
        assert await script.ends() == 0


async def test_an_end_by_the_server_is_4(server: Any, tmp_path: Path) -> None:
    """The last line says which."""
    async with plain(server, tmp_path, follow=True) as script:
        await script.line(t="live")
        await server.end(codes.REPLACED)
        assert await script.ends() == 4
    assert script.lines[-1] == {"t": "end", "code": 4203, "reason": "replaced"}


async def test_a_reader_that_goes_away_is_141(server: Any, tmp_path: Path) -> None:
    """As of a program that dies of SIGPIPE, and without a traceback."""
    async with plain(server, tmp_path, follow=True) as script:
        await script.line(t="live")
        assert script.process.stdout is not None
        assert script.process.stderr is not None
        await script.process.stdout.aclose()
        await server.say("g", "bob", "nobody reads this")
        with trio.fail_after(20):
            assert await script.process.wait() == 141
            assert await script.process.stderr.receive_some() == b""


def test_lines_are_read() -> None:
    """Messages, commands, and mistakes."""
    assert read_line("hello /to") == Order("send", text="hello /to")
    assert read_line("//to") == Order("send", text="/to")
    assert read_line("/to @bob") == Order("to", text="@bob")
    assert read_line("/edit 7  two words ") == Order("edit", 7, " two words ")
    assert read_line("/history") == Order("history")
    for wrong in ("/to", "/to a b", "/to @Bob!", "/edit 7", "/delete 7 x", "/delete 0", "/react", "/search", "/what", "/"):
        with pytest.raises(ValueError, match="/"):
            read_line(wrong)
