"""The terminal client as a program: a real subprocess on a real pseudo-terminal, whose screen is what a terminal
would show of the bytes that it writes.
"""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import sys
import termios
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import trio

from tests.clients.emulator import Emulator

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

PROGRAM = """
import sys
from chatd_terminal.main import run
sys.exit(run(sys.argv[1], "alice", state_dir=sys.argv[2]))
"""
CTRL_UP, UP, DOWN, ESC, PAGE_UP, PAGE_DOWN, END = (
    "\x1b[1;5A", "\x1b[A", "\x1b[B", "\x1b", "\x1b[5~", "\x1b[6~", "\x1b[F",
)  # fmt: skip


class Screen:
    """The master's side of the pseudo-terminal: types, and reads until something appears. ``raw``: all bytes so far."""

    def __init__(self, fd: int, process: trio.Process, size: tuple[int, int]) -> None:
        self._fd, self.process = fd, process
        self.raw = b""
        self._emulator = Emulator(*size)

    def resize(self, columns: int, rows: int) -> None:
        """The window changes its size; the kernel signals it."""
        self._emulator = Emulator(columns, rows)
        fcntl.ioctl(self._fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, text: str) -> None:
        os.write(self._fd, text.encode())

    def click(self, column: int, row: int, button: int = 0) -> None:
        """Press a button and let it go; columns and rows from 0. Buttons 64 and 65 are the wheel."""
        self.type(f"\x1b[<{button};{column + 1};{row + 1}M\x1b[<{button};{column + 1};{row + 1}m")

    def text(self) -> str:
        """The screen, without the blanks behind its rows."""
        return self._emulator.text()

    def pen_of(self, wanted: str) -> Any:
        """How the first place that holds this is drawn."""
        for cells in self._emulator.cells:
            at = "".join(cell[0] or " " for cell in cells).find(wanted)
            if at >= 0:
                return cells[at][1]
        raise AssertionError(f"{wanted!r} is not on the screen:\n{self.text()}")

    def row_of(self, wanted: str) -> int:
        """The first row that holds this."""
        return next(at for at, row in enumerate(self.text().split("\n")) if wanted in row)

    async def until(self, condition: Callable[[], object]) -> None:
        """Read on until the screen is such."""
        with trio.move_on_after(20) as scope:
            while not condition():
                await self._read()
        assert not scope.cancelled_caught, f"it never came; there was:\n{self.text()}"

    async def shows(self, *wanted: str) -> None:
        """Read on until all of this is on the screen."""
        await self.until(lambda: all(one in self.text() for one in wanted))

    async def hides(self, *unwanted: str) -> None:
        """Read on until none of this is on the screen."""
        await self.until(lambda: not any(one in self.text() for one in unwanted))

    async def prompts(self, wanted: str) -> None:
        """Read on until this was printed, before there is a screen."""
        await self.until(lambda: wanted.encode() in self.raw)

    async def draws(self) -> None:
        """Read on until something has been drawn."""
        with trio.fail_after(20):
            await self._read()

    async def ends(self) -> int:
        """Read to the end and return the exit status."""
        with trio.fail_after(20):
            try:
                while await self._read():
                    pass
            except OSError:  # Linux: the last one has closed the other side
                self.raw += b""
            return await self.process.wait()

    async def _read(self) -> bytes:
        await trio.lowlevel.wait_readable(self._fd)
        more = os.read(self._fd, 65536)
        self.raw += more
        self._emulator.feed(more)
        return more


@asynccontextmanager
async def terminal(
    server: Any,
    state: Path,
    *,
    password: str | None = "secret",
    size: tuple[int, int] = (100, 30),
    program: str = PROGRAM,
    **environment: str,
) -> AsyncIterator[Screen]:
    """The program on a terminal of this size, as alice. Killed at the end where it still runs."""
    master, slave = pty.openpty()
    inherited = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(sys.path),
        "TERM": "xterm-256color",
        "LC_ALL": "C.UTF-8",
        "TZ": "UTC",
        "XDG_CONFIG_HOME": str(state / "config"),
    }
    inherited.pop("CHATD_PASSWORD", None)
    inherited.pop("NO_COLOR", None)
    if password is not None:
        inherited["CHATD_PASSWORD"] = password
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", size[1], size[0], 0, 0))
    process = await trio.lowlevel.open_process(
        [sys.executable, "-c", program, server.url, str(state)],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env=inherited | environment,
        preexec_fn=lambda: (os.setsid(), fcntl.ioctl(0, termios.TIOCSCTTY, 0)),
    )
    os.close(slave)
    screen = Screen(master, process, size)
    try:
        yield screen
    finally:
        if process.returncode is None:
            process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()
        os.close(master)


async def leave(screen: Screen) -> None:
    """Ctrl-U for what is half typed, then out; the program ends well."""
    screen.type("\x15/quit\r")
    assert await screen.ends() == 0
