"""One writer at a time before the lock of a file, and none overtaken by who has just committed.

SQLite's write lock goes to whoever asks for it in the right moment: one that has just committed and begins again has it before
those that sleep between two tries, up to 0.1 s. Of four nodes to which hundreds came back at once one waited for more than
5 s, and refused them. Here only one waits for the write lock, in the turnstile (a file with a lock of the kernel's); the
others wait for the turnstile, and so does who has just committed.

It is a courtesy: one who stands still in it for COURTESY_SECONDS is gone round, and a process that dies leaves it.
"""

from __future__ import annotations

import fcntl
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

COURTESY_SECONDS: Final = 1.0
LOOK_SECONDS: Final = 0.001


class Turnstile:
    """One writer's. ``enter`` and ``wait`` need a ``leave``, which may be repeated. Raises OSError where there can be no
    file."""

    def __init__(self, database: Path) -> None:
        self._file = os.open(f"{database}-turn", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._inside = False

    def enter(self) -> bool:
        """Go in, if nobody else is in."""
        if not self._inside:
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:  # somebody is in; or there is no lock to be had, and this is but a courtesy
                return False
            self._inside = True
        return True

    def wait(self, seconds: float) -> None:
        """Go in as soon as nobody else is in; after so many seconds, do without. Blocks: for a thread."""
        end = time.monotonic() + min(seconds, COURTESY_SECONDS)
        while not self.enter() and time.monotonic() < end:
            time.sleep(LOOK_SECONDS)

    def leave(self) -> None:
        """Let the next one in."""
        if self._inside:
            self._inside = False
            with suppress(OSError):
                fcntl.flock(self._file, fcntl.LOCK_UN)

    def close(self) -> None:
        os.close(self._file)
