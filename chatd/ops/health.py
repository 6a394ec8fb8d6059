"""Whether this node should be sent new connections. Pure: probes are asked at the time of the question.

Healthy and ready are two questions: a node that cannot commit is not ready, but to restart it would only cut those
who are still being delivered to.
"""

from __future__ import annotations

from collections.abc import Callable

from msgspec import Struct


class Verdict(Struct, frozen=True):
    """``checks``: every check by name, true where it is well."""

    ready: bool
    checks: dict[str, bool]


class Readiness:
    """The checks of one node. ``draining`` is set once, when the node begins to go."""

    def __init__(self) -> None:
        self.draining = False
        self._probes: dict[str, tuple[Callable[[], bool], bool]] = {}

    def add(self, name: str, probe: Callable[[], bool], *, required: bool = True) -> None:
        """Ask ``probe`` under ``name``. One that is not ``required`` is shown, but leaves the node ready: without the
        bus, for one, a node still stores, acks and delivers to its own."""
        self._probes[name] = (probe, required)

    def judge(self) -> Verdict:
        """Ask every probe; one that raises is not well."""
        answers = {name: _ask(probe) for name, (probe, _) in self._probes.items()}
        ready = not self.draining and all(
            answers[name] for name, (_, required) in self._probes.items() if required
        )
        return Verdict(ready, {**answers, "serving": not self.draining})


def _ask(probe: Callable[[], bool]) -> bool:
    try:
        return bool(probe())
    except Exception:  # noqa: BLE001 - a broken probe is a failed check, and the page must still be served
        return False
