"""Numbers of a command line: which of them an option takes. Each raises ``ArgumentTypeError``, which argparse tells."""

from __future__ import annotations

import math
from argparse import ArgumentTypeError


def positive(text: str) -> int:
    """A whole number from 1 on."""
    return _whole(text, 1)


def counted(text: str) -> int:
    """A whole number from 0 on."""
    return _whole(text, 0)


def above_zero(text: str) -> float:
    """A finite number above 0."""
    value = _finite(text)
    if value <= 0:
        raise ArgumentTypeError(f"invalid value {text}: must be above 0")
    return value


def not_negative(text: str) -> float:
    """A finite number from 0 on."""
    value = _finite(text)
    if value < 0:
        raise ArgumentTypeError(f"invalid value {text}: must not be negative")
    return value


def _whole(text: str, least: int) -> int:
    try:
        value = int(text)
    except ValueError:
        value = least - 1
    if value < least:
        raise ArgumentTypeError(f"invalid value {text}: must be a whole number from {least} on")
    return value


def _finite(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ArgumentTypeError(f"invalid value {text}: must be a finite number")
    return value
