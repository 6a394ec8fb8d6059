"""The trials of the guards that are asked for, which run ahead of the tests that ask."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.guards.table import EVERY
from tests.guards.trial import Trials


@pytest.fixture(scope="session")
def trials(request: pytest.FixtureRequest, figure_rows: list[tuple[str, str]]) -> Iterator[Trials]:
    """One row in the table at the end."""
    asked = [
        str(item.callspec.params["off"]) for item in request.session.items
        if isinstance(item, pytest.Function) and "trials" in item.fixturenames and hasattr(item, "callspec")
    ]  # fmt: skip
    alone = hasattr(request.config, "workerinput")  # under xdist nobody knows which of them will be this worker's
    made = Trials([] if alone else [EVERY[name] for name in asked])
    yield made
    made.close()
    caught = sum(trial.caught for trial in made.done)
    each = "each caught by its tests" if caught == len(made.done) else f"of which {len(made.done) - caught} nobody caught"
    slowest = max((trial.seconds for trial in made.done), default=0.0)
    row = f"{len(made.done)} guards, {each}, in {made.seconds:.0f} s; the slowest {slowest:.0f} s"
    figure_rows.append(("every guard off once", row))
