"""Logging: structlog, one line an event, to standard error.

Owns the process's one logging configuration. Waits for standard error to take a line; ends with the process.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from contextlib import suppress
from typing import Any

import structlog
from structlog.typing import EventDict, Processor


def configure_logging(level: str, format: str) -> None:
    """Set up structlog once for this process, as the options ``log.level`` and ``log.format`` say."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *_renderers(format),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=_make_logger,
        cache_logger_on_first_use=True,
    )


class LineLogger:
    """Writes whole lines to standard error, and gives up on those that it does not take.

    Not structlog's PrintLogger: it raises where the reader of the log has gone (a closed pipe, a full disk), and a
    connection must not end because nobody reads about it.
    """

    def msg(self, message: str) -> None:
        """Write one line. Raises nothing."""
        with suppress(OSError, ValueError):  # ValueError: standard error is closed
            sys.stderr.write(message + "\n")
            sys.stderr.flush()

    debug = info = warning = warn = error = critical = fatal = exception = log = msg


def _make_logger(*_: Any) -> LineLogger:
    return LineLogger()


def _renderers(format: str) -> list[Processor]:
    terminal = sys.stderr is not None and sys.stderr.isatty()
    if format == "console" or (format == "auto" and terminal):
        return [
            structlog.dev.ConsoleRenderer(
                colors=terminal and "NO_COLOR" not in os.environ,
                # Plain: the prettier one shows local variables, and passwords and message bodies are among them.
                exception_formatter=structlog.dev.plain_traceback,
                # Values come from outside: as repr, an escape sequence in a name is not obeyed by the terminal.
                repr_native_str=True,
                pad_event_to=24,
            )
        ]
    return [structlog.processors.format_exc_info, _ordered, structlog.processors.JSONRenderer(serializer=_to_json)]


def _ordered(_: object, __: str, event: EventDict) -> EventDict:
    """``time``, ``level`` and ``event`` first, so that a line can be read without a tool."""
    return {"time": event.pop("timestamp"), "level": event.pop("level"), "event": event.pop("event"), **event}


def _to_json(event: EventDict, **_: object) -> str:
    # Not msgspec, though faster: it refuses a lone surrogate, and a log line takes whatever comes.
    return json.dumps(event, default=repr)
