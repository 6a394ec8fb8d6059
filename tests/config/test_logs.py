"""What a log line looks like, and that logging fails nobody."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

CODE = """
import sys, structlog
from chatd.logs import configure_logging
configure_logging({level!r}, {format!r})
log = structlog.get_logger()
{body}
"""


def logged(level: str, format: str, body: str, **options: object) -> str:
    """What a process that ran ``body`` left on standard error; structlog is configured once in a process."""
    code = CODE.format(level=level, format=format, body=body)
    done = subprocess.run(  # type: ignore[call-overload]
        [sys.executable, "-c", code], **{"stderr": subprocess.PIPE, "text": True, "timeout": 30} | options
    )
    assert done.returncode == 0, done.stderr
    return done.stderr or ""


def test_json_is_one_object_a_line() -> None:
    """Time, level and event first; anything is a value, a lone surrogate too; a traceback is one string."""
    body = (
        "log.info('a.b', n=1, o=b'\\xff', s='\\ud800\\n')\ntry:\n  1/0\nexcept ArithmeticError:\n  log.exception('c.d')"
    )
    first, second = (json.loads(line) for line in logged("info", "json", body).splitlines())
    assert list(first)[:3] == ["time", "level", "event"]
    assert (first["event"], first["level"], first["n"], first["o"], first["s"]) == (
        "a.b",
        "info",
        1,
        "b'\\xff'",
        "\ud800\n",
    )
    assert second["exception"].endswith("ZeroDivisionError: division by zero")


def test_auto_is_json_where_nobody_sits() -> None:
    """A pipe is read by programs."""
    assert json.loads(logged("info", "auto", "log.info('a.b')"))["event"] == "a.b"


def test_the_console_obeys_no_escape_sequence() -> None:
    """A value from outside is shown as its repr: it can neither colour the terminal nor forge a second line."""
    # The second one alone: structlog by itself quotes a text with white space in it, and writes any other as it is.
    shown = logged("info", "console", "log.info('a.b', name='x\\x1b[2J\\nroot logged in', bare='\\x1b[2J')")
    assert shown.count("\n") == 1
    assert "\x1b" not in shown


@pytest.mark.parametrize("format", ["console", "json"])
def test_no_local_variables_in_tracebacks(format: str) -> None:
    """A traceback shows code, not what was in its variables."""
    body = (
        "def f(x):\n  raise ValueError('v')\ntry:\n  f('hunter' + str(2))\nexcept ValueError:\n  log.exception('a.b')"
    )
    shown = logged("info", format, body)
    assert "ValueError: v" in shown
    assert "hunter2" not in shown


def test_levels() -> None:
    """What is below the level is not written."""
    assert logged("error", "json", "log.warning('a'); log.info('b')") == ""
    assert '"event": "c"' in logged("debug", "json", "log.debug('c')")


@pytest.mark.parametrize(
    "spoil", ["sys.stderr.close()", "import os; os.close(2)", "sys.stderr = open('/dev/full', 'w')"]
)
def test_logging_fails_nobody(spoil: str) -> None:
    """Where the log cannot be written, who logs goes on."""
    logged("info", "json", f"{spoil}\nlog.info('a.b')\nlog.info('a.b')\nimport os; os._exit(0)")
