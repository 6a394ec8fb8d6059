"""The browser, for a link that somebody chose to open. Nothing is opened by itself."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

_opened: list[subprocess.Popen[bytes]] = []


def opener() -> str | None:
    """The program that opens links; None where there is no desktop: a browser in this terminal would fight for it."""
    if sys.platform == "darwin":
        return shutil.which("open")
    desktop = os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    return shutil.which("xdg-open") if desktop else None


def open_link(program: str, link: str) -> None:
    """Give a link to the browser, and do not wait for it. Raises ValueError for what is no link, OSError."""
    if not link.startswith(("http://", "https://")):
        raise ValueError("only http and https links are opened")
    _opened[:] = [process for process in _opened if process.poll() is None]
    nothing = subprocess.DEVNULL
    _opened.append(
        subprocess.Popen([program, link], stdin=nothing, stdout=nothing, stderr=nothing, start_new_session=True)
    )
