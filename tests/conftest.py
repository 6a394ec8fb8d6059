"""What all tests share: how Hypothesis is to behave, and that what takes minutes runs only when it is asked for."""

from collections.abc import Iterable

import pytest
from hypothesis import HealthCheck, settings

# No deadlines: a busy machine is no fault of the code, and speed is measured in bench/.
settings.register_profile("chatd", deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("chatd")


def pytest_addoption(parser: pytest.Parser) -> None:
    """``make test-faults`` gives them."""
    parser.addoption("--faults", action="store_true", help="run the tests of tests/faults too: real faults, for minutes")
    parser.addoption("--soak", type=float, default=60.0, metavar="S", help="seconds of the soak of random faults (60)")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "long: takes a minute or more; runs with --faults")


def pytest_collection_modifyitems(config: pytest.Config, items: Iterable[pytest.Item]) -> None:
    """Without ``--faults``, what is marked as long is left out."""
    if not config.getoption("--faults"):
        for item in items:
            if item.get_closest_marker("long"):
                item.add_marker(pytest.mark.skip(reason="minutes long: make test-faults"))
