"""What can be done to real processes from outside: killed, stopped, cut off from Redis, taken space and descriptors from."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import trio

from tests.e2e.cluster import Cluster, Server
from tests.faults.valkey import call, patiently

CGROUPS = Path("/sys/fs/cgroup")
ATTACH_SECONDS = 30.0


async def ask_valkey(cluster: Cluster, *words: str) -> bytes:
    """One command to the cluster's embedded Valkey, tried until it is there."""

    def attempt() -> bytes:
        path = next(iter(cluster.data.rglob("*.sock")), None)
        if path is None:
            raise ConnectionRefusedError("no embedded Valkey listens in the data directory")
        return call(path, *words)

    return await patiently(attempt)


def children_of(server: Server) -> list[int]:
    """The processes that a node has started: its embedded Valkey. Only of one that runs: a pid may be another's later."""
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


# --- system calls ---------------------------------------------------------------------------------


@contextmanager
def injected(server: Server, *rules: str) -> Iterator[Callable[[], int]]:
    """System calls of a node that fail or are late, by ``strace``: rules as ``fdatasync:error=EIO``. Gives how many there were so
    far. Skips the test where there is no ``strace``, or it may not."""
    if shutil.which("strace") is None:
        pytest.skip("failing system calls take `strace`")
    with tempfile.TemporaryDirectory() as directory:
        trace = Path(directory) / "trace"
        tracing = subprocess.Popen(_strace(server, rules, trace))
        try:
            yield lambda: trace.read_bytes().count(b"(INJECTED)") + trace.read_bytes().count(b"(DELAYED)")
        finally:
            tracing.send_signal(signal.SIGINT)
            tracing.wait(30)


def _strace(server: Server, rules: tuple[str, ...], trace: Path) -> list[str]:
    traced = ",".join(rule.partition(":")[0] for rule in rules)
    command = ["strace", "-f", "-q", "-o", str(trace), "-p", str(server.process.pid)]
    command += ["-e", "signal=none", "-e", f"trace={traced}"]
    for rule in rules:
        command += ["-e", f"inject={rule}"]
    return command


async def wait_attached(server: Server) -> None:
    """Until every thread of it is traced."""
    tasks = Path(f"/proc/{server.process.pid}/task")
    with trio.fail_after(ATTACH_SECONDS):
        while any(_field(task / "status", "TracerPid") == "0" for task in tasks.iterdir()):
            await trio.sleep(0.01)


# --- control groups -------------------------------------------------------------------------------


def _unified() -> bool:
    """Whether control groups are of version 2."""
    return (CGROUPS / "cgroup.controllers").exists()


@contextmanager
def _confined(server: Server, controller: str, settings: Mapping[str, str]) -> Iterator[Path]:
    """In a control group of its own, of either version; skips the test where none can be made."""
    parent = CGROUPS if _unified() else CGROUPS / controller
    group = parent / f"chatd-test-{server.process.pid}"
    try:
        if _unified():
            (parent / "cgroup.subtree_control").write_text(f"+{controller}")
        group.mkdir()
    except OSError as fault:
        pytest.skip(f"no control group for {controller}: {fault}")
    try:
        try:
            for name, value in settings.items():
                (group / f"{controller}.{name}").write_text(value)
            (group / "cgroup.procs").write_text(str(server.process.pid))
        except OSError as fault:
            pytest.skip(f"no control group for {controller}: {fault}")
        yield group
    finally:
        for pid in (group / "cgroup.procs").read_text().split():
            with suppress(ProcessLookupError):
                (parent / "cgroup.procs").write_text(pid)
        group.rmdir()


@contextmanager
def throttled(server: Server, processors: float) -> Iterator[None]:
    """So many processors at most."""
    quota, period = str(round(20_000 * processors)), "20000"
    settings = {"max": f"{quota} {period}"} if _unified() else {"cfs_period_us": period, "cfs_quota_us": quota}
    with _confined(server, "cpu", settings):
        yield


@contextmanager
def short_of_memory(server: Server, more_bytes: int) -> Iterator[Callable[[], int]]:
    """So much more than it has now; then the kernel ends it. Gives how often it has come to that bound so far."""
    with _confined(server, "memory", {"max" if _unified() else "limit_in_bytes": str(more_bytes)}) as group:
        if _unified():
            yield lambda: int(dict(line.split() for line in (group / "memory.events").read_text().splitlines())["max"])
        else:
            yield lambda: int((group / "memory.failcnt").read_text())


# --- what is seen of a process --------------------------------------------------------------------


def descriptors(server: Server) -> int:
    """How many files it has open."""
    return len(list(Path(f"/proc/{server.process.pid}/fd").iterdir()))


def worked_seconds(server: Server) -> float:
    """Of a processor, since it began."""
    after_name = Path(f"/proc/{server.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(after_name[11]) + int(after_name[12])) / os.sysconf("SC_CLK_TCK")


def resident(server: Server) -> int:
    """KiB."""
    return int(_field(Path(f"/proc/{server.process.pid}/status"), "VmRSS").split()[0])


def _field(status: Path, name: str) -> str:
    """Of a process or a thread; "0" where it is over."""
    with suppress(FileNotFoundError, ProcessLookupError):
        for line in status.read_text().splitlines():
            if line.startswith(f"{name}:"):
                return line.partition(":")[2].strip()
    return "0"
