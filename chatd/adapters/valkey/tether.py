"""Become another program that the kernel kills when the process that started it dies. Run by path, never imported.

Arguments: the parent's process id, the program, its arguments. A script of its own rather than a ``preexec_fn``: that
runs Python between fork and exec, and forbids vfork. Imports nothing of chatd's, so that it is there in some 20 ms.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main(parent: int, program: str, arguments: list[str]) -> None:
    """Ask for the signal, make sure that it did not come too late to be sent, then exec."""
    if sys.platform == "linux" and ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        sys.exit("tether: prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent:
        sys.exit("tether: the parent is gone")
    os.execv(program, [program, *arguments])  # noqa: S606


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3:])
