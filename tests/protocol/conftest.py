"""The golden vectors of ``protocol/vectors``, as values."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

VECTORS = Path(__file__).parent.parent.parent / "protocol" / "vectors"


@dataclass(frozen=True)
class Vector:
    """One message in both encodings. ``direction``: who sends it."""

    t: str
    direction: str
    name: str
    json: bytes
    cbor: bytes


@dataclass(frozen=True)
class Refusal:
    """Bytes that are no message, and the error that they are answered with."""

    name: str
    direction: str
    encoding: str
    data: bytes
    code: str
    id: int | None
    cseq: int | None


def _vectors() -> list[Vector]:
    found = []
    for path in sorted(VECTORS.glob("*-*.json")):
        file = json.loads(path.read_text(encoding="utf-8"))
        for entry in file["vectors"]:
            cbor = bytes.fromhex(entry["cbor"])
            found.append(Vector(file["t"], file["direction"], entry["name"], entry["json"].encode(), cbor))
    return found


def _refusals() -> list[Refusal]:
    return [
        Refusal(
            entry["name"], entry["direction"], entry["encoding"], _bytes(entry), entry["code"],
            entry.get("id"), entry.get("cseq"),
        )
        for entry in json.loads((VECTORS / "refused.json").read_text(encoding="utf-8"))
    ]  # fmt: skip


def _bytes(entry: dict) -> bytes:
    before, fill, after = (bytes.fromhex(entry.get(key, "")) for key in ("bytes", "fill", "after"))
    return before + fill * entry.get("count", 0) + after


ALL_VECTORS = _vectors()
ALL_REFUSALS = _refusals()


def pytest_generate_tests(metafunc) -> None:
    """A test that asks for ``vector`` or ``refusal`` runs once on each."""
    if "vector" in metafunc.fixturenames:
        metafunc.parametrize("vector", ALL_VECTORS, ids=lambda vector: f"{vector.direction}-{vector.name}")
    if "refusal" in metafunc.fixturenames:
        metafunc.parametrize("refusal", ALL_REFUSALS, ids=lambda refusal: refusal.name)
