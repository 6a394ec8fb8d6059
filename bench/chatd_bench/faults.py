"""What ends a run. Everything of the harness raises these, and only ``cli`` catches them."""

from __future__ import annotations


class RunFailed(Exception):
    """The run is worth nothing: a check failed, or the server went away. The text says what was seen."""


class NotOffered(Exception):
    """This server, or its dialect, has no such thing (no history, no second node). The text says what is missing."""
