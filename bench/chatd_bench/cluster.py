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
from urllib.parse import urlsplit

from chatd.adapters.valkey.program import find_program
from chatd_bench.connection import RunFailed
from chatd_bench.server import (
    AUDIENCE,
    ISSUER,
    OPERATORS,
    UNLIMITED,
    Target,
    last_words,
    start_server,
    stop_server,
    wait_for_url,
    write_issuer,
)

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
    """Two nodes with UNLIMITED and ``settings`` (CHATD_... variables, of which the caller's own win).

    Raises RunFailed when one does not start, or does not end well.
    """
    given = {name: value for name, value in os.environ.items() if name.startswith("CHATD_")}
    with tempfile.TemporaryDirectory(prefix="chatd-bench-") as name, ExitStack() as stack:
        directory = Path(name)
        valkey = Valkey(directory)
        stack.callback(valkey.end)
        ours = {**UNLIMITED, **settings, **given, "CHATD_REDIS_URL": valkey.url}
        key = write_issuer(directory)
        words = [directory / f"node{number}" for number in range(NODES)]
        processes = [_start(directory, place, ours, stack) for place in words]
        try:
            yield _cluster(directory, words, processes, key, ours, valkey)
        except RunFailed as fault:
            raise RunFailed(f"{fault}{''.join(map(last_words, words))}") from fault
        for place, process in zip(words, processes, strict=True):
            if not stop_server(process):
                raise RunFailed(f"a node did not end with status 0 after SIGTERM{last_words(place)}")


def _start(directory: Path, words: Path, settings: Mapping[str, str], stack: ExitStack) -> subprocess.Popen[bytes]:
    words.mkdir()
    process = start_server(directory, words, settings)
    stack.callback(process.wait)
    stack.callback(process.kill)
    return process


def _cluster(
    directory: Path, words: list[Path], processes: list[subprocess.Popen[bytes]], key: bytes, settings: Mapping[str, str],
    valkey: Valkey,
) -> Cluster:  # fmt: skip
    urls = [urlsplit(wait_for_url(process, place)) for process, place in zip(processes, words, strict=True)]
    said = [OPERATORS.search((place / "stdout").read_text()) for place in words]
    ports = tuple(url.port or 0 for url in urls)
    pids = tuple(process.pid for process in processes)
    target = Target(urls[0].hostname or "", ports[0], key, ISSUER, AUDIENCE, pids[0], settings)
    operators = tuple(found[1] if found else "" for found in said)
    return Cluster(target, ports, pids, operators, directory / "data" / "chatd.db", valkey)
