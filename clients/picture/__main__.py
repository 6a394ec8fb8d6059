"""Make the picture of the terminal client in the README anew, from a real screen.

    python -m clients.picture           (in the checkout, with chatd installed)

Starts a server of its own, lets three people write to each other, runs ``chatd chat`` as one of them on a
pseudo-terminal, and draws what its screen shows: ``clients/picture/screen.svg``. Ends by itself.
"""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import subprocess
import sys
import tempfile
import termios
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import trio
from chatd_client import Client, open_client, register, sign_in

from clients.picture.svg import svg
from tests.clients.emulator import Emulator

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

COLUMNS, ROWS = 96, 22
PASSWORD = "a picture"  # noqa: S105 - of a server that lives for some seconds
PEOPLE = ("alice", "bob", "carol")
TARGET = Path(__file__).parent / "screen.svg"


async def main() -> None:
    """Start everything, wait for the scene, and draw it."""
    with tempfile.TemporaryDirectory() as scratch, trio.fail_after(90):
        async with server(Path(scratch)) as url:
            for name in PEOPLE:
                await register(url, name, PASSWORD)
            async with person(url, "bob") as bob, person(url, "carol") as carol:
                conv = await scene(bob, carol)
                screen = await photographed(url, Path(scratch), bob, carol, conv)
    TARGET.write_text(svg(screen, "chatd chat: a list of conversations beside the open one"), encoding="utf-8")
    print(screen.text())


@asynccontextmanager
async def server(scratch: Path) -> AsyncIterator[str]:
    """A server with a data directory of its own; it says where it listens."""
    command = [sys.executable, "-m", "chatd", "serve", "--data", str(scratch / "data")]
    process = await trio.lowlevel.open_process(
        [*command, "--listen", "127.0.0.1:0", "--ops", "127.0.0.1:0"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    try:
        yield await said_url(process)
    finally:
        process.terminate()
        with trio.CancelScope(shield=True):
            await process.wait()


async def said_url(process: trio.Process) -> str:
    """The first URL in what the server prints."""
    assert process.stdout is not None
    said = b""
    while b"http://127.0.0.1:" not in said or not said.endswith(b"\n"):
        more = await process.stdout.receive_some()
        if not more:
            raise SystemExit(said.decode())
        said += more
    return next(word.strip(b"`'\",()") for word in said.split() if word.startswith(b"http://127.0.0.1:")).decode()


@asynccontextmanager
async def person(url: str, name: str) -> AsyncIterator[Client]:
    """Somebody who is there, and reads nothing."""
    token = await sign_in(url, name, PASSWORD)
    async with open_client(url, token=token.token, device=f"{name}-phone") as client, trio.open_nursery() as nursery:
        nursery.start_soon(drain, client)
        await client.wait_for("live")
        yield client
        nursery.cancel_scope.cancel()


async def drain(client: Client) -> None:
    """Read what comes, so that it counts as delivered."""
    async for _ in client.events():
        await trio.lowlevel.checkpoint()


async def scene(bob: Client, carol: Client) -> str:
    """What they have said before alice comes."""
    await bob.send("@alice", "the slides are done: https://slides.example/7")
    await carol.send("@alice", "did you see the plan?")
    lunch = await bob.create("Lunch", ["alice", "carol"])
    await bob.send(lunch, "where today?")
    place = await carol.send(lunch, "the noodle place: https://noodles.example/menu 漢字 on the sign")
    await bob.react(lunch, place.seq, "🎉")
    return lunch


async def photographed(url: str, scratch: Path, bob: Client, carol: Client, lunch: str) -> Emulator:
    """Alice's screen, after she has answered and the others have reacted."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    environment = {
        **os.environ,
        "CHATD_PASSWORD": PASSWORD,
        "XDG_STATE_HOME": str(scratch / "state"),
        "XDG_CONFIG_HOME": str(scratch / "config"),
        "TERM": "xterm-256color",
        "LC_ALL": "C.UTF-8",
    }
    environment.pop("NO_COLOR", None)
    process = await trio.lowlevel.open_process(
        [sys.executable, "-m", "chatd", "chat", url, "--user", "alice", "--theme", "dark"],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env=environment,
        start_new_session=True,
    )
    os.close(slave)
    screen = Emulator(COLUMNS, ROWS)

    async def shows(*wanted: str) -> None:
        await until(lambda: all(one in screen.text() for one in wanted))

    async def until(condition: Callable[[], bool]) -> None:
        while not condition():
            await trio.lowlevel.wait_readable(master)
            screen.feed(os.read(master, 65536))

    def keys(text: str) -> None:
        os.write(master, text.encode())

    try:
        await shows("live", "▸Lunch", "noodle place")
        keys("\x1b[1;5Ar")
        await shows("reply to carol>")
        keys("gladly! at one?\r")
        await shows("gladly! at one? ✓")
        answer = await bob.history(lunch, limit=1)
        await bob.react(lunch, answer.last, "👍")
        bob.read(lunch, answer.last)
        await bob.send(lunch, "see you there")
        await carol.send("@alice", "@alice it is on the board", mentions=["alice"])
        await bob.send(lunch, "@carol will you come?", mentions=["carol"])
        await shows("see you there", "👍")
        with trio.move_on_after(3):
            await shows("read by bob")
        bob.typing(lunch, True)
        with trio.move_on_after(3):
            await shows("is typing")
        keys("I'll bring the tic")
        await shows("the tic")
    finally:
        process.terminate()
        with trio.CancelScope(shield=True):
            await process.wait()
        os.close(master)
    return screen


if __name__ == "__main__":
    trio.run(main)
