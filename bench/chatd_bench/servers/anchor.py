"""The anchors: the least that a relay can do, in C (``anchor-c``, ``anchor-c-gather``) and in CPython (``anchor-py``).

``anchor-c`` is the physical limit of this machine and kernel for one thread that writes each delivery when it comes: it reads a
message, makes one frame and writes it to N sockets. ``anchor-py`` is the same loop in CPython: the language's own limit.
``anchor-c-gather`` writes to a socket once per turn of its loop whatever came for it in that turn: many times as much where
many write to one group at once, and nothing more where they do not. Nothing is checked or kept; the ack is of
``dialects/relay.py``.
"""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from chatd_bench.compiler import compiled, compiler_version
from chatd_bench.faults import NotOffered
from chatd_bench.servers.processes import (
    HOST,
    PROGRAMS,
    data_directory,
    free_port,
    running_process,
)
from chatd_bench.servers.server import Endpoint, Needs, Running, Server

FLAGS = ("-O2", "-std=c11")


class Anchor(Server):
    """``anchor-c``, ``anchor-c-gather`` or ``anchor-py``."""

    dialects = ("relay",)
    keeps_history = False

    def install(self) -> None:
        """Compile it."""
        self._command()

    def _command(self, port: int = 0) -> tuple[str | Path, ...]:
        if self.name == "anchor-py":
            return (sys.executable, PROGRAMS / "anchor_loop.py", str(port))
        gather = ("gather",) if self.name.endswith("-gather") else ()
        return (compiled([PROGRAMS / "anchor.c"], FLAGS), str(port), *gather)

    @contextmanager
    def start(self, needs: Needs) -> Iterator[Running]:
        """One process; nothing of ``needs`` has to be prepared."""
        if needs.nodes > 1:
            raise NotOffered(f"{self.name}: one node only")
        port = free_port()
        with data_directory() as directory, running_process(self._command(port), directory, port) as pid:
            yield Running((Endpoint(HOST, port),), (pid,), (pid,), {}, self._versions(), {})

    def _versions(self) -> dict[str, str]:
        if self.name == "anchor-py":
            return {"python": platform.python_version()}
        return {"cc": compiler_version()}
