"""Two nodes on one data directory, and the Valkey between them, which is there to be taken away.

Owns the processes and their directory; all of them end with the context. The Valkey is not the nodes' own, which they would
start again within a second: it is an outside server (``redis.url``), as an operator has it.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from chatd.adapters.valkey.program import find_program
from chatd_bench.connection import RunFailed
from chatd_bench.server import Target
from chatd_bench.servers.chatd import AUDIENCE, ISSUER, Chatd
from chatd_bench.servers.server import Needs, Running

NODES = 2
VALKEY_SECONDS = 10.0
PAUSE = 0.01
KINDS = ("kill", "pause")


class Valkey:
    """A Valkey server on a unix socket, which keeps nothing on the disk."""

    def __init__(self, directory: Path) -> None:
        self._socket = directory / "valkey.sock"
        self._log = directory / "valkey.log"
        self._process = self._start()

    @property
    def url(self) -> str:
        """For ``redis.url``."""
        return f"unix://{self._socket}"

    def _start(self) -> subprocess.Popen[bytes]:
        settings = {"port": "0", "unixsocket": str(self._socket), "save": "", "appendonly": "no", "logfile": str(self._log)}
        command = [find_program(), *(part for name, value in settings.items() for part in (f"--{name}", value))]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, cwd=self._socket.parent)
        end = time.monotonic() + VALKEY_SECONDS
        while not self._answers():
            if time.monotonic() > end or process.poll() is not None:
                process.kill()
                raise RunFailed(f"Valkey did not answer within {VALKEY_SECONDS:.0f} s")
            time.sleep(PAUSE)
        return process

    def _answers(self) -> bool:
        with socket.socket(socket.AF_UNIX) as asking:
            asking.settimeout(1.0)
            try:
                asking.connect(str(self._socket))
                asking.sendall(b"PING\r\n")
                return asking.recv(64).startswith(b"+PONG")
            except OSError:
                return False

    def take_away(self, how: str) -> None:
        """``kill``: it is gone, with all that it held. ``pause``: it is silent, and its connections hang."""
        if how == "pause":
            self._process.send_signal(signal.SIGSTOP)
        else:
            self._process.kill()
            self._process.wait()

    def give_back(self, how: str) -> None:
        """After ``kill`` an empty one. Returns when it answers. Raises RunFailed."""
        if how == "pause":
            self._process.send_signal(signal.SIGCONT)
        else:
            self._process = self._start()

    def end(self) -> None:
        """Hard: there is nothing to keep."""
        self._process.kill()
        self._process.wait()


@dataclass(frozen=True)
class Cluster:
    """``target`` is the first node's; ``pids``, ``ports`` and ``operators`` (host:port) are of all of them."""

    target: Target
    ports: tuple[int, ...]
    pids: tuple[int, ...]
    operators: tuple[str, ...]
    store: Path
    valkey: Valkey

    def gauges(self) -> list[dict[str, float]]:
        """Every ``chatd_...`` number without labels of each node's metrics. Raises RunFailed."""
        return [_gauges(address) for address in self.operators]


def _gauges(address: str) -> dict[str, float]:
    try:
        with urllib.request.urlopen(f"http://{address}/metrics", timeout=20) as answer:
            page = answer.read().decode()
    except OSError as fault:
        raise RunFailed(f"a node's metrics cannot be had: {fault}") from fault
    pairs = (line.rsplit(" ", 1) for line in page.splitlines() if line.startswith("chatd_") and "{" not in line)
    return {name.removeprefix("chatd_"): float(value) for name, value in pairs}


@contextmanager
def own_cluster(settings: Mapping[str, str]) -> Iterator[Cluster]:
    """Two nodes (see ``servers.chatd``) with ``settings``, ``CHATD_...`` variables, of which the caller's own win.

    Raises RunFailed when one does not start, or does not end well.
    """
    if "CHATD_REDIS_URL" in os.environ:
        raise RunFailed("CHATD_REDIS_URL is set: the nodes would not use the Valkey that is taken away from them")
    data: list[Path] = []
    with tempfile.TemporaryDirectory(prefix="chatd-bench-") as name, ExitStack() as stack:
        valkey = Valkey(Path(name))
        stack.callback(valkey.end)
        needs = Needs(nodes=NODES, settings={**settings, "CHATD_REDIS_URL": valkey.url}, prepare=data.append)
        running = stack.enter_context(Chatd("chatd").start(needs))
        yield _cluster(running, data[0], valkey)


def _cluster(running: Running, data: Path, valkey: Valkey) -> Cluster:
    ports = tuple(endpoint.port for endpoint in running.endpoints)
    key = running.credentials["private_key"].encode()
    host, pid = running.endpoints[0].host, running.main_pids[0]
    target = Target(host, ports[0], key, ISSUER, AUDIENCE, pid, running.settings)
    return Cluster(target, ports, running.main_pids, running.operators, data / "chatd.db", valkey)
