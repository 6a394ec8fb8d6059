"""SPEC.md and chatd.cddl against the code: tables, diagram, numbers, and the tests that each section names."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import pytest
from chatd_protocol import cbor, codec, codes, messages, transitions

ROOT = Path(__file__).parent.parent.parent
SPEC = (ROOT / "protocol" / "SPEC.md").read_text(encoding="utf-8")
CDDL = (ROOT / "protocol" / "chatd.cddl").read_text(encoding="utf-8")


def _section(title: str) -> str:
    return re.split(r"^## ", SPEC.partition(f". {title}\n")[2], maxsplit=1, flags=re.MULTILINE)[0]


def _rows(title: str) -> list[list[str]]:
    rows = [line for line in _section(title).splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows[2:]]


def test_errors():
    """The table of errors has every code of the code, in its order, and says of each whether it is retryable."""
    told = [(name.strip("`"), retryable == "yes") for name, retryable, _ in _rows("Errors")]
    assert told == [(code.value, code in codes.RETRYABLE) for code in codes.ErrorCode]


def test_closes():
    """The table of close codes is the one of the code, and each code lies in a range that says what to do."""
    told = [(int(code), reason.strip("`")) for code, reason, _ in _rows("Closing")]
    assert told == list(codes.CLOSES)
    assert len({code for code, _ in told}) == len(told)
    assert all(4000 <= code <= 4299 for code, _ in told)
    assert {code for code, _ in told if not codes.may_reconnect(code)} == {code for code, _ in told if code >= 4200}


@pytest.mark.parametrize(("code", "back"), [(1000, True), (1006, True), (4000, True), (4199, True), (4200, False),
                                            (4299, False), (4300, True)])  # fmt: skip
def test_reconnecting(code, back):
    """Only the range 4200-4299 keeps a client away."""
    assert codes.may_reconnect(code) is back


def test_diagram():
    """The diagram is the one that the table of transitions draws."""
    assert f"```mermaid\n{transitions.diagram()}\n```" in _section("States")


def test_limits():
    """The numbers of the table of limits are those of the code."""
    numbers = {what.strip(): int(bound.split()[0]) for what, bound in _rows("Limits")}
    assert list(numbers.values()) == [
        codec.MAX_CLIENT_BYTES, codec.MAX_SERVER_BYTES, cbor.MAX_DEPTH, cbor.MAX_CONTAINERS, cbor.MAX_ITEMS,
        messages.MAX_INTEGER, messages.MAX_TOKEN_CHARS,
        messages.MAX_CONV_CHARS, messages.MAX_TITLE_CHARS, 200, messages.MAX_EMOJI_CHARS,
        messages.MAX_QUERY_CHARS, 32, messages.MAX_MENTIONS,
        messages.MAX_POSITIONS, messages.MAX_WATCHED, messages.MAX_NAMES_IN_REQUEST, messages.MAX_PAGE,
    ]  # fmt: skip
    assert messages.MAX_DEVICE_CHARS == messages.MAX_CONV_CHARS


def test_every_message_is_told():
    """Each message of either direction, and each kind of event in the schema, stands in the text."""
    names = transitions.CLIENT_NAMES | transitions.SERVER_NAMES
    assert not {name for name in names if not re.search(rf'[`"]{name}[`",]', SPEC)}
    kinds = {kind.strip("`") for kind, *_ in _rows("Events")}
    assert kinds == set(re.findall(r'kind: "(\w+)"', CDDL)) - {"dm"}


def test_cddl_error_codes():
    """The schema's error codes are those of the code."""
    rule = CDDL.partition("error-code = ")[2]
    assert re.findall(r'"(\w+)"', rule) == [code.value for code in codes.ErrorCode]


def test_cddl_has_a_rule_for_each_message():
    """As many messages on either side of the schema as in the code."""
    for side, union in (("client", messages.ClientMessage), ("server", messages.ServerMessage)):
        choice = re.search(rf"^{side}-message = (.*?)\n\n", CDDL, re.MULTILINE | re.DOTALL)
        assert choice is not None
        assert len(choice[1].split("/")) == len(get_args(union))


def test_each_section_names_its_test():
    """Every section of rules names a test, and every test that is named is there."""
    sections = re.split(r"^## ", SPEC, flags=re.MULTILINE)[2:]
    assert not [section.partition("\n")[0] for section in sections if "*Test" not in section and "Test:" not in section]
    assert not {path for path in re.findall(r"tests/[\w/]+\.py", SPEC) if not (ROOT / path).exists()}


def test_the_pure_part_stays_pure():
    """The protocol's modules import no I/O, no clock and no chance."""
    for path in (ROOT / "protocol" / "chatd_protocol").glob("*.py"):
        imported = re.findall(r"^\s*(?:from|import) (\w+)", path.read_text(encoding="utf-8"), re.MULTILINE)
        assert not {"trio", "redis", "structlog", "time", "random", "socket", "os", "chatd"} & set(imported), path.name
