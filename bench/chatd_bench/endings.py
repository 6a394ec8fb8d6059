"""SIGTERM and SIGHUP end the harness as Ctrl-C does: servers, generators and temporary directories end with their contexts.

Without this the process would be gone at once, and all that it has started would go on. Who ignores a signal (``nohup``) goes
on ignoring it.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

INTERRUPTED = 130
"""What ``cli.main`` returns after a KeyboardInterrupt."""


class Ending:
    """Whether somebody has told the process to end, and by which signal."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None

    def heard(self, number: int, _: FrameType | None) -> None:
        """The signal's handler. Only the first one counts: what it ends needs its time."""
        if self.signal is not None:
            return
        self.signal = signal.Signals(number)
        if callable(signal.getsignal(signal.SIGINT)):
            signal.raise_signal(signal.SIGINT)  # as Ctrl-C: trio has a handler of its own for it
        else:
            raise KeyboardInterrupt

    def status(self, status: int) -> int:
        """The exit status, where the run has ended with that one; says why it was ended, if it was."""
        name = self.signal.name if self.signal else "SIGINT" if status == INTERRUPTED else None
        if name is None:
            return status
        print(f"interrupted by {name}: everything that was started has ended", file=sys.stderr)
        return 128 + self.signal if self.signal else status


@contextmanager
def told_to_end() -> Iterator[Ending]:
    """While it lasts both signals are KeyboardInterrupts, the first of them."""
    ending = Ending()
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, ending.heard)
    with suppress(KeyboardInterrupt):  # of the moments when nothing is running yet, or any more
        yield ending
