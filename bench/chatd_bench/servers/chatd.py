"""chatd itself, one process or several on one data directory, with everything that its core promises switched on.

Users sign in with tokens of an issuer whose key is made here: signing up thousands of accounts would measure argon2.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from chatd_bench.faults import NotOffered, RunFailed
from chatd_bench.machine import PACKAGES, versions_of
from chatd_bench.servers.processes import naming_the_dead
from chatd_bench.servers.server import Endpoint, Needs, Running, Server

ISSUER = "chatd-bench"
AUDIENCE = "chatd"
START_SECONDS = 60.0
STOP_SECONDS = 30.0
MAX_NODES = 16
DEFAULT_GROUP_BOUND = 1000

_LISTENING = re.compile(r"listening on (http://\S+).*\n")
_OPERATORS = re.compile(r"operators: http://([^)\s]+)")
"""On the same line."""

UNLIMITED = {
    "CHATD_LIMITS_MESSAGES_PER_SECOND": "1000000",
    "CHATD_LIMITS_MESSAGES_BURST": "1000000",
    "CHATD_LIMITS_REQUESTS_PER_SECOND": "1000000",
    "CHATD_LIMITS_REQUESTS_BURST": "1000000",
    "CHATD_LIMITS_CONNECTIONS_PER_MINUTE": "1000000",
    "CHATD_LIMITS_CONNECTIONS": "1000000",
    "CHATD_LIMITS_CONNECTIONS_PER_ADDRESS": "1000000",
}
QUIET = {"CHATD_SERVER_DRAIN_SECONDS": "0", "CHATD_LOG_LEVEL": "warning"}
"""What is not measured: rate limits, and a line of log for each connection. The caller's own CHATD_ variables win."""


class Chatd(Server):
    """The server of this repository, as it is in the environment that the harness runs in."""

    dialects = ("chatd-cbor", "chatd-json")
    keeps_history = True
    max_nodes = MAX_NODES

    @contextmanager
    def start(self, needs: Needs) -> Iterator[Running]:
        """On a temporary data directory, with QUIET, UNLIMITED and the settings as its environment."""
        if needs.nodes > self.max_nodes:
            raise NotOffered(f"{self.name}: {needs.nodes} nodes")
        settings = {**QUIET, **({} if needs.limited else UNLIMITED), **needs.settings}
        if needs.members > DEFAULT_GROUP_BOUND:
            settings["CHATD_LIMITS_GROUP_MEMBERS"] = str(needs.members)
        settings |= {name: value for name, value in os.environ.items() if name.startswith("CHATD_")}
        with tempfile.TemporaryDirectory(prefix="chatd-bench-") as name:
            directory = Path(name)
            private_key = _write_issuer(directory)
            if needs.prepare is not None:
                (directory / "data").mkdir(mode=0o700)
                needs.prepare(directory / "data")
            credentials = {"private_key": private_key, "issuer": ISSUER, "audience": AUDIENCE}
            with _nodes(directory, needs.nodes, settings) as (endpoints, pids):
                operators = tuple(_operators(directory, number) for number in range(needs.nodes))
                yield Running(endpoints, pids, pids, credentials, versions_of(("chatd", *PACKAGES)), settings, operators)


@contextmanager
def _nodes(directory: Path, count: int, settings: dict[str, str]) -> Iterator[tuple[tuple[Endpoint, ...], tuple[int, ...]]]:
    """One after another, for the first one begins the store and the Valkey."""
    processes: list[subprocess.Popen[bytes]] = []
    endpoints: list[Endpoint] = []
    statuses: list[bool] = []
    try:
        for number in range(count):
            processes.append(_start_node(directory, number, settings))
            endpoints.append(_endpoint(processes[-1], directory, number))
        with naming_the_dead("the server's", processes):
            yield tuple(endpoints), tuple(process.pid for process in processes)
    except RunFailed as fault:
        raise RunFailed(f"{fault}{_last_words(directory)}") from fault
    finally:
        for process in processes:
            process.send_signal(signal.SIGTERM)
        statuses += map(_ended, processes)
    if not all(statuses):
        raise RunFailed(f"the server did not end with status 0 after SIGTERM{_last_words(directory)}")


def _start_node(directory: Path, number: int, settings: dict[str, str]) -> subprocess.Popen[bytes]:
    command = (
        sys.executable, "-P", "-m", "chatd", "serve", "--config", str(directory / "chatd.toml"),
        "--data", str(directory / "data"), "--listen", "127.0.0.1:0", "--ops", "127.0.0.1:0",
    )  # fmt: skip
    with (directory / f"stderr{number}").open("wb") as stderr, (directory / f"stdout{number}").open("wb") as stdout:
        return subprocess.Popen(command, env={**os.environ, **settings}, stdout=stdout, stderr=stderr)


def _endpoint(process: subprocess.Popen[bytes], directory: Path, number: int) -> Endpoint:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        if found := _LISTENING.search((directory / f"stdout{number}").read_text()):
            url = urlsplit(found[1])
            assert url.hostname is not None, "the server prints it"
            assert url.port is not None, "the server prints it"
            return Endpoint(url.hostname, url.port)
        if process.poll() is not None:
            raise RunFailed(f"the server ended with status {process.returncode}")
        time.sleep(0.02)
    raise RunFailed(f"the server did not say its address within {START_SECONDS:.0f} s")


def _operators(directory: Path, number: int) -> str:
    found = _OPERATORS.search((directory / f"stdout{number}").read_text())
    return found[1] if found else ""


def _ended(process: subprocess.Popen[bytes]) -> bool:
    try:
        return process.wait(STOP_SECONDS) == 0
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return False


def _last_words(directory: Path) -> str:
    said = "\n".join(file.read_text(errors="replace").strip() for file in sorted(directory.glob("stderr*"))).strip()
    return f"\nthe server's log ends with:\n{said[-2000:]}" if said else ""


def _write_issuer(directory: Path) -> str:
    key = Ed25519PrivateKey.generate()
    public = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    (directory / "issuer.pem").write_bytes(public)
    (directory / "chatd.toml").write_text(
        f'[[auth.issuers]]\nissuer = "{ISSUER}"\naudience = "{AUDIENCE}"\nalgorithm = "EdDSA"\n'
        f'key_file = "{directory / "issuer.pem"}"\n'
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return private.decode()


def running_server(url: str, key_file: Path, issuer: str, audience: str, pid: int | None) -> Running:
    """A server that runs already and trusts ``issuer``, whose private key is in ``key_file``. Raises RunFailed."""
    parts = urlsplit(url)
    if parts.scheme != "http" or parts.hostname is None:
        raise RunFailed(f"{url}: must be http://HOST:PORT")
    try:
        key = key_file.read_text()
    except OSError as fault:
        raise RunFailed(f"{key_file}: {fault.strerror}") from fault
    try:
        port = parts.port or 80
    except ValueError as fault:
        raise RunFailed(f"{url}: {fault}") from fault
    pids = () if pid is None else (pid,)
    credentials = {"private_key": key, "issuer": issuer, "audience": audience}
    return Running((Endpoint(parts.hostname, port),), pids, pids, credentials, {}, {})
