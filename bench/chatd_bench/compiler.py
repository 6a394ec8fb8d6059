"""C code of the harness, compiled at first use: the engine, and the anchors.

The result stays in the cache directory, named by its sources' content, so that nothing old is ever run.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from chatd_bench.faults import RunFailed
from chatd_bench.servers.server import cache_directory


def compiled(sources: Sequence[Path], flags: Sequence[str], suffix: str = "") -> Path:
    """What the compiler makes of the first source, which includes the others; made now if need be.

    Raises RunFailed where there is no C compiler, or it refuses.
    """
    digest = hashlib.sha256(" ".join((*flags, platform.machine())).encode())
    for source in sources:
        digest.update(source.read_bytes())
    path = cache_directory() / f"{sources[0].stem}-{digest.hexdigest()[:16]}{suffix}"
    if not path.exists():
        _compile(sources[0], flags, path)
    return path


def compiler_version() -> str:
    """The first line of what it says of itself. Raises RunFailed."""
    return _said((*_compiler(), "--version")).split("\n", 1)[0]


def _compiler() -> list[str]:
    named = os.environ.get("CC") or next(filter(shutil.which, ("cc", "gcc", "clang")), None)
    if named is None:
        raise RunFailed(
            "the load generator is a C program, and there is no C compiler (cc, gcc, clang). On Debian and Ubuntu: "
            "apt install gcc libc6-dev. Or name one: CC=..."
        )
    return named.split()


def _compile(source: Path, flags: Sequence[str], path: Path) -> None:
    fresh = path.with_suffix(f".{os.getpid()}")
    _said((*_compiler(), *flags, str(source), "-o", str(fresh)))
    fresh.replace(path)  # at once, for several generators begin together


def _said(command: Sequence[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as fault:
        raise RunFailed(f"{command[0]}: {fault.strerror}") from fault
    if done.returncode:
        raise RunFailed(f"{' '.join(command)}\n{done.stderr[-2000:]}")
    return done.stdout
