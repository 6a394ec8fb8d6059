"""What a user may set once and for all: a small TOML file, and what the command line says instead.

``$XDG_CONFIG_HOME/chatd/chat.toml``, by default ``~/.config/chatd/chat.toml``:

    theme = "light"     # dark (default), light, mono
    mouse = false       # true (default): clicks and the wheel are the program's; false: the terminal's own
"""

from __future__ import annotations

import os
import tomllib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chatd_terminal.themes import THEMES

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class Settings:
    """See the module's docstring."""

    theme: str = "dark"
    mouse: bool = True


def settings_path(environment: Mapping[str, str]) -> Path:
    """Where the file is."""
    base = environment.get("XDG_CONFIG_HOME")
    return (Path(base) if base else Path.home() / ".config") / "chatd" / "chat.toml"


def read_settings(theme: str | None = None, environment: Mapping[str, str] = os.environ) -> Settings:
    """The settings in force; ``theme`` from the command line. NO_COLOR means mono where nothing else is said.

    Raises ValueError for a file that cannot be used, with its path, and OSError for one that cannot be read.
    """
    path = settings_path(environment)
    found = Settings(theme="mono") if environment.get("NO_COLOR") else Settings()
    try:
        found = _checked(found, tomllib.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        found = _checked(found, {})
    except (ValueError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: {error}") from None
    return _checked(found, {"theme": theme}) if theme is not None else found


def _checked(settings: Settings, keys: dict[str, Any]) -> Settings:
    for key, value in keys.items():
        if key == "theme" and value not in THEMES:
            raise ValueError(f"theme: {', '.join(THEMES)}, not {value!r}")
        if key == "mouse" and not isinstance(value, bool):
            raise ValueError(f"mouse: true or false, not {value!r}")
        if key not in {"theme", "mouse"}:
            raise ValueError(f"{key} is no setting; there are theme and mouse")
    return replace(settings, **keys)
