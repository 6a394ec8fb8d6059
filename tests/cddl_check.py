"""A message's bytes against ``protocol/chatd.cddl``, for any test that has some; does nothing where pycddl is missing."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Literal

try:
    import pycddl
except ImportError:  # it has no wheel for every machine; the codec's own tests do not need it
    AVAILABLE = False
else:
    AVAILABLE = True

CDDL = Path(__file__).parent.parent / "protocol" / "chatd.cddl"


@cache
def _schema(direction: Literal["client", "server"]) -> pycddl.Schema:
    # The first rule of a schema is the one that is checked.
    return pycddl.Schema(f"root = {direction}-message\n" + CDDL.read_text(encoding="utf-8"))


def validate(direction: Literal["client", "server"], data: bytes) -> None:
    """Raise AssertionError where ``data``, CBOR, is no message of ``client`` or ``server``."""
    if not AVAILABLE:
        return
    try:
        _schema(direction).validate_cbor(data)
    except pycddl.ValidationError as fault:
        raise AssertionError(f"not in chatd.cddl: {data.hex()}: {str(fault)[:600]}") from None
