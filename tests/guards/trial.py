"""A guard switched off in a copy of the source tree, and the tests that are to catch it run there.

The copy is one, with its bytecode; each trial has a tree of links to it, in which one file is another.
The control is the same tests in the same copy with no guard off: who fails there, too, catches nothing.
"""

from __future__ import annotations

import compileall
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from tests.guards.guard import Guard

ROOT: Final = Path(__file__).parents[2]
PARTS: Final = ("chatd", "protocol", "clients", "bench", "tests", "docs", "config.toml", "pyproject.toml")
ON_PATH: Final = (".", "protocol", "clients", "bench", "tests")
SECONDS: Final = 120
"""For one trial. Who waits for what does not come is to give up sooner."""
CONTROL_SECONDS: Final = 3600
ALL_PASSED: Final = 0
SOME_FAILED: Final = 1
"""pytest's exit status where tests were run and failed; beyond it nothing was tried at all."""
SHOWN: Final = 3000


class Trial(NamedTuple):
    """``status`` is pytest's, None where it took too long. ``failure``: the line of the first test that failed."""

    status: int | None
    failure: str
    said: str
    seconds: float

    @property
    def caught(self) -> bool:
        """Whether a test ran to its failure."""
        return self.status == SOME_FAILED and bool(self.failure)


class Trials:
    """``ahead``: guards that will be asked for, in this order, after their control; so many at once as there are processors.
    ``close`` it."""

    def __init__(self, ahead: Sequence[Guard] = ()) -> None:
        self.done: list[Trial] = []
        self._began = time.monotonic()
        self._place = Path(tempfile.mkdtemp(prefix="guards-"))
        self._whole = self._place / "whole"
        self._copy()
        self._pool = ThreadPoolExecutor(os.cpu_count() or 1)
        self._control = self._pool.submit(self._try_with_all_on, ahead) if ahead else None
        self._ahead: dict[Guard, Future[Trial]] = {guard: self._pool.submit(self._try_without, guard) for guard in ahead}

    @property
    def seconds(self) -> float:
        """Since the first of them began."""
        return time.monotonic() - self._began

    def control(self, guards: Sequence[Guard]) -> Trial:
        """Wait for the run of the tests of all that are asked for, or else of these, with every guard on."""
        return self._try_with_all_on(guards) if self._control is None else self._control.result()

    def of(self, guard: Guard) -> Trial:
        """Wait for it."""
        future = self._ahead.pop(guard, None)
        trial = self._try_without(guard) if future is None else future.result()
        self.done.append(trial)
        return trial

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)
        shutil.rmtree(self._place)

    def _copy(self) -> None:
        self._whole.mkdir()
        for part in PARTS:
            if (ROOT / part).is_dir():
                shutil.copytree(ROOT / part, self._whole / part, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
            else:
                shutil.copy2(ROOT / part, self._whole / part)
        for part in ("chatd", "protocol"):
            compileall.compile_dir(self._whole / part, quiet=1)

    def _try_with_all_on(self, guards: Iterable[Guard]) -> Trial:
        every = dict.fromkeys(test for guard in guards for test in guard.tests)
        with self._tree() as tree:
            return _run([*every], tree, CONTROL_SECONDS)

    def _try_without(self, guard: Guard) -> Trial:
        with self._tree() as tree:
            switch_off(guard, tree)
            return _run([*guard.tests, "-x"], tree, SECONDS)

    @contextmanager
    def _tree(self) -> Iterator[Path]:
        tree = Path(tempfile.mkdtemp(dir=self._place, prefix=""))
        try:
            shutil.copytree(self._whole, tree, copy_function=os.link, dirs_exist_ok=True)
            yield tree
        finally:
            shutil.rmtree(tree)


def switch_off(guard: Guard, tree: Path) -> None:
    """In that tree alone: what is linked there is made anew, and its bytecode forgotten."""
    file = tree / guard.file
    source = file.read_text(encoding="utf-8")
    assert source.count(guard.text) == 1, f"{guard.file}: not once: {guard.text}"
    file.unlink()
    file.write_text(source.replace(guard.text, guard.off), encoding="utf-8")
    for bytecode in (file.parent / "__pycache__").glob(f"{file.stem}.*.pyc"):
        bytecode.unlink()


def _run(words: Sequence[str], tree: Path, seconds: float) -> Trial:
    """pytest in that tree, for so long at most."""
    began = time.monotonic()
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("CHATD_", "PYTEST_", "PYTHON"))}
    command = [sys.executable, "-P", str(tree / "tests" / "guards" / "child.py"), *words, "-q", "--no-header"]
    command += ["-p", "no:cacheprovider", "-p", "no:xdist", "--hypothesis-seed=0", f"--basetemp={tree / 't'}"]
    process = subprocess.Popen(
        command, cwd=tree, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", start_new_session=True,
        env={**environ, "PYTHONPATH": os.pathsep.join(str(tree / part) for part in ON_PATH)},
    )  # fmt: skip
    try:
        said, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # with the servers that it has started
        return Trial(None, "", process.communicate()[0][-SHOWN:], time.monotonic() - began)
    where = Path(said.partition("\n")[0])
    assert where.is_relative_to(tree), f"not the copy was tried, but {where}"
    failure = next((line for line in said.splitlines() if line.startswith("FAILED ")), "")
    return Trial(process.returncode, failure, said[-SHOWN:], time.monotonic() - began)
