"""The server under load: started here on a fresh data directory, or one that runs already.

Owns the process it started and its directory; both end with the context. The users' tokens come from an issuer of our
own, whose key is made here: signing up thousands of accounts would measure argon2.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from chatd_bench.connection import RunFailed

ISSUER = "chatd-bench"
AUDIENCE = "chatd"
START_SECONDS = 60.0
STOP_SECONDS = 30.0

_LISTENING = re.compile(r"listening on (http://\S+)")
OPERATORS = re.compile(r"operators: http://([^)\s]+)")
"""Where a server has said that its operators' pages are; on the line of its URL."""

UNLIMITED = {
    "CHATD_LIMITS_MESSAGES_PER_SECOND": "1000000",
    "CHATD_LIMITS_MESSAGES_BURST": "1000000",
    "CHATD_LIMITS_REQUESTS_PER_SECOND": "1000000",
    "CHATD_LIMITS_REQUESTS_BURST": "1000000",
    "CHATD_LIMITS_CONNECTIONS_PER_MINUTE": "1000000",
    "CHATD_LIMITS_CONNECTIONS": "1000000",
    "CHATD_LIMITS_CONNECTIONS_PER_ADDRESS": "1000000",
    "CHATD_SERVER_DRAIN_SECONDS": "0",
    "CHATD_LOG_LEVEL": "warning",
}
"""What is not measured: rate limits, and a line of log for each connection. The caller's own CHATD_ variables win."""


@dataclass(frozen=True)
class Target:
    """Whom to load. ``pid`` is None for a server that was not started here and not named: its CPU is not known."""

    host: str
    port: int
    private_key: bytes
    issuer: str
    audience: str
    pid: int | None
    settings: Mapping[str, str]


def running_server(url: str, key_file: Path, issuer: str, audience: str, pid: int | None) -> Target:
    """A server that runs already and trusts ``issuer``, whose private key is in ``key_file``. Raises RunFailed."""
    parts = urlsplit(url)
    if parts.scheme != "http" or parts.hostname is None:
        raise RunFailed(f"{url}: must be http://HOST:PORT")
    try:
        key = key_file.read_bytes()
    except OSError as fault:
        raise RunFailed(f"{key_file}: {fault.strerror}") from fault
    return Target(parts.hostname, parts.port or 80, key, issuer, audience, pid, {})


@contextmanager
def own_server(settings: Mapping[str, str], prepare: Callable[[Path], None] | None = None) -> Iterator[Target]:
    """A server on a temporary data directory, with UNLIMITED and ``settings`` (CHATD_... variables) as its environment.

    ``prepare`` gets the data directory before it starts.
    Raises RunFailed when it does not start, or does not end well.
    """
    ours = {**UNLIMITED, **settings}
    ours |= {name: value for name, value in os.environ.items() if name.startswith("CHATD_")}
    with tempfile.TemporaryDirectory(prefix="chatd-bench-") as name:
        directory = Path(name)
        private_key = write_issuer(directory)
        if prepare is not None:
            (directory / "data").mkdir(mode=0o700)
            prepare(directory / "data")
        process = start_server(directory, directory, ours)
        try:
            url = urlsplit(wait_for_url(process, directory))
            assert url.hostname is not None, "the server prints it"
            assert url.port is not None, "the server prints it"
            yield Target(url.hostname, url.port, private_key, ISSUER, AUDIENCE, process.pid, ours)
        except RunFailed as fault:
            raise RunFailed(f"{fault}{last_words(directory)}") from fault
        finally:
            stopped = stop_server(process)
        if not stopped:
            raise RunFailed(f"the server did not end with status 0 after SIGTERM{last_words(directory)}")


def start_server(directory: Path, words: Path, settings: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """A process on the data in ``directory``, which has an issuer; what it says goes into files in ``words``."""
    command = (
        sys.executable, "-m", "chatd", "serve", "--config", str(directory / "chatd.toml"),
        "--data", str(directory / "data"), "--listen", "127.0.0.1:0", "--ops", "127.0.0.1:0",
    )  # fmt: skip
    with (words / "stderr").open("wb") as stderr, (words / "stdout").open("wb") as stdout:
        return subprocess.Popen(command, env={**os.environ, **settings}, stdout=stdout, stderr=stderr)


def write_issuer(directory: Path) -> bytes:
    """A configuration that trusts an issuer of ours; its private key."""
    key = Ed25519PrivateKey.generate()
    public = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    (directory / "issuer.pem").write_bytes(public)
    (directory / "chatd.toml").write_text(
        f'[[auth.issuers]]\nissuer = "{ISSUER}"\naudience = "{AUDIENCE}"\nalgorithm = "EdDSA"\n'
        f'key_file = "{directory / "issuer.pem"}"\n'
    )
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def wait_for_url(process: subprocess.Popen[bytes], directory: Path) -> str:
    """Where it listens, once it has said so in ``directory``. Raises RunFailed."""
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        if found := _LISTENING.search((directory / "stdout").read_text().rpartition("\n")[0]):
            return found[1]
        if process.poll() is not None:
            raise RunFailed(f"the server ended with status {process.returncode}")
        time.sleep(0.02)
    raise RunFailed(f"the server did not say its address within {START_SECONDS:.0f} s")


def stop_server(process: subprocess.Popen[bytes]) -> bool:
    """End it with SIGTERM; whether it ended well."""
    process.send_signal(signal.SIGTERM)
    try:
        return process.wait(STOP_SECONDS) == 0
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return False


def last_words(directory: Path) -> str:
    """The end of its log, for a report of what went wrong; empty where it said nothing."""
    said = (directory / "stderr").read_text(errors="replace").strip()
    return f"\nthe server's log ends with:\n{said[-2000:]}" if said else ""
