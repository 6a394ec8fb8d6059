"""Socket.IO on Node (``socketio``, ``socketio-redis``) and python-socketio on uvicorn (``python-socketio-redis``).

The programs are ours, after the manuals: ``programs/socketio.mjs`` and ``programs/python_socketio.py``. WebSocket only,
no compression; on Node with ``bufferutil``, its manual's advice for speed; python-socketio with uvloop and httptools.
Who somebody is, is believed: there is nothing to check. Nothing is kept; the ack means that the message has been emitted,
and with Redis that it has been published there as well. Redis is a Valkey on loopback that keeps nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from chatd_bench.faults import NotOffered
from chatd_bench.servers.processes import (
    HOST,
    PROGRAMS,
    data_directory,
    free_port,
    install_node_packages,
    install_python_packages,
    output_of,
    python_versions,
    running_process,
    running_valkey,
    valkey_version,
)
from chatd_bench.servers.server import Endpoint, Needs, Running, Server

_NODE = ("socket.io@4", "@socket.io/redis-adapter@8", "redis@4", "bufferutil@4")
_PYTHON = ("python-socketio>=5.18,<6", "uvicorn>=0.54,<1", "uvloop", "httptools", "websockets", "redis", "hiredis")


class _SocketIo(Server):
    """One process, or several with Redis between them."""

    dialects = ("engineio",)
    keeps_history = False

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.redis = name.endswith("-redis")
        self.max_nodes = 8 if self.redis else 1

    def install(self) -> None:
        """The packages, in a place of their own."""
        self.command(0)

    def command(self, port: int) -> tuple[str | Path, ...]:
        """What is started; the URL of Redis follows."""
        raise NotImplementedError

    def versions(self) -> Mapping[str, str]:
        """Of the server."""
        raise NotImplementedError

    @contextmanager
    def start(self, needs: Needs) -> Iterator[Running]:
        """One process for each node."""
        if needs.nodes > self.max_nodes:
            raise NotOffered(f"{self.name}: at most {self.max_nodes} nodes")
        versions = dict(self.versions())
        with data_directory() as directory, ExitStack() as stack:
            others: tuple[int, ...] = ()
            urls: tuple[str, ...] = ()
            if self.redis:
                pid, url = stack.enter_context(running_valkey(directory))
                others, urls = (pid,), (url,)
                versions["valkey"] = valkey_version()
            ports = [free_port() for _ in range(needs.nodes)]
            nodes = tuple(
                stack.enter_context(running_process((*self.command(port), *urls), directory, port)) for port in ports
            )
            endpoints = tuple(Endpoint(HOST, port) for port in ports)
            yield Running(endpoints, (*nodes, *others), nodes, {}, versions, {})


class SocketIo(_SocketIo):
    """On Node."""

    def _packages(self) -> Path:
        return install_node_packages("socketio", *_NODE)

    def command(self, port: int) -> tuple[str | Path, ...]:
        """node, and where npm has put it."""
        return ("node", PROGRAMS / "socketio.mjs", str(port), self._packages())

    def versions(self) -> Mapping[str, str]:
        """As npm installed them."""
        modules = self._packages() / "node_modules"
        names = ("socket.io", "ws", "bufferutil", *(("@socket.io/redis-adapter", "redis") if self.redis else ()))
        found = {name: str(json.loads((modules / name / "package.json").read_text())["version"]) for name in names}
        return {**found, "node": output_of(("node", "--version"))}


class PythonSocketIo(_SocketIo):
    """On uvicorn."""

    def _python(self) -> Path:
        return install_python_packages("python-socketio", *_PYTHON)

    def command(self, port: int) -> tuple[str | Path, ...]:
        """Its environment's Python."""
        return (self._python(), PROGRAMS / "python_socketio.py", str(port))

    def versions(self) -> Mapping[str, str]:
        """As pip installed them."""
        names = ("python-socketio", "uvicorn", "uvloop", "websockets", *(("redis",) if self.redis else ()))
        return python_versions(self._python(), *names)
