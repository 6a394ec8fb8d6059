"""What all tests share: how Hypothesis is to behave, that what takes minutes runs only when it is asked for, and the table of
figures at the end (which stays empty under xdist: its workers have none)."""

from collections.abc import Callable, Iterable
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

# No deadlines: a busy machine is no fault of the code, and speed is measured in bench/.
settings.register_profile("chatd", deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("chatd")

ReportFigures = Callable[[str], None]
ROWS: pytest.StashKey[list[tuple[str, str]]] = pytest.StashKey()


def pytest_addoption(parser: pytest.Parser) -> None:
    """``make test-faults`` gives them."""
    parser.addoption("--faults", action="store_true", help="run what is marked as long, too: some 90 minutes")
    parser.addoption("--soak", type=float, default=60.0, metavar="S", help="seconds of the soak of random faults (60)")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "long: takes a minute or more; runs with --faults")


def pytest_collection_modifyitems(config: pytest.Config, items: Iterable[pytest.Item]) -> None:
    """Without ``--faults``, what is marked as long is left out."""
    if not config.getoption("--faults"):
        for item in items:
            if item.get_closest_marker("long"):
                item.add_marker(pytest.mark.skip(reason="minutes long: make test-faults"))


@pytest.fixture(scope="session")
def figure_rows(request: pytest.FixtureRequest) -> list[tuple[str, str]]:
    """Those of the table at the end: what it is about, and the figures."""
    return request.config.stash.setdefault(ROWS, [])


@pytest.fixture
def report_figures(request: pytest.FixtureRequest, figure_rows: list[tuple[str, str]]) -> ReportFigures:
    """Adds a line of figures to the table at the end: ``report_figures("repaired within 0.8 s")``."""
    return lambda figures: figure_rows.append((request.node.name.removeprefix("test_").replace("_", " "), figures))


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """The table."""
    rows = config.stash.get(ROWS, [])
    if rows:
        terminalreporter.section("what was seen")
        for name, figures in rows:
            terminalreporter.write_line(f"{name:<60} {figures}")
