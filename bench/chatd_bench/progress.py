"""What is going on, for people: one line that is written over, on standard error, where somebody looks."""

from __future__ import annotations

import sys
import time

SHOW_EVERY_SECONDS = 0.2


class Progress:
    """One stage, from its beginning to its end."""

    def __init__(self, what: str, total: int) -> None:
        self._what = what
        self._total = total
        self._began = time.monotonic()
        self._shown = 0.0

    def __enter__(self) -> Progress:
        return self

    def show(self, count: int) -> None:
        """How much of it is done."""
        if sys.stderr.isatty() and time.monotonic() - self._shown > SHOW_EVERY_SECONDS:
            self._shown = time.monotonic()
            print(f"\r{self._what:<10} {count:>10,} of {self._total:,}", end="", file=sys.stderr, flush=True)

    def __exit__(self, *_: object) -> None:
        start = "\r" if sys.stderr.isatty() else ""
        seconds = time.monotonic() - self._began
        print(f"{start}{self._what:<10} {self._total:>10,} in {seconds:.1f} s          ", file=sys.stderr, flush=True)
