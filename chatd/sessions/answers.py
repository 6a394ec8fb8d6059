"""What a session tells its client of its own accord: refusals, and its last words. Pure."""

from __future__ import annotations

import msgspec
from chatd_protocol import messages
from chatd_protocol.codes import Close


def error(
    code: str, text: str, *, id: int | None = None, cseq: int | None = None, expected: int | None = None,
    retry_ms: int | None = None,
) -> messages.Error:  # fmt: skip
    """Something was refused, and changed nothing. ``id`` or ``cseq``: of what; ``expected``: the next cseq."""
    unset = msgspec.UNSET
    return messages.Error(
        code=str(code), message=text, id=unset if id is None else id, cseq=unset if cseq is None else cseq,
        expected=unset if expected is None else expected, retry_after_ms=unset if retry_ms is None else retry_ms,
    )  # fmt: skip


def bye(close: Close, retry_after_ms: int | None) -> messages.Bye:
    """Why it ends, and when to come back; None where coming back is no use, or whenever one likes."""
    return messages.Bye(
        code=close.code, reason=close.reason,
        retry_after_ms=msgspec.UNSET if retry_after_ms is None else retry_after_ms,
    )  # fmt: skip
