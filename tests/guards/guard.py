"""What a guard is, to be switched off."""

from __future__ import annotations

from typing import NamedTuple


class Guard(NamedTuple):
    """``text`` keeps what ``name`` says. It stands in ``file`` exactly once, and with ``off`` in its place the guard is off.

    ``tests``: ids for pytest, of which at least one must fail then. As narrow and quick as they can be.
    """

    name: str
    file: str
    text: str
    off: str
    tests: tuple[str, ...]


def tests_in(path: str, *names: str) -> tuple[str, ...]:
    """Those of one file, or of one class in it."""
    return tuple(f"{path}::{name}" for name in names) or (path,)
