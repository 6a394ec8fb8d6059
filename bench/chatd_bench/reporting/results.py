"""Saved results, as the report looks for them: of one machine, and for each set of parameters the newest that counts."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from chatd_bench.faults import RunFailed
from chatd_bench.scenarios.stage import BODY_BYTES, WINDOW

UNTOLD = ("seed", "arrivals")
"""Parameters without which two runs are still the same."""

MACHINE = ("cpu", "cores", "memory_mib", "kernel")
_FLOW, _SPANS = ("delivered_per_s", "acked_per_s", "latency_ms"), ("spans",)
NEEDED: Mapping[str, Sequence[str]] = {
    "dm": _FLOW, "group": _FLOW, "mix": _FLOW, "profile": ("functions", "us_per_message", "us_per_delivery", "samples"),
    "slow": _SPANS, "storm": ("storm", *_SPANS), "idle": ("steps",), "history": ("pages",), "catchup": ("catch_up",),
    "compare": ("servers", "runs"), "presence": ("share",), "limits": ("in_process", "through_redis"),
    "hostile": ("attacks",), "outage": ("delivery_heal_s", "presence_heal_s"),
}  # fmt: skip
"""By scenario: without which of its parts a result is none."""


@dataclass(frozen=True)
class Saved:
    """One JSON file. ``server`` is empty for scenarios of chatd alone; for a comparison ``of`` is its scenario.
    ``step``: of a suite, as its command line."""

    file: str
    scenario: str
    server: str
    time: str
    parameters: dict[str, Any]
    result: dict[str, Any]
    machine: dict[str, Any]
    dialect: str = ""
    of: str = ""
    baseline: str = ""
    absent: dict[str, str] | None = None
    step: str = ""
    settings: dict[str, str] = field(default_factory=dict)
    """The server's, which were given with the command."""
    external: bool = False
    """Of a server that ran already."""
    other_build: bool = False
    """With other versions than those that count (``Results``)."""

    @property
    def void(self) -> list[str]:
        """Why its figures are worth nothing."""
        return list(self.result.get("void", ()))

    @property
    def commit(self) -> str:
        """Of the source."""
        return str(self.machine.get("commit", "unknown"))

    @property
    def made_by(self) -> tuple[Any, dict[str, str], bool]:
        """What made it: versions, of Python and whether the message path was compiled among them; settings; a server of whom."""
        return self.machine.get("versions"), self.settings, self.external

    @property
    def plain(self) -> bool:
        """Of a server that was started here, without settings of the user."""
        return not self.external and not self.settings

    @property
    def key(self) -> str:
        """What another run has to have alike to be the same once more; of a comparison also who was to be in it."""
        told = {name: value for name, value in self.parameters.items() if name not in UNTOLD}
        compared = [server["server"] for server in self.result["servers"]] if self.scenario == "compare" else []
        asked = sorted([*compared, *(self.absent or ())])
        return json.dumps([self.scenario, self.server, self.dialect, self.of, told, asked, self.made_by], sort_keys=True)

    @property
    def standard(self) -> bool:
        """Whether its messages and its window are those that a run has where nothing else is asked for."""
        size, window = self.parameters.get("body_bytes", BODY_BYTES), self.parameters.get("window", WINDOW)
        return (size, window) == (BODY_BYTES, WINDOW)

    @property
    def open_loop(self) -> bool:
        """Whether a plan fixed the sends."""
        return self.parameters.get("rate") is not None


def read(paths: Iterable[Path]) -> list[Saved]:
    """Of these files, and of all in these directories, oldest first. Raises RunFailed."""
    files = [file for path in paths for file in (sorted(path.glob("*.json")) if path.is_dir() else [path])]
    saved = [_read(file) for file in files]
    if not saved:
        raise RunFailed("there are no results: runs with --save make some")
    return sorted(saved, key=lambda one: one.time)


def _parts(found: Any, name: str, needed: Iterable[str]) -> dict[str, Any]:
    """An object of the file with these keys. Raises ValueError."""
    part = found[name]
    if not isinstance(part, dict) or not part:
        raise ValueError(f"{name} is {part!r}")
    if missing := [key for key in needed if key not in part]:
        raise ValueError(f"{name} has no {', '.join(missing)}")
    return part


def _read(file: Path) -> Saved:
    try:
        found = json.loads(file.read_text())
        comparison = found["scenario"] == "compare"
        return Saved(
            file=file.name, scenario=found["scenario"], server="" if comparison else found.get("server", ""), time=found["time"],
            parameters=_parts(found, "parameters", ()), result=_parts(found, "result", NEEDED.get(found["scenario"], ())),
            machine=_parts(found, "machine", MACHINE), dialect=found.get("dialect", ""),
            of=found["parameters"].get("of", ""), baseline=found.get("baseline", ""), absent=found.get("absent"),
            step=found.get("step", ""), settings=found.get("settings", {}), external=bool(found.get("external")),
        )  # fmt: skip
    except OSError as fault:
        raise RunFailed(f"{file}: {fault.strerror}") from fault
    except (ValueError, KeyError, TypeError) as fault:
        raise RunFailed(f"{file}: no result of a run: {fault!r}") from fault


class Results:
    """What a report is made of. ``left_out``: runs on other machines than the newest one's. ``failed``: command lines that have
    left no result."""

    def __init__(self, saved: Sequence[Saved], failed: Sequence[str] = (), unlike: int = 0) -> None:
        self.failed = failed
        self.unlike = unlike
        self.all = _marked([one for one in saved if same_machine(one.machine, saved[-1].machine)])
        self.left_out = len(saved) - len(self.all)
        newest: dict[str, Saved] = {}
        for one in self.all:
            if not one.void or one.key not in newest or newest[one.key].void:
                newest[one.key] = one
        self.chosen = sorted(newest.values(), key=lambda one: one.time)

    def alike(self) -> Results:
        """Those whose figures may be held against the goals: plain, and with the versions of the newest such; in ``unlike``, how
        many of the others are left out."""
        found = [one for one in self.all if one.plain and not one.other_build]
        return Results(found, self.failed, len(self.all) - len(found))

    def of(self, scenario: str, server: str | None = None, **parameters: Any) -> list[Saved]:
        """Those with these parameters; the ones that count first, then void ones."""
        found = [
            one for one in self.chosen
            if one.scenario == scenario and (server is None or one.server == server)
            and all(one.parameters.get(name) == value for name, value in parameters.items())
        ]  # fmt: skip
        return sorted(found, key=lambda one: bool(one.void))

    def flows(self, scenario: str, server: str = "chatd", *, open_loop: bool = False, **parameters: Any) -> list[Saved]:
        """Runs with one rate of deliveries, of messages of the standard size and with the standard window; where no encoding is
        asked for, in the server's first dialect."""
        return [
            one for one in self.of(scenario, server, **parameters)
            if one.open_loop == open_loop and one.standard and "delivered_per_s" in one.result
            and not one.dialect.endswith("-json")
        ]  # fmt: skip

    def best(self, scenario: str, server: str = "chatd", **parameters: Any) -> Saved | None:
        """The closed loop with the highest rate, of those that count; or of the void ones, where none counts."""
        found = self.flows(scenario, server, **parameters)
        counting = [one for one in found if not one.void] or found
        return max(counting, key=lambda one: float(one.result["delivered_per_s"]), default=None)

    def against(self, of: str, peer: str, **parameters: Any) -> dict[str, Any] | None:
        """The newest comparison's summary of a peer, for chatd against it in a closed loop."""
        for one in reversed(self.of("compare", of=of, rate=None, **parameters)):
            for server in one.result["servers"]:
                if server["server"] == peer and one.baseline == "chatd" and one.standard:
                    return {"keep_void": bool(one.parameters.get("keep_void")), **server}
        return None


def _marked(saved: Sequence[Saved]) -> list[Saved]:
    """With it said of each whether it has other versions than the newest one that is plain."""
    newest = max(saved, key=lambda one: (one.plain, one.time), default=None)
    known = newest.machine.get("versions") if newest else None
    return [replace(one, other_build=one.machine.get("versions") != known) for one in saved]


def same_machine(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two descriptions are of one kind of machine, whose figures may stand side by side."""
    return all(one.get(key) == other.get(key) for key in ("cpu", "cores", "memory_mib"))
