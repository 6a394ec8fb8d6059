"""The engine as a library that ``native`` loads."""

from __future__ import annotations

from pathlib import Path

from chatd_bench.compiler import compiled

SOURCES = ("engine.c", "judging.h", "state.h", "wire.h", "writing.h")
FLAGS = ("-O2", "-std=c11", "-Wall", "-Wextra", "-fPIC", "-shared")
_HERE = Path(__file__).parent


def library() -> Path:
    """Compiled, now if need be. Raises RunFailed where there is no C compiler, or it refuses."""
    return compiled([_HERE / name for name in SOURCES], FLAGS, ".so")
