"""Every proof can fail: each guard stands where the table says, and its tests, which pass with it, fail when it is off."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.guards.guard import Guard
from tests.guards.table import EVERY, GUARDS
from tests.guards.trial import ALL_PASSED, ROOT, Trials


def test_every_group_has_guards_each_with_a_name() -> None:
    assert all(GUARDS.values())
    assert len(EVERY) == sum(map(len, GUARDS.values()))
    assert all(guard.tests and guard.off != guard.text for guard in EVERY.values())


@pytest.mark.parametrize("group", GUARDS)
def test_guards_stand_where_they_are_said_to_stand(group: str) -> None:
    """Once, so that what is replaced is the guard; what stands there instead is a program; and its tests are there."""
    for guard in GUARDS[group]:
        source = (ROOT / guard.file).read_text(encoding="utf-8")
        assert source.count(guard.text) == 1, f"{guard.name}: not once in {guard.file}"
        if guard.file.endswith(".py"):
            compile(source.replace(guard.text, guard.off), guard.file, "exec")
        assert [test for test in guard.tests if not _is_there(test)] == [], guard.name


def _is_there(test: str) -> bool:
    """By its name; a class may have it from another one beside it."""
    path, *names = test.split("::")
    file = ROOT / path
    if not file.is_file() or not names:
        return file.is_file()
    if len(names) == 1:
        return _defines(file, names[0])
    return _defines(file, names[0]) and any(_defines(one, names[1]) for one in (file, *file.parent.glob("conformance*.py")))


def _defines(file: Path, name: str) -> bool:
    pattern = rf"^ *(async def|def|class) {name.partition('[')[0]}\b"
    return re.search(pattern, file.read_text(encoding="utf-8"), re.MULTILINE) is not None


@pytest.mark.long
@pytest.mark.parametrize("off", EVERY)
def test_switching_a_guard_off_is_caught(off: str, trials: Trials) -> None:
    """At least one of its tests runs and fails; not to be able to run is no proof."""
    guard: Guard = EVERY[off]
    trial = trials.of(guard)
    print(f"{trial.seconds:.1f} s: {trial.failure}")
    assert trial.caught, f"nobody caught it (exit status {trial.status}, {trial.seconds:.0f} s)\n{trial.said}"


@pytest.mark.long
def test_with_every_guard_on_they_pass(trials: Trials) -> None:
    """The control: in the copy, where README and Makefile are not, and with the same seed, nothing fails of itself. It is run
    ahead of the others, and asked for last."""
    control = trials.control([*EVERY.values()])
    assert control.status == ALL_PASSED, control.said
