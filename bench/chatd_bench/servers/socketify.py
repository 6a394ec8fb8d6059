"""A relay on uWebSockets, by ``socketify`` (PyPI): sockets and frames in C++, rules in Python.

The program is ``programs/socketify_relay.py``. Nothing is checked or kept; its ack means that uWebSockets has the message.
The library needs libuv and zlib of the system.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from ctypes.util import find_library
from pathlib import Path

from chatd_bench.faults import NotOffered
from chatd_bench.servers.processes import (
    HOST,
    PROGRAMS,
    data_directory,
    free_port,
    install_debian_packages,
    install_python_packages,
    python_versions,
    running_process,
)
from chatd_bench.servers.server import Endpoint, Needs, Running, Server


class Socketify(Server):
    """One process, one core."""

    dialects = ("relay",)
    keeps_history = False

    def install(self) -> None:
        """The package in an environment of its own; libuv from Debian where it is missing."""
        if find_library("uv") is None:
            install_debian_packages("libuv1")
        self._python()

    def _python(self) -> Path:
        return install_python_packages("socketify", "socketify==0.0.31")

    @contextmanager
    def start(self, needs: Needs) -> Iterator[Running]:
        """Nothing of ``needs`` has to be prepared."""
        if needs.nodes > 1:
            raise NotOffered(f"{self.name}: one node only")
        python, port = self._python(), free_port()
        command = (python, PROGRAMS / "socketify_relay.py", str(port))
        with data_directory() as directory, running_process(command, directory, port) as pid:
            yield Running((Endpoint(HOST, port),), (pid,), (pid,), {}, python_versions(python, "socketify"), {})
