"""Compiles ``engine.c`` where it has not been compiled yet; the result stays in the cache directory, named by its content."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
from pathlib import Path

from chatd_bench.faults import RunFailed
from chatd_bench.servers.server import cache_directory

SOURCES = ("engine.c", "judging.h", "state.h", "wire.h", "writing.h")
FLAGS = ("-O2", "-std=c11", "-Wall", "-Wextra", "-fPIC", "-shared")
_HERE = Path(__file__).parent


def library() -> Path:
    """The compiled engine, made now if need be. Raises RunFailed where there is no C compiler, or it refuses."""
    digest = hashlib.sha256(" ".join((*FLAGS, platform.machine())).encode())
    for name in SOURCES:
        digest.update((_HERE / name).read_bytes())
    path = cache_directory() / f"engine-{digest.hexdigest()[:16]}.so"
    if not path.exists():
        _compile(path)
    return path


def _compile(path: Path) -> None:
    compiler = os.environ.get("CC") or next(filter(shutil.which, ("cc", "gcc", "clang")), None)
    if compiler is None:
        raise RunFailed(
            "the load generator is a C program, and there is no C compiler (cc, gcc, clang). On Debian and Ubuntu: "
            "apt install gcc libc6-dev. Or name one: CC=..."
        )
    fresh = path.with_suffix(f".{os.getpid()}")
    command = (*compiler.split(), *FLAGS, str(_HERE / "engine.c"), "-o", str(fresh))
    try:
        said = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as fault:
        raise RunFailed(f"{compiler}: {fault.strerror}") from fault
    if said.returncode:
        raise RunFailed(f"{' '.join(command)}\n{said.stderr[-2000:]}")
    fresh.replace(path)  # at once, for several generators begin together
