"""What can be done to real processes from outside: killed, stopped, cut off from Redis, taken space and descriptors from."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from tests.e2e.cluster import Cluster, Server
from tests.faults.valkey import call, patiently


async def ask_valkey(cluster: Cluster, *words: str) -> bytes:
    """One command to the cluster's embedded Valkey, tried until it is there."""

    def attempt() -> bytes:
        path = next(iter(cluster.data.rglob("*.sock")), None)
        if path is None:
            raise ConnectionRefusedError("no embedded Valkey listens in the data directory")
        return call(path, *words)

    return await patiently(attempt)


def children_of(server: Server) -> list[int]:
    """The processes that a node has started: its embedded Valkey."""
    found = subprocess.run(["pgrep", "-P", str(server.process.pid)], capture_output=True, text=True, check=False)
    return [int(pid) for pid in found.stdout.split()]


@contextmanager
def stopped(server: Server) -> Iterator[None]:
    """SIGSTOP, then SIGCONT: a node that sleeps, and does not know that it has."""
    os.kill(server.process.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(server.process.pid, signal.SIGCONT)


@contextmanager
def injected(server: Server, *rules: str) -> Iterator[subprocess.Popen[bytes]]:
    """System calls of a node that fail or are late, by ``strace``: rules as ``fdatasync:error=EIO``."""
    traced = ",".join(rule.partition(":")[0] for rule in rules)
    command = ["strace", "-f", "-q", "-o", "/dev/null", "-p", str(server.process.pid), "-e", f"trace={traced}"]
    for rule in rules:
        command += ["-e", f"inject={rule}"]
    tracing = subprocess.Popen(command)
    try:
        yield tracing
    finally:
        tracing.send_signal(signal.SIGINT)
        tracing.wait(30)


@contextmanager
def _confined(server: Server, controller: str, **settings: int) -> Iterator[None]:
    """In a control group of its own (version 1); skips the test where none can be made."""
    group = Path(f"/sys/fs/cgroup/{controller}/chatd-test-{server.process.pid}")
    try:
        group.mkdir()
        for name, value in settings.items():
            (group / f"{controller}.{name}").write_text(str(value))
        (group / "cgroup.procs").write_text(str(server.process.pid))
    except OSError as fault:
        pytest.skip(f"no control group for {controller}: {fault}")
    try:
        yield
    finally:
        for pid in (group / "cgroup.procs").read_text().split():
            (group.parent / "cgroup.procs").write_text(pid)
        group.rmdir()


def throttled(server: Server, processors: float) -> AbstractContextManager[None]:
    """So many processors at most."""
    return _confined(server, "cpu", cfs_period_us=20_000, cfs_quota_us=round(20_000 * processors))


def short_of_memory(server: Server, more_bytes: int) -> AbstractContextManager[None]:
    """So much more than it has now; then the kernel ends it."""
    return _confined(server, "memory", limit_in_bytes=more_bytes)


def descriptors(server: Server) -> int:
    """How many files it has open."""
    return len(list(Path(f"/proc/{server.process.pid}/fd").iterdir()))


def resident(server: Server) -> int:
    """KiB."""
    for line in Path(f"/proc/{server.process.pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    return 0
