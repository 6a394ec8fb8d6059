"""Commands to a Valkey, whichever it is; and servers of a test's own, as replicas of each other, on ports of the loopback."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from socket import AF_INET, AF_UNIX, socket

import hiredis
import trio

from chatd.adapters.valkey import find_program


def call(where: Path | int, *words: str) -> bytes:
    """One command to the server of that unix socket, or port; the beginning of its answer. Raises OSError."""
    with socket(AF_INET if isinstance(where, int) else AF_UNIX) as sock:
        sock.settimeout(10)
        sock.connect(("127.0.0.1", where) if isinstance(where, int) else str(where))
        sock.sendall(hiredis.pack_command(words))  # type: ignore[arg-type]  # the stub wants one word
        return sock.recv(65536)


async def patiently(attempt: Callable[[], bytes], until: bytes = b"") -> bytes:
    """Its answer, as soon as there is one (and no OSError) with ``until`` in it."""
    with trio.fail_after(60):
        while True:
            try:
                if until in (answer := await trio.to_thread.run_sync(attempt)):
                    return answer
            except OSError:
                pass
            await trio.sleep(0.05)


class Valkey:
    """One server process, without persistence."""

    def __init__(self, directory: Path) -> None:
        with socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        options = ["--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--dir", str(directory)]
        options += ["--repl-diskless-sync-delay", "0"]
        self.process = subprocess.Popen([find_program(), *options], stdout=subprocess.DEVNULL)

    async def ask(self, *words: str, until: bytes = b"") -> bytes:
        """One command, tried until the server is there, and its answer has that in it."""
        return await patiently(lambda: call(self.port, *words), until)

    def kill(self) -> None:
        """kill -9; what it had is gone."""
        self.process.kill()
        self.process.wait()


@contextmanager
def valkeys(directory: Path) -> Iterator[list[Valkey]]:
    """A list that a test adds to; they are ended with it."""
    made: list[Valkey] = []
    try:
        yield made
    finally:
        for one in made:
            one.kill()
