"""``docs/histories.md`` is what the checker takes: its sample holds, and its table names every record with its keys."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import msgspec
import pytest
from chatd_proof.checker import check
from chatd_proof.cli import main
from chatd_proof.history import Record, read_history
from chatd_proof.verdict import readable

PAGE = (Path(__file__).parents[2] / "docs/histories.md").read_text()
SAMPLE = re.findall(r"```jsonl\n(.*?)```", PAGE, re.DOTALL)[0]
ROW = re.compile(r"^\| `(\w+)` \| `([^`]+)` \|", re.MULTILINE)


def test_the_sample_holds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "sample.jsonl"
    path.write_text(SAMPLE)
    assert main(["check", str(path)]) == 0, capsys.readouterr().out
    tags = {msgspec.json.decode(line)["t"] for line in SAMPLE.splitlines()}
    assert tags == {kind.__struct_config__.tag for kind in get_args(Record)}, "each record is shown"


def test_what_the_page_says_of_the_sample(tmp_path: Path) -> None:
    """Any line less of what the second session got, or another number, and it is broken."""
    path, lines = tmp_path / "sample.jsonl", SAMPLE.splitlines(keepends=True)
    got = [line for line in lines if '"delivered"' in line and '"b2"' in line]
    assert len(got) == 3
    for changed in (*(SAMPLE.replace(line, "") for line in got), SAMPLE.replace('"cseq":2', '"cseq":7')):
        path.write_text(changed)
        verdict = check(read_history(path))
        assert verdict.broken, readable(verdict)


def test_the_table_has_every_record_and_key() -> None:
    told = {tag: keys.split(", ") for tag, keys in ROW.findall(PAGE)}
    assert told == {
        kind.__struct_config__.tag: [f.encode_name if f.required else f"?{f.encode_name}" for f in msgspec.structs.fields(kind)]
        for kind in get_args(Record)
    }
