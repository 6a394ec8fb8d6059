"""A machine that chatd runs on, in the test's hands: its wall clock, its disk and the loss of its power (``machine.c``)."""

from __future__ import annotations

import mmap
import os
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from tests.e2e.cluster import Cluster

SOURCE = Path(__file__).with_name("machine.c")
STORE = "chatd.db"


class Machine:
    """Made before the cluster, with its directory: ``environ`` is for its nodes, whose data directory is the disk. ``forgets``:
    the end of the names of files that are not synced though it is said so; ``sync_ms``: milliseconds that each sync takes
    longer."""

    def __init__(self, directory: Path, *, forgets: str = "", sync_ms: int = 0) -> None:
        self._disk, self._platter = directory / "data", directory / "platter"
        for made in (self._disk, self._platter):
            made.mkdir(parents=True)
        clock = directory / "clock"
        clock.write_bytes(struct.pack("=q", 0))
        with clock.open("r+b") as file:
            self._clock = mmap.mmap(file.fileno(), 8)
        self.environ = {
            "LD_PRELOAD": str(_built(directory)), "MACHINE_CLOCK": str(clock), "MACHINE_DISK": str(self._disk.resolve()),
            "MACHINE_PLATTER": str(self._platter.resolve()), "MACHINE_SYNC_MS": str(sync_ms),
        }  # fmt: skip
        if forgets:
            self.environ["MACHINE_FORGETS"] = forgets

    def set_wall_clock(self, seconds: float) -> None:
        """It is so far off from now on, for all of them."""
        self._clock[:8] = struct.pack("=q", round(seconds * 1e9))

    def lose_power(self) -> int:
        """After all nodes were killed: of the store, only what was synced is there. How many bytes of it are other ones now."""
        lost = 0
        for waiting in self._platter.glob(f".{STORE}*"):
            waiting.unlink()
        for path in [path for path in self._disk.iterdir() if path.name.startswith(STORE)]:
            kept = self._platter / path.name
            if path.name.endswith("-shm") or not kept.exists():
                lost += path.stat().st_size if not path.name.endswith("-shm") else 0
                path.unlink()
                continue
            before, after = path.read_bytes(), kept.read_bytes()
            lost += abs(len(before) - len(after)) + sum(a != b for a, b in zip(before, after, strict=False))
            shutil.copyfile(kept, path)
        return lost


def cut_power(cluster: Cluster, machine: Machine) -> int:
    """All nodes are gone at one moment, and with them whatever was not synced; as many of them start again. Bytes lost."""
    running = cluster.running
    for server in running:
        server.process.kill()
    for server in running:
        server.process.wait()
    lost = machine.lose_power()
    for _ in running:
        cluster.start()
    return lost


def _built(directory: Path) -> Path:
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        pytest.skip("there is no C compiler (cc), which the preloaded machine takes")
    target = directory / "machine.so"
    options = ["-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-ldl"]
    subprocess.run([compiler, SOURCE, *options, "-o", target], check=True)
    return target
