"""A network namespace with one cable to this machine, which can be pulled: what a client behind it sends, and what is sent to
it, is gone without a FIN or RST. Takes root and ``ip``."""

from __future__ import annotations

import ctypes
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread

import pytest
import trio

CLONE_NEWNET = 0x40000000
CONNECT_SECONDS = 10.0


class Network:
    """``host``: this machine's address in it, to listen on."""

    def __init__(self, number: int) -> None:
        self._name = f"chatd{os.getpid()}x{number}"
        self._cable = f"ct{os.getpid() % 10**7}x{number}"
        self.host, self._guest = f"198.18.{os.getpid() % 250}.{4 * number + 1}", f"198.18.{os.getpid() % 250}.{4 * number + 2}"

    def begin(self) -> None:
        """Raises CalledProcessError where this may not be."""
        _ip("netns", "add", self._name)
        _ip("link", "add", self._cable, "type", "veth", "peer", "name", "eth0", "netns", self._name)
        _ip("address", "add", f"{self.host}/30", "dev", self._cable)
        _ip("link", "set", self._cable, "up")
        _ip("-netns", self._name, "address", "add", f"{self._guest}/30", "dev", "eth0")
        _ip("-netns", self._name, "link", "set", "eth0", "up")

    def end(self) -> None:
        """The cable goes with the namespace; whether it was made or not."""
        _ip("netns", "delete", self._name, check=False)

    def pull(self) -> None:
        """Nothing comes through any more. The guest's end is taken, so that this machine's does not learn of it by routing."""
        _ip("-netns", self._name, "link", "set", "eth0", "down")

    def plug(self) -> None:
        """As it was."""
        _ip("-netns", self._name, "link", "set", "eth0", "up")

    async def connect(self, port: int) -> trio.SocketStream:
        """From within, to this machine. Raises OSError."""
        return trio.SocketStream(trio.socket.from_stdlib_socket(await trio.to_thread.run_sync(self._connected, port)))

    def _connected(self, port: int) -> socket.socket:
        """A socket stays in the namespace in which it was made; a thread that has gone there cannot be used again."""
        made: list[socket.socket | OSError] = []

        def go() -> None:
            try:
                with Path("/run/netns", self._name).open() as namespace:
                    if ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), CLONE_NEWNET):
                        raise OSError(ctypes.get_errno(), "setns")
                made.append(socket.create_connection((self.host, port), CONNECT_SECONDS))
            except OSError as fault:
                made.append(fault)

        thread = Thread(target=go)
        thread.start()
        thread.join()
        if isinstance(made[0], OSError):
            raise made[0]
        return made[0]


@contextmanager
def network(number: int = 0) -> Iterator[Network]:
    """While this lasts. Skips the test where it cannot be made."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("a network namespace takes root and `ip`")
    made = Network(number)
    try:
        try:
            made.begin()
        except subprocess.CalledProcessError as fault:
            pytest.skip(f"a network namespace may not be made: {fault.stderr.decode(errors='replace').strip()}")
        yield made
    finally:
        made.end()


def _ip(*words: str, check: bool = True) -> None:
    subprocess.run(["ip", *words], check=check, capture_output=True)
