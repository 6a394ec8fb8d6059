"""Valkey servers of a test's own, as replicas of each other, on ports of the loopback."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from socket import create_connection, socket

import trio

from chatd.adapters.valkey import find_program


class Valkey:
    """One server process, without persistence."""

    def __init__(self, directory: Path) -> None:
        with socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        options = ["--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--dir", str(directory)]
        options += ["--repl-diskless-sync-delay", "0"]
        self.process = subprocess.Popen([find_program(), *options], stdout=subprocess.DEVNULL)

    def call(self, *words: str) -> bytes:
        """One command; the beginning of its answer. Raises OSError."""
        with create_connection(("127.0.0.1", self.port), 10) as sock:
            sock.sendall(b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(w), w.encode()) for w in words))
            return sock.recv(65536)

    async def ask(self, *words: str, until: bytes = b"") -> bytes:
        """The same, tried until it is there, and its answer has that in it."""
        with trio.fail_after(60):
            while True:
                try:
                    if until in (answer := await trio.to_thread.run_sync(self.call, *words)):
                        return answer
                except OSError:
                    pass
                await trio.sleep(0.05)

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
